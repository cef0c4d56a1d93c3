"""Checks of what a user hands over, made once, where a function is called or built.

    expect_hypers("adam", NOT_NEGATIVE, lr=lr, eps=eps)
    expect_integers("lookahead", 1, k=k)
    expect_optimizers("accumulate", optimizer=optimizer)

Each raises a `UserError` of one line that names the function, the argument and what is right. What
is no plain number is let through where it may be meant: arrays, since a value under vmap or
torch.compile cannot be read, and schedules where a hyper-parameter is asked for.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from purenets.core.arrays import expect_plain
from purenets.core.base import UserError

Function = TypeVar("Function", bound=Callable)


class Range(NamedTuple):
    """A set of numbers: what it is called, and whether it holds a number."""

    text: str
    holds: Callable[[float], bool]


NOT_NEGATIVE = Range("a finite number from 0 on", lambda v: 0 <= v < math.inf)
POSITIVE = Range("a finite number above 0", lambda v: 0 < v < math.inf)
NOT_POSITIVE = Range("a finite number up to 0", lambda v: -math.inf < v <= 0)
ABOVE_0 = Range("above 0", lambda v: v > 0)
FROM_1 = Range("1 or more", lambda v: v >= 1)
ANY = Range("a number", lambda v: True)  # its range is told by the caller
FINITE = Range("a finite number", lambda v: -math.inf < v < math.inf)
DECAY = Range("from 0 to below 1", lambda v: 0 <= v < 1)
FRACTION = Range("from 0 to 1", lambda v: 0 <= v <= 1)
OPEN_FRACTION = Range("between 0 and 1", lambda v: 0 < v < 1)
PART = Range("above 0 and at most 1", lambda v: 0 < v <= 1)
EXTRA = ("value", "value_and_grad_fn")  # what an update may ask for beside its arguments
GRAD_FN = ("params", "buffers", "batch", "key")  # what a gradient function is called with
STEP = ("state", "batch")
METRICS_FN = ("params", "buffers", "batch")
HINTS = {
    GRAD_FN: ", which returns (grads, (buffers, metrics)); grad_fn(model) makes one",
    STEP: ", which returns (state, metrics); make_step(grad_fn, optimizer) makes one",
    METRICS_FN: ", which returns a dict; metrics_fn(model) makes one",
    ("carry", "x"): ", which returns (carry, y)",
    ("step",): ", the batch of that step; data.batches makes one",
}
TOO_LARGE = 2**63  # no integer of an array


def expect_hypers(function: str, right: Range, **values: Any) -> None:
    """Raise a UserError for a hyper-parameter that is no number of the range `right`, no schedule
    and no array.
    """
    for name, value in values.items():
        if callable(value):
            expect_call(function, ("count",), **{name: value})
        else:
            _expect(function, name, value, right, "a number, a schedule or an array")


def expect_numbers(function: str, right: Range, **values: Any) -> None:
    """Raise a UserError for an argument that is no number of the range `right` and no array."""
    for name, value in values.items():
        _expect(function, name, value, right, "a number")


def expect_reals(function: str, right: Range, **values: Any) -> None:
    """Raise a UserError for an argument that is no number of the range `right`; an array is none.

    For what is asked about while a function is built, as `if dropout:`.
    """
    for name, value in values.items():
        if hasattr(value, "dtype") and not isinstance(value, np.floating | np.integer):
            raise UserError(f"{function}: {name}: {shown(value)} is not a number")
        _expect(function, name, value, right, "a number")


def expect_paths(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no path: a text, or what pathlib makes of it."""
    for name, value in values.items():
        if not isinstance(value, str | os.PathLike):
            raise UserError(f"{function}: {name} is {shown(value)}, needs a path")


def expect_units(function: str, example: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no list of the sizes of layers."""
    for name, value in values.items():
        try:
            units = None if isinstance(value, str | bytes | dict | set) else list(value)
        except TypeError:
            units = None
        if units is None:
            raise UserError(
                f"{function}: {name} is {value!r}, needs a list of the units of each hidden layer, "
                f"as {example}"
            )
        expect_integers(function, 1, **{f"{name}[{i}]": unit for i, unit in enumerate(units)})


def expect_leaves(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no dict of arrays by text names, nested or not."""
    expect_dicts(function, **values)
    for name, value in values.items():
        for leaf_name, leaf in value.items():
            if not isinstance(leaf_name, str):
                raise UserError(f"{function}: {name}: the name {leaf_name!r} is no text")
            place = f"{name}[{leaf_name!r}]"
            if isinstance(leaf, dict):
                expect_leaves(function, **{place: leaf})
            elif not hasattr(leaf, "dtype"):
                raise UserError(f"{function}: {place} is {shown(leaf)}, needs an array")
            expect_plain(f"{function}: {place}", leaf)


def expect_arrays(function: str, ndim: int | None = None, **values: Any) -> None:
    """Raise a UserError for an argument that is no array of numbers, or not one of `ndim` axes."""
    for name, value in values.items():
        is_array = hasattr(value, "dtype") and hasattr(value, "ndim")
        if not is_array or getattr(value.dtype, "kind", "f") not in "biufc":
            raise UserError(f"{function}: {name} is {shown(value)}, needs an array")
        expect_plain(f"{function}: {name}", value)
        if ndim is not None and value.ndim != ndim:
            raise UserError(f"{function}: {name} is {shown(value)}, needs {ndim} axes")


def expect_texts(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no text."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise UserError(f"{function}: {name} is {shown(value)}, needs a text")


def expect_lists(function: str, what: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no list (nor tuple) of `what`."""
    for name, value in values.items():
        if not isinstance(value, list | tuple):
            raise UserError(f"{function}: {name} is {shown(value)}, needs a list of {what}")


def expect_betas(function: str, betas: Any) -> None:
    """Raise a UserError unless there are two decays of running means (or an array of two)."""
    expect_several(function, ("a pair", (0.9, 0.999)), betas=betas)
    for beta in betas:
        expect_hypers(function, DECAY, betas=beta)


def expect_several(function: str, right: tuple[str, tuple], **values: Any) -> None:
    """Raise a UserError for an argument that is not as many values as there should be.

    Args:
        function: how the message begins.
        right: what it should be, in words, and an example, which has the right number of values.
        values: the arguments: tuples, lists or arrays.
    """
    words, example = right
    for name, value in values.items():
        is_array = hasattr(value, "dtype") and getattr(value, "shape", ()) == (len(example),)
        if not is_array and not (isinstance(value, tuple | list) and len(value) == len(example)):
            raise UserError(f"{function}: {name}: {shown(value)} is not {words}, such as {example}")


def expect_integers(function: str, least: int, **values: Any) -> None:
    """Raise a UserError for an argument that is no integer from `least` on."""
    for name, value in values.items():
        if not is_integer(value) or value < least:
            right = {0: "an integer from 0 on", 1: "a positive integer"}
            right = right.get(least, f"an integer from {least} on")
            found = shown(value) if getattr(value, "ndim", 0) else repr(value)
            raise UserError(f"{function}: {name} is {found}, needs {right}")
        if value >= TOO_LARGE:
            raise UserError(f"{function}: {name} is {value!r}, needs an integer below 2^63")


def expect_flags(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise UserError(f"{function}: {name} is {value!r}, needs True or False")


def expect_metrics(metrics: Any) -> None:
    """Raise a UserError for metrics that are no dict of functions by names other than "loss"."""
    if not isinstance(metrics, dict):
        raise UserError(f"metrics: a {type(metrics).__name__}, needs a dict of functions by name")
    if not all(isinstance(name, str) for name in metrics):
        raise UserError(f"metrics: the names are {[*metrics]}, needs texts")
    expect_functions("metrics", **metrics)
    if "loss" in metrics:
        raise UserError("metrics: the loss is always there; choose another name than 'loss'")


def expect_choice(function: str, choices: Iterable[str], **values: Any) -> None:
    """Raise a UserError for an argument that is none of the names `choices`."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in choices:
            raise UserError(
                f"{function}: unknown {name} {shown(value)}, choose from {', '.join(choices)}"
            )


def expect_functions(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that cannot be called."""
    for name, value in values.items():
        if not callable(value):
            raise UserError(f"{function}: {name} is {shown(value)}, needs a function")
        if _takes_model(value):
            own = value.__name__
            raise UserError(f"{function}: {name} is the function {own} itself; pass {own}(model)")


def _takes_model(function: Callable) -> bool:
    """Return True for a function of the package that makes a function of a model: `grad_fn`."""
    code = getattr(function, "__code__", None)
    first = code.co_varnames[: min(code.co_argcount, 1)] if code else ()
    return first == ("model",) and str(function.__module__).startswith("purenets.")


def explained(right: str) -> Callable[[Function], Function]:
    """Return a decorator: a call with other arguments than the function takes ends in one line.

    Args:
        right: how the function is called, such as "fit(step, state, batches, steps=1000)".
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except TypeError:  # looked into only then
                try:
                    inspect.signature(function).bind(*args, **kwargs)
                except TypeError as error:
                    name = function.__name__
                    raise UserError(f"{name}: {error}; call it as {right}") from None
                raise

        return wrapped

    return decorate


def expect_call(function: str, arguments: tuple[str, ...], **values: Any) -> None:
    """Raise a UserError for an argument that cannot be called with the `arguments`."""
    expect_functions(function, **values)
    for name, value in values.items():
        if not takes(value, len(arguments)):
            right = f"{name}({', '.join(arguments)})"
            hint = _of_schedule(value) if arguments == ("count",) else HINTS.get(arguments, "")
            raise UserError(f"{function}: {name} cannot be called as {right}{hint}")


def _of_schedule(function: Callable) -> str:
    """Return what to do with a function that was given as a schedule and is none."""
    own = getattr(function, "__name__", "<lambda>")
    if takes(function, 2) and list(inspect.signature(function).parameters) == ["name", "leaf"]:
        return "; a rule that chooses leaves goes into masked(optimizer, where), in an optim.chain"
    return "" if own.startswith("<") else f"; call {own} to make a schedule: {own}(...)"


def takes(function: Callable, n: int, optional: tuple[str, ...] = ()) -> bool:
    """Return True for a function that can be called with `n` arguments by position, or may be.

    Args:
        function: what is called.
        n: how many arguments it gets by position.
        optional: names of arguments that it gets by keyword if it asks for them.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return _binds(function, n, optional)
    given = n + (getattr(function, "__self__", None) is not None)
    lacking = code.co_argcount - given
    # Defaults are asked for where they matter only: torch.compile of torch 2.11 cannot read those
    # of an inner function.
    if lacking > 0 and lacking > len(function.__defaults__ or ()):
        return False
    if lacking < 0 and not code.co_flags & inspect.CO_VARARGS:
        return False
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    unknown = [name for name in named if name not in optional]
    return not unknown or all(name in (function.__kwdefaults__ or ()) for name in unknown)


def _binds(function: Callable, n: int, optional: tuple[str, ...]) -> bool:
    """Return `takes` of what is no function of Python, as a class or a partial function."""
    try:
        signature = inspect.signature(function)
        named = {name: None for name in optional if name in signature.parameters}
        signature.bind(*[None] * n, **named)
    except TypeError:
        return False
    except ValueError:  # it has no signature that can be read
        return True
    return True


def expect_dicts(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no dict."""
    for name, value in values.items():
        if not isinstance(value, dict):
            raise UserError(f"{function}: {name} is {shown(value)}, needs a dict of arrays")


def expect_named(function: str, what: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no dict with texts as names."""
    for name, value in values.items():
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{function}: {name} is {shown(value)}, needs a dict of {what} by name")


def expect_optimizers(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no pair of the functions `init` and `update`."""
    _expect_fields(function, ("init", "update"), "an Optimizer, as sgd(0.1)", values)
    for name, value in values.items():
        for field, arguments in (("init", ("params",)), ("update", ("grads", "state", "params"))):
            f = getattr(value, field)
            if not callable(f) or not takes(f, len(arguments), EXTRA):
                right = f"{field}({', '.join(arguments)})"
                raise UserError(f"{function}: {name}: {field} cannot be called as {right}")


def expect_models(function: str, fields: tuple[str, ...] = ("init", "apply"), **values) -> None:
    """Raise a UserError for an argument that lacks one of the functions that a model has."""
    for name, value in values.items():
        if function == "grad_fn" and _is_own_function(value):
            raise UserError(
                f"grad_fn: {name} is a function, needs a model with {' and '.join(fields)}; a loss "
                "of your own needs no grad_fn: give make_step a function that returns its gradients"
            )
        if isinstance(value, type) and hasattr(value, "state_dict"):
            text = f"the class {value.__name__}, needs a model; from_module({value.__name__}(...))"
            raise UserError(f"{function}: {name} is {text} makes one")
        if hasattr(value, "state_dict") and hasattr(value, "named_parameters"):
            raise UserError(
                f"{function}: {name} is a {type(value).__name__} of torch.nn, needs a model with "
                f"{' and '.join(fields)}; from_module makes one"
            )
    _expect_fields(function, fields, f"a model with {' and '.join(fields)}", values)


def expect_states(function: str, **values: Any) -> None:
    """Raise a UserError for an argument that is no `TrainState`."""
    fields = ("params", "buffers", "opt_state", "key", "step")
    _expect_fields(function, fields, "a TrainState, as init_state returns it", values)


def _expect_fields(function: str, fields: tuple[str, ...], right: str, values: dict) -> None:
    for name, value in values.items():
        if not all(hasattr(value, field) for field in fields):
            made_by = getattr(value, "__name__", "<lambda>")
            hint = "" if made_by.startswith("<") else f"; call it: {made_by}(...)"
            kind = value if isinstance(value, type) else type(value)
            if kind.__module__.startswith("torch.optim"):
                hint = f"; optim.{kind.__name__.lower()}(...) makes one"
            raise UserError(f"{function}: {name} is {shown(value)}, needs {right}{hint}")


def _is_own_function(value: Any) -> bool:
    """Return True for a function that is no constructor of a model: a user's, in lower case."""
    name, module = getattr(value, "__name__", ""), getattr(value, "__module__", None) or ""
    is_ours = module.partition(".")[0] == "purenets"
    return inspect.isfunction(value) and not is_ours and not name[:1].isupper()


def is_integer(value: Any) -> bool:
    """Return True for an integer of Python or NumPy that is no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _expect(function: str, name: str, value: Any, right: Range, kinds: str) -> None:
    """Raise a UserError unless `value` is an array, or a number in the range."""
    kind = type(value)
    if kind is float or kind is int or isinstance(value, int | float | np.integer | np.floating):
        if kind is not bool and right.holds(value):
            if kind is int and abs(value) >= TOO_LARGE:
                raise UserError(
                    f"{function}: {name}: {value!r} is not below 2^63; write it as 1e30"
                )
            return
        wrong = kinds if kind is bool else right.text
        raise UserError(f"{function}: {name}: {value!r} is not {wrong}")
    if not hasattr(value, "dtype") or isinstance(value, np.bool_):
        raise UserError(f"{function}: {name}: {shown(value)} is not {kinds}")
    kind = "c" if getattr(value.dtype, "is_complex", False) else getattr(value.dtype, "kind", "f")
    if kind not in "biuf" or math.prod(value.shape) != 1:
        raise UserError(f"{function}: {name}: {shown(value)} is not one number")


def within(function: Callable) -> Iterator[Callable]:
    """Yield a function, then what it is a functools.partial or a functools.wraps of."""
    while function is not None:
        yield function
        is_partial = isinstance(function, functools.partial)
        function = function.func if is_partial else getattr(function, "__wrapped__", None)


def attribute_of(function: Callable, name: str, default: Any) -> Any:
    """Return an attribute of a function, or of what is `within` it."""
    return next((getattr(f, name) for f in within(function) if hasattr(f, name)), default)


def whole_only_of(function: Callable) -> Callable[[Any], tuple[str, ...]]:
    """Return the function of the targets that names what is not a mean over the examples.

    A gradient or metrics function of the package has it. Of another function nothing is known: it
    counts as a mean.
    """
    return attribute_of(function, "whole_only", lambda targets: ())


def shown(value: Any) -> str:
    """Return a value as a message shows it: short ones in full, others by their type."""
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if callable(value):
        return f"a {kind}"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"a {kind}"
