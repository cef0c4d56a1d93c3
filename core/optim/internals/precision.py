"""The numbers that optimizers compute with. It is decided here, for all of them:

    dtype of a leaf          states, arithmetic and updates
    float32, float64         the same
    float16, bfloat16        float32; `apply_updates` adds in float32 and rounds once
    complex64, complex128    the same; where torch.optim takes a number as the pair of its real and
                             imaginary part (all that squares or compares), so is it here
    integers, truth values   refused

A running mean of half-precision numbers stands still once a step is below half a unit in its last
place, 0.999 is 1 in bfloat16, and the square of 300 is infinite in float16 (`core.arrays.widened`).
An optimizer that torch.optim does not have refuses complex numbers, whose meaning nobody has fixed.

Leaves of float32 and float64 cost one look at each dtype. `chain` looks once for all of its parts.
"""

from collections.abc import Callable, Iterable

import numpy as np

from purenets.core import tree
from purenets.core.arrays import (
    FULL,
    expect_plain,
    is_full,
    kind_of,
    namespace,
    real_dtype,
    widened,
)
from purenets.core.base import Array, InitState, Optimizer, Params, Update, UserError
from purenets.core.optim.internals.extra_args import MISSING, expect_given, takes_extra_args
from purenets.core.optim.internals.kinds import is_of_leaves, same_entries
from purenets.core.optim.internals.order import keep_order, order_of, with_order
from purenets.core.vector_dict import VectorDict, from_vector, vector_of


def any_dtype(optimizer: Optimizer, rare: Optimizer | None = None) -> Optimizer:
    """Return `optimizer` for leaves of every dtype: half precision reaches it as float32.

    Args:
        optimizer: computes in the dtype of what it is given.
        rare: takes its place where a leaf is complex, and takes it in another way (`as_pairs`) or
            refuses it (`refusing`).
    """
    if hasattr(optimizer.update, "full"):
        return optimizer
    plain, rare = optimizer.update, rare or optimizer

    def init(params):
        expect_params(params)
        if not are_full(params):
            params = widened_params(params)
        return (optimizer if are_full(params) else rare).init(params)

    def update_of_any(grads, state, params, **extra):
        expect_arrays("grads", grads)
        if params is not None:
            expect_grads(grads, params)
        if "value_and_grad_fn" in extra:
            extra |= {"value_and_grad_fn": _at_own_dtype(extra["value_and_grad_fn"], params)}
        grads, params = widened_leaves(grads), widened_params(params)
        grads = grads if params is None else _as_precise(grads, params)
        known = are_full(grads) and are_full(params)
        updates, new = (plain if known else rare.update)(grads, state, params, **extra)
        if _are_equally_precise(grads):
            return updates, new
        return _in_old_dtypes(updates, grads), _in_old_dtypes(new, state)

    def update(grads, state, params=MISSING):
        expect_given(params)
        full = are_full_pairs(grads, params)
        try:
            result = (plain if full else update_of_any)(grads, state, params)
        except ERRORS:  # costs nothing where there is none
            expect_update_of(init, grads, state, params)
            raise
        expect_entries_kept(init, result, grads, state, params)
        return result

    def update_with_loss(grads, state, params=MISSING, **extra):
        expect_given(params)
        full = are_full_pairs(grads, params)
        try:
            result = (plain if full else update_of_any)(grads, state, params, **extra)
        except ERRORS:
            expect_update_of(init, grads, state, params)
            raise
        expect_entries_kept(init, result, grads, state, params)
        return result

    chosen = update_with_loss if takes_extra_args(plain) else update
    chosen.full = plain
    keep_order(plain, chosen)
    return Optimizer(init, chosen)


def own_in_any_dtype(optimizer: Optimizer) -> Optimizer:
    """Return a user's own optimizer made to take every dtype; one of the package as it is."""
    order = order_of(optimizer)
    return with_order(order, any_dtype(optimizer)) if order.own == (optimizer,) else optimizer


def for_full(update: Update) -> Update:
    """Return the update that does not look at dtypes, for who knows them."""
    return getattr(update, "full", update)


def real_only(name: str, optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, which refuses complex params under its `name` before anything else."""

    def init(params):
        expect_params(params)
        expect_real(name, params)
        return optimizer.init(params)

    return optimizer._replace(init=init)


KINDS = "bifc"  # of numbers, each of which holds those before it

# Of an entry that is missing or no dict, and of shapes that do not fit each other
ERRORS = (KeyError, TypeError, AttributeError, ValueError, RuntimeError)


def expect_update_of(init: InitState, grads: Params, state: dict, params: Params) -> None:
    """Raise a UserError that names what is wrong of the arguments of an update."""
    if params is not None:  # a transform may need none
        expect_grads(grads, params)
    expect_state(init, state, grads if params is None else params)


def expect_entries_kept(
    init: InitState, result: tuple[Params, dict], grads: Params, state: dict, params: Params
) -> None:
    """Raise a UserError where an update returned a state with other entries than it got.

    It is that of another optimizer, whose entries of other names would be lost.
    """
    new = result[1] if isinstance(result, tuple) and len(result) == 2 else None
    if isinstance(new, dict) and isinstance(state, dict) and not same_entries(new, state):
        expect_update_of(init, grads, state, params)


def checking(init: InitState, update: Update) -> Update:
    """Return `update`, whose error is a UserError where gradients or state do not fit."""

    def checked(grads, state, params, **extra):
        try:
            result = update(grads, state, params, **extra)
        except ERRORS:  # costs nothing where there is none
            expect_update_of(init, grads, state, params)
            raise
        expect_entries_kept(init, result, grads, state, params)
        return result

    return checked


def expect_grads(grads: Params, params: Params) -> None:
    """Raise a UserError unless the gradients fit the params, and none is of integers."""
    expect_like("grads", grads, params)
    for name, leaf in grads.items():
        if kind_of(leaf) not in "fc" and kind_of(params[name]) in "fc":
            dtype = str(leaf.dtype).removeprefix("torch.")
            raise UserError(f"grads: {name} is {dtype}, needs a floating-point dtype")


def expect_like(what: str, leaves: Params, params: Params) -> None:
    """Raise a UserError unless `leaves` are arrays of the params' names, library and shapes, and
    complex, real or integers only where a param can hold them.
    """
    expect_arrays("params", params)
    expect_arrays(what, leaves)
    try:
        tree.check_names(leaves, params)
    except UserError as error:
        raise UserError(f"{what}, for these params: {error}") from None
    for name, leaf in leaves.items():
        param = params[name]
        if namespace(leaf) is not namespace(param):
            raise UserError(f"{what}: {name} is {_kind(leaf)}, its param {_kind(param)}")
        if leaf.shape != param.shape:
            shapes = f"{tuple(leaf.shape)}, its param {tuple(param.shape)}"
            raise UserError(f"{what}: {name} has shape {shapes}")
        if KINDS.index(kind_of(leaf)) > KINDS.index(kind_of(param)):
            dtypes = (str(x.dtype).removeprefix("torch.") for x in (leaf, param))
            raise UserError(f"{what}: {name} is {', its param '.join(dtypes)}")


def _kind(leaf: Array) -> str:
    return "a NumPy array" if isinstance(leaf, np.ndarray) else "a tensor"


def expect_state(init: InitState, state: dict, params: Params) -> None:
    """Raise a UserError unless the state has the entries and shapes that `init(params)` has."""
    expect_params(params)
    if not isinstance(state, dict):
        raise UserError(f"opt_state: a {type(state).__name__}, needs what init returns")
    expected = init(params)
    try:
        tree.check_like(state, expected)
        _expect_same_parts(state, expected)
    except UserError as error:
        raise UserError(f"opt_state: of another optimizer or other params: {error}") from error


def _expect_same_parts(state: dict, expected: dict) -> None:
    """Raise a UserError for a dict that is missing or unknown, although it may hold no array."""
    tree.check_names(state, expected)
    for name, part in expected.items():
        if isinstance(part, dict):
            _expect_same_parts(state[name], part)


# --- what leaves there are ------------------------------------------------------------------------


def are_full(leaves: Params) -> bool:
    """Return True if all leaves are float32 or float64, or nothing is given (params, to a transform
    that needs none).
    """
    if type(leaves) is VectorDict and leaves.dtype is not None:
        return is_full(leaves.dtype)
    if not isinstance(leaves, dict):
        return leaves is None
    for leaf in leaves.values():  # no generator: this is a part of every step
        dtype = getattr(leaf, "dtype", None)
        if dtype not in FULL and not is_full(dtype):
            return False
    return True


def are_full_pairs(grads: Params, params: Params) -> bool:
    """Return True if all leaves of both are float32, or all float64, and a gradient has its param's
    shape and library.
    """
    if not isinstance(grads, dict) or not isinstance(params, dict):
        return are_full(grads) and are_full(params)
    if grads.keys() != params.keys():
        return False
    first = None
    for name, grad in grads.items():  # no generator: this is a part of every step
        param = params[name]
        dtype, param_dtype = getattr(grad, "dtype", None), getattr(param, "dtype", None)
        if first is None:
            if dtype not in FULL and not is_full(dtype):
                return False
            first = dtype
        if dtype is not first and not _is_same_dtype(dtype, first):
            return False
        if param_dtype is not first and not _is_same_dtype(param_dtype, first):
            return False
        if grad.shape != param.shape:
            return False
    return True


def _is_same_dtype(dtype, other) -> bool:
    return type(dtype) is type(other) and dtype == other


def expect_params(params: Params) -> None:
    """Raise a UserError that names the leaf that no optimizer can update."""
    expect_arrays("params", params)
    for name, leaf in params.items():
        if kind_of(leaf) not in "fc":
            dtype = str(leaf.dtype).removeprefix("torch.")
            raise UserError(f"params: {name} is {dtype}, needs a floating-point dtype")


def expect_arrays(what: str, leaves: Params) -> None:
    """Raise a UserError that names the leaf that is no array."""
    if not isinstance(leaves, dict):
        raise UserError(f"{what}: a {type(leaves).__name__}, needs a dict of arrays by name")
    for name, leaf in leaves.items():
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            hint = "; tree.flatten makes a nested dict flat" if isinstance(leaf, dict) else ""
            raise UserError(f"{what}: {name} is a {type(leaf).__name__}, needs an array{hint}")
        expect_plain(f"{what}: {name}", leaf)


def expect_real(name: str, leaves: Params) -> None:
    """Raise a UserError that names the optimizer and the leaf that is complex."""
    for leaf_name, leaf in leaves.items():
        if kind_of(leaf) == "c":
            dtype = str(leaf.dtype).removeprefix("torch.")
            raise UserError(f"{name}: {leaf_name or 'a leaf'} is {dtype}, needs real numbers")


def widened_leaves(leaves: Params) -> Params:
    """Return the dict with `widened` of each leaf; on one vector if `leaves` is."""
    if leaves is None:
        return None
    vector = vector_of(leaves)
    if vector is not None:
        return from_vector(leaves.layout, widened(vector))
    return tree.map(widened, leaves)


def widened_params(params: Params) -> Params:
    """Return `widened_leaves` of params, which `own_leaves` finds again.

    So a predicate sees each leaf in the dtype that the user gave it, in every wrapper.
    """
    wide = widened_leaves(params)
    if wide is None or all(wide[name] is leaf for name, leaf in params.items()):
        return wide
    return _with_own(wide, own_leaves(params))


def own_leaves(params: Params) -> Params:
    """Return params in their own dtypes, of those that an optimizer is given."""
    return getattr(params, "own", params)


def part_of(params: Params, names: Iterable[str]) -> Params:
    """Return some of the params, which keep their own dtypes."""
    part, own = {name: params[name] for name in names}, own_leaves(params)
    return part if own is params else _with_own(part, own)


def _with_own(wide: Params, own: Params) -> Params:
    wide = wide if type(wide) is VectorDict else VectorDict(wide)
    wide.own = own
    return wide


def _at_own_dtype(value_and_grad_fn: Callable | None, params: Params) -> Callable | None:
    """Return the function of params in float32: the net is evaluated in the dtype of its own."""
    if value_and_grad_fn is None:
        return None

    def f(wide):
        cast = lambda new, p: namespace(p).astype(new, p.dtype, copy=False)
        value, grads = value_and_grad_fn(tree.map(cast, wide, params))
        value = widened(value) if hasattr(value, "dtype") else value
        return value, _as_precise(widened_leaves(grads), wide)

    return f


def _as_precise(leaves: Params, params: Params) -> Params:
    """Return leaves as precise as their params: float64 gradients of float32 params in float32.

    Else a state would become float64 too, which no checkpoint of float32 can be restored to.
    """

    def cast(leaf, param):
        if real_dtype(leaf) == real_dtype(param):
            return leaf
        xp = namespace(leaf)
        return xp.astype(leaf, param.dtype if kind_of(leaf) == "c" else real_dtype(param))

    return tree.map(cast, leaves, params)


def _are_equally_precise(leaves: Params) -> bool:
    """Return True unless some leaves have 32 bits a number and others 64."""
    first, *others = tree.leaves(leaves) or [None]
    return all(real_dtype(leaf) == real_dtype(first) for leaf in others)


def _in_old_dtypes(new: dict, old: dict) -> dict:
    """Return the arrays of a nested dict, each in the dtype of its predecessor.

    Where leaves of 32 and 64 bits stand in one dict, a rate of the one kind promotes the others.
    """
    return {
        name: _in_old_dtype(part, old[name]) if name in old else part for name, part in new.items()
    }


def _in_old_dtype(new: dict | Array, old: dict | Array) -> dict | Array:
    if isinstance(new, dict) or isinstance(old, dict):
        return _in_old_dtypes(new, old) if isinstance(new, dict) == isinstance(old, dict) else new
    if kind_of(new) != kind_of(old):
        return new
    return namespace(new).astype(new, old.dtype, copy=False)


# --- complex numbers ------------------------------------------------------------------------------


def refusing(name: str, optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, which refuses complex leaves under its `name`."""

    def init(params):
        expect_real(name, params)
        return optimizer.init(params)

    def update(grads, state, params, **extra):
        expect_real(name, grads)
        return optimizer.update(grads, state, params, **extra)

    return Optimizer(init, _with_signature_of(optimizer, update))


def as_pairs(optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, each complex number taken as the pair of its real and imaginary part.

    The state holds complex numbers: an "exp_avg_sq" the mean squares of both parts, as in torch.
    """

    def init(params):
        pairs = tree.map(_pairs, params)
        return _joined(optimizer.init(pairs), pairs, params)

    def update(grads, state, params, *, value_and_grad_fn=None, **extra):
        if value_and_grad_fn is not None:
            extra["value_and_grad_fn"] = _of_pairs(value_and_grad_fn, params)
        state = {name: _split(part, params) for name, part in state.items()}
        grads = _pairs_of_grads(grads, params)
        pairs = tree.map(_pairs, params)
        updates, state = optimizer.update(grads, state, pairs, **extra)
        return tree.map(_join, updates, params), _joined(state, pairs, params)

    return Optimizer(init, _with_signature_of(optimizer, update))


def _with_signature_of(optimizer: Optimizer, update: Update) -> Update:
    """Return `update`, which takes the loss only if the update of `optimizer` does."""
    if takes_extra_args(optimizer.update):
        return update
    return lambda grads, state, params: update(grads, state, params)


def _pairs_of_grads(grads: Params, params: Params) -> Params:
    return tree.map(_pairs, tree.map(_as_complex, grads, params))


def _of_pairs(value_and_grad_fn: Callable, params: Params) -> Callable:
    """Return the function of params whose complex numbers are pairs."""

    def f(pairs):
        value, grads = value_and_grad_fn(tree.map(_join, pairs, params))
        return value, _pairs_of_grads(grads, params)

    return f


def in_pairs(optimizer: Optimizer) -> Optimizer:
    """Return `optimizer` for leaves of every dtype, complex ones by `as_pairs`."""
    return any_dtype(optimizer, as_pairs(optimizer))


def _split(part, params: Params):
    """Return an entry of a state, if it is one for each leaf of the params, with pairs."""
    return tree.map(_pairs, part) if _is_like(part, params) else part


def _joined(state: dict, pairs: Params, params: Params) -> dict:
    """Return a state whose pairs are complex numbers again."""
    return {
        name: tree.map(_join, part, params) if _is_like(part, pairs) else part
        for name, part in state.items()
    }


def _is_like(part, leaves: Params) -> bool:
    return is_of_leaves(part, leaves) and all(
        tuple(part[name].shape) == tuple(leaf.shape) for name, leaf in leaves.items()
    )


def _pairs(x: Array) -> Array:
    """Return complex numbers (...) as real ones (..., 2); real ones as they are."""
    if is_full(x.dtype) or kind_of(x) != "c":
        return x
    xp = namespace(x)
    return xp.stack([xp.real(x), xp.imag(x)], axis=-1)


def _as_complex(g: Array, param: Array) -> Array:
    """Return a gradient as complex numbers, where its param is complex."""
    is_real = kind_of(param) == "c" and kind_of(g) != "c"
    return namespace(g).astype(g, param.dtype) if is_real else g


def _join(x: Array, like: Array) -> Array:
    """Return the complex numbers of the pairs `x`, where `like` is complex."""
    return x[..., 0] + 1j * x[..., 1] if kind_of(like) == "c" else x
