"""Any torch.nn.Module as a `Model`: a pure function of its leaves, its inputs and a key.

    model = from_module(resnet18())             # params of the module itself: model.init(None)
    model = from_module(lambda: resnet18())     # drawn by construction under a key: model.init(key)

What makes it pure:

- Params are the trainable leaves, each once, however often it is used. Frozen ones
  (`requires_grad_(False)`) are buffers. What the module writes into buffers is returned, and what
  it sets them to.
- Every draw (any dropout, RReLU, torch.rand...) is a function of the key; see `module_draws`.
- Inputs and params that the module writes into are copied first. A write to a param, as by
  `Embedding(max_norm)`, and a change of a plain attribute, or of a list, dict or set that is one,
  last for the call only.
- Lists, dicts and objects that hold leaves get those given to `apply`. Closures and tuples cannot,
  and are refused, as are views of params; see `module_reach`.
"""

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from purenets.core.arguments import expect_leaves
from purenets.core.arrays import plain
from purenets.core.base import Buffers, Model, Params, UserError
from purenets.torch_nets.fast.tracing import is_torch_compiling
from purenets.torch_nets.layers.basic import refuse_dtype
from purenets.torch_nets.module_checks import expect_known_leaves, expect_plain_parts
from purenets.torch_nets.module_draws import KeyedDraws
from purenets.torch_nets.module_init import constructed, detached_copy, leaves, redrawn
from purenets.torch_nets.module_reach import Held, expect_no_views, held
from purenets.torch_nets.other_draws import Reader, other_generators, without_other_draws
from purenets.torch_nets.remat import without_checkpoints

DRAWING = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)
DRAWING_ALWAYS = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)  # in evaluation too
HALF = (torch.float16, torch.bfloat16)
MIXED = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)  # take inputs of another dtype
HELD = ("_parameters", "_buffers", "_modules")  # what a module holds by name, beside attributes
CHECKPOINTED = (
    "runs under torch.utils.checkpoint or saved-tensor hooks, which would compute again with "
    "other params; "
    "leave them out"
)
RECOMPUTED = (
    "calls purenets.torch_nets.checkpoint, which would compute again with other params; put it "
    "around: checkpoint(model.apply)"
)

READS = (
    "reads a number out of a tensor, as BatchNorm(momentum=None) does in training; under vmap, as "
    "in ensemble, there is one for each member: give a momentum, or train the members one by one"
)

BACKWARD_HOOKED = (
    "has backward hooks, which torch does not run under vmap and other transforms of torch.func; "
    "remove them"
)


def from_module(module: nn.Module | Callable[[], nn.Module]) -> Model:
    """Return a torch.nn.Module as a model of pure functions; the module itself is not changed.

    Args:
        module: a module, or a function without arguments that builds one.

    Returns:
        A model. `init(None)` copies the values of the module. `init(key)` draws from the key: it
        builds the module anew, or for an instance calls `reset_parameters`, and refuses leaves that
        these do not draw, or that hold other values (trained, loaded, set to zero). In a `serial`,
        an instance that `init(key)` would refuse keeps its own values. `apply` takes one input, a
        tuple of inputs or a dict of keyword inputs; several outputs come back as the module gives
        them. A part in evaluation mode inside a part in training mode stays in evaluation mode when
        `train=True`. `uses_key` is False if the module holds layers of torch.nn only and none of
        them draws.

    Raises:
        UserError: `module` is neither, or is wrapped for several devices, scripted or traced; a
            lazy layer has no shapes yet; params share memory without being the same, or have hooks
            of their gradients; a function holds parts or params of the module, or a tensor is a
            view of a param. In `init`: the function returns the params of an earlier call. In
            `apply`: a draw without a key, or one that no key reaches; torch.utils.checkpoint; a
            write into a tensor that is not a buffer; a `forward` that replaces a param or adds a
            buffer; or, under vmap, a number that is read out of a tensor.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import from_module
        >>> module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> model = from_module(module)
        >>> params, buffers = model.init(None)
        >>> list(params)
        ['0.weight', '0.bias', '1.weight', '1.bias']
        >>> y, new_buffers = model.apply(params, buffers, torch.ones(4, 2), train=True)
        >>> int(buffers["1.num_batches_tracked"]), int(new_buffers["1.num_batches_tracked"])
        (0, 1)

    Source:
        torch.func.functional_call.
    """
    module, make = _built(module)
    name = type(module).__name__
    expect_plain_parts(name, module)
    expect_known_leaves(name, module)
    expect_no_views(module)
    traits = _traits(module)
    modes = {train: _in_mode(_prepared(module), train) for train in (True, False)}
    helds = {train: held(net, module) for train, net in modes.items()}
    others = {train: other_generators(net) for train, net in modes.items() if traits.custom}

    def init(key):
        if key is None:
            return leaves(module)
        return redrawn(module, key) if make is None else constructed(make, key, module)

    def apply(params, buffers, x, *, train=False, key=None):
        try:
            params, buffers = (_copied(part, traits.written) for part in (params, buffers))
        except (AttributeError, TypeError):
            expect_leaves(name, params=params, buffers=buffers)
            raise
        net = modes[bool(train)]
        kept = helds[bool(train)]
        with _guards(net, name, traits, train, key, others.get(bool(train), ()), kept) as draws:
            own = (lambda t: t) if draws is None else draws.spread
            x = map_tensors(lambda t: own(t.clone()), x) if traits.writes_inputs else x
            given = net, (params, buffers), (traits.twins, kept.slots), *_inputs(x)
            if traits.draws and torch.compiler.is_compiling():
                return _refusing_call(draws, *given)
            return _call(*given)

    def checked(params, buffers, x, *, train=False, key=None):
        try:
            return apply(params, buffers, x, train=train, key=key)
        except UserError:
            raise
        except (TypeError, RuntimeError, AttributeError, ValueError) as error:
            # the arguments are looked into only then
            net = modes[bool(train)]
            expect_call(net, name, (params, buffers), x)
            _expect_dtype(error, name, params, x)
            if re.match(r"vmap: .*(\.item\(\)|data-dependent)", str(error)):
                raise UserError(f"{name}: {READS}") from error
            if "setup_context" in str(error) and any(map(_has_backward_hooks, net.modules())):
                raise UserError(f"{name}: {BACKWARD_HOOKED}") from error
            raise error

    init.float32_leaves = frozenset(_norm_leaves(module))  # what `precision.cast` does not cast
    return Model(init, checked, traits.draws, name)


def expect_call(net: nn.Module, name: str, given: tuple, x: Any) -> None:
    """Raise a UserError for leaves or an input that a module cannot be called with."""
    for what, part in zip(("params", "buffers"), given, strict=True):
        expect_leaves(name, **{what: part})
        for leaf_name, leaf in part.items():
            if not isinstance(leaf, Tensor):
                kind = type(leaf).__name__
                raise UserError(f"{name}: {what}[{leaf_name!r}] is a {kind}, needs a tensor")
    _expect_names(net, name, given)
    expect_input(net, name, x)


def _expect_names(net: nn.Module, name: str, leaves: tuple) -> None:
    """Raise a UserError for leaves of other names than the module has, or of one name."""
    params, buffers = leaves
    known = {n for n, _ in net.named_parameters()} | {n for n, _ in net.named_buffers()}
    for leaf_name in known ^ {*params, *buffers}:
        where = "missing" if leaf_name in known else "unknown"
        raise UserError(f"{name}: {leaf_name} is {where} in params and buffers")
    for leaf_name in params.keys() & buffers.keys():
        raise UserError(f"{name}: {leaf_name} is in params and in buffers")


def _expect_dtype(error: Exception, name: str, params: Params, x: Any) -> None:
    """Raise a UserError where torch complains of dtypes and an input has another than the params.

    torch's words differ from layer to layer: "same dtype", "scalar type", "should be the same".
    """
    if not re.search(r"dtype|scalar type|should be the same", str(error)):
        return
    tensors: list[Tensor] = []
    map_tensors(tensors.append, x)
    weights = {leaf.dtype: leaf for leaf in params.values() if leaf.is_floating_point()}
    for part in tensors:
        if len(weights) == 1 and part.dtype not in weights:
            try:
                refuse_dtype(part, next(iter(weights.values())))
            except UserError as wrong:
                raise UserError(f"{name}: {wrong.args[0]}") from error


def expect_input(net: nn.Module, name: str, x: Any) -> None:
    """Raise a UserError for inputs of another number or name than `forward` takes, or no tensor."""
    args, kwargs = _inputs(x)
    try:
        inspect.signature(net.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise UserError(f"{name}: the input does not fit its forward: {error}") from error
    except ValueError:  # it has no signature
        return
    for part in (*args, *kwargs.values()):
        tensors: list[Tensor] = []
        map_tensors(tensors.append, part)
        if not tensors:
            kind = type(part).__name__
            raise UserError(f"{name}: the input holds a {kind}, needs tensors; see to_torch")


def _built(module: Any) -> tuple[nn.Module, Callable | None]:
    """Return the module, and the function that builds it if that was given."""
    make = None if isinstance(module, nn.Module) or not callable(module) else module
    try:
        module = make() if make else module
    except TypeError as error:
        if not isinstance(make, type):
            raise
        name = make.__name__
        raise UserError(
            f"from_module: the class {name} cannot be called without arguments; pass {name}(...), "
            f"or lambda: {name}(...) to draw from keys"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError("from_module: needs a torch.nn.Module, or a function that builds one")
    return module, make


# --- what a module may do -------------------------------------------------------------------------


class _Traits(NamedTuple):
    """What the forward pass of a module may do.

    Args:
        custom: it has code that is not torch's, which may do anything.
        draws: it may draw in training.
        draws_always: it may draw in evaluation.
        writes_inputs: it may write into its inputs.
        written: the names of the leaves that it may write into; None for all.
        twins: the further names of tied leaves, each with the name in params and buffers; None
            where no leaf is set anew.
    """

    custom: bool
    draws: bool
    draws_always: bool
    writes_inputs: bool
    written: frozenset[str] | None
    twins: dict[str, str] | None


def _traits(module: nn.Module) -> _Traits:
    parts = list(module.modules())
    custom = any(_is_custom(part, "torch.nn.", "torchvision.") for part in parts)
    unknown = any(
        _is_custom(part, "torch.nn.") for part in parts
    )  # torchvision draws, but writes no params
    always = unknown or any(isinstance(part, DRAWING_ALWAYS) for part in parts)
    renormed = [
        p for part in parts if getattr(part, "max_norm", None) for p in part.parameters(False)
    ]
    written = {n for n, p in module.named_parameters() if any(p is other for other in renormed)}
    written |= {n for n, _ in module.named_buffers()}
    return _Traits(
        custom,
        draws=always or any(map(_draws_in_training, parts)),
        draws_always=always,
        writes_inputs=unknown or any(getattr(part, "inplace", False) for part in parts),
        written=None if custom else frozenset(written),
        twins=_twins(module) if custom else None,
    )


def _twins(module: nn.Module) -> dict[str, str]:
    """Return the further names of tied leaves, each with the name in params and buffers.

    A part that stands in several places has the names of the first.
    """
    first = {id(leaf): name for name, leaf in [*module.named_parameters(), *module.named_buffers()]}
    found = {}
    for place, part in module.named_modules():
        for named in (part.named_parameters, part.named_buffers):
            for name, leaf in named(place, recurse=False, remove_duplicate=False):
                if first[id(leaf)] != name:
                    found[name] = first[id(leaf)]
    return found


def _is_custom(part: nn.Module, *known: str) -> bool:
    """Return True if code from elsewhere takes part: the class, a hook, or a forward of the
    instance.
    """
    hooks = part._forward_pre_hooks or part._forward_hooks or "forward" in vars(part)
    return bool(hooks) or not type(part).__module__.startswith(known)


def _has_backward_hooks(part: nn.Module) -> bool:
    return bool(part._backward_hooks or part._backward_pre_hooks)


def _draws_in_training(part: nn.Module) -> bool:
    """Return True for a layer of torch.nn that draws in training.

    These are dropout, and attention and recurrent layers that have a dropout.
    """
    rate = getattr(part, "dropout", 0.0)
    return isinstance(part, DRAWING) or (isinstance(rate, float) and rate > 0)


# --- norms, which stay in float32 -----------------------------------------------------------------


def is_norm_kind(kind: str) -> bool:
    """Return True for the name of a normalization: "BatchNorm", "LayerNorm2d", "LlamaRMSNorm" ...

    Args:
        kind: the name of a layer or of a class.

    Returns:
        A bool.

    Example:
        >>> from purenets.torch_nets.from_module import is_norm_kind
        >>> is_norm_kind("LlamaRMSNorm"), is_norm_kind("Linear")
        (True, False)
    """
    return re.search(r"Norm(\d[dD])?$", kind) is not None


def _is_norm(part: nn.Module) -> bool:
    """Return True for a normalization, known by its class or by its running statistics."""
    by_class = is_norm_kind(type(part).__name__) and not list(part.children())
    return by_class or "running_mean" in part._buffers


def _norm_leaves(module: nn.Module) -> Iterator[str]:
    """Yield the names of the params and statistics of all normalizations."""
    for name, part in module.named_modules():
        if _is_norm(part):
            own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
            yield from (f"{name}.{leaf}" if name else leaf for leaf, _ in own)


def _in_own_dtype(part: nn.Module) -> Callable:
    """Return the forward pass of a norm that takes half precision while its leaves are wider."""
    forward = part.forward

    def wrapped(x, *args, **kwargs):
        own = next(_floating(part), x)
        if own.dtype == x.dtype or x.dtype not in HALF:
            return forward(x, *args, **kwargs)
        return forward(x if isinstance(part, MIXED) else x.to(own.dtype), *args, **kwargs).to(
            x.dtype
        )

    return wrapped


def _floating(part: nn.Module) -> Iterator[Tensor]:
    """Yield the floating-point params and buffers that a module itself holds."""
    own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
    return (leaf for leaf in own if leaf.is_floating_point())


def _prepared(module: nn.Module) -> nn.Module:
    """Return a copy without values of its own: gradients of embeddings are dense, norms take any
    dtype.
    """
    net = detached_copy(module, share=True)
    for part in net.modules():
        if getattr(part, "sparse", False) is True:
            part.sparse = False
        if _is_norm(part) and next(_floating(part), None) is not None:
            part.forward = _in_own_dtype(part)
    return net


def _in_mode(net: nn.Module, train: bool) -> nn.Module:
    """Set all parts to training or evaluation; those in evaluation within a part in training stay
    there.
    """
    parts = [part for part in net.modules() if part.training]
    kept = [child for part in parts for child in part.children() if not child.training]
    flags = {part: part.training for child in kept for part in child.modules()}
    net.train(train)
    if train:
        for part, flag in flags.items():
            part.training = flag
    return net


# --- calls ----------------------------------------------------------------------------------------


def _call(
    net: nn.Module, leaves: tuple, further: tuple, args: tuple, kwargs: dict
) -> tuple[Any, Buffers]:
    """Return the outputs of a module and its buffers after the call.

    further: the twins of `_Traits`, and the slots of `Held`.
    """
    (params, buffers), (twins, slots) = leaves, further
    if twins is None:
        return torch.func.functional_call(net, leaves, args, kwargs, strict=True), buffers
    name, given = type(net).__name__, {**params, **buffers}
    _expect_names(net, name, leaves)
    given |= {twin: given[first] for twin, first in twins.items()}
    after = dict(given)  # functional_call puts there what the module has set anew
    own = [(container, at, container[at]) for container, at, _ in slots]
    try:
        for container, at, leaf in slots:
            container[at] = given[leaf]
        y = torch.func.functional_call(net, after, args, kwargs, tie_weights=False)
    finally:
        for container, at, value in own:
            container[at] = value
    _expect_kept(name, params, given, after, twins)
    return y, {name: plain(after[name]) for name in buffers}


def _expect_kept(
    name: str, params: Params, given: dict, after: dict, twins: dict[str, str]
) -> None:
    """Raise a UserError for a leaf that the module has set to what cannot be returned."""
    for leaf, value in after.items():
        if value is given[leaf]:
            continue
        if leaf in params or twins.get(leaf) in params:
            raise UserError(
                f"{name}: sets its param {leaf} anew, which would get no gradient; compute with "
                "the new value, or make it a buffer"
            )
        if not isinstance(value, Tensor):
            raise UserError(f"{name}: sets its buffer {leaf} to what is no tensor")
    for twin, first in twins.items():
        if after[twin] is not after[first]:
            raise UserError(
                f"{name}: sets one of the tied buffers {first} and {twin} anew; write in place"
            )


def _refusing_call(draws: KeyedDraws | None, net: nn.Module, *rest: Any) -> tuple[Any, Buffers]:
    """Call a module so that torch's own draws are errors: torch.compile hides some of them from
    modes.
    """
    params, buffers = rest[0]
    once = torch.zeros(
        1, device=next((leaf.device for leaf in {**buffers, **params}.values()), None)
    )

    def call(_):
        if draws is not None:
            draws.begin()
        return _call(net, *rest)

    return torch.func.vmap(call, out_dims=None, randomness="error")(once)


def _inputs(x: Any) -> tuple[tuple, dict]:
    """Return positional and keyword inputs: those of a tuple, those of a dict, or one."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (x if type(x) is tuple else (x,)), {}  # a packed sequence is a tuple of another type


def _copied(leaves: dict[str, Tensor], written: frozenset[str] | None) -> dict[str, Tensor]:
    """Return the leaves, with copies of those that may be written into."""
    return {
        n: leaf.clone() if written is None or n in written else leaf for n, leaf in leaves.items()
    }


def map_tensors(f: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Return inputs or outputs with f of each tensor, in tuples, lists and dicts too.

    Args:
        f: from a tensor to a tensor.
        x: a tensor, or nested tuples, lists and dicts.

    Returns:
        The same structure.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.from_module import map_tensors
        >>> map_tensors(lambda t: t + 1, {"a": torch.zeros(2), "b": "text"})
        {'a': tensor([1., 1.]), 'b': 'text'}
    """
    if isinstance(x, Tensor):
        return f(x)
    if isinstance(x, Mapping):
        parts = {name: map_tensors(f, part) for name, part in x.items()}
        return parts if type(x) is dict else type(x)(parts)
    if isinstance(x, list | tuple):
        parts = [map_tensors(f, part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


@contextlib.contextmanager
def _guards(
    net: nn.Module,
    name: str,
    traits: _Traits,
    train: bool,
    key: Any,
    others: tuple[Reader, ...],
    kept: Held,
) -> Iterator[KeyedDraws | None]:
    """Draw from the key within the block, and let no call leave a trace that the next one would
    see.

    Yields the draws; None where the module draws nothing.
    """
    draws = None
    with contextlib.ExitStack() as guards:
        compiling = torch.compiler.is_compiling()
        if traits.custom and not is_torch_compiling():
            guards.enter_context(_without_traces(net, name, kept))
            guards.enter_context(without_checkpoints(f"{name}: {RECOMPUTED}"))
        if traits.custom and not compiling:
            guards.enter_context(_without_stored_hooks(name))
        if traits.draws_always or (train and traits.draws):
            if not compiling:
                guards.enter_context(without_other_draws(name, others))
            draws = guards.enter_context(KeyedDraws(key, name))
        yield draws


@contextlib.contextmanager
def _without_traces(net: nn.Module, name: str, kept: Held) -> Iterator[None]:
    """Put back the plain attributes that a call sets, and the entries of those that are lists,
    dicts, ...; raise a UserError for a tensor it wrote into, and for a new leaf.
    """
    before = [
        (part, vars(part) | {held: dict(vars(part)[held]) for held in HELD})
        for part in net.modules()
    ]
    tensors = [
        (attribute, value, value._version)
        for _, attributes in before
        for attribute, value in attributes.items()
        if isinstance(value, Tensor)
    ]
    tensors += [(where, value, value._version) for where, value in kept.tensors]
    containers = [(c, dict(c) if isinstance(c, dict) else list(c)) for c in kept.containers]
    try:
        yield
        for part, attributes in before:
            for leaf, value in [*part._parameters.items(), *part._buffers.items()]:
                if value is not attributes["_parameters"].get(
                    leaf, attributes["_buffers"].get(leaf)
                ):
                    raise UserError(
                        f"{name}: sets the leaf {leaf}, which init did not return; register it "
                        "as a tensor in __init__"
                    )
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
        for container, entries in containers:
            container.clear()
            (container.update if isinstance(container, dict | set) else container.extend)(entries)
    for attribute, value, version in tensors:
        if value._version != version:
            raise UserError(
                f"{name}: writes into {attribute}, which is no buffer; use register_buffer"
            )


@contextlib.contextmanager
def _without_stored_hooks(name: str) -> Iterator[None]:
    """Refuse torch.utils.checkpoint.

    It calls the module again in the backward pass, without these params.
    """
    text = f"{name}: {CHECKPOINTED}"
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(text):
            yield
    except RuntimeError as error:
        if str(error) != text:
            raise
        raise UserError(text) from None
