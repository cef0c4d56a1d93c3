"""To and from torch's DataLoader: a run of our batches as a dataset, and a loader as `batches`.

dataset = to_dataset(data.batches(task.train, 32, key), range(0, 25))   # an epoch of 25 steps
for x, y in DataLoader(dataset, batch_size=None, num_workers=2): ...    # in any loop of torch

batches = from_loader(DataLoader(images, 32, shuffle=True), key)        # in any loop of ours
state, history = fit(step, state, batches, steps=1000)
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from purenets.core import random
from purenets.core.arguments import expect_functions, expect_integers, is_integer
from purenets.core.base import Array, Batch, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.torch_nets.convert import device_from_name

Batches = Callable[[int], Batch]


class StepsDataset(IterableDataset):
    """The batches of some steps, in their order, whatever the number of workers.

    Worker w of W makes those of steps w, w + W, ..., as a DataLoader asks its workers in turn.
    """

    def __init__(self, batches: Batches, steps: range):
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        own = self.steps[worker.id :: worker.num_workers] if worker else self.steps
        return map(self.batches, own)


def to_dataset(batches: Batches, steps: int | range) -> IterableDataset:
    """Return the batches of some steps as a dataset, for `DataLoader(dataset, batch_size=None)`.

    An epoch is a range of steps: `range(epoch * n, (epoch + 1) * n)` of `n` steps each. For the
    part of one process of several give `data.part_of(batches, rank, processes)`. NumPy arrays come
    out of the loader as tensors. Workers that are spawned, not forked, need `batches` that can be
    pickled; those of `data.batches` cannot.

    Args:
        batches: the function from a step, from 0, to its batch.
        steps: how many of them from 0 on, or which.

    Raises:
        UserError: `batches` is no function, or `steps` neither an integer from 1 on nor a range.
    """
    expect_functions("to_dataset", batches=batches)
    if not isinstance(steps, range):
        expect_integers("to_dataset", 1, steps=steps)
        steps = range(steps)
    if not len(steps) or min(steps) < 0:
        raise UserError(f"to_dataset: steps: {steps!r}, needs steps from 0 on, one or more")
    return StepsDataset(batches, steps)


def from_loader(
    loader: DataLoader,
    key: Array,
    *,
    steps_per_epoch: int | None = None,
    device: torch.device | str | None = None,
    to_batch: Callable[[Any], Batch] = tuple,
) -> Batches:
    """Return the function from the step, from 0, to the batch of a loader, epoch after epoch.

    What torch draws in an epoch (the order, transforms) is drawn from `key` and its number, in a
    stream apart from torch's own, so that each step has one batch: a resumed run goes on with those
    it would have had. What NumPy or Python draws in a dataset is not of the key. A step that does
    not follow the one before begins its epoch again, and loads it up to there. A sampler with
    `set_epoch` (DistributedSampler) is told the epoch. Generators of the loader and its sampler are
    seeded.

    Args:
        loader: of pairs (inputs, targets).
        key: of what is drawn.
        steps_per_epoch: of a loader without a length; by default `len(loader)`.
        device: where to put the batches; by default they stay where they are.
        to_batch: makes the pair of what the loader yields, as `lambda b: (b["image"], b["label"])`.

    Raises:
        UserError: the loader has no length, ends before its epoch, or yields no pairs.
    """
    if not hasattr(loader, "__iter__") or isinstance(loader, dict | list | str):
        raise UserError(f"from_loader: loader: a {type(loader).__name__}, needs a DataLoader")
    expect_functions("from_loader", to_batch=to_batch)
    device = device_from_name(device) if isinstance(device, str) else device
    if not isinstance(device, torch.device | None):
        raise UserError(f"from_loader: device: {device!r}, needs a torch.device or its name")
    length = _length(loader, steps_per_epoch)
    key, place = np.asarray(torch.as_tensor(random.check_key(key)).cpu()), _Place(loader)

    def batch_at(step: int) -> Batch:
        epoch, offset = divmod(step, length)
        if not offset or (epoch, offset) != place.next:
            place.begin(epoch, _seed(random.fold_in(key, epoch)))
            for _ in range(offset):
                place.advance(length)
        found = place.advance(length)
        return _on_device(_pair(found, to_batch), device)

    return batch_at


class _Place:
    """Where a loader stands: an iterator of an epoch, and the stream that it draws from.

    Args:
        next: (epoch, offset) of the batch that the iterator yields next; None for no iterator.
    """

    def __init__(self, loader: DataLoader):
        self.loader, self.next, self._iterator, self._stream = loader, None, None, None

    def begin(self, epoch: int, seed: int) -> None:
        """Begin an epoch, whose draws are those of a seed."""
        sampler, self.next = getattr(self.loader, "sampler", None), None
        for part in (self.loader, sampler):
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(seed)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        self._stream = torch.Generator().manual_seed(seed).get_state()
        with self._drawing():
            self._iterator = iter(self.loader)
        self.next = epoch, 0

    def advance(self, length: int) -> Any:
        """Return the next of the `length` batches of an epoch."""
        (epoch, offset), self.next = self.next, None
        with self._drawing():
            found = next(self._iterator, self)  # self: no batch
        if found is self:
            raise UserError(
                f"from_loader: the loader ends after {offset} batches of epoch {epoch}, needs "
                f"{length}; see steps_per_epoch"
            )
        self.next = divmod(epoch * length + offset + 1, length)
        return found

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Let torch draw from the loader's own stream within the block."""
        before = torch.get_rng_state()
        torch.set_rng_state(self._stream)
        try:
            yield
        finally:
            self._stream = torch.get_rng_state()
            torch.set_rng_state(before)


def _length(loader: DataLoader, steps_per_epoch: int | None) -> int:
    """Return the batches of an epoch."""
    if getattr(loader, "persistent_workers", False):
        raise UserError(
            "from_loader: persistent_workers: they draw on from one epoch to the next, and no step "
            "has one batch; needs False"
        )
    try:
        length = len(loader) if steps_per_epoch is None else steps_per_epoch
    except TypeError:
        raise UserError("from_loader: the loader has no length, needs steps_per_epoch") from None
    if not is_integer(length) or length < 1:
        raise UserError(f"from_loader: {length!r} batches in an epoch, needs 1 or more")
    return length


def _seed(key: np.ndarray) -> int:
    """Return the seed of a torch.Generator from a key."""
    high, low = random.bits(key, 2)
    return (int(high) << 31) ^ int(low)  # 63 bits


def _pair(found: Any, to_batch: Callable[[Any], Batch]) -> Batch:
    """Return (inputs, targets) of what a loader yields, with tuples where it collates lists."""
    if to_batch is tuple and (not isinstance(found, tuple | list) or len(found) != 2):
        raise UserError(
            f"from_loader: the loader yields a {type(found).__name__}, needs pairs (inputs, "
            "targets); to_batch makes one of it"
        )
    batch = to_batch(found)
    if isinstance(batch, tuple | list):
        batch = tuple(_with_tuples(part) for part in batch)
    count_examples(batch, "from_loader")
    return batch


def _with_tuples(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _with_tuples(inner) for name, inner in part.items()}
    return tuple(map(_with_tuples, part)) if isinstance(part, tuple | list) else part


def _on_device(batch: Batch, device: torch.device | None) -> Batch:
    if device is None:
        return batch
    x, y = (map_arrays(lambda array: array.to(device), part) for part in batch)
    return x, y
