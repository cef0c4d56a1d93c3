"""A script's options: one frozen dataclass, from and to the command line and JSON.

    @dataclass(frozen=True)
    class Config(Options):
        learning_rate: float = option(1e-2, "the optimizer's rate", positive)

    Config.parse(["--learning_rate", "0.1"])

Values are checked when a Config is made, wherever it comes from. An option that is wrong raises a UserError
that names it as a flag.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

from purenets.core.base import UserError

Check = Callable[[Any], str | None]  # what would be right, if the value is not


def option(default, help: str, check: Check | None = None, choices: Sequence | None = None):
    """A field of a Config; its type is its annotation's (a bool is a flag without a value)."""
    if choices is not None:
        check = one_of(choices)
    return dataclasses.field(default=default, metadata={"help": help, "check": check})


def positive(value) -> str | None:
    return None if value > 0 and math.isfinite(value) else "a positive number"


def not_negative(value) -> str | None:
    return None if value >= 0 and math.isfinite(value) else "a number that is not negative"


def fraction(value) -> str | None:
    return None if 0 <= value < 1 else "a number from 0 to below 1"


def open_fraction(value) -> str | None:
    return None if 0 < value < 1 else "a number between 0 and 1"


def one_of(choices: Sequence) -> Check:
    return lambda value: None if value in choices else f"one of {', '.join(map(str, choices))}"


def widths(value: str) -> str | None:
    parts = value.split(",")
    good = all(part.strip().isdecimal() and int(part) > 0 for part in parts)
    return None if good else "positive integers with commas between them, as 20 or 100,50"


class Options:
    """What every Config can do."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind is float and type(value) is int:
                object.__setattr__(self, field.name, value := float(value))
            if type(value) is not kind and not (value is None and field.default is None):
                raise UserError(f"--{field.name} {value}: needs {_WORDS[kind]}")
            wrong = field.metadata["check"] and value is not None and field.metadata["check"](value)
            if wrong:
                raise UserError(f"--{field.name} {value}: needs {wrong}")

    @classmethod
    def parse(cls, arguments: Sequence[str] | None = None, presets: dict[str, Self] | None = None) -> Self:
        """The Config of a command line; `--help` prints all options with their defaults.

        presets: Configs by name; `--preset NAME` takes its values as the defaults of all other options.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        arguments = [_spelled(argument) for argument in arguments]
        defaults = _preset(arguments, presets).to_dict() if presets else {}
        parser = _Parser(description=cls.__doc__, allow_abbrev=False)
        for field in dataclasses.fields(cls):
            text = field.metadata["help"].replace("%", "%%")
            text += f": {', '.join(presets)}" if presets and field.name == "preset" else ""
            name, default = f"--{field.name}", defaults.get(field.name, field.default)
            if field.type is bool:
                parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=text)
            else:
                shown = "" if default is None else f" (default: {default})"
                parser.add_argument(name, default=default, help=text + shown, metavar=_METAVARS[field.type])
        given = vars(parser.parse_args(arguments))
        return cls(**{field.name: _convert(field, given[field.name]) for field in dataclasses.fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown and missing names are errors."""
        names = {field.name for field in dataclasses.fields(cls)}
        if values.keys() != names:
            raise UserError(f"config: {', '.join(sorted(values.keys() ^ names))} missing or unknown")
        return cls(**values)


def _spelled(argument: str) -> str:
    """A flag as its field is spelled: --student-number is --student_number."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    negation = "no-" if name.startswith("no-") else ""
    return f"--{negation}{name.removeprefix('no-').replace('-', '_')}{equals}{value}"


def _preset(arguments: Sequence[str], presets: dict[str, Options]) -> Options:
    """The Config of the `--preset` among the arguments, or the first of all."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=next(iter(presets)))
    name = parser.parse_known_args(arguments)[0].preset
    if name not in presets:
        raise UserError(f"--preset {name}: needs one of {', '.join(presets)}")
    return presets[name]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all options)")


_WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def _convert(field, text):
    if not isinstance(text, str) or field.type is str:
        return text
    try:
        return field.type(text)
    except ValueError:
        raise UserError(f"--{field.name} {text}: needs {_WORDS[field.type]}") from None
