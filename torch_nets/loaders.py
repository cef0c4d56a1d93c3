"""From and to torch's DataLoader: batches as a dataset, and a loader as `batches`.

    dataset = to_dataset(data.batches(task.train, 32, key), range(0, 25))  # an epoch of 25 steps
    for x, y in DataLoader(dataset, batch_size=None, num_workers=2): ...   # in a loop of torch

    batches = from_loader(DataLoader(images, 32, shuffle=True), key)       # in `fit`
    state, history = fit(step, state, batches, steps=1000)

In both directions a batch depends on the step alone, so a resumed run sees the same batches.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from purenets.core import random
from purenets.core.arguments import expect_functions, expect_integers, is_integer
from purenets.core.base import Array, Batch, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.torch_nets.convert import device_from_name

Batches = Callable[[int], Batch]


class StepsDataset(IterableDataset):
    """The batches of some steps, in the same order for any number of workers.

    Worker w of W makes those of steps w, w + W, ..., since a DataLoader asks its workers in turn.
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

    NumPy arrays come out of the loader as tensors. For the part of one process among several give
    `data.part_of(batches, rank, processes)`. Workers that are spawned, not forked, need `batches`
    that can be pickled; those of `data.batches` cannot.

    Args:
        batches: the function from a step, counted from 0, to its batch.
        steps: how many steps, from 0 on, or the range of them. An epoch of n steps is
            `range(epoch * n, (epoch + 1) * n)`.

    Returns:
        An `IterableDataset` of batches, in the order of the steps for any number of workers.

    Raises:
        UserError: `batches` is not a function, or `steps` is neither a positive integer nor a range
            of steps from 0 on.

    Example:
        >>> import numpy as np
        >>> from torch.utils.data import DataLoader
        >>> from purenets import data, random
        >>> from purenets.torch_nets import to_dataset
        >>> batches = data.batches((np.zeros((6, 2)), np.arange(6)), 2, random.key(0))
        >>> loader = DataLoader(to_dataset(batches, 3), batch_size=None)
        >>> sorted(int(label) for x, y in loader for label in y)  # an epoch sees each example once
        [0, 1, 2, 3, 4, 5]
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
    """Return the function from a step to a batch of a loader, epoch after epoch, for `fit`.

    What torch draws in an epoch (the order, transforms) depends on `key` and the number of the
    epoch only, in a stream apart from torch's global one. So each step has one batch, and a resumed
    run sees the batches that it would have seen. What NumPy or Python draws in a dataset does not
    depend on the key. A step that does not follow the one before begins its epoch again and loads
    it up to there.

    Args:
        loader: a DataLoader of pairs (inputs, targets). A sampler with `set_epoch`
            (DistributedSampler) is told the epoch; generators of torch in the loader, its samplers
            and datasets are seeded for its batches, and left as they were in between.
        key: the source of all that torch draws.
        steps_per_epoch: the batches of an epoch, for a loader without a length; by default
            `len(loader)`.
        device: where the batches go; None leaves them where they are.
        to_batch: makes the pair of what the loader yields, such as
            `lambda b: (b["image"], b["label"])`.

    Returns:
        `batches(step)`, with steps counted from 0.

    Raises:
        UserError: an argument is wrong, or the loader has no length or persistent workers. In a
            step: the loader ends before its epoch, or does not yield pairs.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from purenets import random
        >>> from purenets.torch_nets import from_loader
        >>> dataset = TensorDataset(torch.zeros(6, 2), torch.arange(6))
        >>> batches = from_loader(DataLoader(dataset, 2, shuffle=True), random.key(0))
        >>> torch.equal(batches(4)[1], batches(4)[1])  # epoch 1, its second batch
        True
    """
    if not hasattr(loader, "__iter__") or isinstance(loader, dict | list | str):
        raise UserError(f"from_loader: loader: a {type(loader).__name__}, needs a DataLoader")
    if hasattr(loader, "__next__"):
        raise UserError(
            f"from_loader: loader: a {type(loader).__name__}, which can be read once only; needs a "
            "DataLoader, or an object whose __iter__ begins anew"
        )
    expect_functions("from_loader", to_batch=to_batch)
    device = device_from_name(device) if isinstance(device, str) else device
    if not isinstance(device, torch.device | None):
        raise UserError(f"from_loader: device: {device!r}, needs a torch.device or its name")
    length = _length(loader, steps_per_epoch)
    key, place = np.asarray(torch.as_tensor(random.check_key(key)).cpu()), _Place(loader)

    def batch_at(step: int) -> Batch:
        epoch, offset = divmod(int(step) if is_integer(step) else step, length)
        if not offset or (epoch, offset) != place.next:
            place.begin(epoch, _seed(random.fold_in(key, epoch)))
            for _ in range(offset):
                place.advance(length)
        found = place.advance(length)
        return _on_device(_pair(found, to_batch), device)

    return batch_at


NAMES = ("sampler", "batch_sampler", "dataset", "generator")  # also of a class, or properties
MOST_PARTS = 1000  # of a list that is looked into


class _Place:
    """Where a loader stands: an iterator of an epoch, and the stream that it draws from.

    Args:
        next: (epoch, offset) of the batch that the iterator yields next; None for no iterator.
    """

    def __init__(self, loader: DataLoader):
        self.loader, self.next, self._iterator, self._streams = loader, None, None, []

    def begin(self, epoch: int, seed: int) -> None:
        """Begin an epoch, whose draws are those of a seed."""
        self.next = None
        parts = drawing_parts(self.loader)
        for part in parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        own = [part for part in parts if isinstance(part, torch.Generator)]
        self._streams = [
            (generator, torch.Generator(generator.device).manual_seed(seed).get_state())
            for generator in [torch.default_generator, *own]
        ]
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
        """Let all generators draw from the loader's own streams within the block."""
        before = [(generator, generator.get_state()) for generator, _ in self._streams]
        for generator, state in self._streams:
            generator.set_state(state)
        try:
            yield
        finally:
            self._streams = [(generator, generator.get_state()) for generator, _ in before]
            for generator, state in before:
                generator.set_state(state)


def drawing_parts(loader: DataLoader) -> list[Any]:
    """Return a loader, its samplers and datasets, at whatever depth, and their generators.

    >>> from torch.utils.data import DataLoader, RandomSampler
    >>> generator = torch.Generator()
    >>> sampler = RandomSampler(range(4), generator=generator)
    >>> generator in drawing_parts(DataLoader(range(4), sampler=sampler))
    True
    """
    found, left = {}, [loader]
    while left:
        part = left.pop()
        if id(part) not in found:
            found[id(part)] = part
            left += _parts_of(part)
    return [*found.values()]


def _parts_of(part: Any) -> Iterator[Any]:
    """Yield the samplers, datasets and generators that an object or a short list has."""
    if isinstance(part, list | tuple):
        held = enumerate(part if len(part) <= MOST_PARTS else ())
    else:
        named = {name: getattr(part, name, None) for name in NAMES}
        held = (getattr(part, "__dict__", {}) | named).items()
    for name, value in held:
        several = isinstance(value, list | tuple)  # as ConcatDataset.datasets
        if name in NAMES or several or isinstance(value, torch.Generator | Sampler | Dataset):
            yield value


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
        what = "the loader has" if steps_per_epoch is None else "steps_per_epoch is"
        raise UserError(f"from_loader: {what} {length!r}, needs 1 batch in an epoch or more")
    return int(length)


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
