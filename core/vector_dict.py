"""A dict of arrays that carries the vector that its leaves are views of.

In nets of some dozen units an operation costs more than its arithmetic, and an optimizer has
several for each leaf. On the vector of all leaves it has them once (`optim.elementwise`). To
whoever looks it is a plain dict: it is equal to, prints as and copies as one, and `dict(params)` is
one. It pickles as an OrderedDict, which `torch.load` takes.

    params = with_vector({"fc1.weight": w, "fc1.bias": b})
    vector_of(params)                  # (n,): all leaves
    params["fc1.bias"]  # a view, made when somebody looks at a leaf for the first time
    params["fc1.bias"] = new           # a plain dict from here on
"""

import math
from collections import OrderedDict
from copy import deepcopy
from operator import is_
from typing import NamedTuple

import numpy as np

from purenets.core.arrays import is_tracing, namespace, outside_transforms
from purenets.core.base import Array, Params

# Elements of a leaf on average, up to which one vector pays: to concatenate a leaf is a pass over
# its memory, which takes as long as the calls that the vector saves at about this size (measured on
# one core of a Zen 5).
MAX_MEAN_SIZE = 1 << 14
ALL = ""  # the name of the vector, in a dict that holds nothing else


class Layout(NamedTuple):
    """Where each leaf lies in the vector of all, in the order of the dict.

    Args:
        shapes: by name.
        places: the slice of the vector of each leaf.
        sizes: the number of elements of each leaf.
        keys: the names, with None for each: the dict before anybody has looked at its leaves.
        shape_list: the shapes, in order.
    """

    shapes: dict[str, tuple[int, ...]]
    places: tuple[slice, ...]
    sizes: tuple[int, ...]
    keys: dict[str, None]
    shape_list: list[tuple[int, ...]]

    def split(self, vector: Array) -> Params:
        """Return the leaves of a tensor, by one operation, whose backward is one too."""
        parts = zip(vector.split_with_sizes(self.sizes), self.shapes.items(), strict=True)
        return {
            name: part if len(shape) == 1 else part.view(shape) for part, (name, shape) in parts
        }


class _ShownAsDict(type):
    def __repr__(cls) -> str:
        """Return that of dict: torch compares the structure of pytrees by it, in torch.func.jvp for
        one.
        """
        return repr(dict)


class VectorDict(dict, metaclass=_ShownAsDict):
    """A dict whose leaves are views of one vector, made at the first look.

    Whatever changes the dict first makes it a plain one. `vector_of` alone says whether the vector
    may be used. Params that were widened for an optimizer have those of their own dtypes in `own`.
    """

    __slots__ = ("_vector", "_views", "layout", "own")

    def __init__(self, *arguments, **leaves):
        self.layout = self._vector = self._views = None
        super().__init__(*arguments, **leaves)

    @property
    def dtype(self):
        """Return the dtype of all leaves; None without a vector."""
        return None if self._vector is None else self._vector.dtype

    def _look(self) -> None:
        if self._vector is not None and self._views is None:
            views = self._made_views()
            super().update(zip(self.layout.keys, views, strict=True))
            self._views = views

    def _made_views(self) -> tuple[Array, ...]:
        """Return the leaves: no part of a transform that runs, since they are kept beyond it."""
        if not is_tracing_like(self._vector):
            return leaves_of(self.layout, self._vector)
        with outside_transforms():
            return leaves_of(self.layout, self._vector)

    def _forget(self) -> None:
        self._look()
        self.layout = self._vector = self._views = None

    def __iter__(self):
        # not the dict's own, which tells `dict(self)` and `{**self}` to ask for each leaf by name
        return iter(self.keys())

    # what reads leaves

    def __eq__(self, other):
        self._look()
        return super().__eq__(other)

    def __ne__(self, other):
        self._look()
        return super().__ne__(other)

    def __getitem__(self, name):
        self._look()
        return super().__getitem__(name)

    def __or__(self, other):
        self._look()
        return super().__or__(other)

    def __ror__(self, other):
        self._look()
        return super().__ror__(other)

    def __repr__(self):
        self._look()
        return super().__repr__()

    def get(self, name, default=None):
        self._look()
        return super().get(name, default)

    def items(self):
        self._look()
        return super().items()

    def values(self):
        self._look()
        return super().values()

    # what changes the dict

    def __setitem__(self, name, leaf):
        self._forget()
        return super().__setitem__(name, leaf)

    def __delitem__(self, name):
        self._forget()
        return super().__delitem__(name)

    def __ior__(self, other):
        self._forget()
        return super().__ior__(other)

    def clear(self):
        self._forget()
        return super().clear()

    def pop(self, *arguments):
        self._forget()
        return super().pop(*arguments)

    def popitem(self):
        self._forget()
        return super().popitem()

    def setdefault(self, name, default=None):
        self._forget()
        return super().setdefault(name, default)

    def update(self, *arguments, **leaves):
        self._forget()
        return super().update(*arguments, **leaves)

    def copy(self) -> "VectorDict":
        """Return a dict of the same leaves, with the same vector."""
        vector = vector_of(self)
        return VectorDict(self) if vector is None else from_vector(self.layout, vector)

    def __copy__(self) -> Params:
        """Copy as a plain dict of the same leaves."""
        return dict(self)

    def __deepcopy__(self, memo) -> Params:
        """Copy as a plain dict of copies."""
        return deepcopy(dict(self), memo)

    def __reduce_ex__(self, protocol):
        """Pickle as an OrderedDict, as torch's `state_dict` is one: `torch.load` with weights_only
        allows no other dict that is not built in.
        """
        return OrderedDict, (), None, None, iter(dict(self).items())


def from_vector(layout: Layout, vector: Array) -> Params:
    """Return the dict of the leaves that lie in a contiguous vector (n,)."""
    if type(vector) is not np.ndarray and vector.requires_grad:
        return dict(zip(layout.keys, leaves_of(layout, vector), strict=True))
    new = dict.__new__(VectorDict)  # three in a step: `VectorDict(...)` would take twice as long
    dict.update(new, layout.keys)
    new.layout, new._vector, new._views = layout, vector, None
    return new


def leaves_of(layout: Layout, vector: Array) -> tuple[Array, ...]:
    """Return the leaves in order, as views: no data is copied."""
    pairs = zip(layout.places, layout.shape_list, strict=True)
    return tuple(
        [
            vector[place] if len(shape) == 1 else vector[place].reshape(shape)
            for place, shape in pairs
        ]
    )


def as_dict(params: Params) -> Params:
    """Return a plain dict of the leaves, for who reads each of them once; `params` itself if it is
    one.
    """
    if type(params) is not VectorDict:
        return params
    if params._vector is None or params._views is not None:
        return dict(params)
    return dict(zip(params.layout.keys, leaves_of(params.layout, params._vector), strict=True))


def vector_of(params: Params) -> Array | None:
    """Return the vector of all leaves, or None without one or if a leaf is no longer its view."""
    if type(params) is not VectorDict or is_tracing_like(params._vector):
        return None
    return _untraced_vector_of(params)


def _untraced_vector_of(params: VectorDict) -> Array | None:
    """Return `vector_of(params)` where nothing traces."""
    return params._vector if params._views is None or _is_intact(params) else None


def is_tracing_like(leaf: Array | None) -> bool:
    """Return True if `leaf` is a tensor and something traces: then no dict has a vector."""
    return not isinstance(leaf, np.ndarray) and is_tracing()


def _is_intact(params: VectorDict) -> bool:
    """Return True if all leaves are the very views that were made of the vector."""
    leaves, layout, vector = dict.values(params), params.layout, params._vector
    if not all(map(is_, leaves, params._views)):
        return False
    if [leaf.shape for leaf in leaves] != layout.shape_list:  # an array may be reshaped in place
        return False
    if isinstance(vector, np.ndarray):
        return True
    begin, size = vector.data_ptr(), vector.element_size()  # `p.data = other` moves a tensor
    pairs = zip(leaves, layout.places, strict=True)
    return not any(
        p.data_ptr() != begin + size * place.start or p.requires_grad for p, place in pairs
    )


def layout_of(params: Params) -> Layout:
    """Return the layout of a flat dict of arrays."""
    shapes = {name: tuple(leaf.shape) for name, leaf in params.items()}
    sizes = tuple(map(math.prod, shapes.values()))
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    places = tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
    return Layout(shapes, places, sizes, dict.fromkeys(params), list(shapes.values()))


def with_vector(params: Params) -> Params:
    """Return the same params on one vector, if that pays; else `params` itself.

    It pays for several leaves that are small on average (MAX_MEAN_SIZE). One vector needs leaves of
    one type, dtype and device, contiguous, and that nothing differentiates, maps or traces.
    """
    if type(params) is VectorDict:
        return params if vector_of(params) is not None else dict(params)
    leaves = list(params.values())
    if len(leaves) < 2 or are_large(params) or not _fit_together(leaves):
        return params
    layout = layout_of(params)
    return from_vector(layout, concatenated(leaves))


def are_large(params: Params) -> bool:
    """Return True for leaves of more than MAX_MEAN_SIZE elements on average."""
    return sum(math.prod(leaf.shape) for leaf in params.values()) > MAX_MEAN_SIZE * len(params)


def _fit_together(leaves: list) -> bool:
    """Return True if one vector can hold the leaves as they are."""
    first = leaves[0]
    if isinstance(first, np.ndarray):
        same = all(type(leaf) is np.ndarray and leaf.dtype == first.dtype for leaf in leaves)
        return same and all(leaf.flags.c_contiguous for leaf in leaves)
    kind = (type(first), first.dtype, first.device)
    if type(first).__name__ != "Tensor" or is_tracing():  # a Parameter is not moved to a vector
        return False
    return all(
        (type(leaf), leaf.dtype, leaf.device) == kind
        and not leaf.requires_grad
        and leaf.is_contiguous()
        for leaf in leaves
    )


def concatenated(leaves: list) -> Array:
    """Return the elements of all leaves, one after the other, as a new vector."""
    if isinstance(leaves[0], np.ndarray):
        return np.concatenate(leaves, axis=None)
    return namespace(leaves[0]).concat([leaf.reshape(-1) for leaf in leaves])


def packed(layout: Layout, leaves: Params) -> Array | None:
    """Return the vector of a dict in the order of `layout`, or None where it cannot have one.

    Nothing traces here: the caller has asked, by `vector_of`.
    """
    if type(leaves) is VectorDict and leaves.layout is layout:
        vector = _untraced_vector_of(leaves)
        if vector is not None:
            return vector
    if leaves.keys() != layout.keys.keys():
        return None
    ordered = [leaves[name] for name in layout.keys]
    dtype = ordered[0].dtype
    if [leaf.shape for leaf in ordered] != layout.shape_list:
        return None
    if [leaf.dtype for leaf in ordered] != [dtype] * len(ordered):
        return None
    if not isinstance(ordered[0], np.ndarray) and any(leaf.requires_grad for leaf in ordered):
        return None
    return concatenated(ordered)
