"""What a command says to the person at the terminal: the user's mistakes, exit status 2 for them, progress bars."""

import errno
import io
import os
import signal
import sys

from tqdm import tqdm

# Errors of the machine, not of the file that is opened or read: that one may be sound.
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UserError(ValueError):
    """Something that the user can mend; the message names the file, line or flag, what was expected and found.

    details: further lines, such as every missing file, that are printed above the message.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.details = list(details)


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised where the process stands, so that what is half-written is removed on the way out."""


class _Stream(io.FileIO):
    """File descriptor of a standard stream. What standard error cannot take is dropped: the work matters more."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            if self.fileno() == 2:
                return len(data)
            raise type(error)(error.errno, error.strerror, "standard output") from None


def _mend_streams():
    """Let failures of standard output be told from others, and standard error fail silently. Raises UserError."""
    for descriptor in range(3):  # a file that is opened in the place of a closed stream would get what others print
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    is_closed = sys.stdout is None
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")
        elif stream is getattr(sys, f"__{name}__"):
            options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            file = io.BufferedWriter(_Stream(descriptor, "w", closefd=False))
            stream = io.TextIOWrapper(file, stream.encoding, stream.errors, **options)
            setattr(sys, f"__{name}__", stream)
        setattr(sys, name, stream)
    if is_closed:
        raise UserError("standard output is closed; > /dev/null discards it")


def _stop(number, frame):
    raise Stopped(number)


def run(main):
    """Call `main()` and end the process as a command should.

    A UserError becomes one line on stderr (below its details) and exit status 2; so do a standard output that takes
    no more, too many open files and no memory left. A reader that went away (`... | head`) ends the command with
    status 1, Ctrl-C with 130, SIGTERM and SIGHUP with 143 and 129. Any other exception is a bug and keeps its
    traceback.
    """
    try:
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP, and that stays
                    signal.signal(number, _stop)
            _mend_streams()
            status = main()
        except SystemExit as ended:
            status = ended.code
        except UserError as error:
            status = _say(error, error.details)
        except Stopped as stop:
            status = _say(f"stopped by {signal.Signals(stop.args[0]).name}", status=128 + stop.args[0])
        except KeyboardInterrupt:
            status = 130
        except MemoryError as error:
            status = _say(f"out of memory{f': {error}' if str(error) else ''}")
        sys.stdout.flush()  # at the interpreter's end nobody could tell what to do if it fails
    except OSError as error:
        gone = isinstance(error, BrokenPipeError)
        if gone or error.filename == "standard output":
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # takes what is still in the buffer
            text = "its reader is gone" if gone else f"cannot be written: {error.strerror}"
            status = _say(f"standard output: {text}", status=1 if gone else 2)
        elif error.errno in OF_THE_MACHINE:
            where = f"{error.filename}: " if error.filename else ""
            limit = "; ulimit -n is their limit" if error.errno == errno.EMFILE else ""
            status = _say(f"{where}{error.strerror}{limit}")
        else:
            raise
    sys.exit(status)


def _say(text, details=(), status=2):
    command = os.path.basename(sys.argv[0])
    print(*details, f"{command}: error: {text}", sep="\n", file=sys.stderr)
    return status


def warn(message):
    """Say on stderr, in one line, what the user may want to know of something that goes on."""
    print(f"{os.path.basename(sys.argv[0])}: warning: {message}", file=sys.stderr, flush=True)


class StopSignals:
    """Within a `with` block SIGTERM (a cluster's pre-emption), SIGHUP (a terminal that is closed) and SIGINT (Ctrl-C)
    end nothing at once. A SIGHUP that is ignored, as under nohup, stays so.

    received: 0, or the number of the first signal that came; the exit status is then 128 + received. A second Ctrl-C
    ends the command at once.
    """

    def __enter__(self):
        self.received = 0
        numbers = [signal.SIGTERM, signal.SIGINT]
        numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
        self.handlers = {number: signal.signal(number, self._receive) for number in numbers}
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
