"""Chains of augmentations, the value of --augment: "noise:p=0.5,snr=0..15 codec:kinds=mp3+opus RawBoost:algo=4".

Parts are separated by spaces and applied in this order, each with its probability p. Keys are the arguments of a part;
see augmentation.AUGMENTATIONS.
"""

import argparse
import functools
import inspect
import shlex
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from augmentation import AUGMENTATIONS
from common.console import Number, UserError, shown
from common.flags import did_you_mean

SHARE = Number(float, 0, 1)


@dataclass(frozen=True)
class Part:
    """Part of a chain: a name from AUGMENTATIONS, its probability, and the values of the given keys."""

    name: str
    p: float
    settings: dict[str, object]


class Chain:
    """Sequence of augmentations. parts: (probability, function of a waveform and rng=)."""

    def __init__(self, parts: list[tuple[float, Callable[..., np.ndarray]]]) -> None:
        self.parts = parts

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment a waveform (samples,) at 16 kHz, keeping its length. Raises UserError for an unreadable recording."""
        for p, augment in self.parts:
            if p == 1 or rng.random() < p:  # no draw if p is 1: published augmentations keep their random numbers
                x = augment(x, rng=rng)
        return x

    def files(self) -> dict[str, dict[str, str]]:
        """Recordings that the parts draw from: {flag of the folder: {path in the folder: path}}.

        The second folder of a flag is named noise_dir_2, the third noise_dir_3.
        """
        folders = {}
        for _, augment in self.parts:
            for flag, paths in augment.files().items() if hasattr(augment, "files") else ():
                n = 1 + sum(name.startswith(flag) for name in folders)
                folders[flag if n == 1 else f"{flag}_{n}"] = paths
        return folders


def build(text: str, flags: Mapping[str, object]) -> Chain:
    """Build the chain of a text, list its folders and check its codecs.

    flags: {flag: value}. A key that is not given takes the value of the flag with its name; the key dir of a part NAME
    takes the value of NAME_dir. Raises UserError, with the part, for invalid values and folders without recordings.
    """
    parts = []
    for part in parse(text):
        augment, settings = AUGMENTATIONS[part.name], dict(part.settings)
        for key, parameter in keys_of(augment).items():
            flag = f"{part.name}_dir" if key == "dir" else key
            if key not in settings and flags.get(flag) is not None:
                settings[key] = flags[flag]
            elif key not in settings and parameter.default is parameter.empty:
                raise UserError(f"--augment {part.name}: expected {key}=VALUE, found none")
        try:
            function = augment(**settings) if isinstance(augment, type) else functools.partial(augment, **settings)
        except ValueError as error:  # UserError is one
            raise UserError(str(error) if str(error).startswith("--") else f"--augment {part.name}: {error}") from error
        parts.append((part.p, function))
    return Chain(parts)


def parse(text: str) -> list[Part]:
    """Parse the text of a chain. Raises UserError, with the nearest name, for an unknown part or key or a bad value."""
    try:
        words = shlex.split(str(text))  # folders with spaces in their names are in quotes
    except ValueError as error:
        raise UserError(f"--augment: {error} in {shown(text)}") from error
    if not words:
        raise UserError(f"--augment: expected one or more of {', '.join(AUGMENTATIONS)}, found none")
    return [_part(word) for word in words]


def _part(word):
    name, colon, rest = word.partition(":")
    if name not in AUGMENTATIONS:
        raise UserError(f"--augment: expected {_one_of(AUGMENTATIONS, name, ' (list describes them)')}")
    keys, settings = keys_of(AUGMENTATIONS[name]), {}
    for pair in rest.split(",") if colon else ():
        key, _, value = pair.partition("=")
        if not key or not value:
            raise UserError(f"--augment {name}: expected KEY=VALUE, found {shown(pair) or 'none'}")
        if key != "p" and key not in keys:
            raise UserError(f"--augment {name}: expected {_one_of(['p', *keys], key)}")
        if key in settings:
            raise UserError(f"--augment {name}: expected {key} once, found it twice")
        try:
            settings[key] = SHARE(value) if key == "p" else _value(value, _kind(keys[key]))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--augment {name}: {key}: {error}") from error
    return Part(name, settings.pop("p", 1.0), settings)


def _one_of(names, found, remark=""):
    return f"one of {', '.join(names)}{remark}, found {shown(found)}{did_you_mean(found, names)}"


def keys_of(augment: Callable) -> dict[str, inspect.Parameter]:
    """{key: parameter} of an augmentation: its arguments except the waveform x and the generator rng."""
    return {name: key for name, key in inspect.signature(augment).parameters.items() if name not in ("x", "rng")}


def _kind(parameter):
    """Type of a key's values: its annotation, without None, or else the type of its default."""
    if parameter.annotation is parameter.empty:
        return str if parameter.default in (parameter.empty, None) else type(parameter.default)
    kinds = [kind for kind in typing.get_args(parameter.annotation) if kind is not type(None)]
    is_optional = len(kinds) == 1 and typing.get_origin(parameter.annotation) is not tuple
    return kinds[0] if is_optional else parameter.annotation


def _value(text, kind):
    """Parse a value: a number, LOW..HIGH (or one number) for a range, A+B+... for tuple[kind, ...], or text.

    Raises argparse.ArgumentTypeError.
    """
    if kind in (int, float):
        return Number(kind)(text)
    if typing.get_origin(kind) is not tuple:
        return text
    one, *others = typing.get_args(kind)
    if others == [...]:
        return tuple(_value(word, one) for word in text.split("+"))
    ends = [Number(one)(end) for end in text.split("..")]
    if len(ends) > 2 or ends[0] > ends[-1]:
        raise argparse.ArgumentTypeError(f"expected LOWEST..HIGHEST or a number, found {shown(text)}")
    return ends[0], ends[-1]


def without_folders(text: str) -> list[Part]:
    """Parts of a chain without folders, for comparing runs: folders may move; the recordings are compared instead."""
    return [
        Part(part.name, part.p, {key: value for key, value in part.settings.items() if not key.endswith("dir")})
        for part in parse(text)
    ]


def short_name(text: str) -> str:
    """Names of a chain's parts, joined with +, for folder names."""
    return "+".join(part.name for part in parse(text))


def listing() -> Iterable[str]:
    """Lines that describe all augmentations: keys with defaults, description, source."""
    yield 'Parts of --augment "PART PART:KEY=VALUE,KEY=VALUE ...", applied in this order. Each also has the key p, its'
    yield "probability (1). LOWEST..HIGHEST is a range to draw values from uniformly; a single number is a fixed value."
    for name, augment in AUGMENTATIONS.items():
        keys = [f"{key}{_default(parameter)}" for key, parameter in keys_of(augment).items()]
        yield ""
        yield from textwrap.wrap(f"{name}  {', '.join(keys)}".strip(), 118, subsequent_indent="        ")
        yield textwrap.indent(inspect.getdoc(augment), "    ")


def _default(parameter):
    value = parameter.default
    if value in (parameter.empty, None):
        return ""
    if not isinstance(value, tuple):
        return f"={value:g}" if isinstance(value, float) else f"={value}"
    is_list = typing.get_args(_kind(parameter))[-1] is ...
    return "=" + ("+" if is_list else "..").join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
