"""Read and change what an optimizer keeps in its state."""

import inspect
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from purenets.core.arguments import (
    FINITE,
    attribute_of,
    expect_dicts,
    expect_functions,
    expect_numbers,
    expect_optimizers,
    expect_states,
    expect_texts,
    shown,
)
from purenets.core.arrays import kind_of, like, namespace, own_copy
from purenets.core.base import Array, Optimizer, Params, TrainState, UserError
from purenets.core.optim.internals.extra_args import like_inner
from purenets.core.optim.internals.hyper import RANGES, Hyper, count_to_dtype, zero_count
from purenets.core.optim.internals.order import order_of, with_order
from purenets.core.optim.internals.precision import checking, expect_state, own_in_any_dtype


def inject_hyperparams(make: Callable[..., Optimizer], *unnamed, **hypers) -> Optimizer:
    """Return the optimizer `make(**hypers)` with its numbers in the state, to be changed there.

    Floats, arrays and tuples of floats become arrays in the state, under "hyper". So do non-zero
    integers such as lr=1, where `make` takes a float; the integer 0 stays fixed, because it
    switches a part off. Flags, schedules, names, integers that count, and arguments that only
    `init` uses (the lr of `rprop`) stay fixed too. Read them by `get_state`, change them by
    `set_hyperparams`; nothing is compiled anew. They have the dtype of the params: in float32 a
    decay of 0.999999 is 1 - 1.013e-6, so keep one so close to 1 fixed, as in
    `chain(inject_hyperparams(adam, lr=0.1), ema(0.999999))`.

    Args:
        make: a function that returns an optimizer, such as `adam`.
        unnamed: must be empty; pass all arguments by keyword.
        hypers: the arguments of `make`, by keyword.

    Returns:
        An optimizer whose state has the entries "hyper" and "inner".

    Raises:
        UserError: make is not a function or does not return an Optimizer, or make refuses an
            argument.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.inject_hyperparams(optim.sgd, lr=0.1)
        >>> params = {"w": np.ones(1)}
        >>> state = optim.set_hyperparams(optimizer.init(params), lr=0.5)
        >>> updates, state = optimizer.update(params, state, params)
        >>> updates["w"], float(optim.get_state(state, "hyper")["lr"])
        (array([-0.5]), 0.5)

    Source:
        optax.inject_hyperparams.
    """
    expect_functions("inject_hyperparams", make=make)
    _expect_arguments(make, unnamed, hypers)
    held = {name: value for name, value in hypers.items() if _is_held(make, name, value)}
    fixed = {name: value for name, value in hypers.items() if name not in held}

    def made(values):
        return own_in_any_dtype(make(**values, **fixed))

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        values = {name: own_copy(like(value, number)) for name, value in held.items()}
        return {"hyper": values, "inner": made(values).init(params)}

    def update(grads, state, params, **extra):
        updates, inner = made(state["hyper"]).update(grads, state["inner"], params, **extra)
        return updates, {"hyper": state["hyper"], "inner": inner}

    optimizer = make(**hypers)
    expect_optimizers("inject_hyperparams", **{"what make returns": optimizer})
    injected = Optimizer(init, like_inner(checking(init, update), [optimizer]))
    return with_order(order_of(optimizer), injected)


def _expect_arguments(make: Callable, unnamed: tuple, hypers: dict) -> None:
    """Raise a UserError for arguments that `make` cannot be called with."""
    name = getattr(make, "__name__", "make")
    if unnamed:
        raise UserError(
            f"inject_hyperparams: {shown(unnamed[0])} has no name; give the arguments of {name} by "
            f"keyword, as inject_hyperparams({name}, lr=0.1)"
        )
    try:
        inspect.signature(make).bind(**hypers)
    except TypeError as error:
        raise UserError(f"inject_hyperparams: {name} cannot be called so: {error}") from None
    except ValueError:  # it has no signature that can be read
        return


def _is_held(make: Callable, name: str, value) -> bool:
    """Return True for an argument of `make` that is kept in the state."""
    if name in attribute_of(make, "only_at_init", ()):  # a new value would change nothing
        return False
    if isinstance(value, tuple):
        return all(isinstance(v, float) for v in value)
    if type(value) is int:
        return value != 0 and _takes_float(make, name)
    is_key = getattr(value, "ndim", 0) == 1 and kind_of(value) == "i"  # its words are no floats
    return isinstance(value, float) or (hasattr(value, "dtype") and not is_key)


def _takes_float(make: Callable, name: str) -> bool:
    """Return True if the signature of `make` says that an argument is no integer that counts."""
    try:
        parameter = inspect.signature(make).parameters[name]
    except (ValueError, KeyError):  # it has none that can be read, or takes **hypers
        return False
    return parameter.annotation == Hyper or isinstance(parameter.default, float)


def get_state(opt_state: dict, name: str):
    """Return the first entry of a name in a nested state, at whatever depth it is.

    A leaf of the params that is called so, as in the means of `adam`, comes after all entries.

    Args:
        opt_state: the state of an optimizer, or a part of it.
        name: the name of the entry, such as "exp_avg" or "ema".

    Returns:
        The entry: an array, or a dict of arrays by the names of the params.

    Raises:
        UserError: opt_state is not a dict, name is not a string, or there is no such entry.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> state = optim.sgd(0.1, momentum=0.9).init({"w": np.ones(2)})
        >>> optim.get_state(state, "momentum_buffer")["w"]
        array([0., 0.])
    """
    expect_dicts("get_state", opt_state=opt_state)
    expect_texts("get_state", name=name)
    found = [(is_leaf, inner) for is_leaf, entry, inner in _named(opt_state) if entry == name]
    for _, inner in sorted(found, key=itemgetter(0)):
        return inner
    raise UserError(f"{name}: no such entry in the state of the optimizer")


def check_opt_state(optimizer: Optimizer, params: Params, opt_state: dict) -> None:
    """Raise a UserError unless a state is one of this optimizer for these params.

    For states that come from a file or from another program: entries and shapes are compared with
    those of `optimizer.init(params)`, values are not.

    Args:
        optimizer: the optimizer that is to go on from the state.
        params: the params that it updates.
        opt_state: the state to check.

    Raises:
        UserError: optimizer is not an Optimizer, params are not a dict of arrays, or an entry of
            opt_state is missing, unknown or of another shape; the message names it.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> params = {"w": np.ones(2)}
        >>> optim.check_opt_state(optim.adam(), params, optim.adam().init(params))
        >>> optim.check_opt_state(optim.adam(), params, optim.sgd().init(params))
        Traceback (most recent call last):
            ...
        purenets.core.base.UserError: opt_state: of another optimizer or other params: ...
    """
    expect_optimizers("check_opt_state", optimizer=optimizer)
    expect_state(own_in_any_dtype(optimizer).init, opt_state, params)


def with_averaged_params(state: TrainState) -> TrainState:
    """Return the training state to evaluate, with averages in the place of the params.

    Each leaf is replaced by the average that the optimizer keeps of it: "ema" of `ema`, "swa" of
    `swa`, "ax" of `asgd` and "x" of `schedule_free`, at any depth of the state; each may be of a
    part of the params (`partition`, `masked`, `muon(other=...)`). Leaves without an average stay as
    they are. The running statistics of BatchNorm in the buffers are still those of the params in
    training: `torch_nets.update_batchnorm` computes them again.

    Args:
        state: a TrainState, as `init_state` and `fit` return it.

    Returns:
        A TrainState with other params; `state` itself if its optimizer keeps no average.

    Raises:
        UserError: state is not a TrainState, an average has a leaf or a shape that the params do
            not have, or a leaf has two averages.

    Example:
        >>> import numpy as np
        >>> from purenets import TrainState, optim
        >>> optimizer, params = optim.chain(optim.sgd(1.0), optim.ema(0.5)), {"w": np.zeros(1)}
        >>> grads = {"w": -np.ones(1)}
        >>> updates, opt_state = optimizer.update(grads, optimizer.init(params), params)
        >>> params = optim.apply_updates(params, updates)
        >>> state = TrainState(params, {}, opt_state, key=None, step=1)
        >>> state.params["w"], optim.with_averaged_params(state).params["w"]
        (array([1.]), array([0.5]))
    """
    expect_states("with_averaged_params", state=state)
    params, places = dict(state.params), {}
    for place, average in _averages(state.opt_state, ""):
        for name, leaf in average.items():
            if name not in params or leaf.shape != params[name].shape:
                what = f"{name!r} of shape {tuple(leaf.shape)}"
                raise UserError(
                    f"with_averaged_params: {place} averages {what}, which is no leaf of the params"
                )
            if name in places:
                raise UserError(
                    f"with_averaged_params: {name} has two averages, {places[name]} and {place}"
                )
            places[name] = place
            params[name] = namespace(leaf).astype(leaf, params[name].dtype, copy=False)
    return state._replace(params=params) if places else state


def _averages(opt_state: dict, path: str) -> Iterator[tuple[str, Params]]:
    """Yield each average with its place in the state, such as "1/ema".

    A label of `partition` may be called so too. What lies under it is a state: its entries are
    dicts, or counts.
    """
    for entry, inner in opt_state.items():
        if not isinstance(inner, dict):
            continue
        is_average = entry in ("ema", "swa", "ax") or (entry == "x" and "z" in opt_state)
        is_state = inner.keys() <= {"count"} or any(
            isinstance(leaf, dict) for leaf in inner.values()
        )
        if is_average and not is_state:
            yield path + entry, inner
        else:
            yield from _averages(inner, f"{path}{entry}/")


def _entries(opt_state: dict) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each entry, at every depth."""
    for _, entry, inner in _named(opt_state):
        yield entry, inner


def _named(opt_state: dict, are_leaves: bool = False) -> Iterator[tuple[bool, str, Any]]:
    """Yield, for each entry at every depth, True if it seems to be a leaf, its name and value."""
    in_chain = all(str(name).isdecimal() and isinstance(x, dict) for name, x in opt_state.items())
    for entry, inner in opt_state.items():
        yield are_leaves, entry, inner
        if isinstance(inner, dict):
            is_state = in_chain or entry in ("inner", "hyper") or not _seem_leaves(inner)
            yield from _named(inner, not is_state)


def _seem_leaves(part: dict) -> bool:
    """Return True for a dict of arrays, some with axes: the numbers of a state have none."""
    arrays = [x for x in part.values() if not isinstance(x, dict)]
    return len(arrays) == len(part) and any(getattr(x, "ndim", 0) for x in arrays)


def set_hyperparams(opt_state: dict, **values: float | Array) -> dict:
    """Return a state with other values of the hyper-parameters that `inject_hyperparams` put there.

    Args:
        opt_state: the state; every optimizer in it that has such a hyper-parameter gets the value.
        values: the new values by name: numbers, arrays, or tuples of them as for betas. A number
            outside the range allowed for that name is refused; the values of arrays are not
            checked.

    Returns:
        A new state; opt_state does not change.

    Raises:
        UserError: opt_state is not a dict or holds no injected hyper-parameters, a name is not one
            of them, or a value is not finite, is out of range (lr=-1), or has another number of
            elements than the state.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.inject_hyperparams(optim.adam, lr=0.1, betas=(0.9, 0.99))
        >>> state = optimizer.init({"w": np.ones(2)})
        >>> state = optim.set_hyperparams(state, lr=0.01)
        >>> float(optim.get_state(state, "hyper")["lr"])
        0.01
    """
    expect_dicts("set_hyperparams", opt_state=opt_state)
    known = _injected(opt_state)
    for name, value in values.items():
        each = value if isinstance(value, tuple | list) else (value,)
        for number in each:
            expect_numbers("set_hyperparams", RANGES.get(name, FINITE), **{name: number})
        if name not in known:
            raise UserError(
                f"{name}: not an injected hyper-parameter, the state holds "
                f"{', '.join(known) or 'none'}; schedules, flags and the integer 0 stay fixed"
            )
        if not hasattr(value, "dtype"):
            _expect_as_many(name, value, known[name])

    def walk(state):
        new = {k: walk(inner) if isinstance(inner, dict) else inner for k, inner in state.items()}
        if isinstance(new.get("hyper"), dict):  # a param may have that name, too
            new["hyper"] = {
                k: own_copy(like(values[k], v)) if k in values else v
                for k, v in new["hyper"].items()
            }
        return new

    return walk(opt_state)


def _injected(opt_state: dict) -> dict[str, Array]:
    """Return all injected hyper-parameters by name; a UserError if there never were any."""
    named = [inner for entry, inner in _entries(opt_state) if entry == "hyper"]
    entries = [inner for inner in named if isinstance(inner, dict)]
    if not entries:
        raise UserError(
            "set_hyperparams: hyper: no such entry in the state of the optimizer; "
            "inject_hyperparams(adam, lr=0.1) makes it"
        )
    return {name: value for entry in entries for name, value in entry.items()}


def _expect_as_many(name: str, value, held: Array) -> None:
    """Raise a UserError for one number in the place of several, or for more or less of them."""
    shape = (len(value),) if isinstance(value, tuple | list) else ()
    if shape != tuple(held.shape):
        wrong = "one number" if shape == () else f"{shape[0]} numbers"
        right = f"shape {tuple(held.shape)}" if held.shape else "one number"
        raise UserError(f"set_hyperparams: {name} is {wrong}, the state holds {right}")
