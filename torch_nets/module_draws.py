"""The random operations of a torch.nn.Module as functions of a key.

Within `KeyedDraws(key)` the i-th random operation draws from `fold_in(key, i)`, so the same key
gives the same numbers on CPU and CUDA, under torch.func.vmap and under torch.compile. Within a
vmap of the module's own each member draws from a key of its own (`randomness="different"`), or all
from one ("same"). An operation
for which there is no such form is run with torch's generator seeded from its key, or refused where
that is impossible (vmap, torch.compile). A draw without a key is refused.
"""

import contextlib
import functools
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from purenets.core import random
from purenets.core.arrays import is_tracing
from purenets.core.base import UserError
from purenets.torch_nets.fast.batched import inner_randomness, member_numbers
from purenets.torch_nets.fast.tracing import is_torch_compiling, transform_depth


class KeyedDraws(TorchFunctionMode):
    """Draw from a key in each random operation of torch within the block.

    Args:
        key: a key, or None where every draw is an error.
        name: what draws, for the text of an error.

    Attributes:
        depth: how many transforms of torch.func the module runs in.
    """

    def __init__(self, key: Any, name: str):
        super().__init__()
        self.key = None if key is None else torch.as_tensor(key)
        self.name, self.count = name, 0
        self.begin()

    def begin(self) -> None:
        """Take the transforms of torch.func that run now for those around the module."""
        self.depth = transform_depth()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in OPENED:
            with self:  # what it calls is seen
                return OPENED[func](*args, **kwargs)
        if func in KEYED_FUNCTIONS:
            return KEYED_FUNCTIONS[func](self, func, *args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "unflatten":  # torch.compile of torch 2.11 cannot look into the method
            return torch.unflatten(*args, **kwargs)
        if name in KEYED:
            return KEYED[name](self, func, *args, **kwargs)
        if name in SEEDED or torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            return _seeded_call(self, func, *args, **kwargs)
        return func(*args, **kwargs)

    def next_key(self, func: Callable) -> Tensor:
        """Return the key of one more draw."""
        if self.key is None:
            raise UserError(
                f"{self.name}: {func.__name__} draws and there is no key; pass key=, or draw in "
                "training only"
            )
        self.count += 1
        key = random.fold_in(self.key, self.count - 1)
        kinds = inner_randomness(self.depth)
        if "error" in kinds:
            reason = "draws within a vmap of the module's own; pass it randomness='different'"
            raise self.refuse(func, reason)
        if "different" in kinds and is_torch_compiling():
            raise self.refuse(
                func, "draws within a vmap, which torch.compile cannot follow; jit can"
            )
        if "different" in kinds:
            for number in member_numbers(self.depth):
                key = random.fold_in(key, number.to(key.device))
        return key

    def spread(self, x: Tensor) -> Tensor:
        """Return x, under a transform with an axis for the members of a vmapped key."""
        if self.key is None or not is_tracing():
            return x
        members = () if is_torch_compiling() else member_numbers(self.depth)
        add = torch.logical_or if x.dtype == torch.bool else torch.add
        zeros = ((part * 0).to(x.device, x.dtype) for part in (self.key[0], *members))
        return functools.reduce(add, zeros, x)

    def refuse(self, func: Callable, reason: str) -> UserError:
        """Return the error of a draw that is not possible."""
        return UserError(f"{self.name}: {func.__name__} {reason}")


# --- functions of torch.nn.functional that draw in their bodies -----------------------------------


def _opened(function: Callable) -> Callable:
    """Return a copy of a function whose own calls a mode sees: it does not ask for modes first."""
    copy = types.FunctionType(
        function.__code__,
        OPEN_NAMES,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


OPEN_NAMES = {
    name: (lambda *tensors: False) if name.startswith("has_torch_function") else value
    for name, value in vars(F).items()
}
OPENED = {
    function: _opened(function)
    for function in (
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.gumbel_softmax,
        F.multi_head_attention_forward,
        F.fractional_max_pool2d_with_indices,
        F.fractional_max_pool3d_with_indices,
    )
}
OPENED |= {
    F.fractional_max_pool2d: lambda *args, **kwargs: _first_unless_indices(
        F.fractional_max_pool2d_with_indices, *args, **kwargs
    ),
    F.fractional_max_pool3d: lambda *args, **kwargs: _first_unless_indices(
        F.fractional_max_pool3d_with_indices, *args, **kwargs
    ),
}


def _first_unless_indices(pool: Callable, *args, return_indices: bool = False, **kwargs):
    """Return the output of a pooling with indices, with or without them."""
    found = pool(*args, **kwargs)
    return found if return_indices else found[0]


# --- dropout --------------------------------------------------------------------------------------

ALPHA = 1.7580993408473766  # minus the limit of SELU at -infinity


def _dropout(
    draws, func, input, p=0.5, training=None, inplace=False, *, feature=False, alpha=False
):
    """Return `input` with elements, or for `feature` channels, dropped with probability p.

    training: if None, as the function has it by default, which is True but for alpha dropout.
    """
    if not 0 <= p <= 1:
        raise draws.refuse(func, f"has the probability {p}, needs one from 0 to 1")
    training = not alpha if training is None else training
    if not training or p == 0 or input.numel() == 0:
        return input
    shape = (*input.shape[:2], *[1] * (input.ndim - 2)) if feature else input.shape
    kept = random.bernoulli(draws.next_key(func), 1 - p, shape).to(input.device, input.dtype)
    if not alpha:
        factor, offset = kept / (1 - p) if p < 1 else kept, None
    else:  # keeps mean and variance of what SELU returns
        scale = 1 / math.sqrt((ALPHA**2 * p + 1) * (1 - p)) if p < 1 else 0.0
        factor, offset = kept * scale, (kept - 1) * (ALPHA * scale) + ALPHA * scale * p
    y = input * factor if offset is None else input * factor + offset
    return _overwrite(draws, func, input, y) if inplace else y


def _overwrite(draws, func, target: Tensor, values: Tensor) -> Tensor:
    """Write values into a tensor and return it."""
    try:
        return target.copy_(values)
    except RuntimeError:
        reason = (
            "cannot write a draw of its own for each member under vmap into a tensor that all share"
        )
        raise draws.refuse(func, reason) from None


def _rrelu(
    draws, func, input, lower=1 / 8, upper=1 / 3, training=False, inplace=False, generator=None
):
    """Return x with each negative element times a random slope, uniform from lower to upper."""
    if not training:
        return func(input, lower, upper, training, inplace)
    _refuse_generator(draws, func, generator)
    slopes = _uniform(draws.next_key(func), input) * (upper - lower) + lower
    y = input * torch.where(input < 0, slopes, torch.ones_like(slopes))
    return _overwrite(draws, func, input, y) if inplace else y


# --- attention and recurrent layers, which drop out within one operation --------------------------


def _attention(
    draws,
    func,
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
):
    """Return scaled dot-product attention, written out where its weights drop out."""
    if dropout_p == 0:
        rest = {"scale": scale, "enable_gqa": enable_gqa}
        return func(query, key, value, attn_mask, dropout_p, is_causal, **rest)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    blind = scores.isneginf().all(-1, keepdim=True)  # rows that see nothing: 0, not NaN
    weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    return _dropout(draws, torch.dropout, weights, dropout_p) @ value


def _recurrent(draws, func, *args):
    """Return what torch.lstm and its kin return, layer by layer where dropout lies between the
    layers.

    args: input, [batch_sizes,] state, weights, biases, layers, dropout, train, bidirectional [,
    batch_first]
    """
    at = 1 if isinstance(args[3], bool) else 2  # packed sequences bring their batch sizes
    x, sizes, (state, weights, biases, layers, p, train, both, *rest) = (
        args[0],
        args[1:at],
        args[at:],
    )
    if not train or p == 0 or layers == 1:
        return func(*args)
    states = state if isinstance(state, tuple | list) else (state,)
    per_layer, directions, found = len(weights) // layers, 1 + both, []
    for i in range(layers):
        own = [part[i * directions : (i + 1) * directions] for part in states]
        own = own if isinstance(state, tuple | list) else own[0]
        part = weights[i * per_layer : (i + 1) * per_layer]
        x, *last = func(x, *sizes, own, part, biases, 1, 0.0, train, both, *rest)
        found.append(last)
        if i < layers - 1:
            x = _dropout(draws, torch.dropout, x, p)
    return x, *map(torch.cat, zip(*found, strict=True))


# --- noise ----------------------------------------------------------------------------------------


def _refuse_generator(draws, func, generator=None, out=None) -> None:
    """Raise a UserError if the caller brings a generator or a place for the result."""
    if generator is not None:
        raise draws.refuse(
            func, "draws from a generator of its own, which no key reaches; leave it out"
        )
    if out is not None:
        raise draws.refuse(func, "draws into out=, which is not supported; use what it returns")


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _uniform(key: Tensor, like: Tensor) -> Tensor:
    """Return draws from [0, 1) of the shape, dtype and device of `like`."""
    if like.dtype in (torch.float32, torch.float64):
        return random.uniform(key, like.shape, _dtype(like)).to(like.device)
    if like.is_complex():
        return torch.complex(*(_uniform(k, like.real) for k in random.split(key)))
    below_1 = 1 - torch.finfo(like.dtype).eps / 2
    return random.uniform(key, like.shape).clamp_max(below_1).to(like.device, like.dtype)


def _normal(key: Tensor, like: Tensor) -> Tensor:
    """Return standard normal draws of the shape, dtype and device of `like`."""
    if like.dtype in (torch.float32, torch.float64):
        return random.normal(key, like.shape, _dtype(like)).to(like.device)
    if like.is_complex():
        parts = [random.normal(k, like.shape, _dtype(like.real)) for k in random.split(key)]
        return (torch.complex(*parts) / math.sqrt(2)).to(like.device)
    return random.normal(key, like.shape).to(like.device, like.dtype)


def _exponential(key: Tensor, like: Tensor) -> Tensor:
    """Return draws of the exponential distribution of rate 1, by its inverse; never 0."""
    middle = random.uniform(key, like.shape, "float64") + 2.0**-54
    return -torch.log1p(-middle).to(like.device, like.dtype)


def _randint(key: Tensor, like: Tensor, low: int, high: int) -> Tensor:
    return random.randint(key, like.shape, low, high).to(like.device, like.dtype)


def _filled(
    draws, func, blank: Callable, fill: Callable, *args, generator=None, out=None, **kwargs
):
    """Return draws of the shape that torch's function `blank` gives for these arguments."""
    _refuse_generator(draws, func, generator, out)
    drawn = fill(draws.next_key(func), blank(*args, **kwargs))
    return drawn.requires_grad_() if kwargs.get("requires_grad") else drawn


def _rand_ints(draws, func, *args, size=None, low=0, high=None, dtype=torch.int64, **kwargs):
    """Return what torch.randint([low,] high, size) returns."""
    given = list(args)
    size = given.pop() if given and not isinstance(given[-1], int) else size
    low, high = given if len(given) == 2 else (low, *(given or [high]))
    fill = functools.partial(_randint, low=low, high=high)
    return _filled(draws, func, torch.empty, fill, size, dtype=dtype, **kwargs)


def _permutation(
    draws, func, n, *, dtype=torch.int64, device=None, generator=None, out=None, **kwargs
):
    _refuse_generator(draws, func, generator, out)
    return random.permutation(draws.next_key(func), n).to(
        device or torch.get_default_device(), dtype
    )


def _in_place(fill: Callable, defaults: dict[str, Any]) -> Callable:
    """Return the keyed form of a method that overwrites a tensor: fill(key, like, *its
    arguments).
    """

    def overwrite(draws, func, target, *args, generator=None, **kwargs):
        _refuse_generator(draws, func, generator)
        given = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
        return _overwrite(draws, func, target, fill(draws.next_key(func), target, *given.values()))

    return overwrite


def _bernoulli(draws, func, input, p=None, *, generator=None, out=None):
    """Return 1 with the probability p, or that of each element of the input."""
    _refuse_generator(draws, func, generator, out)
    return _ones_with_probability(draws.next_key(func), input, input if p is None else p)


def _ones_with_probability(key: Tensor, like: Tensor, p: float | Tensor) -> Tensor:
    words = random.uniform(key, like.shape, "float64").to(like.device)
    return (words < p).to(like.dtype)


def _normal_of(draws, func, mean=0.0, std=1.0, size=None, *, generator=None, out=None, **kwargs):
    """Return what torch.normal returns for numbers, or for tensors that broadcast together."""
    _refuse_generator(draws, func, generator, out)
    if size is not None:
        like = torch.empty(size, **kwargs)
    else:
        like = sum(torch.zeros_like(part) for part in (mean, std) if isinstance(part, Tensor))
    return _normal(draws.next_key(func), like) * std + mean


# --- what has no form of its own here -------------------------------------------------------------


def _seeded_call(draws, func, *args, generator=None, **kwargs):
    """Run an operation with torch's generator seeded from a key."""
    _refuse_generator(draws, func, generator)
    key = draws.next_key(func)
    reason = "draws from torch's generator, which does not run under vmap or torch.compile"
    if torch.compiler.is_compiling():
        raise draws.refuse(func, reason)
    try:
        with seeded(key):
            return func(*args, **kwargs)
    except RuntimeError as error:
        if "vmap" in str(error) or "randomness" in str(error):
            raise draws.refuse(func, reason) from None
        raise


@contextlib.contextmanager
def seeded(key: Any) -> Iterator[None]:
    """Seed torch's generators from a key within the block, and put their states back after it."""
    seed = int(random.bits(torch.as_tensor(key), 1)[0])
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def _own_memory(draws, func, *args, empty=False, **kwargs):
    """Return a new tensor; under a transform with an axis for the members of a vmapped key.

    Each member can then write a draw of its own into it.
    """
    made = func(*args, **kwargs)
    if empty and is_tracing():
        made = torch.zeros_like(made)
    return draws.spread(made)


FACTORIES = ("empty", "zeros", "ones", "full")
KEYED = {
    "bernoulli": _bernoulli,
    "bernoulli_": _in_place(_ones_with_probability, {"p": 0.5}),
    "exponential_": _in_place(
        lambda key, like, rate: _exponential(key, like) / rate, {"lambd": 1.0}
    ),
    "gru": _recurrent,
    "lstm": _recurrent,
    "normal": _normal_of,
    "normal_": _in_place(
        lambda key, like, mean, std: _normal(key, like) * std + mean, {"mean": 0.0, "std": 1.0}
    ),
    "rand": lambda draws, func, *a, **k: _filled(draws, func, torch.empty, _uniform, *a, **k),
    "rand_like": lambda draws, func, *a, **k: _filled(
        draws, func, torch.empty_like, _uniform, *a, **k
    ),
    "randint": _rand_ints,
    "randn": lambda draws, func, *a, **k: _filled(draws, func, torch.empty, _normal, *a, **k),
    "randn_like": lambda draws, func, *a, **k: _filled(
        draws, func, torch.empty_like, _normal, *a, **k
    ),
    "randperm": _permutation,
    "rnn_relu": _recurrent,
    "rnn_tanh": _recurrent,
    "rrelu": lambda draws, func, *a, **k: _rrelu(draws, F.rrelu, *a, **k),
    "rrelu_": lambda draws, func, *a, **k: _rrelu(draws, F.rrelu, *a, inplace=True, **k),
    "scaled_dot_product_attention": _attention,
    "uniform_": _in_place(
        lambda key, like, low, high: _uniform(key, like) * (high - low) + low,
        {"from": 0.0, "to": 1.0},
    ),
}
for _name in FACTORIES:
    KEYED |= dict.fromkeys(
        (_name, f"{_name}_like", f"new_{_name}"),
        functools.partial(_own_memory, empty=_name == "empty"),
    )
for _prefix, _options in {
    "": {},
    "feature_": {"feature": True},
    "alpha_": {"alpha": True},
    "feature_alpha_": {"feature": True, "alpha": True},
}.items():
    for _suffix in ("", "_"):
        KEYED[f"{_prefix}dropout{_suffix}"] = functools.partial(
            _dropout, **_options, inplace=_suffix == "_"
        )

KEYED_FUNCTIONS = {  # of torch.nn.functional, which have a flag for in place
    F.dropout: _dropout,
    F.alpha_dropout: functools.partial(_dropout, alpha=True),
    F.feature_alpha_dropout: functools.partial(_dropout, alpha=True, feature=True),
    F.rrelu: _rrelu,
}

SEEDED = {
    "binomial",
    "cauchy_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "native_dropout",
    "poisson",
    "randint_like",
    "random_",
    "rrelu_with_noise",
    "rrelu_with_noise_",
    "_sample_dirichlet",
    "_standard_gamma",
}
