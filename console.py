"""What a command says to the person at the terminal: the user's mistakes, exit status 2 for them, progress bars."""

import os
import signal
import sys

from tqdm import tqdm


class UserError(ValueError):
    """Something that the user can mend; the message names the file, line or flag, what was expected and found.

    details: further lines, such as every missing file, that are printed above the message.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.details = list(details)


def run(main):
    """Call `main()` and end the process as a command should.

    A UserError becomes one line on stderr (below its details) and exit status 2; Ctrl-C becomes 130; a reader
    that went away (`... | head`) ends the command quietly. Any other exception is a bug and keeps its traceback.
    """
    try:
        sys.exit(main())
    except UserError as error:
        command = os.path.basename(sys.argv[0])
        print(*error.details, f"{command}: error: {error}", sep="\n", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def warn(message):
    """Say on stderr, in one line, what the user may want to know of something that goes on."""
    print(f"{os.path.basename(sys.argv[0])}: warning: {message}", file=sys.stderr, flush=True)


class StopSignals:
    """Within a `with` block SIGTERM (a cluster's pre-emption) and SIGINT (Ctrl-C) end nothing at once.

    received: 0, or the number of the first signal that came; the exit status is then 128 + received. A second Ctrl-C
    ends the command at once.
    """

    def __enter__(self):
        self.received = 0
        self.handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _receive(self, number, frame):
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number

    def __exit__(self, *error):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def progress(iterable=None, **options):
    """A tqdm bar on a terminal; in a log, a line of it every ten seconds of what takes longer than that."""
    pace = {} if sys.stderr.isatty() else {"mininterval": 10, "delay": 10}
    return tqdm(iterable, leave=False, dynamic_ncols=True, **pace, **options)
