"""Trace a pure function and compile it for arguments of fixed shapes: the engine of `jit`.

torch.compile re-checks guards on everything that a function has read. A pure function reads its
arguments only, so the caller of `compile_for` has to check no more than those.
"""

import contextlib
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._functorch.config
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from purenets.core.signals import expect_no_stop
from purenets.torch_nets.fast.structure import (
    Returned,
    TensorSpec,
    Unsupported,
    flatten_fn,
    like,
    map_parts,
    tensors,
    unflatten_fn,
)


class Compiled(NamedTuple):
    """Code for one signature.

    Attributes:
        expected: what `like((args, kwargs))` returned for the arguments that were traced.
        strides: those of each tensor among them.
        take: (args, kwargs) -> tensors, or None for another structure or other values.
        run: tensors, laid out in memory by `strides` -> what the function returns; None if it is
            not compiled.
    """

    expected: tuple
    strides: Sequence[tuple[int, ...]]
    take: Callable[[tuple], list[Tensor] | None]
    run: Callable[[list[Tensor]], Any] | None


def compile_for(f: Callable, args: tuple, kwargs: dict) -> Compiled:
    """Return `f` compiled for arguments like these.

    Whatever `f` reads besides its arguments (what it closes over, autocast, the number of threads)
    is read now, once. Only where a tensor that it closes over has been changed in place, it is
    compiled again.

    Raises:
        Unsupported: `f` cannot be traced or compiled, or is not pure.
    """
    given = args, kwargs
    # Clone the inputs: aliasing or expanded strides in the example must not be compiled in.
    with torch.inference_mode(False):
        copies = [_dense_copy(leaf) for leaf in tensors(given)]
    expected = like(unflatten_fn(like(given))(copies))
    graph, result = trace(f, expected, copies)
    captured = _captured(graph)
    result = _share_outputs(graph, result)
    outputs = next(iter(reversed(graph.graph.nodes))).args[0]
    put, strides = unflatten_fn(result), [copy.stride() for copy in copies]
    if not outputs:
        return Compiled(expected, strides, flatten_fn(expected), put)
    compute = compile_graph(graph, copies)

    def run(leaves: list[Tensor]) -> Any:
        return put([*compute(*leaves), *leaves])

    if captured:
        run = _renewed(f, expected, run, captured)
    return Compiled(expected, strides, flatten_fn(expected), run)


def _captured(graph: torch.fx.GraphModule) -> dict[Tensor, int]:
    """Return the tensors that a traced function closes over, with the version of each.

    A tensor that it makes of numbers is a constant of the graph too; it is copied by `lift_fresh`,
    and nobody else can change it.
    """
    found = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        value = getattr(graph, node.target, None)
        made = all("lift_fresh" in str(user.target) for user in node.users)
        if isinstance(value, Tensor) and not made and not value.is_inference():
            found[value] = value._version
    return found


def _renewed(f: Callable, expected: tuple, run: Callable, captured: dict[Tensor, int]) -> Callable:
    """Return `run`, compiled again at the first call after a captured tensor has been changed."""
    watched, versions = [*captured], [*captured.values()]

    def call(leaves: list[Tensor]) -> Any:
        nonlocal run, versions
        if [x._version for x in watched] != versions:
            name = getattr(f, "__qualname__", type(f).__name__)
            warnings.warn(
                f"jit: {name} is compiled again: a tensor that it closes over was changed in "
                "place; pass as an argument what changes",
                stacklevel=3,
            )
            versions = [x._version for x in watched]
            run = compile_for(f, *unflatten_fn(expected)(leaves)).run
        return run(leaves)

    return call


def _dense_copy(x: Tensor) -> Tensor:
    return x.detach().resolve_conj().resolve_neg().clone()


def trace(
    f: Callable, expected: tuple, examples: Sequence[Tensor]
) -> tuple[torch.fx.GraphModule, Any]:
    """Return the graph of `f` and its result with a `TensorSpec` for each tensor.

    Raises:
        Unsupported: `f` cannot be traced, or is not pure.
    """
    fill, result = unflatten_fn(expected), []

    def flat(*leaves: Tensor) -> list[Tensor]:
        args, kwargs = fill(leaves)
        value = f(*args, **kwargs)
        result.append(_described(value))
        return tensors(value)

    try:
        with force_is_compiling():
            graph = trace_flat(flat, examples)
    except Unsupported as error:
        raise Unsupported(f"{error}{place_of(error)}") from error
    except Exception as error:
        raise Unsupported(f"{reason(error)}{place_of(error)}") from error
    return graph, result[-1]


def trace_flat(f: Callable[..., list[Tensor]], examples: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Return the graph of plain operations of a function from tensors to a list of tensors.

    Raises:
        Unsupported: it is not pure.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def watched(*leaves: Tensor) -> list[Tensor]:
        with _Purity() as purity, _NoLists(purity):
            return f(*leaves)

    return make_fx(watched, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)


READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


class _Purity(TorchDispatchMode):
    """Raise Unsupported where a random number is drawn, or a tensor written that is not new."""

    supports_higher_order_operators = True

    def __init__(self):
        super().__init__()
        self.made: dict[
            int, Tensor
        ] = {}  # by storage; the tensor keeps it, so that no other takes its place

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not isinstance(operation, torch._ops.OpOverload):
            return operation(*args, **kwargs)
        if _draws(operation, args, kwargs):
            raise Unsupported(
                f"it draws random numbers from a generator of torch ({operation}); "
                "draw from a key by purenets.random"
            )
        for x in _written(operation, args, kwargs):
            if _storage(x) not in self.made:
                raise Unsupported(
                    f"it changes an argument or a captured tensor in place ({operation})"
                )
        if operation in READS:
            self.expect_made(operation, args)
        result = operation(*args, **kwargs)
        given = {_storage(x) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in pytree.tree_leaves(result):
            if isinstance(x, Tensor) and _storage(x) not in given:
                self.made[_storage(x)] = x
        return result

    def expect_made(self, operation, tensors: Sequence[Tensor]) -> None:
        """Raise Unsupported for the value of a captured tensor, which the graph would keep."""
        if not all(_storage(x) in self.made for x in tensors):
            raise Unsupported(
                f"it reads the value of a captured tensor ({operation}), which may change; pass it "
                "as an argument, or make it a number before"
            )


class _NoLists(TorchFunctionMode):
    """Raise Unsupported for `tolist` of a captured tensor, which is no operation of a graph."""

    def __init__(self, purity: _Purity):
        super().__init__()
        self.purity = purity

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.tolist:
            self.purity.expect_made("tolist", args)
        return function(*args, **(kwargs or {}))


def _draws(operation, args: tuple, kwargs: dict) -> bool:
    """Return True if an operation draws: fused attention, if any weights are dropped."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    names = [argument.name for argument in operation._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return "dropout_p" not in names or given.get("dropout_p", 0.0) != 0.0


def _written(operation, args: tuple, kwargs: dict) -> list[Tensor]:
    """Return the arguments that an operation writes to."""
    schema = operation._schema
    if not schema.is_mutable:
        return []
    values = (
        dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    )
    writes = [x.name for x in schema.arguments if x.alias_info and x.alias_info.is_write]
    found = pytree.tree_leaves([values.get(name) for name in writes])
    return [x for x in found if isinstance(x, Tensor)]


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _described(value: Any) -> Any:
    """Return `like(value)` of a traced result, whose shapes may not be known."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise Unsupported(
                "its result depends on a tensor that it closes over and that requires grad"
            )
        return TensorSpec((), (), value.dtype, value.device)
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        raise Unsupported("it returns a number that depends on the values of tensors")
    return map_parts(_described, value)


def _share_outputs(graph: torch.fx.GraphModule, result: Any) -> Any:
    """Remove from a graph the outputs that are inputs or other outputs; return the result with
    indices.

    The indices are those of the list of the remaining outputs, followed by the inputs.
    """
    *nodes, output = graph.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    returned = list(output.args[0])
    kept = list(dict.fromkeys(node for node in returned if node not in inputs))
    index = {node: i for i, node in enumerate([*kept, *inputs])}
    output.args = (kept,)
    graph.recompile()
    places = iter(returned)

    def placed(part: Any) -> Any:
        if type(part) is TensorSpec:
            return Returned(index[next(places)])
        return map_parts(placed, part)

    return placed(result)


def compile_graph(
    graph: torch.fx.GraphModule, examples: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """Return a graph of plain operations compiled by inductor for inputs like `examples`.

    Raises:
        Unsupported: inductor could not compile it.
        Interrupted: a loop was asked to stop meanwhile, by a signal that ends compilers as well.
    """
    autocast = torch._C._is_any_autocast_enabled()
    try:
        # Casts are in the graph already; that the code cannot be saved matters to nobody.
        with no_autocast(), silence_logger("torch._inductor.standalone_compile"):
            try:
                compiled = _inductor(graph, examples)
            except Exception as error:
                if not _remove_broken_header(str(error)):
                    raise
                compiled = _inductor(graph, examples)
    except Exception as error:
        expect_no_stop("compiling")
        raise Unsupported(reason(error)) from error
    expect_no_stop("compiling")
    return without_autocast(compiled) if autocast else compiled


def _remove_broken_header(message: str) -> bool:
    """Remove the precompiled header that g++ could not read; return False if there is none.

    g++ writes it in place. If it is killed meanwhile, a part of the file stays, and torch takes it
    for the whole from then on.
    """
    header = re.search(r" -include (\S.*?\.h) ", message)
    if not header or not re.search("PCH file|precompiled header", message):
        return False
    from torch._inductor.utils import clear_caches

    Path(f"{header[1]}.gch").unlink(missing_ok=True)
    clear_caches()  # in this process: they keep the failure, too
    return True


def _inductor(
    graph: torch.fx.GraphModule, examples: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """Return a graph compiled by inductor; it raises errors of many kinds."""
    patches = {"size_asserts": False}  # the caller has compared sizes and strides
    if any(x.is_cuda for x in examples):
        # Else the random words are products of an index of 32 bits and a factor that has 32 itself:
        # the Triton of torch 2.11 refuses it.
        patches["constant_and_index_propagation"] = False
    inner: list[Callable] = []
    compile_ = _compile_loops if any(map(_is_loop, graph.graph.nodes)) else _compile
    artifact = compile_(graph, list(examples), patches, inner)
    if inner and not _returns_views(graph):
        return inner[0]
    return getattr(artifact, "_compiled_fn", artifact)  # without the artifact's bytes


def _compile_loops(
    graph: torch.fx.GraphModule, examples: list[Tensor], patches: dict, inner: list
) -> Callable:
    """Return what `_compile` returns for a graph with loops.

    The loops themselves are in C++ on the CPU. The inductor of torch 2.11 has no C++ for a loop
    that writes its results in place, as all do that return a y: there Python runs the loop, and its
    body is compiled.
    """
    from torch._inductor.exc import InductorError

    # Inductor (2.14) may hand a buffer that a loop still reads to another kernel of the graph.
    patches = patches | {"allow_buffer_reuse": False, "inplace_buffers": False}
    if all(x.device.type == "cpu" for x in examples):
        try:
            return _compile(graph, examples, patches | {"cpp_wrapper": True}, inner)
        except InductorError:
            inner.clear()
    return _compile(graph, examples, patches | {"cpp_wrapper": False}, inner)


def _compile(
    graph: torch.fx.GraphModule, examples: list[Tensor], patches: dict, inner: list
) -> Callable:
    """Return inductor's compiled function; add to `inner` the code in it, where that can be called
    alone.

    Around that code AOTAutograd handles inputs that are mutated and outputs that are views of
    inputs. Here nothing is mutated, and where there are no such views either the code alone is
    enough.
    """
    from torch._inductor.compile_fx import compile_fx_inner

    refused = False

    def compile_inner(module, inputs, **options):
        nonlocal refused
        if refused := _has_failing_attention(module):
            raise Unsupported("this torch has no gradient of attention in float64 on a CPU")
        code = compile_fx_inner(module, inputs, **options)
        (output,) = module.graph.find_nodes(op="output")
        (expected,) = graph.graph.find_nodes(op="output")
        if len(inputs) == len(examples) and len(output.args[0]) == len(expected.args[0]):
            inner.append(lambda *leaves: code(list(leaves)))
        return code

    options = {"config_patches": patches, "inner_compile": compile_inner}
    # without the cache, or it is compiled elsewhere
    with torch._functorch.config.patch(enable_autograd_cache=False):
        try:
            return torch._inductor.standalone_compile(
                graph, examples, dynamic_shapes="from_example_inputs", options=options
            )
        except Exception:
            if not refused or "pattern_matcher" in patches:
                raise
    # then the formula stays as it was written
    return _compile(graph, examples, patches | {"pattern_matcher": False}, inner)


def _has_failing_attention(module: torch.fx.GraphModule) -> bool:
    """Return True if a graph has a gradient of attention that fails where it is run.

    Inductor puts torch's fused attention in the place of the formula. On a CPU torch 2.11 says that
    the logarithms which that hands to its gradient are float32, and they are float64 for float64.
    """
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    graphs = [part.graph for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = [n for g in graphs for n in g.find_nodes(op="call_function", target=backward)]
    dtypes = [[node.args[i].meta["val"].dtype for i in (1, 5)] for node in nodes]
    return [torch.float64, torch.float32] in dtypes


def _returns_views(graph: torch.fx.GraphModule) -> bool:
    """Return True if an output may share memory with an input or a captured tensor."""
    (output,) = graph.graph.find_nodes(op="output")
    inputs = {_storage(node.meta["val"]) for node in graph.graph.find_nodes(op="placeholder")}
    values = [node.meta.get("val") for node in output.args[0]]
    return any(value is None or _storage(value) in inputs for value in values)


def _is_loop(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() == "scan"


def without_autocast(f: Callable) -> Callable:
    """Return `f` run with autocast off."""

    def run(*arguments):
        with no_autocast():
            return f(*arguments)

    return run


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Turn autocast off for all kinds of devices."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """Silence the warnings of a logger."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def force_is_compiling() -> Iterator[None]:
    """Make `torch.compiler.is_compiling()` return True, as it does where torch.compile traces."""
    before, torch.compiler._is_compiling_flag = torch.compiler._is_compiling_flag, True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def place_of(error: Exception) -> str:
    """Return " (FILE:LINE)" of the innermost line that is neither of a library nor of purenets."""
    own = Path(__file__).parents[1]
    skipped = (str(Path(torch.__file__).parents[1]), str(own), str(own.parent / "core"), "<")
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(frame.filename, frame.lineno) for frame in frames]
    users = [line for line in lines if not line[0].startswith(skipped)]
    return f" ({users[-1][0]}:{users[-1][1]})" if users else ""


def reason(error: Exception) -> str:
    """Return one line on why a function could not be traced or compiled."""
    text = str(error)
    if (
        "data-dependent" in text
        or "_local_scalar_dense" in text
        or ".numpy()" in text
        or "tolist" in text
    ):
        return (
            "it needs the value of a tensor while it is traced, as in `if`, float(), .item() "
            "or .numpy()"
        )
    if re.search(r"\bu\d+\b", text):  # what torch calls a size that only the values decide
        return "its shapes depend on the values of a tensor, as in x[x > 0]; torch.where keeps them"
    if found := re.search(r"error: .*", text):  # of a C++ compiler, far below its command
        return f"{type(error).__name__}: {found[0]:.200}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # what a process of its own raised stands below its traceback, before torch's advice
    advice = ("Set TORCH", "You can suppress", "import torch", "torch._dynamo.config")
    told = [line for line in lines if not line.startswith(advice)]
    end = f" {told[-1]:.200}" if lines[0].endswith(":") and len(told) > 1 else ""
    return f"{type(error).__name__}: {lines[0]:.200}{end}"
