"""Options of a command as fields of a frozen dataclass, from which flags, help, checks and saved settings are made."""

import argparse
import dataclasses
from types import SimpleNamespace

from common.console import Number, UserError, shown, unfit
from common.flags import CommandParser, with_default

_TRAITS = {"help": "", "kind": None, "choices": None, "group": None, "aliases": (), "flag": True, "runtime": False}
_TRAITS |= {"rare": False}


def option(default: object, help: str = "", **traits: object) -> dataclasses.Field:
    """A field of a dataclass of options, and so a flag of its name. Its type is that of the annotation.

    default: None is a value that is not given. help: its first line is printed by --help, all by --help-all;
    `%(default)s` in it is the default, which is else put behind the first line. rare: --help leaves the flag out.
    kind: a common.console.Number, of each value; int and float fields: any finite number. choices: values that it may
    have. group: of the help. aliases: other spellings of the flag. flag: False for what no flag sets. runtime: it does
    not decide the result, so it is neither saved nor compared. Any other trait (nargs, metavar ...) goes to argparse.
    """
    return dataclasses.field(default=default, metadata={"help": help, **traits})


def _traits(field):
    """A field's traits. One without a group, of a dataclass that knows no options, belongs to the last group."""
    traits = SimpleNamespace(**{**_TRAITS, **field.metadata})
    traits.kind = traits.kind or (Number(field.type) if field.type in (int, float) else None)
    traits.argparse = {name: value for name, value in field.metadata.items() if name not in _TRAITS}
    return traits


def add_flags(parser: CommandParser, config_class: type, groups: dict, values: dict) -> None:
    """Add a flag for each field to a parser; one that is not given is None.

    groups: {group: title}, in the order of the help. values: {name: value} that the help shows instead of defaults.
    """
    fields = [(field, _traits(field)) for field in dataclasses.fields(config_class)]
    for name, title in groups.items():
        group = parser.add_argument_group(title)
        for field, traits in fields:
            if traits.flag and (traits.group or list(groups)[-1]) == name:
                how = (
                    {"action": "store_true"} if field.type is bool else {"type": traits.kind, "choices": traits.choices}
                )
                how |= {**traits.argparse, "default": None}
                text = with_default(traits.help, values.get(field.name, field.default))
                rare = traits.rare or traits.group is None
                group.add_argument(f"--{field.name}", *traits.aliases, help=text, rare=rare, **how)


def given_flags(args: argparse.Namespace, config_class: type) -> dict:
    """{field: value} of the flags, in an argparse namespace, that were given."""
    names = [field.name for field in dataclasses.fields(config_class)]
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def check_values(config: object) -> None:
    """Raise UserError, naming the flag, for a value that its field does not take. Lists become tuples."""
    for field in dataclasses.fields(config):
        value, traits = getattr(config, field.name), _traits(field)
        if value is None and field.default is None:
            continue
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, field.name, value)
        n = traits.argparse.get("nargs")
        if isinstance(n, int) and (not isinstance(value, tuple) or len(value) != n):
            raise UserError(f"--{field.name}: expected {n} values, found {shown(value)}")
        expected = (False, True) if field.type is bool else traits.kind if traits.choices is None else traits.choices
        for one in value if isinstance(value, tuple) else (value,):
            if expected is not None and (words := unfit(one, expected)):
                raise UserError(f"--{field.name}: expected {words}, found {shown(one)}")


def saved_settings(config: object) -> dict:
    """{field: value} of what decides the result, as plain data."""
    return {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config) if not _traits(field).runtime
    }


def from_saved(config_class: type, settings: dict) -> object:
    """The configuration of saved settings. A field that was not there yet has its default; one that went is ignored."""
    names = {field.name for field in dataclasses.fields(config_class) if not _traits(field).runtime}
    return config_class(**{name: value for name, value in settings.items() if name in names})
