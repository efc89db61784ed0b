"""Parser of a command's flags: a short --help, all flags by --help-all, errors of two lines that name the nearest."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from common.console import printable, shown

LONGEST_CHOICES = 12  # characters of {a,b,c} beside a flag; longer lists are in the text of --help-all


def did_you_mean(found: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` with the name nearest to what was found, or "" if none is near. Letter case is ignored."""
    by_lower = {str(name).lower(): str(name) for name in names}
    near = difflib.get_close_matches(str(found).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def with_default(text: str, default: object) -> str:
    """Help with the default in parentheses, where `%(default)s` is or else at the end of the first line."""
    if "%(default)s" not in text and default not in (None, "", []) and default is not False:
        first, *more = text.split("\n", 1)
        text = "\n".join([f"{first} (%(default)s)".strip(), *more])
    words = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
    return text.replace("%(default)s", words)


class _Formatter(argparse.HelpFormatter):
    """Flags as `--flag, --alias VALUE`, alike in all versions of Python."""

    def __init__(self, prog, in_full=True):
        super().__init__(prog, max_help_position=24 if in_full else 32)
        self.in_full = in_full

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(action.option_strings if self.in_full else action.option_strings[:1])
        return f"{names} {self.values_of(action)}".rstrip()

    def values_of(self, action):
        """What follows a flag: its metavar, as often as it takes values."""
        if action.nargs == 0:
            return ""
        if action.nargs == argparse.SUPPRESS:  # a positional argument within parse_intermixed_args
            return f"[{action.metavar} ...]"
        default = action.dest.upper() if action.option_strings else action.dest
        if action.nargs == "+":
            return self._metavar_formatter(action, default)(1)[0] + " ..."
        return self._format_args(action, default)

    def _metavar_formatter(self, action, default_metavar):
        if action.metavar is None and action.choices and action.option_strings and not _are_beside(action):
            return lambda n: (default_metavar,) * n
        return super()._metavar_formatter(action, default_metavar)

    def _expand_help(self, action):
        text = super()._expand_help(action)
        if not self.in_full:
            return text.split("\n")[0]
        if action.choices and not _are_beside(action) and not all(str(choice) in text for choice in action.choices):
            text += f"\none of {_listed(action)}"
        return text.replace("\n", "; ").removeprefix("; ")

    def _fill_text(self, text, width, indent):  # a paragraph a line; indented lines are a table's and stay
        fill = super()._fill_text
        return "\n".join(line if line.startswith(" ") else fill(line, width, indent) for line in text.split("\n"))

    def add_argument(self, action):
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += 2  # its commands are indented


def _listed(action, between=", "):
    return between.join(map(str, action.choices))


def _are_beside(action):
    """Are the choices of a flag printed beside it, as {a,b}?"""
    return action.metavar is None and len(_listed(action, ",")) + 2 <= LONGEST_CHOICES


class FlagGroup:
    """A group of flags, or the parser: `add_argument(..., rare=True)` declares one that --help leaves out.

    The first line of its help is what --help prints of a flag; further lines are added by --help-all. The default is
    put behind the first line, see with_default.
    """

    def add_argument(self, *names: str, rare: bool = False, **options: object) -> argparse.Action:
        if options.get("help") not in (None, argparse.SUPPRESS):
            options["help"] = with_default(options["help"], options.get("default"))
        action = super().add_argument(*names, **options)
        action.rare = rare
        return action

    def add_mutually_exclusive_group(self, **options: object) -> "_Exclusive":
        group = _Exclusive(self, **options)
        self._mutually_exclusive_groups.append(group)
        return group


class _Group(FlagGroup, argparse._ArgumentGroup):
    pass


class _Exclusive(FlagGroup, argparse._MutuallyExclusiveGroup):
    pass


class CommandParser(FlagGroup, argparse.ArgumentParser):
    """An ArgumentParser whose --help has the common flags, a line each, and whose --help-all has all of them.

    examples: commands at the end of --help. The epilog is in --help-all only. pass_on: unknown flags are for another
    program, as parse_known_args returns them; without it they are an error.
    """

    def __init__(self, *args: object, examples: Sequence[str] = (), pass_on: bool = False, **options: object) -> None:
        self.examples, self.pass_on = examples, pass_on
        super().__init__(*args, **options)
        if self.add_help:
            self._actions[0].help = "show the common flags"
            self.add_argument("--help-all", action=_HelpAll, help="show all flags")

    def add_argument_group(self, *args: object, **options: object) -> _Group:
        group = _Group(self, *args, **options)
        self._action_groups.append(group)
        return group

    def format_usage(self) -> str:
        """One line: the flags and arguments that are needed."""
        words = _Formatter(self.prog)
        flags = [one for one in self._shown() if one.option_strings and not _is_help(one)]
        parts = [f"{one.option_strings[0]} {words.values_of(one)}" for one in flags if one.required]
        parts += ["[options]"] * any(not one.required for one in flags)
        parts += [words.values_of(one) for one in self._shown() if not one.option_strings]
        return f"usage: {' '.join([self.prog, *parts])}\n"

    def _shown(self):
        return [action for action in self._actions if action.help != argparse.SUPPRESS]

    def format_help(self, in_full: bool = False) -> str:
        """The help: of the common flags, or `in_full` of all."""
        formatter = _Formatter(self.prog, in_full)
        formatter.add_text(self.description)
        n_rare, has_details = 0, False
        for group in self._action_groups:
            actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if not in_full:
                rare = [action for action in actions if getattr(action, "rare", False)]
                actions = [action for action in actions if action not in rare and not _is_help(action)]
                n_rare += len(rare)
                has_details |= any("\n" in (action.help or "") for action in actions)
            if actions:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(actions)
                formatter.end_section()
        if in_full:
            formatter.add_text(self.epilog)
        text = f"{self.format_usage()}\n{formatter.format_help()}"
        if self.examples and not in_full:
            text += "\n".join(["\nexamples:", *(f"  {one}" for one in self.examples), ""])
        if n_rare or has_details:
            text += f"\n--help-all explains all flags{f' ({n_rare} more)' * bool(n_rare)}.\n"
        return text

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As of argparse, but an unknown flag is told before a missing one."""
        self._check_names(args)
        return super().parse_known_args(args, namespace)

    def parse_known_intermixed_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As parse_known_args."""
        self._check_names(args)
        return super().parse_known_intermixed_args(args, namespace)

    def _check_names(self, args):
        if self.pass_on or self._subparsers is not None:
            return
        names = self._option_string_actions
        for word in sys.argv[1:] if args is None else args:
            name = word.split("=", 1)[0]
            if word == "--":
                return
            if not re.match(r"--?[A-Za-z]", name) or " " in word or name in names:
                continue
            if self.allow_abbrev and any(one.startswith(name) for one in names):
                continue
            if name[1] != "-" and name[:2] in names:  # -h and what follows it
                continue
            shown_names = [one for action in self._shown() for one in action.option_strings]
            self.error(f"unknown flag {shown(name)}{did_you_mean(name, shown_names)}")

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            flag = f"{action.option_strings[0]} " if action.option_strings else ""
            near = did_you_mean(value, action.choices)
            self.error(f"{flag}{shown(value)}: expected one of {_listed(action)}{near}")

    def error(self, message: str) -> NoReturn:
        """Two lines on standard error, and exit status 2."""
        message = message.removeprefix("argument ").replace("the following arguments are required:", "missing")
        self.exit(2, f"{printable(f'{self.prog}: error: {message}')}\nsee {self.prog} --help\n")


def _is_help(action):
    return isinstance(action, argparse._HelpAction | _HelpAll)


class _HelpAll(argparse.Action):
    def __init__(self, option_strings, dest, **options):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=options["help"])

    def __call__(self, parser, namespace, values, option_string=None):
        print(parser.format_help(in_full=True), end="")
        parser.exit()
