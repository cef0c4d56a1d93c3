"""A script's options: one frozen dataclass, from and to the command line and JSON.

    @dataclass(frozen=True)
    class Config(Options):
        learning_rate: float = option(1e-2, "the optimizer's rate", positive)
        hidden_units: tuple[int, ...] = option((20,), "units of each hidden layer", widths)

    Config.parse(["--learning_rate", "0.1", "--hidden_units", "100,50"])

Values are checked when a Config is made, wherever it comes from. An option that is wrong raises a
UserError that names it as a flag.
"""

import argparse
import dataclasses
import difflib
import math
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Self

from purenets.core.base import UserError

LARGEST = 2**64  # what no count, step or seed reaches
Check = Callable[[Any], str | None]  # what would be right, if the value is not


def option(default, help: str, check: Check | None = None, choices: Sequence | None = None):
    """Return a field of a Config, a dataclass that derives from `Options`.

    Its type is that of the annotation. `bool` is a flag without a value, `--name` or `--no-name`.
    `tuple[int, ...]` (or of float or str) is a list; on the command line and in JSON it is a text
    with commas, "100,50", and "" is the empty list.

    Args:
        default: the value where the command line does not name one.
        help: the text that `--help` shows.
        check: a function of the value that returns what would be right, in words, or None. That of
            a list gets the whole tuple, in which an item that is not a number is still a text.
        choices: the only values that are right, in place of a check. A name is taken in any case;
            the Config holds it as it stands here.

    Returns:
        A dataclasses.Field.

    Raises:
        UserError: `choices` is not a list. A Config raises one for a value that is not right.

    Example:
        >>> from dataclasses import dataclass
        >>> from purenets import runs
        >>> from purenets.core.runs.options import positive
        >>> @dataclass(frozen=True)
        ... class Config(runs.Options):
        ...     rate: float = runs.option(0.1, "the learning rate", positive)
        ...     units: tuple[int, ...] = runs.option((20,), "units of each hidden layer")
        >>> Config.parse(["--units", "100,50"])
        Config(rate=0.1, units=(100, 50))
        >>> Config(rate=-1.0)
        Traceback (most recent call last):
        purenets.core.base.UserError: --rate -1.0: needs a positive number
    """
    if choices is not None:
        check = one_of(choices)
    return dataclasses.field(default=default, metadata={"help": help, "check": check})


def positive(value) -> str | None:
    """Check that a number is positive and finite."""
    return None if value > 0 and math.isfinite(value) else "a positive number"


def not_negative(value) -> str | None:
    """Check that a number is finite and not negative."""
    return None if value >= 0 and math.isfinite(value) else "a number that is not negative"


def up_to(highest: float, check: Check = positive) -> Check:
    """Return the check of a number that `check` takes and that is at most `highest`."""

    def within(value) -> str | None:
        return check(value) or (None if value <= highest else f"at most {highest:,}")

    return within


# more threads than any machine has cores end in an error of the system, more seeds than these in
# a list that fills the memory; each shard takes a gradient of its own
thread_count = up_to(1024)
thread_count_or_0 = up_to(1024, not_negative)
seed_count = up_to(100_000)
shard_count = up_to(1024, not_negative)
SHARDS = (  # what --shards does
    "cut each batch into this many parts: any number of processes that divides it gives the same "
    "bits; 0 for none"
)


def file_path(value: str) -> str | None:
    """Check the path of a file or folder."""
    return None if value else "a path; . is the folder that you are in"


def fraction(value) -> str | None:
    """Check that a number is from 0 to below 1."""
    return None if 0 <= value < 1 else "a number from 0 to below 1"


def open_fraction(value) -> str | None:
    """Check that a number is above 0 and below 1."""
    return None if 0 < value < 1 else "a number between 0 and 1"


def one_of(choices: Sequence) -> Check:
    """Return the check of a value that has to be one of `choices`, where a name is in any case."""
    try:
        choices = list(choices)
    except TypeError:
        raise UserError(f"choices: a {type(choices).__name__}, needs a list") from None

    def check(value) -> str | None:
        return None if value in choices else f"one of {', '.join(map(str, choices))}"

    check.names = choices
    return check


def each(check: Check) -> Check:
    """Return the check of a list that applies `check` to every item."""

    def check_all(values) -> str | None:
        return next(filter(None, map(check, values)), None)

    check_all.names = getattr(check, "names", ())
    return check_all


def integers_from(lowest: int, needs: str) -> Check:
    """Return the check of a list of integers from `lowest` on; `needs` says so in words."""

    def check(values: tuple) -> str | None:
        good = all(type(value) is int and lowest <= value < LARGEST for value in values)
        return None if good else needs

    return check


def widths(values: tuple) -> str | None:
    """Check the sizes of layers: at least one, all positive."""
    needs = "positive integers with commas between them, as 20 or 100,50"
    return integers_from(1, needs)(values) if values else needs


class Options:
    """The base of a script's Config: checks its values, reads them from command line and JSON."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            names = getattr(field.metadata["check"], "names", ())
            value = _as_named(_typed(field.type, getattr(self, field.name)), names)
            object.__setattr__(self, field.name, value)
            wrong = _wrong(field, value)
            if wrong:
                raise UserError(f"--{field.name} {_quoted(field.type, value)}: needs {wrong}")

    @classmethod
    def parse(
        cls, arguments: Sequence[str] | None = None, presets: dict[str, Self] | None = None
    ) -> Self:
        """Return the Config of a command line; `--help` prints all options with their defaults.

        Args:
            arguments: the words of the command line; None for those of this process.
            presets: Configs by name; `--preset NAME` takes its values as the defaults of all other
                options.

        Returns:
            A Config.

        Raises:
            UserError: an option is unknown or its value is wrong; the message names the flag.
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
                parser.add_argument(
                    name, action=argparse.BooleanOptionalAction, default=default, help=text
                )
            else:
                shown = "" if default is None else f" (default: {_as_text(default)})"
                metavar = _METAVARS.get(field.type, "LIST")
                parser.add_argument(name, default=default, help=text + shown, metavar=metavar)
        given = vars(parser.parse_args(arguments))
        if presets:
            given["preset"] = _as_named(given["preset"], presets)
        config = cls(
            **{field.name: _convert(field, given[field.name]) for field in dataclasses.fields(cls)}
        )
        words = {argument.partition("=")[0] for argument in arguments}
        config.expect_used(name for name in given if words & {f"--{name}", f"--no-{name}"})
        return config

    @classmethod
    def given(cls, config: Self | argparse.Namespace | None = None) -> Self:
        """Return the Config that a function was called with, whatever form it has.

        Args:
            config: a Config; the result of another `argparse.ArgumentParser`, whose names are
                options; or None for the defaults.

        Returns:
            A Config of this class.

        Raises:
            UserError: `config` is none of these, or names an unknown option.
        """
        if config is None or isinstance(config, argparse.Namespace):
            values = vars(config) if config else {}
            unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
            if unknown:
                raise UserError(f"config: {', '.join(sorted(unknown))} unknown")
            return cls(**values)
        if not isinstance(config, cls):
            raise UserError(f"config: a {type(config).__name__}, needs the script's Config")
        return config

    def needs_length(self) -> str:
        """Return what in the training depends on its length, such as a schedule; "" for nothing.

        If something does, a run cannot be resumed to another length.
        """
        return ""

    def unused(self) -> Iterator[tuple[str, str]]:
        """Yield the options that the values of others leave without effect, and why."""
        yield from ()

    def expect_used(self, names: Iterable[str]) -> None:
        """Raise a UserError if one of these options has no effect: none is ignored silently."""
        names = set(names)
        for name, reason in self.unused():
            if name in names:
                raise UserError(f"--{name} {_as_text(getattr(self, name))}: {reason}")

    def changed(self) -> list[str]:
        """Return the names of the options that have another value than their default."""
        fields = dataclasses.fields(self)
        return [field.name for field in fields if getattr(self, field.name) != field.default]

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON has them; a list is the text that the command line takes."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: _as_text(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the Config of `to_dict`'s values; unknown and missing names are errors."""
        names = {field.name for field in dataclasses.fields(cls)}
        if values.keys() != names:
            raise UserError(
                f"config: {', '.join(sorted(values.keys() ^ names))} missing or unknown"
            )
        return cls(**values)


def _spelled(argument: str) -> str:
    """Return a flag as its field is spelled: --student-number is --student_number."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    negation = "no-" if name.startswith("no-") else ""
    return f"--{negation}{name.removeprefix('no-').replace('-', '_')}{equals}{value}"


def _preset(arguments: Sequence[str], presets: dict[str, Options]) -> Options:
    """Return the Config of the `--preset` among the arguments, or the first of all."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=next(iter(presets)))
    name = _as_named(parser.parse_known_args(arguments)[0].preset, presets)
    if name not in presets:
        raise UserError(f"--preset {name}: needs one of {', '.join(presets)}")
    return presets[name]


LIKENESS = 0.75  # of a flag and the one that is meant; at 0.6 --lr is like --help
OTHER_WORDS = {  # for options that other programs call so
    "lr": ("learning_rate",),
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "steps": ("max_steps", "train_steps"),
    "epochs": ("max_steps",),  # where that counts epochs
    "num_epochs": ("epochs", "max_steps"),
    "hidden": ("dnn_hidden_units", "num_hidden"),
    "hidden_units": ("dnn_hidden_units", "num_hidden"),
    "hidden_size": ("dnn_hidden_units", "num_hidden"),
    "layers": ("dnn_hidden_units",),
    "output": ("out",),
    "data": ("dataset",),
}


class _Parser(argparse.ArgumentParser):
    def _other_word(self, flag: str) -> str | None:
        """Return the option that other programs call by this flag, if there is one here."""
        name, known = flag.removeprefix("--"), self._option_string_actions
        for other in (f"--{word}" for word in OTHER_WORDS.get(name, ())):
            in_epochs = other in known and "epochs" in (known[other].help or "")
            if other in known and ("epochs" not in name or in_epochs or other == "--epochs"):
                return other
        return None

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2]
        flag = unknown.split("=")[0].split(" ")[0]
        near = self._other_word(flag) or next(
            iter(difflib.get_close_matches(flag, self._option_string_actions, 1, LIKENESS)), None
        )
        hint = f"is it {near}? " if near else ""
        raise UserError(f"{message} ({hint}--help lists all options)")


_WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_MANY = {int: "integers", float: "numbers", str: "texts"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def _item_type(kind) -> type | None:
    """Return the type of a list's items; None for an option of one value."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def _typed(kind, value):
    """Return the value as an option of type `kind` holds it; where it cannot be, as it is."""
    item = _item_type(kind)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if item and isinstance(value, str):
        parts = [part.strip() for part in value.split(",")] if value.strip() else []
        return tuple(_parsed(item, part) for part in parts)
    if item and isinstance(value, list | tuple):
        return tuple(_typed(item, part) for part in value)
    return float(value) if kind is float and type(value) is int else value


def _as_named(value, names: Iterable):
    """Return a name, or each of a list, as it stands in `names`, whatever its case; else as is."""
    if isinstance(value, tuple):
        return tuple(_as_named(item, names) for item in value)
    if not isinstance(value, str) or value in names:
        return value
    return next((name for name in names if str(name).lower() == value.lower()), value)


def _parsed(kind: type, text: str):
    try:
        return kind(text)
    except ValueError:
        return text


def _wrong(field, value) -> str | None:
    """Return what would be right, or None if the value is."""
    check, item = field.metadata["check"], _item_type(field.type)
    if value is None and field.default is None:
        return None
    if item is None:
        return _wrong_kind(field.type, value) or (check and check(value))
    words = f"{_MANY[item]} with commas between them"
    if not isinstance(value, tuple):
        return words
    return (check and check(value)) or (None if all(type(v) is item for v in value) else words)


def _wrong_kind(kind: type, value) -> str | None:
    if type(value) is not kind:
        return _WORDS[kind]
    if kind is int and abs(value) >= LARGEST:
        return "an integer below 2^64"
    return "a text without NUL" if kind is str and "\0" in value else None


def _quoted(kind, value) -> str:
    """Return a value as a message shows it: in quotes where only these tell that it is a text."""
    is_like = isinstance(value, str) and kind in (int, float) and _parsed(kind, value) != value
    return repr(_shortened(value)) if is_like else _shortened(value)


def _shortened(value) -> str:
    try:
        text = str(_as_text(value))
    except ValueError:  # an integer of more digits than Python prints
        return "of so many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _as_text(value):
    """Return a list as the text that the command line takes, any other value as it is."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _convert(field, text):
    if not isinstance(text, str) or field.type is str or _item_type(field.type):
        return text
    try:
        return field.type(text)
    except ValueError:
        raise UserError(f"--{field.name} {text}: needs {_WORDS[field.type]}") from None
