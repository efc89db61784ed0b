"""Options KEY=VALUE: parsing, formatting, and checking against a declared type."""

import argparse
import contextlib
from typing import get_args, get_origin

from common.console import Number, shown, unfit

Plain = int | float | bool | str | tuple


def key_value(text: str) -> tuple[str, Plain]:
    """Parse KEY=VALUE as (key, value): a number, true or false, a word, or a tuple of these, separated by commas."""
    key, _, value = text.partition("=")
    if not key or not value:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {shown(text)}")
    values = tuple(map(_plain, value.split(",")))
    return key, values if len(values) > 1 else values[0]


def _plain(word):
    for number in (Number(int), Number()):
        with contextlib.suppress(argparse.ArgumentTypeError):
            return number(word)
    return {"true": True, "false": False}.get(word.lower(), word)


def options_text(options: dict[str, object]) -> str:
    """Format options {name: value} as words for key_value."""
    lists = {name: value if isinstance(value, list | tuple) else [value] for name, value in options.items()}
    return " ".join(f"{name}={','.join(map(str, values))}" for name, values in lists.items())


def fitted(value: object, default: Plain, kind: object) -> Plain:
    """Check a value against the type int, float, bool, str, Literal[...], or tuple[...] of these, and convert it.

    default: a value of that type. Whole numbers must be from 1 to 10,000 if the default is, to limit the demands of
    untrusted checkpoints. Raises ValueError for other values.
    """
    if get_origin(kind) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        kinds = get_args(kind)
        if kinds[-1] is ...:
            kinds, default = kinds[:1] * max(len(values), 1), default[:1] * max(len(values), 1)
        if len(values) != len(kinds):
            raise ValueError(f"expected {len(kinds)} value{'s' * (len(kinds) > 1)}, found {shown(value)}")
        return tuple(map(fitted, values, default, kinds))
    if kind is str:
        words = None if isinstance(value, str) else "a word"
    elif kind is int:
        words = unfit(value, Number(int, min(1, default), max(10_000, default)))
    elif kind is float:
        words = unfit(value, Number())
    else:
        words = unfit(value, (False, True) if kind is bool else get_args(kind))
    if words:
        raise ValueError(f"expected {words}, found {shown(value)}")
    return float(value) if kind is float else value
