"""Functions over dicts of arrays: flat ones (params) and nested ones (optimizer states).

A leaf is whatever is not a dict. Dicts that are combined must have the same names; what differs is
named.
"""

import builtins
import math
from collections.abc import Callable, Sequence

from purenets.core.arrays import FULL, dtype_called, kind_of, namespace, sqrt, widened
from purenets.core.base import Array, Params, UserError
from purenets.core.vector_dict import from_vector, vector_of

SEPARATOR = "/"  # between the names of nested dicts; the names of params hold dots
Layout = tuple[
    tuple[str, slice, tuple[int, ...]], ...
]  # name, place in a vector and shape of each leaf


def map(f: Callable, tree: dict, *rest: dict) -> dict:
    """`f` on every leaf of `tree`, and on the leaves of the same name in `rest`.

    >>> map(lambda a, b: a + b, {"w": 1, "b": {"c": 2}}, {"w": 10, "b": {"c": 20}})
    {'w': 11, 'b': {'c': 22}}
    """
    if not callable(f):
        raise UserError(f"map: f is a {type(f).__name__}, needs a function of a leaf")
    leaves_by_name = _items("map", tree)
    for other in rest:
        check_names(other, tree)
    new = {}
    if len(rest) == 1:  # most calls, and the quickest way
        other = rest[0]
        for name, leaf in leaves_by_name:
            new[name] = (
                map(f, leaf, other[name]) if isinstance(leaf, dict) else f(leaf, other[name])
            )
        return new
    for name, leaf in leaves_by_name:
        others = [other[name] for other in rest]
        new[name] = map(f, leaf, *others) if isinstance(leaf, dict) else f(leaf, *others)
    return new


def _items(function: str, tree: dict):
    """Return the names and leaves of a dict; a UserError if it is none (at no cost if it is)."""
    try:
        return tree.items()
    except AttributeError:
        raise UserError(f"{function}: a {type(tree).__name__}, needs a dict of arrays") from None


def map_to_several(f: Callable, n: int, tree: dict, *rest: dict) -> tuple[dict, ...]:
    """`map` of a function that returns `n` values: a dict of each.

    >>> map_to_several(lambda a, b: (a + b, a * b), 2, {"w": 2}, {"w": 3})
    ({'w': 5}, {'w': 6})
    """
    for other in rest:
        check_names(other, tree)
    new = tuple([{} for _ in range(n)])
    for name, leaf in tree.items():
        for part, value in zip(new, f(leaf, *[other[name] for other in rest]), strict=True):
            part[name] = value
    return new


def check_names(tree: dict, like: dict) -> None:
    """Raise a UserError that names the leaves that `tree` lacks or has beyond those of `like`."""
    if type(tree) is dict and tree.keys() == like.keys():
        return
    if not isinstance(tree, dict):
        raise UserError(
            f"expected a dict with the leaves {', '.join(like)}, got {type(tree).__name__}"
        )
    if tree.keys() != like.keys():
        missing, unknown = (
            sorted(builtins.map(str, names))
            for names in (like.keys() - tree.keys(), tree.keys() - like.keys())
        )
        parts = [f"missing {', '.join(missing)}"] * bool(missing)
        parts += [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise UserError(f"the names of the leaves differ: {'; '.join(parts)}")


def check_like(tree: dict, like: dict) -> None:
    """Raise a UserError that names the first leaf whose name, shape or dtype differs from that in
    `like`.
    """
    check_flat(flatten(tree), flatten(like))


def check_flat(flat: dict, expected: dict) -> None:
    """`check_like` of dicts that `flatten` made."""
    check_names(flat, expected)
    for name, leaf in expected.items():
        for what in ("shape", "dtype"):
            have, want = _text(getattr(flat[name], what)), _text(getattr(leaf, what))
            if have != want:
                raise UserError(f"{name}: {what} is {have}, expected {want}")


def _text(shape_or_dtype) -> str:
    if isinstance(shape_or_dtype, tuple):  # a torch.Size too
        return str(tuple(shape_or_dtype))
    return str(shape_or_dtype).removeprefix("torch.")


def leaves(tree: dict) -> list:
    """All leaves, in the order of the dict."""
    if not isinstance(tree, dict):
        return [tree]
    return [leaf for inner in tree.values() for leaf in leaves(inner)]


def flatten(tree: dict, prefix: str = "") -> dict[str, Array]:
    """A nested dict as a flat one; names are joined by "/".

    >>> flatten({"adam": {"count": 3}, "fc1.bias": 0})
    {'adam/count': 3, 'fc1.bias': 0}
    """
    prefix, flat = _text_only("flatten", prefix), {}
    for name, leaf in _items("flatten", tree):
        if not isinstance(name, str) or SEPARATOR in name:
            raise UserError(f"{prefix}{name}: a leaf's name must be a string without {SEPARATOR!r}")
        nested = isinstance(leaf, dict)
        flat.update(
            flatten(leaf, f"{prefix}{name}{SEPARATOR}") if nested else {prefix + name: leaf}
        )
    return flat


def unflatten(flat: dict[str, Array], like: dict, prefix: str = "") -> dict:
    """The inverse of `flatten`, with the nesting of `like`."""
    prefix = _text_only("unflatten", prefix)
    if not isinstance(flat, dict):
        raise UserError(f"unflatten: flat is a {type(flat).__name__}, needs a dict of arrays")
    tree = {}
    for name, leaf in _items("unflatten", like):
        path = f"{prefix}{name}"
        if isinstance(leaf, dict):
            tree[name] = unflatten(flat, leaf, path + SEPARATOR)
        elif path not in flat:
            raise UserError(f"unflatten: {path}: missing in flat")
        else:
            tree[name] = flat[path]
    return tree


def select(tree: dict, prefix: str) -> dict:
    """The entries below `prefix`, without it: `select({"fc1.bias": b, "fc2.bias": c}, "fc1.")` is
    `{"bias": b}`."""
    n = len(_text_only("select", prefix))
    items = [(_text_only("select", name), leaf) for name, leaf in _items("select", tree)]
    return {name[n:]: leaf for name, leaf in items if name.startswith(prefix)}


def prefixed(tree: dict, prefix: str) -> dict:
    """The inverse of `select`: every name with `prefix` before it."""
    prefix = _text_only("prefixed", prefix)
    items = _items("prefixed", tree)
    return {prefix + _text_only("prefixed", name): leaf for name, leaf in items}


def _text_only(function: str, name: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"{function}: {name!r} is no text; needs a name, or the beginning of one")
    return name


def zeros_like(tree: dict) -> dict:
    """A dict of zeros of the same shapes, dtypes and devices; on one vector if `tree` is."""
    vector = vector_of(tree)
    if vector is not None:
        return from_vector(tree.layout, namespace(vector).zeros_like(vector))
    return map(lambda leaf: namespace(_array("zeros_like", leaf)).zeros_like(leaf), tree)


def cast(tree: dict, dtype: str) -> dict:
    """Floating-point leaves as `dtype` ("float32", "float64", "bfloat16", ...); others stay."""

    def one(leaf):
        if kind_of(_array("cast", leaf)) != "f":
            return leaf
        return namespace(leaf).astype(leaf, dtype_called(dtype, leaf, "cast"), copy=False)

    return map(one, tree)


def size(tree: dict) -> int:
    """The number of elements in all leaves together.

    >>> import numpy as np
    >>> size({"weight": np.zeros((20, 2)), "bias": np.zeros(20)})
    60
    """
    return sum(math.prod(_array("size", leaf).shape) for leaf in leaves(tree))


def norm(tree: dict) -> Array:
    """Return the Euclidean norm of all leaves together, a scalar array.

    Of half-precision leaves in float32, of complex ones the root of the sum of |z|^2. Where all
    elements are 0 its derivative is 0.

    >>> import numpy as np
    >>> float(norm({"a": np.array([300.0], "float16"), "b": np.array([400j])}))
    500.0
    """
    squares = [_sum_of_squares(_array("norm", leaf)) for leaf in leaves(tree)]
    if not squares:
        raise UserError("norm: a dict without leaves has none")
    return sqrt(sum(squares[1:], squares[0]))


def _array(function: str, leaf: Array) -> Array:
    """Return a leaf; a UserError if it is no array of numbers."""
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise UserError(f"{function}: a leaf is a {type(leaf).__name__}, needs an array")
    if getattr(leaf.dtype, "kind", "f") not in "biufc":  # torch's have no kind
        raise UserError(f"{function}: a leaf is of {leaf.dtype}, needs an array of numbers")
    return leaf


def _sum_of_squares(leaf: Array) -> Array:
    if leaf.dtype in FULL:
        return (leaf * leaf).sum()
    leaf, kind, xp = widened(leaf), kind_of(leaf), namespace(leaf)
    if kind == "c":
        return sum((part * part).sum() for part in (xp.real(leaf), xp.imag(leaf)))
    leaf = leaf if kind == "f" else xp.astype(leaf, xp.float64)  # squares of integers may overflow
    return (leaf * leaf).sum()


def flat_layout(flat: Params) -> Layout:
    """Where each leaf of a flat dict lies in the vector of all."""
    places, begin = [], 0
    for name, leaf in flat.items():
        end = begin + math.prod(leaf.shape)
        places.append((name, slice(begin, end), tuple(leaf.shape)))
        begin = end
    return tuple(places)


def views_at(places: Layout) -> Callable[[Array], Params]:
    """The leaves of a vector, as views: no data is copied."""
    return lambda vector: {name: vector[place].reshape(shape) for name, place, shape in places}


def ravel(tree: dict) -> tuple[Array, Callable[[Array], dict]]:
    """All leaves as one vector (n,), and the function that makes the dict of a vector again: its
    leaves are views, so no data is copied."""
    flat = {name: _array("ravel", leaf) for name, leaf in flatten(tree).items()}
    if not flat:
        raise UserError("ravel: a dict without leaves has no vector")
    views, length = views_at(flat_layout(flat)), size(flat)
    parts = [leaf.reshape(-1) for leaf in flat.values()]

    def unravel(vector: Array) -> dict:
        if vector.shape[0] != length:
            raise UserError(
                f"a vector of {vector.shape[0]} elements does not fill a dict of {length}"
            )
        return unflatten(views(vector), tree)

    return namespace(parts[0]).concat(parts), unravel


def stack(trees: Sequence[dict]) -> dict:
    """Dicts of the same names and shapes as one dict with a new first axis."""
    if not isinstance(trees, list | tuple) or not trees:
        raise UserError("stack: needs a list of one dict or more")
    return map(lambda *each: namespace(each[0]).stack(each), trees[0], *trees[1:])


def unstack(tree: dict) -> list[dict]:
    """The inverse of `stack`: one dict of views for each index of the first axis."""
    lengths = {leaf.shape[:1] for leaf in (_array("unstack", leaf) for leaf in leaves(tree))}
    if len(lengths) != 1 or () in lengths:
        raise UserError("unstack: needs leaves with a first axis of one length")
    return [map(lambda leaf, i=i: leaf[i], tree) for i in range(lengths.pop()[0])]
