"""One training in several processes, on one machine or on many: data-parallel, started by torchrun.

    torchrun --nproc-per-node 2 scripts/cnn_train.py --data digits --out runs/two

Every process (a rank) holds the same state and sees the same batches; of each it takes its part,
and the mean of the gradients comes back to all. That is the gradient of the whole batch, so the
training is the one of a single process: as functions, `data_parallel(grad_fn, group)` is `grad_fn`.
Rank 0 writes the run's folder, which all must be able to read. gloo connects CPUs, nccl GPUs.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from purenets.core import random, signals, tree
from purenets.core.arrays import widened
from purenets.core.base import GradFn, UserError
from purenets.core.train import PeerLost

LONGEST_WAIT = timedelta(
    days=1
)  # of ranks that share out long work; one that is lost is noticed at once


class Group(NamedTuple):
    """The processes of a run, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This rank's part of n examples; all parts are as large, or as good as."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Group]:
    """The Group of a process that torchrun has started, connected while the block lasts; else a
    group of one.

    The first rank alone hears Ctrl-C and SIGTERM, saves and leaves; the others follow when it is
    gone.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    group = Group(dist.get_rank(), dist.get_world_size())
    if not group.writes:  # it is quiet for good
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (while the process lives)
        sys.stderr = _NoTerminal(sys.stderr)
        signals.ignore()
    try:
        yield group
    finally:
        dist.destroy_process_group()


def data_parallel(grad_fn: GradFn, group: Group) -> GradFn:
    """`grad_fn` of batches whose parts are worked on by the ranks; augmentation belongs around it,
    so that it draws for the whole batch. A net that draws (dropout) draws otherwise on every
    rank."""
    if group.size == 1:
        return grad_fn

    def parallel(params, buffers, batch, key):
        x, y = batch
        check_share(len(y), group)
        part = group.part(len(y))
        grads, (buffers, metrics) = grad_fn(
            params, buffers, (x[part], y[part]), random.fold_in(key, group.rank)
        )
        means = mean_over_ranks({"grads": grads, "metrics": metrics}, group)
        return means["grads"], (buffers, means["metrics"])

    return parallel


def parallel_metrics(metrics: Callable, group: Group) -> Callable:
    """`metrics(params, buffers, batch)` of batches whose parts are worked on by the ranks."""
    if group.size == 1:
        return metrics

    def parallel(params, buffers, batch):
        x, y = batch
        if len(y) < group.size:
            return metrics(params, buffers, batch)
        part = group.part(len(y))
        share = len(y[part]) * group.size / len(y)  # 1 where all parts are as large
        found = metrics(params, buffers, (x[part], y[part]))
        return mean_over_ranks({name: share * value for name, value in found.items()}, group)

    return parallel


def mean_over_ranks(values: dict, group: Group) -> dict:
    """Return the mean of every leaf over the ranks, in one message for each dtype.

    Half-precision numbers are summed in float32.
    """
    flat = tree.flatten(values)
    new = dict(flat)
    for dtype in dict.fromkeys(leaf.dtype for leaf in flat.values()):
        names = [name for name, leaf in flat.items() if leaf.dtype == dtype]
        message = widened(torch.cat([flat[name].reshape(-1) for name in names]))
        message = total(message) / group.size
        message = message.to(dtype) if dtype.is_floating_point else message
        parts = message.split([flat[name].numel() for name in names])
        new |= {name: part.view(flat[name].shape) for name, part in zip(names, parts, strict=True)}
    return tree.unflatten(new, values)


class _Total(torch.autograd.Function):
    """The sum over the ranks; every rank's loss depends on it, so the gradient is a sum over the
    ranks too.
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
    """The sum of x over the ranks, differentiable; PeerLost if a rank is gone."""
    return _Total.apply(x)


def broadcast_from_rank0(value, group: Group):
    """The value of rank 0, on all ranks: what is measured must not differ between them."""
    if group.size == 1:
        return value
    box = [value]
    with _lost():
        dist.broadcast_object_list(box)
    return box[0]


def rank0_first(f: Callable, group: Group):
    """`f()` on all ranks, on the first one before the others: it may make files that the others
    only read.
    """
    value = f() if group.writes else None
    barrier(group)
    return value if group.writes else f()


def barrier(group: Group) -> None:
    """Until all ranks have come here."""
    if group.size > 1:
        with _lost():
            dist.barrier()


def check_share(batch_size: int, group: Group) -> None:
    """A UserError if a batch has no equal parts for all ranks."""
    if batch_size % group.size:
        raise UserError(
            f"--batch_size {batch_size}: cannot be shared equally among {group.size} processes"
        )


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
    """A stream that draws no bars: those of rank 0 are enough."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return False
