"""Functions over dicts of arrays: flat ones (params) and nested ones (optimizer states).

A leaf is whatever is not a dict. Lists, tuples and None are refused as leaves: JAX looks into them,
and an operation on a whole list, such as `+`, would mean something else. Dicts that are combined
must have the same names; an error lists those that differ.
"""

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from purenets.core.arrays import NUMPY, dtype_called, is_full, kind_of, namespace, sqrt, widened
from purenets.core.base import Array, Params, UserError
from purenets.core.other_names import refuse_name
from purenets.core.vector_dict import from_vector, vector_of

__all__ = [
    "cast",
    "flatten",
    "leaves",
    "map",
    "norm",
    "prefixed",
    "ravel",
    "select",
    "size",
    "stack",
    "unflatten",
    "unstack",
    "zeros_like",
]

SEPARATOR = "/"  # between the names of nested dicts; the names of params hold dots
NO_LEAVES = (list, tuple, type(None))
NOT_BESIDE = (*NO_LEAVES, dict)  # what cannot belong to a leaf
Layout = tuple[
    tuple[str, slice, tuple[int, ...]], ...
]  # name, place in a vector and shape of each leaf


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of JAX is here."""
    refuse_name("tree", name)


def map(f: Callable, tree: dict, *rest: dict) -> dict:
    """Return a dict with `f` of every leaf.

    Args:
        f: a function of a leaf of `tree` and of the leaves of the same name in `rest`.
        tree: a dict, nested or not.
        rest: dicts with the same names.

    Returns:
        A new dict with the names and the nesting of `tree`.

    Raises:
        UserError: `f` is not a function, the names of the leaves differ (the message lists them),
            or a leaf is a list, a tuple or None, or a dict in one of the dicts only.

    Example:
        >>> from purenets import tree
        >>> tree.map(lambda a, b: a + b, {"w": 1, "b": {"c": 2}}, {"w": 10, "b": {"c": 20}})
        {'w': 11, 'b': {'c': 22}}

    Source:
        jax.tree.map.
    """
    if not callable(f):
        raise UserError(f"map: f is a {type(f).__name__}, needs a function of a leaf")
    return _mapped("map", "", f, tree, rest)


def _mapped(function: str, path: str, f: Callable, tree: dict, rest: Sequence[dict]) -> dict:
    """Return `map(f, tree, *rest)`; errors begin with `function`, names of leaves with `path`."""
    leaves_by_name = _items(function, tree)
    for other in rest:
        check_names(other, tree)
    new = {}
    if len(rest) == 1:  # most calls, and the quickest way
        other = rest[0]
        for name, leaf in leaves_by_name:
            beside = other[name]
            if isinstance(leaf, dict):
                new[name] = _mapped(function, f"{path}{name}{SEPARATOR}", f, leaf, (beside,))
            elif isinstance(leaf, NO_LEAVES) or isinstance(beside, NOT_BESIDE):
                _refuse_beside(function, f"{path}{name}", leaf, beside)
            else:
                new[name] = f(leaf, beside)
        return new
    for name, leaf in leaves_by_name:
        others = [other[name] for other in rest]
        if isinstance(leaf, dict):
            new[name] = _mapped(function, f"{path}{name}{SEPARATOR}", f, leaf, others)
        else:
            _refuse_beside(function, f"{path}{name}", leaf, *others)
            new[name] = f(leaf, *others)
    return new


def _refuse_leaves(function: str, name: str, *leaves: Any) -> None:
    """Raise a UserError if one of the leaves of a name is a list, a tuple or None."""
    for leaf in leaves:
        if isinstance(leaf, NO_LEAVES):
            _refuse_leaf(function, name, leaf)


def _refuse_beside(function: str, name: str, leaf: Any, *others: Any) -> None:
    """Raise a UserError if a leaf, or what belongs to it, is a list, a tuple or None, or a dict."""
    if isinstance(leaf, NO_LEAVES):
        _refuse_leaf(function, name, leaf)
    for other in others:
        if isinstance(other, dict):
            raise UserError(f"{function}: {name} is a dict in one argument and a leaf in another")
        if isinstance(other, NO_LEAVES):
            _refuse_leaf(function, name, other)


def _refuse_leaf(function: str, name: str, leaf: Any) -> None:
    """Raise a UserError that names a leaf that is a list, a tuple or None."""
    if leaf is None:
        raise UserError(f"{function}: {name or 'a leaf'} is None, needs an array; leave it out")
    raise UserError(
        f"{function}: {name or 'a leaf'} is a {type(leaf).__name__}, needs an array or a dict; "
        'write it as {"0": ..., "1": ...}'
    )


def _items(function: str, tree: dict):
    """Return the names and leaves of a dict; a UserError if it is none (at no cost if it is)."""
    try:
        return tree.items()
    except AttributeError:
        raise UserError(f"{function}: a {type(tree).__name__}, needs a dict of arrays") from None


def map_to_several(f: Callable, n: int, tree: dict, *rest: dict) -> tuple[dict, ...]:
    """Return `n` dicts, one for each value that `f` returns for a leaf.

    Args:
        f: a function of a leaf of `tree` and of those of the same name in `rest`; it returns `n`
            values.
        n: how many.
        tree: a flat dict.
        rest: dicts with the same names.

    Returns:
        `n` new dicts with the names of `tree`.

    Raises:
        UserError: the names of the leaves differ; the message lists them.

    Example:
        >>> from purenets.core.tree import map_to_several
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
    """Raise a UserError that names the leaves that `tree` lacks, and those that `like` lacks."""
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
    """Raise a UserError naming the first leaf whose name, shape or dtype differs from `like`."""
    check_flat(flatten(tree), flatten(like))


def check_flat(flat: dict, expected: dict) -> None:
    """Do `check_like` for dicts that `flatten` made."""
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
    """Return all leaves as a list, in the order of the dict.

    Args:
        tree: a dict, nested or not; anything else is a single leaf.

    Returns:
        The leaves.

    Raises:
        UserError: a leaf is a list, a tuple or None.

    Example:
        >>> from purenets import tree
        >>> tree.leaves({"adam": {"count": 3, "mu": 0.5}, "step": 7})
        [3, 0.5, 7]

    Source:
        jax.tree.leaves.
    """
    return [leaf for _, leaf in _named_leaves("leaves", tree)]


def _named_leaves(function: str, tree: dict, path: str = "") -> list[tuple[str, Any]]:
    """Return the name and the value of each leaf, in the order of the dict."""
    if not isinstance(tree, dict):
        if isinstance(tree, NO_LEAVES):
            _refuse_leaf(function, path, tree)
        return [(path, tree)]
    found = []
    for name, inner in tree.items():
        found += _named_leaves(function, inner, f"{path}{SEPARATOR}{name}" if path else name)
    return found


def flatten(tree: dict, prefix: str = "", *, sep: str = SEPARATOR) -> dict[str, Array]:
    """Return a nested dict as a flat one; the names along the way are joined by "/", or by `sep`.

    Args:
        tree: a nested dict.
        prefix: what all names begin with.
        sep: what joins the names; "." makes names as those of a model's params.

    Returns:
        A dict without dicts in it.

    Raises:
        UserError: a name is not a string, two leaves get the same name, a leaf is a list, a tuple
            or None, or `tree` is not a dict.

    Example:
        >>> from purenets import tree
        >>> tree.flatten({"adam": {"count": 3}, "fc1.bias": 0})
        {'adam/count': 3, 'fc1.bias': 0}
        >>> tree.flatten({"fc1": {"weight": 1, "bias": 0}}, sep=".")
        {'fc1.weight': 1, 'fc1.bias': 0}
    """
    sep = _text_only("flatten", sep)
    return _flattened("flatten", _text_only("flatten", prefix), tree, sep)


def _flattened(function: str, prefix: str, tree: dict, sep: str = SEPARATOR) -> dict[str, Array]:
    """Return `flatten(tree, prefix, sep=sep)`; errors begin with `function`."""
    flat: dict[str, Array] = {}
    for name, leaf in _items(function, tree):
        if not isinstance(name, str):
            raise UserError(f"{function}: {prefix}{name}: a leaf's name must be a string")
        _refuse_leaves(function, prefix + name, leaf)
        nested = isinstance(leaf, dict)
        new = (
            _flattened(function, f"{prefix}{name}{sep}", leaf, sep)
            if nested
            else {prefix + name: leaf}
        )
        twice = sorted(new.keys() & flat.keys())  # as of {"a": {"b": x}, "a/b": y}
        if twice:
            raise UserError(f"{function}: two leaves get the name {twice[0]!r}; rename one")
        flat |= new
    return flat


def unflatten(
    flat: dict[str, Array], like: dict, prefix: str = "", *, sep: str = SEPARATOR
) -> dict:
    """Return a flat dict with the nesting of another one: the inverse of `flatten`.

    Args:
        flat: a flat dict, as `flatten` returns it; names that `like` lacks are ignored.
        like: the nested dict whose names and nesting to take.
        prefix: what all names in `flat` begin with.
        sep: what joins their parts, as in `flatten`.

    Returns:
        A nested dict with the leaves of `flat`.

    Raises:
        UserError: a leaf is missing in `flat`, or an argument is not a dict.

    Example:
        >>> from purenets import tree
        >>> tree.unflatten({"adam/count": 4, "step": 8}, like={"adam": {"count": 0}, "step": 0})
        {'adam': {'count': 4}, 'step': 8}
    """
    prefix, sep = _text_only("unflatten", prefix), _text_only("unflatten", sep)
    if not isinstance(flat, dict):
        raise UserError(f"unflatten: flat is a {type(flat).__name__}, needs a dict of arrays")
    tree = {}
    for name, leaf in _items("unflatten", like):
        path = f"{prefix}{name}"
        if isinstance(leaf, dict):
            tree[name] = unflatten(flat, leaf, path + sep, sep=sep)
        elif path not in flat:
            raise UserError(f"unflatten: {path}: missing in flat")
        else:
            tree[name] = flat[path]
    return tree


def select(tree: dict, prefix: str) -> dict:
    """Return the entries whose names begin with `prefix`, without it.

    Args:
        tree: a dict with strings as names, such as params.
        prefix: the beginning of the names, such as "fc1.".

    Returns:
        A new dict, in the same order.

    Raises:
        UserError: `tree` is not a dict, or a name or the prefix is not a string.

    Example:
        >>> from purenets import tree
        >>> tree.select({"fc1.weight": 1, "fc1.bias": 2, "fc2.bias": 3}, "fc1.")
        {'weight': 1, 'bias': 2}
    """
    n = len(_text_only("select", prefix))
    items = [(_text_only("select", name), leaf) for name, leaf in _items("select", tree)]
    return {name[n:]: leaf for name, leaf in items if name.startswith(prefix)}


def prefixed(tree: dict, prefix: str) -> dict:
    """Return the entries with `prefix` before every name: the inverse of `select`.

    Args:
        tree: a dict with strings as names.
        prefix: what the new names begin with.

    Returns:
        A new dict, in the same order.

    Raises:
        UserError: `tree` is not a dict, or a name or the prefix is not a string.

    Example:
        >>> from purenets import tree
        >>> tree.prefixed({"weight": 1, "bias": 2}, "fc1.")
        {'fc1.weight': 1, 'fc1.bias': 2}
    """
    prefix = _text_only("prefixed", prefix)
    items = _items("prefixed", tree)
    return {prefix + _text_only("prefixed", name): leaf for name, leaf in items}


def _text_only(function: str, name: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"{function}: {name!r} is no text; needs a name, or the beginning of one")
    return name


def zeros_like(tree: dict) -> dict:
    """Return a dict of zeros with the shapes, dtypes and devices of another one.

    Args:
        tree: a dict of arrays, nested or not. If its leaves lie on one vector, so do the zeros.

    Returns:
        A new dict with the same names.

    Raises:
        UserError: `tree` is not a dict, or a leaf is not an array of numbers.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> tree.zeros_like({"w": np.ones(2, np.float32)})
        {'w': array([0., 0.], dtype=float32)}
    """
    vector = vector_of(tree)
    if vector is not None:
        return from_vector(tree.layout, namespace(vector).zeros_like(vector))
    one = lambda leaf: namespace(_array("zeros_like", leaf)).zeros_like(leaf)
    return _mapped("zeros_like", "", one, tree, ())


def cast(tree: dict, dtype: str) -> dict:
    """Return a dict whose floating-point leaves have another dtype.

    Args:
        tree: a dict of arrays, nested or not. Integer, boolean and complex leaves stay.
        dtype: "float16", "float32" or "float64", in torch also "bfloat16"; or such a dtype itself.

    Returns:
        A new dict with the same names. Leaves of the dtype already are not copied.

    Raises:
        UserError: `dtype` is not a floating-point dtype of the library of a leaf, or a leaf is not
            an array of numbers.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> state = {"w": np.ones(1), "count": np.array(3)}
        >>> {name: str(leaf.dtype) for name, leaf in tree.cast(state, "float16").items()}
        {'w': 'float16', 'count': 'int64'}
    """

    def one(leaf):
        if kind_of(_array("cast", leaf)) != "f":
            return leaf
        return namespace(leaf).astype(leaf, dtype_called(dtype, leaf, "cast"), copy=False)

    return _mapped("cast", "", one, tree, ())


def size(tree: dict) -> int:
    """Return the number of elements in all leaves together.

    Args:
        tree: a dict of arrays, nested or not.

    Returns:
        An int. For params it is the number of parameters of the network.

    Raises:
        UserError: a leaf is not an array of numbers.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> tree.size({"weight": np.zeros((20, 2)), "bias": np.zeros(20)})
        60
    """
    return sum(math.prod(leaf.shape) for leaf in _arrays("size", tree))


def norm(tree: dict) -> Array:
    """Return the Euclidean norm of all leaves together: sqrt(sum |z|^2).

    Half-precision leaves are summed in float32. Where all elements are 0 the derivative is 0. The
    squares are of the dtype of the leaf, so those of float32 elements over 1.8e19 are infinite.

    Args:
        tree: a dict of arrays, real or complex, nested or not.

    Returns:
        A scalar array.

    Raises:
        UserError: there is no leaf, or one is not an array of numbers.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> float(tree.norm({"a": np.array([300.0], "float16"), "b": np.array([400j])}))
        500.0

    Source:
        optax.global_norm.
    """
    squares = [_sum_of_squares(leaf) for leaf in _arrays("norm", tree)]
    if not squares:
        raise UserError("norm: a dict without leaves has none")
    return sqrt(sum(squares[1:], squares[0]))


def _arrays(function: str, tree: dict) -> list[Array]:
    """Return all leaves; a UserError that names one that is no array of numbers."""
    return [_array(function, leaf, name) for name, leaf in _named_leaves(function, tree)]


def _array(function: str, leaf: Array, name: str = "") -> Array:
    """Return a leaf; a UserError if it is no array of numbers."""
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        kind = type(leaf).__name__
        raise UserError(f"{function}: {name or 'a leaf'} is a {kind}, needs an array")
    if getattr(leaf.dtype, "kind", "f") not in "biufc":  # torch's have no kind
        raise UserError(
            f"{function}: {name or 'a leaf'} is of {leaf.dtype}, needs an array of numbers"
        )
    return leaf


def _sum_of_squares(leaf: Array) -> Array:
    if is_full(leaf.dtype):
        return (leaf * leaf).sum()
    leaf, kind, xp = widened(leaf), kind_of(leaf), namespace(leaf)
    if kind == "c":
        return sum((part * part).sum() for part in (xp.real(leaf), xp.imag(leaf)))
    leaf = leaf if kind == "f" else xp.astype(leaf, xp.float64)  # squares of integers may overflow
    return (leaf * leaf).sum()


def flat_layout(flat: Params) -> Layout:
    """Return where each leaf of a flat dict lies in the vector of all."""
    places, begin = [], 0
    for name, leaf in flat.items():
        end = begin + math.prod(leaf.shape)
        places.append((name, slice(begin, end), tuple(leaf.shape)))
        begin = end
    return tuple(places)


def views_at(places: Layout) -> Callable[[Array], Params]:
    """Return the function from a vector to its leaves, as views: no data is copied."""
    return lambda vector: {name: vector[place].reshape(shape) for name, place, shape in places}


def ravel(tree: dict) -> tuple[Array, Callable[[Array], dict]]:
    """Return all leaves as one vector, and the function from such a vector to the dict.

    Args:
        tree: a dict of arrays, nested or not, all of one library.

    Returns:
        The vector (n,), a copy of the leaves in the order of the dict; and `unravel(vector) ->
        dict`, whose leaves are views of the vector.

    Raises:
        UserError: there is no leaf, one is not an array of numbers, or there are integers beside
            other numbers, which the dtype of one vector would round; from `unravel`, the vector has
            another length.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> vector, unravel = tree.ravel({"w": np.ones((2, 2)), "b": np.zeros(1)})
        >>> vector
        array([1., 1., 1., 1., 0.])
        >>> unravel(2 * vector)["w"]
        array([[2., 2.],
               [2., 2.]])

    Source:
        jax.flatten_util.ravel_pytree.
    """
    named = _flattened("ravel", "", tree)
    flat = {name: _array("ravel", leaf, name) for name, leaf in named.items()}
    if not flat:
        raise UserError("ravel: a dict without leaves has no vector")
    _expect_one_library(flat)
    _expect_no_rounding("ravel", flat)
    views, length = views_at(flat_layout(flat)), size(flat)
    parts = [leaf.reshape(-1) for leaf in flat.values()]

    def unravel(vector: Array) -> dict:
        if getattr(vector, "shape", None) != (length,):
            _refuse_vector(vector, length)
        return unflatten(views(vector), tree)

    return namespace(parts[0]).concat(parts), unravel


def _refuse_vector(vector: Any, length: int) -> NoReturn:
    """Raise the UserError for what does not fill a dict of `length` elements."""
    shape = getattr(vector, "shape", None)
    if shape is None or len(shape) != 1:
        found = f"a {type(vector).__name__}" if shape is None else f"an array of shape {(*shape,)}"
        raise UserError(f"unravel: {found}, needs a vector ({length},)")
    raise UserError(f"unravel: a vector of {shape[0]} elements, needs {length}")


def _expect_one_library(flat: Params) -> None:
    """Raise a UserError that names a tensor beside arrays of NumPy, or the other way round."""
    first = next(iter(flat.values()))
    for name, leaf in flat.items():
        if isinstance(leaf, NUMPY) != isinstance(first, NUMPY):
            kinds = "a NumPy array beside tensors", "a tensor beside NumPy arrays"
            kind = kinds[isinstance(first, NUMPY)]
            raise UserError(f"ravel: {name} is {kind}, needs one library")


def _expect_no_rounding(function: str, flat: Params) -> None:
    """Raise a UserError that names a leaf whose integers the dtype of all leaves would round."""
    kinds = {name: "f" if kind_of(leaf) in "fc" else "i" for name, leaf in flat.items()}
    if len(set(kinds.values())) > 1:
        name = next(name for name, kind in kinds.items() if kind == "i")
        raise UserError(
            f"{function}: {name} is of {flat[name].dtype} beside leaves of real numbers, and an "
            "array has one dtype; leave it out, or convert it"
        )
    dtypes = {name: str(leaf.dtype).removeprefix("torch.") for name, leaf in flat.items()}
    if "uint64" in dtypes.values() and any(d.startswith("int") for d in dtypes.values()):
        name = next(name for name, dtype in dtypes.items() if dtype == "uint64")
        raise UserError(
            f"{function}: {name} is of uint64 beside signed integers, and no integers hold both; "
            "leave it out, or convert it"
        )


def stack(trees: Sequence[dict]) -> dict:
    """Return several dicts as one, whose leaves have a new first axis.

    Args:
        trees: a list of dicts with the same names and shapes.

    Returns:
        A dict; each leaf (len(trees), ...).

    Raises:
        UserError: the list is empty, the names or shapes of the leaves differ, or the dtype of one
            would round the integers of another.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> tree.stack([{"w": np.zeros(2)}, {"w": np.ones(2)}])
        {'w': array([[0., 0.],
               [1., 1.]])}
    """
    if not isinstance(trees, list | tuple) or not trees:
        raise UserError("stack: needs a list of one dict or more")

    def one(*each):
        first = getattr(each[0], "dtype", None)
        if any(getattr(leaf, "dtype", first) != first for leaf in each):
            _expect_no_rounding("stack", {f"a leaf of dict {i}": x for i, x in enumerate(each)})
        return namespace(each[0]).stack(each)

    try:
        return _mapped("stack", "", one, trees[0], trees[1:])
    except UserError:
        raise
    except (ValueError, RuntimeError):  # looked into only then
        _expect_same_shapes(trees)
        raise
    except TypeError as error:
        raise UserError("stack: needs arrays of one library in all dicts") from error


def _expect_same_shapes(trees: Sequence[dict]) -> None:
    """Raise a UserError that names a leaf whose shapes differ."""
    first = flatten(trees[0])
    for tree in trees[1:]:
        for name, leaf in flatten(tree).items():
            if leaf.shape != first[name].shape:
                shapes = f"{tuple(first[name].shape)} and {tuple(leaf.shape)}"
                raise UserError(f"stack: {name}: shapes {shapes}, needs the same in all dicts")


def unstack(tree: dict) -> list[dict]:
    """Return the dicts that `stack` put together.

    Args:
        tree: a dict whose leaves all have a first axis of the same length.

    Returns:
        A list of dicts, one for each index of that axis; their leaves are views.

    Raises:
        UserError: there is no leaf, or their first axes differ.

    Example:
        >>> import numpy as np
        >>> from purenets import tree
        >>> tree.unstack({"w": np.array([[0.0, 0.0], [1.0, 1.0]])})
        [{'w': array([0., 0.])}, {'w': array([1., 1.])}]
    """
    lengths = {leaf.shape[:1] for leaf in _arrays("unstack", tree)}
    if len(lengths) != 1 or () in lengths:
        shapes = ", ".join(
            f"{name} {(*leaf.shape,)}" for name, leaf in _named_leaves("unstack", tree)
        )
        raise UserError(f"unstack: the shapes are {shapes}; needs one length of the first axis")
    return [map(lambda leaf, i=i: leaf[i], tree) for i in range(lengths.pop()[0])]
