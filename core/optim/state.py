"""Read and change what an optimizer keeps in its state."""

from collections.abc import Callable

from purenets.core.arrays import like
from purenets.core.base import Array, Optimizer, TrainState, UserError
from purenets.core.optim.extra_args import like_inner
from purenets.core.optim.hyper import as_float, zero


def inject_hyperparams(make: Callable[..., Optimizer], **hypers) -> Optimizer:
    """`make(**hypers)`, with those of its hyper-parameters that are floats, arrays or tuples of floats as
    arrays in the state, under "hyper"; others (integers, flags, schedules, names) stay as they are.

    optimizer = inject_hyperparams(adam, lr=1e-3, betas=(0.9, 0.99))
    get_state(opt_state, "hyper")["lr"]                  # read
    opt_state = set_hyperparams(opt_state, lr=1e-4)      # a new state with another value
    """
    held = {name: value for name, value in hypers.items() if _is_held(value)}
    fixed = {name: value for name, value in hypers.items() if name not in held}

    def init(params):
        number = as_float(zero(params), params)
        values = {name: like(value, number) for name, value in held.items()}
        return {"hyper": values, "inner": make(**values, **fixed).init(params)}

    def update(grads, state, params, **extra):
        optimizer = make(**state["hyper"], **fixed)
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        return updates, {"hyper": state["hyper"], "inner": inner}

    return Optimizer(init, like_inner(update, [make(**hypers)]))


def _is_held(value) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(v, float) for v in value)
    return isinstance(value, float) or hasattr(value, "dtype")


def get_state(opt_state: dict, name: str):
    """The first entry called `name` in a nested state; a UserError if there is none."""
    for entry, inner in _entries(opt_state):
        if entry == name:
            return inner
    raise UserError(f"{name}: no such entry in the state of the optimizer")


def with_averaged_params(state: TrainState) -> TrainState:
    """The state to evaluate: its params replaced by the average that the optimizer keeps of them (`ema`, or
    the "x" of `schedule_free`), where it keeps one."""
    for entry, inner in _entries(state.opt_state):
        if entry in ("ema", "x") and isinstance(inner, dict) and inner.keys() == state.params.keys():
            return state._replace(params=inner)
    return state


def _entries(opt_state: dict):
    for entry, inner in opt_state.items():
        yield entry, inner
        if isinstance(inner, dict):
            yield from _entries(inner)


def set_hyperparams(opt_state: dict, **values: float | Array) -> dict:
    """The state with other values of injected hyper-parameters; a UserError if it holds none of that name."""
    known = get_state(opt_state, "hyper")
    for name in values.keys() - known.keys():
        raise UserError(f"{name}: not an injected hyper-parameter, the state holds {', '.join(known)}")

    def walk(state):
        new = {k: walk(inner) if isinstance(inner, dict) else inner for k, inner in state.items()}
        if "hyper" in new:
            new["hyper"] = {k: like(values[k], v) if k in values else v for k, v in new["hyper"].items()}
        return new

    return walk(opt_state)
