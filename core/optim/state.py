"""Read and change what an optimizer keeps in its state."""

from collections.abc import Callable, Iterator

from purenets.core.arguments import (
    FINITE,
    expect_dicts,
    expect_functions,
    expect_numbers,
    expect_optimizers,
    expect_states,
    expect_texts,
)
from purenets.core.arrays import kind_of, like, namespace
from purenets.core.base import Array, Optimizer, Params, TrainState, UserError
from purenets.core.optim.internals.extra_args import like_inner
from purenets.core.optim.internals.hyper import count_to_dtype, zero_count
from purenets.core.optim.internals.precision import expect_state


def inject_hyperparams(make: Callable[..., Optimizer], **hypers) -> Optimizer:
    """`make(**hypers)`, with those of its hyper-parameters that are floats, arrays or tuples of
    floats as arrays in the state, under "hyper"; others (integers, flags, schedules, names) stay as
    they are.

    optimizer = inject_hyperparams(adam, lr=1e-3, betas=(0.9, 0.99))
    get_state(opt_state, "hyper")["lr"]                  # read
    opt_state = set_hyperparams(opt_state, lr=1e-4)      # a new state with another value
    """
    expect_functions("inject_hyperparams", make=make)
    held = {name: value for name, value in hypers.items() if _is_held(value)}
    fixed = {name: value for name, value in hypers.items() if name not in held}

    def init(params):
        number = count_to_dtype(zero_count(params), params)
        values = {name: like(value, number) for name, value in held.items()}
        return {"hyper": values, "inner": make(**values, **fixed).init(params)}

    def update(grads, state, params, **extra):
        optimizer = make(**state["hyper"], **fixed)
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        return updates, {"hyper": state["hyper"], "inner": inner}

    optimizer = make(**hypers)
    expect_optimizers("inject_hyperparams", **{"what make returns": optimizer})
    return Optimizer(init, like_inner(update, [optimizer]))


def _is_held(value) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(v, float) for v in value)
    is_key = getattr(value, "ndim", 0) == 1 and kind_of(value) == "i"  # its words are no floats
    return isinstance(value, float) or (hasattr(value, "dtype") and not is_key)


def get_state(opt_state: dict, name: str):
    """The first entry called `name` in a nested state; a UserError if there is none."""
    expect_dicts("get_state", opt_state=opt_state)
    expect_texts("get_state", name=name)
    for entry, inner in _entries(opt_state):
        if entry == name:
            return inner
    raise UserError(f"{name}: no such entry in the state of the optimizer")


def check_opt_state(optimizer: Optimizer, params: Params, opt_state: dict) -> None:
    """Raise a UserError unless `opt_state` has the entries and shapes that `optimizer` keeps."""
    expect_optimizers("check_opt_state", optimizer=optimizer)
    expect_state(optimizer.init, opt_state, params)


def same_entries(a: dict, b: dict) -> bool:
    """Return True if two states have the same entries; only the names of plain dicts are
    compared.
    """
    if a.keys() != b.keys():
        return False
    for name, inner in a.items():  # no generator: this is a part of every step
        if type(inner) is dict:
            other = b[name]
            if not isinstance(other, dict) or not same_entries(inner, other):
                return False
    return True


def with_averaged_params(state: TrainState) -> TrainState:
    """Return the state to evaluate: each leaf of its params replaced by the average kept of it.

    Averages are the "ema" of `ema`, the "swa" of `swa`, the "ax" of `asgd` and the "x" of
    `schedule_free`, at any depth of the optimizer's state; each may be of a part of the params
    (`partition`, `masked`, `muon(other=...)`). Leaves that have none stay as they are, and so does
    the state of an optimizer that keeps none.
    BatchNorm's running statistics in the buffers are still those of the raw params:
    `torch_nets.update_batchnorm` takes them anew.

    Raises:
        UserError: if an average is not of these params (as that of a vector of all), or a leaf has
            two.
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


def _entries(opt_state: dict):
    for entry, inner in opt_state.items():
        yield entry, inner
        if isinstance(inner, dict):
            yield from _entries(inner)


def set_hyperparams(opt_state: dict, **values: float | Array) -> dict:
    """The state with other values of injected hyper-parameters; a UserError if it holds none of
    that name.
    """
    expect_dicts("set_hyperparams", opt_state=opt_state)
    for name, value in values.items():
        each = value if isinstance(value, tuple | list) else (value,)
        for number in each:
            expect_numbers("set_hyperparams", FINITE, **{name: number})
    known = get_state(opt_state, "hyper")
    for name in values.keys() - known.keys():
        raise UserError(
            f"{name}: not an injected hyper-parameter, the state holds {', '.join(known)}"
        )

    def walk(state):
        new = {k: walk(inner) if isinstance(inner, dict) else inner for k, inner in state.items()}
        if "hyper" in new:
            new["hyper"] = {
                k: like(values[k], v) if k in values else v for k, v in new["hyper"].items()
            }
        return new

    return walk(opt_state)
