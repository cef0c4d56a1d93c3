"""Linear layers, activations, dropout, embeddings, and layers in sequence."""

import functools
import math
from collections.abc import Callable

import torch
import torch.overrides
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import (
    ANY,
    FINITE,
    NOT_NEGATIVE,
    expect_arrays,
    expect_choice,
    expect_flags,
    expect_functions,
    expect_integers,
    expect_numbers,
    expect_reals,
)
from purenets.core.base import Model, UserError
from purenets.core.kernel_rules import product_rule
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_batch,
    expect_features,
    expect_named,
    expect_sizes,
    serial_apply,
    serial_init,
    serial_uses_key,
)
from purenets.torch_nets import own_layers
from purenets.torch_nets.fast import matmul
from purenets.torch_nets.fast.tracing import is_transformed
from purenets.torch_nets.keys import MISSING, key_like

MAX_MULTIPLIES_INLINE = 4096  # up to here torch.compile does better without a library


def uniform_init(shapes: dict[str, tuple[int, ...]], bound: float) -> Callable:
    """Return an `init(key)` that draws every leaf uniform from -bound to bound.

    Args:
        shapes: the shape of each leaf by its name.
        bound: the largest absolute value.

    Returns:
        The function from a key to (params, {}); it knows its size before it draws.

    Example:
        >>> from purenets import random
        >>> params, buffers = uniform_init({"weight": (2, 3)}, 0.5)(random.key(0))
        >>> params["weight"].shape, bool((params["weight"].abs() <= 0.5).all())
        (torch.Size([2, 3]), True)
    """

    def init(key):
        keys = random.split(torch_key(key), len(shapes))
        draws = zip(shapes.items(), keys, strict=True)
        return {
            name: random.uniform(k, shape, low=-bound, high=bound) for (name, shape), k in draws
        }, {}

    return sized(init, shapes)


def torch_key(key) -> Tensor:
    """Return a key as a tensor; raise a UserError if it is no key.

    Args:
        key: an array or tensor, as `random.key(seed)` makes it.

    Returns:
        The key as an int64 tensor (2,), (3,) or (4,).

    Example:
        >>> from purenets import random
        >>> torch_key(random.key(7))
        tensor([7, 0])
    """
    return torch.as_tensor(random.check_key(key))


def expect_tensor(x: Tensor) -> None:
    """Raise a UserError for an input that is no tensor."""
    if not isinstance(x, Tensor):
        raise UserError(f"input: a {type(x).__name__}, needs a tensor; see to_torch")


def expect_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise a UserError for an input of another dtype than the params, unless autocast casts both.

    Compiled code would promote the two, and go on in the wider dtype.
    """
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        refuse_dtype(x, weight)


def expect_known_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise a UserError for a float64 or integer input unless the params have its dtype.

    For layers such as norms, whose params may stay float32 while the input is in half precision.
    """
    if x.dtype != weight.dtype and (x.dtype == torch.float64 or not x.is_floating_point()):
        refuse_dtype(x, weight)


def expect_floats(x: Tensor) -> None:
    """Raise a UserError for an integer input: the output would lose its fractions."""
    if not (x.is_floating_point() or x.is_complex()):
        found = str(x.dtype).removeprefix("torch.")
        raise UserError(f"input: {found}, needs floats; x.float()")


def refuse_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise the UserError that names the dtypes of input and params, and how to cast."""
    if not isinstance(weight, Tensor):
        kind = type(weight).__name__
        raise UserError(f"input: a tensor, but a param is a {kind}; see to_torch")
    found, right = (str(part.dtype).removeprefix("torch.") for part in (x, weight))
    cast = "x.float()" if right == "float32" else f"x.to(torch.{right})"
    raise UserError(f"input: {found}, but the params are {right}; {cast}")


def Linear(n_in: int, n_out: int, *, bias: bool = True, bound: float | None = None) -> Model:
    """Return the affine layer y = x W^T + b.

    Args:
        n_in: features of an input.
        n_out: features of an output.
        bias: False for a layer without b.
        bound: W and b are drawn uniform from -bound to bound. None means 1 / sqrt(n_in), as in
            nn.Linear.

    Returns:
        A layer (..., n_in) -> (..., n_out) with the params "weight" (n_out, n_in) and "bias"
        (n_out,).

    Raises:
        UserError: a size is not a positive integer, `bias` is not a bool, or `bound` is negative.
            When applied: params or inputs have other shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Linear
        >>> fc = Linear(3, 2)
        >>> params, buffers = fc.init(random.key(0))
        >>> {name: tuple(leaf.shape) for name, leaf in params.items()}
        {'weight': (2, 3), 'bias': (2,)}
        >>> y, _ = fc.apply(params, buffers, torch.ones(5, 3))
        >>> y.shape
        torch.Size([5, 2])

    Source:
        torch.nn.Linear.
    """
    expect_sizes("Linear", n_in=n_in, n_out=n_out)
    expect_flags("Linear", bias=bias)
    if bound is not None:
        expect_numbers("Linear", NOT_NEGATIVE, bound=bound)
    shapes = {"weight": (n_out, n_in)} | ({"bias": (n_out,)} if bias else {})
    bound = 1 / math.sqrt(n_in) if bound is None else bound

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_features(x, n_in)
        weight = params["weight"]
        if x.dtype != weight.dtype:
            expect_dtype(x, weight)
        return linear(x, weight, params.get("bias")), buffers

    return Model(uniform_init(shapes, bound), apply, uses_key=False, kind="Linear")


@torch.overrides.wrap_torch_function(lambda x, weight, bias: (x, weight))
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b, by whichever kernel is fastest for the size.

    A small product under torch.compile is written as multiplications and sums, which fuse with the
    operations around them; a library call would take longer. A large one may go to oneDNN. Under
    torch.export, where sizes may be symbolic, it is torch's own operation. Modes of torch, such as
    the one of `analysis.ghost`, see a single operation.

    Args:
        x: (..., n_in).
        weight: W, (n_out, n_in).
        bias: b, (n_out,), or None.

    Returns:
        A tensor (..., n_out).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.basic import linear
        >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
        tensor([11.5000])
    """
    if torch.compiler.is_exporting():
        return torch.nn.functional.linear(x, weight, bias)
    multiplications = x.numel() * weight.shape[0]
    least = product_rule().min_multiplies_operation
    inline = 0 < multiplications <= MAX_MULTIPLIES_INLINE and torch.compiler.is_compiling()
    if inline and x.is_cpu and not torch.is_autocast_enabled("cpu"):  # which casts a product only
        y = (x.unsqueeze(-2) * weight).sum(-1)
    elif multiplications >= least and matmul.onednn_supports(x, weight):
        y = matmul.product(x.reshape(-1, x.shape[-1]), weight.mT).reshape(*x.shape[:-1], -1)
    else:
        return torch.nn.functional.linear(x, weight, bias)
    return y if bias is None else y + bias


def FixedLinear(weight: Tensor, bias: Tensor) -> Model:
    """Return the affine layer y = x W^T + b with a given W and b that are not trained.

    W and b are buffers, so that they are saved with the state and no optimizer sees them.

    Args:
        weight: W, (n_out, n_in).
        bias: b, (n_out,).

    Returns:
        A layer (..., n_in) -> (..., n_out) without params and with the buffers "weight" and "bias".

    Raises:
        UserError: W or b is not a tensor of such a shape. When applied: there are params, or the
            inputs do not have n_in features or are integers.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import FixedLinear
        >>> layer = FixedLinear(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
        >>> params, buffers = layer.init(None)
        >>> params
        {}
        >>> layer.apply(params, buffers, torch.ones(1, 2))[0]
        tensor([[3.5000]])
    """
    expect_arrays("FixedLinear", 2, weight=weight)
    expect_arrays("FixedLinear", 1, bias=bias)
    if bias.shape[0] != weight.shape[0]:
        shapes = f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)}"
        raise UserError(f"FixedLinear: {shapes}, needs a bias for each output")
    given = {"weight": weight, "bias": bias}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, {})
        expect_tensor(x)
        expect_features(x, weight.shape[1])
        expect_floats(x)
        fixed = {name: buffers[name].to(x.dtype) for name in given}
        return linear(x, fixed["weight"], fixed["bias"]), buffers

    return Model(lambda key: ({}, given), apply, uses_key=False, kind="FixedLinear")


def elementwise(f: Callable[[Tensor], Tensor], kind: str = "") -> Model:
    """Return the layer y = f(x), which has no params.

    Args:
        f: a function from a tensor to a tensor, such as `torch.sin`. It need not be elementwise in
            the strict sense: `Flatten` and `MaxPool` are made by it too.
        kind: the name of the layer in a table.

    Returns:
        A layer without params and buffers.

    Raises:
        UserError: `f` is not a function. When applied: there are params, or the input is not a
            tensor.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import elementwise
        >>> elementwise(torch.square).apply({}, {}, torch.tensor([-2.0, 3.0]))[0]
        tensor([4., 9.])
    """
    expect_functions("elementwise", f=f)

    def apply(params, buffers, x, *, train=False, key=None):
        if type(params) is not dict or params:
            expect(params, {})
        try:
            return f(x), buffers
        except (TypeError, AttributeError):
            expect_tensor(x)
            raise
        except NotImplementedError:  # torch has no kernel of `f` for integers or truth values
            expect_floats(x)
            raise

    layer = Model(lambda key: ({}, {}), apply, uses_key=False, kind=kind)
    return own_layers.watched(layer) if own_layers.may_write(f) else layer


def ReLU() -> Model:
    """Return the activation max(0, x).

    Returns:
        A layer without params that keeps the shape.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import ReLU
        >>> ReLU().apply({}, {}, torch.tensor([-1.0, 2.0]))[0]
        tensor([0., 2.])

    Source:
        torch.nn.ReLU.
    """
    return elementwise(torch.relu, "ReLU")


def Tanh() -> Model:
    """Return the activation tanh(x).

    Returns:
        A layer without params that keeps the shape.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import Tanh
        >>> Tanh().apply({}, {}, torch.tensor([0.0, 1.0]))[0]
        tensor([0.0000, 0.7616])

    Source:
        torch.nn.Tanh.
    """
    return elementwise(torch.tanh, "Tanh")


def SiLU() -> Model:
    """Return the activation x sigmoid(x), also called swish.

    Returns:
        A layer without params that keeps the shape.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import SiLU
        >>> SiLU().apply({}, {}, torch.tensor([-1.0, 1.0]))[0]
        tensor([-0.2689,  0.7311])

    Source:
        Elfwing et al. 2018, arXiv 1702.03118; torch.nn.SiLU.
    """
    return elementwise(_of_floats(torch.nn.functional.silu), "SiLU")


def GELU(*, approximate: str = "none") -> Model:
    """Return the activation x Phi(x), with Phi the normal cumulative distribution function.

    Args:
        approximate: "none" for the exact function, as in nn.GELU, "tanh" for the tanh
            approximation, which is the default of jax.nn.gelu.

    Returns:
        A layer without params that keeps the shape.

    Raises:
        UserError: `approximate` is another name.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import GELU
        >>> x = torch.tensor([-1.0, 1.0])
        >>> GELU().apply({}, {}, x)[0]
        tensor([-0.1587,  0.8413])
        >>> GELU(approximate="tanh").apply({}, {}, x)[0]
        tensor([-0.1588,  0.8412])

    Source:
        Hendrycks and Gimpel 2016, arXiv 1606.08415; torch.nn.GELU.
    """
    expect_choice("GELU", ("tanh", "none"), approximate=approximate)
    gelu = _of_floats(functools.partial(torch.nn.functional.gelu, approximate=approximate))
    return elementwise(gelu, "GELU")


def _of_floats(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return `f`, which refuses integers with one line."""

    def checked(x):
        expect_floats(x)
        return f(x)

    return checked


def Scale(factor: float) -> Model:
    """Return the layer y = factor x.

    Args:
        factor: the constant; it is not trained.

    Returns:
        A layer without params that keeps the shape.

    Raises:
        UserError: `factor` is not a finite number.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import Scale
        >>> Scale(0.5).apply({}, {}, torch.tensor([2.0, -4.0]))[0]
        tensor([ 1., -2.])
    """
    expect_numbers("Scale", FINITE, factor=factor)
    return elementwise(lambda x: factor * x, "Scale")


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "silu": SiLU}


def Flatten() -> Model:
    """Return the layer that flattens all axes but the first.

    Returns:
        A layer (batch, ...) -> (batch, features) without params.

    Raises:
        UserError: when applied: the input has fewer than two axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import Flatten
        >>> Flatten().apply({}, {}, torch.zeros(5, 3, 8, 8))[0].shape
        torch.Size([5, 192])

    Source:
        torch.nn.Flatten.
    """

    def flat(x):
        expect_batch(x)
        return x.flatten(start_dim=1)

    return elementwise(flat, "Flatten")


def Dropout(rate: float) -> Model:
    """Return the layer that sets random elements to 0 in training, and keeps all in evaluation.

    The elements that are kept are divided by 1 - rate, so that the mean stays.

    Args:
        rate: the probability that an element is set to 0, from 0 to below 1.

    Returns:
        A layer without params that keeps the shape. In training its `apply` needs a key.

    Raises:
        UserError: `rate` is out of range. When applied: training without a key.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Dropout
        >>> x, key = torch.ones(1000), torch.as_tensor(random.key(0))
        >>> y, _ = Dropout(0.2).apply({}, {}, x, train=True, key=key)
        >>> y.unique()
        tensor([0.0000, 1.2500])
        >>> torch.equal(Dropout(0.2).apply({}, {}, x)[0], x)
        True

    Source:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting";
        torch.nn.Dropout.
    """
    expect_reals("dropout", ANY, rate=rate)
    if not 0 <= rate < 1:
        raise UserError(f"dropout: rate {rate} is not from 0 to below 1")

    def apply(params, buffers, x, *, train=False, key=None):
        if not train or rate == 0:
            return x, buffers
        if key is None:
            raise UserError(f"dropout: {MISSING}")
        kept = random.bernoulli(key_like(key, x), 1 - rate, x.shape)
        return x * (kept.to(x.dtype) / (1 - rate)), buffers

    return Model(lambda key: ({}, {}), apply, kind="Dropout")


def Embedding(n_tokens: int, n_features: int, *, padding: int | None = None) -> Model:
    """Return the layer that looks up a row of a trained table for each token.

    Args:
        n_tokens: rows of the table; tokens are integers from 0 to n_tokens - 1.
        n_features: features of a row.
        padding: a token whose row starts at 0 and gets no gradient; None for no such token.

    Returns:
        A layer, integers (...) -> (..., n_features), with the param "weight" (n_tokens,
        n_features), drawn standard normal.

    Raises:
        UserError: a size is not a positive integer, or `padding` is not a token. When applied: the
            inputs are not integers, or not tokens.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Embedding
        >>> layer = Embedding(10, 4, padding=0)
        >>> params, buffers = layer.init(random.key(0))
        >>> y, _ = layer.apply(params, buffers, torch.tensor([[0, 3, 3]]))
        >>> y.shape, torch.equal(y[0, 1], params["weight"][3])
        (torch.Size([1, 3, 4]), True)
        >>> bool((y[0, 0] == 0).all())
        True

    Source:
        torch.nn.Embedding.
    """
    expect_sizes("Embedding", n_tokens=n_tokens, n_features=n_features)
    shapes = {"weight": (n_tokens, n_features)}
    if padding is not None:
        expect_integers("Embedding", 0, padding=padding)
        if padding >= n_tokens:
            raise UserError(f"Embedding: padding is {padding}, the last token is {n_tokens - 1}")

    def init(key):
        weight = random.normal(torch_key(key), shapes["weight"])
        if padding is not None:
            weight = weight * (torch.arange(n_tokens) != padding)[:, None]
        return {"weight": weight}, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise UserError(f"input: {str(x.dtype).removeprefix('torch.')}, needs integers")
        tokens = x if x.dtype in (torch.int32, torch.int64) else x.long()
        try:
            if is_transformed():  # vmap over tokens and weight looks at no token
                torch.nn.functional.embedding(tokens, torch.zeros(n_tokens, 1, device=x.device))
            return torch.nn.functional.embedding(tokens, params["weight"], padding), buffers
        except IndexError as error:
            raise UserError(f"input: a token is not from 0 to {n_tokens - 1}") from error

    return Model(sized(init, shapes), apply, uses_key=False, kind="Embedding")


def residual(**layers: Model) -> Model:
    """Return the layer y = x + f(x), with f the given layers in sequence.

    Args:
        layers: the layers of f by name, in order. Names of params are those of `serial`.

    Returns:
        A layer from x to an output of the same shape.

    Raises:
        UserError: a name is empty or holds a dot, or a layer is not a `Model`. When applied: the
            output has another shape.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import Linear, residual
        >>> block = residual(fc=Linear(2, 2, bias=False))
        >>> block.apply({"fc.weight": torch.eye(2)}, {}, torch.tensor([[1.0, 3.0]]))[0]
        tensor([[2., 6.]])

    Source:
        He et al. 2016, arXiv 1512.03385.
    """
    inner = serial(**layers)

    def apply(params, buffers, x, *, train=False, key=None):
        y, buffers = inner.apply(params, buffers, x, train=train, key=key)
        if y.shape != x.shape:
            shapes = f"{tuple(x.shape)} to {tuple(y.shape)}"
            raise UserError(f"residual: the layers lead from {shapes}, need to keep the shape")
        return x + y, buffers

    return inner._replace(apply=apply, kind="Residual")


def serial(*unnamed: Model, **layers: Model) -> Model:
    """Return the layer that applies the given layers in sequence.

    Each layer draws its params, and in training its dropout, from a key of its own. A pretrained
    module (`from_module(instance)`), which no key draws, has its own values.

    Args:
        unnamed: refused; each layer needs a name.
        layers: the layers by name, in order.

    Returns:
        A layer whose params bear the name of their layer: those of `fc1=Linear(...)` are
        "fc1.weight" and "fc1.bias". It is a `Model`, and may be a layer of another `serial`.

    Raises:
        UserError: a name is missing, is empty or holds a dot, or a layer is not a `Model`. When
            applied: a leaf is missing, unknown or misshapen, or a layer of your own writes into an
            argument in place; the message names it.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Linear, ReLU, serial
        >>> net = serial(fc1=Linear(2, 20), relu1=ReLU(), fc2=Linear(20, 3))
        >>> params, buffers = net.init(random.key(0))
        >>> list(params)
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
        >>> net.apply(params, buffers, torch.zeros(5, 2))[0].shape
        torch.Size([5, 3])

    Source:
        `serial` of jax.example_libraries.stax; torch.nn.Sequential.
    """
    expect_named(unnamed)
    run = serial_apply({name: own_layers.checked(layer) for name, layer in layers.items()}, "apply")

    def apply(params, buffers, x, *, train=False, key=None):
        return run(params, buffers, x, train=train, key=key_like(key, x))[:2]

    return Model(serial_init(layers), apply, serial_uses_key(layers), "Serial", layers)
