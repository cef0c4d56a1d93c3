"""What a layer costs, by its shapes: operations and bytes of its forward and of its backward pass.

A multiplication and an addition are two operations, as `torch.utils.flop_counter` counts them. What
is not a product of matrices or a convolution (activations, norms, pools) counts as none. A backward
pass computes the gradient of every trained matrix, and that of the inputs unless the layer is the
first with params, whose inputs have none. Bytes are those of all arrays that a pass needs and
makes, each once: what memory has to move at least where no cache holds them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from purenets.core.base import Array, Buffers, Params

RECURRENT = ("RNN", "LSTM", "GRU")
ATTENTION = "MultiheadAttention"
WITH_PRODUCTS = (ATTENTION, "Linear", "Bilinear", "Conv", "Transformer", *RECURRENT)


class Cost(NamedTuple):
    """Operations and bytes of the two passes; None if the shapes do not determine operations."""

    forward_flops: int | None = 0
    backward_flops: int | None = 0
    forward_bytes: int = 0
    backward_bytes: int = 0


class Product(NamedTuple):
    """A product x W of a forward pass.

    Args:
        flops: its operations, and those of the gradient of W.
        of_inputs: x are the inputs of the layer, or else activations within it.
        is_trained: W has a gradient.
        dx_flops: operations of the gradient of x; None for as many as `flops`.
    """

    flops: int
    of_inputs: bool = True
    is_trained: bool = True
    dx_flops: int | None = None

    def backward(self, needs_dx: bool) -> int:
        """Return the operations of its gradients; needs_dx: the layer's inputs have one."""
        dx = self.flops if self.dx_flops is None else self.dx_flops
        return self.is_trained * self.flops + (needs_dx or not self.of_inputs) * dx


class Call(NamedTuple):
    """A layer as it was called: its kind, leaves, inputs and outputs.

    Args:
        batch_first: the first axis of sequences is that of the examples, the second one time.
    """

    kind: str
    params: Params
    buffers: Buffers
    x: Any
    y: Any
    batch_first: bool = True


def cost_of(call: Call, needs_dx: bool) -> Cost:
    """Return what a layer costs; needs_dx: its inputs have a gradient."""
    found = products(call)
    known = found is not None
    forward = sum(p.flops for p in found) if known else None
    backward = sum(p.backward(needs_dx) for p in found) if known else None
    return Cost(forward, backward, *_bytes(call, needs_dx))


def total_cost(costs: Sequence[Cost]) -> Cost:
    """Return the sum of all costs; unknown numbers of operations are left out."""
    return Cost(*(sum(n or 0 for n in column) for column in zip(*costs, strict=True)))


# --- operations -----------------------------------------------------------------------------------


def products(call: Call) -> list[Product] | None:
    """Return the products of a forward pass; None where the shapes do not tell."""
    if call.kind in RECURRENT:
        return _recurrent(call)
    if call.kind == ATTENTION:
        return _attention(call)
    if call.kind.startswith("Embedding"):
        return []
    leaves = {**call.buffers, **call.params}
    matrices = {name: tuple(leaf.shape) for name, leaf in leaves.items() if leaf.ndim > 1}
    if not matrices:
        return None if call.kind.startswith(WITH_PRODUCTS) else []
    (name, weight), *others = matrices.items()
    x, y = shape_of(call.x), shape_of(call.y)
    is_trained = name in call.params
    if call.kind.startswith("ConvTranspose") and not others:
        n = math.prod(x) // weight[0] * math.prod(weight)
    elif not others and y and is_product(weight, x, y):
        n = math.prod(y) * math.prod(weight[1:])
    else:
        return None
    return [Product(2 * n, is_trained=is_trained)]


def _recurrent(call: Call) -> list[Product] | None:
    """Return the products with the inputs, and at each step with the state before it.

    The first state is given and has no gradient.
    """
    x, found = shape_of(call.x), []
    rows, steps = math.prod(x[:-1]), x[int(call.batch_first)] if len(x) == 3 else x[0]
    for name, leaf in call.params.items():
        flops = 2 * rows * math.prod(leaf.shape)
        if name.startswith("weight_ih_"):
            found.append(Product(flops, of_inputs=name.startswith("weight_ih_l0")))
        elif name.startswith("weight_hh_"):
            later = flops // steps * (steps - 1)
            found.append(Product(flops, of_inputs=False, dx_flops=later))
        elif leaf.ndim > 1:  # a projection
            return None
    return found


def _attention(call: Call) -> list[Product] | None:
    """Return the four projections, the products of queries and keys, and of weights and values."""
    if "in_proj_weight" not in call.params:
        return None
    n = call.params["in_proj_weight"].shape[1]
    shapes = [tuple(part.shape) for part in arrays(call.x)][:3]
    query, key, value = shapes if len(shapes) == 3 else shapes[:1] * 3
    rows = [math.prod(shape[:-1]) for shape in (query, key, value)]
    axis = int(call.batch_first) if len(query) == 3 else 0
    scores = 2 * rows[0] * key[axis] * n  # of all heads together
    inner = [Product(2 * scores, of_inputs=False), Product(2 * rows[0] * n * n, of_inputs=False)]
    return [Product(2 * m * n * n) for m in rows] + inner


def is_product(weight: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    """Return True if a weight (out, in) or (out, in / groups, kernel...) maps the shape x to the
    shape y.
    """
    if len(weight) == 2:
        return bool(x) and x[-1] == weight[1] and y[-1] == weight[0]
    axis = channel_axis(weight)
    return len(x) >= -axis and x[axis] % weight[1] == 0 and y[axis] == weight[0]


def channel_axis(weight: tuple[int, ...]) -> int:
    """Return the axis of the channels in images, with or without a batch."""
    return 1 - len(weight)


# --- bytes ----------------------------------------------------------------------------------------


def _bytes(call: Call, needs_dx: bool) -> tuple[int, int]:
    """Return the bytes of the forward and of the backward pass.

    The gradient of the inputs needs the leaves once more (a bias does not matter, and is counted).
    """
    x, y, params = (_size(part) for part in (call.x, call.y, call.params))
    read = params + _size(call.buffers)
    if call.kind.startswith("Embedding"):  # the rows of its tokens, as many as it returns
        return x + 2 * y, x + y + params
    return x + read + y, y + x + params + (read + x if needs_dx else 0)


def _size(parts: Any) -> int:
    return sum(int(array.nbytes) for array in arrays(parts))


def arrays(parts: Any) -> Iterator[Array]:
    """Yield the arrays of inputs, outputs or leaves, which may be nested."""
    if isinstance(parts, Mapping):
        parts = tuple(parts.values())
    if isinstance(parts, tuple | list):
        for part in parts:
            yield from arrays(part)
    elif hasattr(parts, "nbytes"):
        yield parts


def shape_of(parts: Any) -> tuple[int, ...]:
    """Return the shape of the first array; () if there is none."""
    return tuple(next((array.shape for array in arrays(parts)), ()))
