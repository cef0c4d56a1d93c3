"""One training in several processes, on one machine or on many: data-parallel, started by torchrun.

    torchrun --nproc-per-node 2 scripts/cnn_train.py --data digits --out runs/two

Every process (a rank) holds the same state and sees the same batches; of each it takes its part,
and the mean of the gradients comes back to all. That is the gradient of the whole batch, so the
training is the one of a single process: as functions, `data_parallel(grad_fn, group)` is `grad_fn`.
Rank 0 writes the run's folder, which all must be able to read. gloo connects CPUs, nccl GPUs.

With shards (`--shards 4`) any number of processes computes the same bits: `shards.py`.
"""

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from purenets.core import random, signals
from purenets.core.arguments import whole_only_of
from purenets.core.arrays import widened
from purenets.core.base import GradFn, UserError
from purenets.core.batch import count_examples
from purenets.core.train import PeerLost
from purenets.torch_nets import shards

LONGEST_WAIT = timedelta(
    days=1
)  # of ranks that share out long work; one that is lost is noticed at once


class Group(NamedTuple):
    """The processes of a run, and which of them this one is.

    Args:
        rank: of this process.
        size: how many processes there are.
        shards: of a batch, for the same bits from any `size` that divides them; 0 for none.
    """

    rank: int = 0
    size: int = 1
    shards: int = 0

    @property
    def writes(self) -> bool:
        """Return True if this process writes files and prints."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return this rank's part of n examples; parts are equal, or differ by one example."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    @property
    def own_shards(self) -> range:
        """Return the shards of this rank: in each round, every rank takes the next one."""
        return range(self.rank, self.shards, self.size)


@contextlib.contextmanager
def processes(device: torch.device, shards: int = 0) -> Iterator[Group]:
    """Yield the group of processes of a run, connected while the block lasts.

    It is the group that torchrun has started, or a group of one. The first rank alone hears Ctrl-C
    and SIGTERM, saves and leaves; the others follow when it is gone.

    Args:
        device: nccl connects GPUs, gloo CPUs.
        shards: of each batch, for the same bits from any number of processes; 0 for none.

    Yields:
        The `Group`.

    Raises:
        UserError: the shards cannot be shared equally among the processes, a GPU is missing, or
            torchrun has ended, or the processes cannot connect.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.distributed import processes
        >>> with processes(torch.device("cpu")) as group:
        ...     group.rank, group.size
        (0, 1)
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if shards % size:
        raise UserError(f"--shards {shards}: needs a multiple of the {size} processes")
    with _deterministic() if shards and device.type == "cuda" else contextlib.nullcontext():
        if "WORLD_SIZE" not in os.environ:
            yield Group(shards=shards)
            return
        if device.type == "cuda":
            torch.cuda.set_device(_own_gpu())
        _connect("nccl" if device.type == "cuda" else "gloo")
        group = Group(dist.get_rank(), dist.get_world_size(), shards)
        if not group.writes:  # it is quiet for good
            null = Path(os.devnull)
            sys.stdout = null.open("w", encoding="utf-8")
            sys.stderr = _NoTerminal(sys.stderr)
            signals.ignore()
        try:
            yield group
        finally:
            dist.destroy_process_group()


def _connect(backend: str) -> None:
    """Connect with the other processes, or raise a UserError that says why it cannot be done."""
    _expect_torchrun()
    try:
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except dist.DistError as error:
        _expect_torchrun()  # it may have ended meanwhile
        reason = str(error).partition("\n")[0]
        raise UserError(f"the processes cannot connect with each other: {reason}") from error


def _expect_torchrun() -> None:
    """Raise a UserError if the torchrun of this machine has been killed: its processes, which have
    just begun, would wait for it until torch gives up."""
    given = os.environ
    on_one_machine = given.get("LOCAL_WORLD_SIZE") == given["WORLD_SIZE"]
    if not on_one_machine or given.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    try:
        address = given["MASTER_ADDR"], int(given["MASTER_PORT"])
        socket.create_connection(address, timeout=10).close()
    except OSError as error:
        raise UserError("torchrun has ended, so its processes end, too") from error


def _own_gpu() -> int:
    """Return which GPU of the machine this process has; each has its own."""
    place, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= n_gpus:
        n = os.environ.get("LOCAL_WORLD_SIZE", place + 1)
        raise UserError(
            f"--device cuda: {n} processes on this machine need a GPU each, it has {n_gpus}; start"
            " fewer, or give --device cpu"
        )
    return place


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Let GPUs compute the same bits each time; torch warns of an operation that cannot."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it as it starts
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def data_parallel(grad_fn: GradFn, group: Group, *, split: bool = True) -> GradFn:
    """Return a gradient function whose batches are divided among the ranks of a group.

    The gradient is that of the whole batch. Put augmentation around it, so that it draws for the
    whole batch. A net that draws (dropout) draws differently on every rank, or in every shard.

    Args:
        grad_fn: the gradient function of a part of a batch.
        group: the processes, and the shards if there are any.
        split: False where the batch of each rank is its part already, as a loader with a
            DistributedSampler yields it.

    Returns:
        A gradient function; all ranks get the same gradients and metrics.

    Raises:
        UserError: `split` is False with shards. When called: a batch cannot be divided equally, or
            the loss or a metric is no mean over the examples (a sum, class weights, targets that
            are not counted).

    Example:
        >>> from purenets.torch_nets import MLP, grad_fn
        >>> from purenets.torch_nets.distributed import Group, data_parallel
        >>> grad = grad_fn(MLP(2, [8], 2))
        >>> data_parallel(grad, Group()) is grad  # of one process
        True

    Source:
        torch.nn.parallel.DistributedDataParallel.
    """
    if group.shards:
        if not split:
            raise UserError("data_parallel: split=False: not with shards, which cut whole batches")
        return shards.sharded_grad_fn(grad_fn, group.shards, group.own_shards, _gather(group))
    if group.size == 1:
        return grad_fn

    def parallel(params, buffers, batch, key):
        shards.expect_means("data_parallel", grad_fn, batch[1])
        if split:
            n = count_examples(batch, "data_parallel")
            check_share(n, group)
            batch = shards.rows_of(batch, group.part(n))
        key = None if key is None else random.fold_in(key, group.rank)
        grads, (buffers, metrics) = grad_fn(params, buffers, batch, key)
        means = mean_over_ranks({"grads": grads, "metrics": metrics}, group)
        return means["grads"], (buffers, means["metrics"])

    return parallel


def parallel_metrics(metrics: Callable, group: Group) -> Callable:
    """Return an evaluation whose batches are divided among the ranks of a group.

    Where a metric or the loss is not a mean over the examples (`r2`, class weights, targets that
    are not counted), each rank computes all on the whole batch.

    Args:
        metrics: `f(params, buffers, batch) -> metrics`, as `metrics_fn` returns it.
        group: the processes, and the shards if there are any.

    Returns:
        `f(params, buffers, batch) -> metrics`, the same on all ranks.

    Example:
        >>> from purenets.torch_nets import MLP, metrics_fn
        >>> from purenets.torch_nets.distributed import Group, parallel_metrics
        >>> measure = metrics_fn(MLP(2, [8], 2))
        >>> parallel_metrics(measure, Group()) is measure  # of one process
        True
    """
    if group.size == 1 and not group.shards:
        return metrics
    whole_only = whole_only_of(metrics)
    sharded = group.shards and shards.sharded_metrics(
        metrics, group.shards, group.own_shards, _gather(group)
    )

    def parallel(params, buffers, batch):
        n = count_examples(batch, "metrics")
        if n < group.size or whole_only(batch[1]):
            return metrics(params, buffers, batch)
        if sharded:
            return sharded(params, buffers, batch)
        batch = shards.rows_of(batch, group.part(n))
        share = len(batch[1]) * group.size / n  # 1 where all parts are as large
        found = metrics(params, buffers, batch)
        return mean_over_ranks({name: share * value for name, value in found.items()}, group)

    parallel.whole_only = whole_only
    return parallel


def mean_over_ranks(values: dict, group: Group) -> dict:
    """Return the mean of every leaf over the ranks, in one message for each dtype.

    Half-precision numbers are summed in float32.

    Args:
        values: a nested dict of tensors.
        group: the processes.

    Returns:
        A dict of the same structure.
    """
    means = {}
    for dtype, vector in shards.packed(values).items():
        message = total(widened(vector)) / group.size
        means[dtype] = message.to(dtype) if dtype.is_floating_point else message
    return shards.unpacked(means, values)


class _Total(torch.autograd.Function):
    """Sum a tensor over the ranks.

    The loss of every rank depends on it, so its gradient is a sum over the ranks too.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _all_reduced(x)

    @staticmethod
    def setup_context(
        context, inputs, output
    ) -> None:  # apart from forward, as torch.func needs it
        pass

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _all_reduced(gradient)


def total(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks, differentiable.

    Args:
        x: the tensor of this rank.

    Returns:
        The sum, the same on all ranks.

    Raises:
        PeerLost: a rank is gone.
    """
    return _Total.apply(x)


def broadcast_from_rank0(value, group: Group):
    """Return the value of rank 0 on all ranks, for what is measured and must not differ.

    Args:
        value: that of this rank.
        group: the processes.

    Returns:
        That of rank 0.

    Raises:
        PeerLost: a rank is gone.

    Example:
        >>> from purenets.torch_nets.distributed import Group, broadcast_from_rank0
        >>> broadcast_from_rank0("bfloat16", Group())
        'bfloat16'
    """
    if group.size == 1:
        return value
    box = [value]
    with _lost():
        dist.broadcast_object_list(box)
    return box[0]


def rank0_first(f: Callable, group: Group):
    """Return f() on all ranks, called on rank 0 before the others.

    It is for an f that makes files which the others then only read.

    Args:
        f: a function without arguments.
        group: the processes.

    Returns:
        The value of f on this rank.

    Raises:
        PeerLost: a rank is gone.

    Example:
        >>> from purenets.torch_nets.distributed import Group, rank0_first
        >>> rank0_first(lambda: 42, Group())
        42
    """
    value = f() if group.writes else None
    barrier(group)
    return value if group.writes else f()


def barrier(group: Group) -> None:
    """Wait until all ranks have come here.

    Args:
        group: the processes.

    Raises:
        PeerLost: a rank is gone.

    Example:
        >>> from purenets.torch_nets.distributed import Group, barrier
        >>> barrier(Group())  # of one process: returns at once
    """
    if group.size > 1:
        with _lost():
            dist.barrier()


def check_share(batch_size: int, group: Group) -> None:
    """Raise a UserError unless a batch can be divided equally among the ranks, or into the shards.

    Args:
        batch_size: examples of the batch.
        group: the processes, and the shards if there are any.

    Raises:
        UserError: it cannot.

    Example:
        >>> from purenets.torch_nets.distributed import Group, check_share
        >>> check_share(128, Group(rank=0, size=4))  # 32 examples each
    """
    n, what = (group.shards, "shards") if group.shards else (group.size, "processes")
    shards.expect_equal_parts(batch_size, n, what)


def _gather(group: Group) -> shards.Gather:
    """Return the function from a vector to those of all ranks, in their order."""
    return shards.alone if group.size == 1 else functools.partial(_gathered, size=group.size)


def _gathered(x: Tensor, size: int) -> list[Tensor]:
    found = [torch.empty_like(x) for _ in range(size)]
    with _lost():
        dist.all_gather(found, x.contiguous())
    return found


def _all_reduced(x: Tensor) -> Tensor:
    x = x.detach().clone(memory_format=torch.contiguous_format)
    with _lost():
        dist.all_reduce(x)
    return x


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            f"rank {dist.get_rank()}: lost another of the {dist.get_world_size()} processes"
        ) from error


class _NoTerminal:
    """A stream that hides progress bars: those of rank 0 are enough."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return False
