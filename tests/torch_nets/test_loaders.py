"""Our batches in torch's DataLoader, and a DataLoader as our batches."""

import functools

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from purenets import UserError, data, fit, init_state, make_step, optim, random, tree
from purenets.torch_nets import MLP, distributed, from_loader, grad_fn, loaders, to_dataset
from purenets.torch_nets.distributed import Group
from tests.torch_nets.test_ranks import Ranks

KEY = random.key(0)
X, Y = random.normal(KEY, (10, 4)), np.arange(10) % 5
IMAGES = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
# Python 3.12 warns where a process with threads is forked, as a loader does for its workers
FORKED = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


class Noisy(Dataset):
    """A dataset with a random transform, as torchvision's are."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int):
        return torch.from_numpy(X[i]) + torch.rand(4), int(Y[i])


class Endless(IterableDataset):
    """A stream without a length."""

    def __iter__(self):
        return iter([(torch.full((4,), float(i)), i % 5) for i in range(10)])


def test_samplers_within_a_sampler_of_batches_follow_key_and_epoch():
    def batches(seed, sampler):
        return from_loader(
            DataLoader(IMAGES, batch_sampler=BatchSampler(sampler, 5, False)), random.key(seed)
        )

    def shuffled(seed):
        return batches(seed, RandomSampler(IMAGES, generator=torch.Generator().manual_seed(3)))

    first = rows(shuffled(0), range(6))
    assert rows(shuffled(0), [4, 1]) == [first[4], first[1]]
    assert first[:2] != first[2:4]
    assert rows(shuffled(1), range(2)) != first[:2]
    seen = batches(0, DistributedSampler(IMAGES, 2, 0))
    assert len({str(rows(seen, [i])) for i in range(4)}) > 1


def rows(batches, steps) -> list:
    return [[part.tolist() for part in batches(i)] for i in steps]


# --- ours in a loader -----------------------------------------------------------------------------


@FORKED
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [5, range(5), range(3, 8)])
def test_a_loader_yields_the_batches_of_the_steps_in_order(steps, workers):
    batches = data.batches((X, Y), 4, KEY)
    loader = DataLoader(to_dataset(batches, steps), batch_size=None, num_workers=workers)
    wanted = range(steps) if isinstance(steps, int) else steps
    assert len(loader) == 5
    found = list(loader)
    assert all(torch.is_tensor(part) for batch in found for part in batch)
    assert [[part.tolist() for part in batch] for batch in found] == rows(batches, wanted)


def test_an_epoch_has_each_example_once():
    loader = DataLoader(to_dataset(data.batches((X, Y), 5, KEY), range(2, 4)), batch_size=None)
    seen = torch.cat([x for x, _ in loader])
    assert sorted(seen.tolist()) == sorted(X.tolist())


def test_the_parts_of_all_ranks_make_up_the_batch():
    batches = data.batches(({"a": X, "b": (X[:, 0],)}, Y), 6, KEY)
    parts = [data.part_of(batches, rank, 3)(1) for rank in range(3)]
    x, y = batches(1)
    assert np.array_equal(np.concatenate([part[0]["a"] for part in parts]), x["a"])
    assert np.array_equal(np.concatenate([part[0]["b"][0] for part in parts]), x["b"][0])
    assert np.array_equal(np.concatenate([part[1] for part in parts]), y)
    assert [len(part[1]) for part in parts] == [2, 2, 2]


def test_a_batch_without_equal_parts_is_named():
    with pytest.raises(UserError, match="a batch of 4 cannot be shared equally among 3 processes"):
        data.part_of(data.batches((X, Y), 4, KEY), 0, 3)(0)
    with pytest.raises(UserError, match="rank: 3, needs an integer from 0 to 2"):
        data.part_of(data.batches((X, Y), 4, KEY), 3, 3)


# --- a loader as batches --------------------------------------------------------------------------


def test_a_loader_in_order_gives_its_rows_epoch_after_epoch():
    batches = from_loader(DataLoader(IMAGES, 4), KEY)
    for step, at in enumerate([slice(0, 4), slice(4, 8), slice(8, 10), slice(0, 4)]):
        x, y = batches(step)
        assert torch.equal(x, IMAGES.tensors[0][at])
        assert torch.equal(y, IMAGES.tensors[1][at])


@FORKED
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_one_of_the_loader_after_torchs_manual_seed(workers):
    loader = DataLoader(IMAGES, 4, shuffle=True, num_workers=workers)
    found = rows(from_loader(loader, KEY), range(6))
    for epoch in range(2):
        torch.manual_seed(loaders._seed(random.fold_in(KEY, epoch)))
        wanted = [[part.tolist() for part in batch] for batch in loader]
        assert found[3 * epoch : 3 * epoch + 3] == wanted
    assert found[:3] != found[3:]


@pytest.mark.parametrize("seeded", [False, True])
def test_any_step_has_one_batch_whatever_was_asked_before(seeded):
    def loader():
        generator = torch.Generator().manual_seed(3) if seeded else None
        return DataLoader(Noisy(), 3, shuffle=True, generator=generator)

    torch.manual_seed(5)
    in_order = rows(from_loader(loader(), KEY), range(9))
    again = from_loader(loader(), KEY)
    torch.manual_seed(6)  # the loader draws from the key alone
    for step in (7, 2, 3, 3, 0, 8, 4, 4):
        assert rows(again, [step]) == in_order[step : step + 1], step
    assert rows(from_loader(loader(), random.key(1)), range(9)) != in_order


def test_torchs_own_stream_is_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    rows(from_loader(DataLoader(Noisy(), 3, shuffle=True), KEY), range(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_there_and_back_are_the_same_batches():
    ours = data.batches((X, Y), 4, KEY)
    back = from_loader(DataLoader(to_dataset(ours, 5), batch_size=None), KEY)
    assert rows(back, range(5)) == rows(ours, range(5))


def test_a_training_on_a_loader_is_resumed_with_the_same_bits():
    model, optimizer = MLP(4, [6], 5), optim.adam(1e-2)
    step = make_step(grad_fn(model), optimizer)

    def batches():
        return from_loader(DataLoader(Noisy(), 4, shuffle=True), KEY)

    whole, _ = fit(step, init_state(model, optimizer, KEY), batches(), steps=8)
    half, _ = fit(step, init_state(model, optimizer, KEY), batches(), steps=5)
    resumed, _ = fit(step, half, batches(), steps=8)
    assert all(torch.equal(whole.params[name], resumed.params[name]) for name in whole.params)


def test_each_rank_loads_its_own_part_and_all_have_the_gradient_of_the_whole(monkeypatch):
    ranks, model, key = Ranks(2), MLP(4, [6], 5), torch.as_tensor(KEY)
    monkeypatch.setattr(distributed, "_all_reduced", ranks.total)
    params = tree.cast(model.init(KEY)[0], "float64")
    images = TensorDataset(torch.from_numpy(X).double(), torch.from_numpy(Y))

    def part(group: Group, step: int):
        sampler = DistributedSampler(images, group.size, group.rank, shuffle=True, seed=1)
        return from_loader(DataLoader(images, 5, sampler=sampler), KEY)(step)

    def one(step: int, group: Group):
        grad = distributed.data_parallel(grad_fn(model), group, split=False)
        return grad(params, {}, part(group, step), key)[0]

    orders = []
    for step in range(2):  # an epoch is one step of all
        parts = [part(Group(rank, 2), step) for rank in range(2)]
        batch = tuple(torch.cat(each) for each in zip(*parts, strict=True))
        assert sorted(batch[0].tolist()) == sorted(images.tensors[0].tolist())
        orders.append(batch[0].tolist())
        whole, _ = grad_fn(model)(params, {}, batch, None)
        for grads in ranks.run(functools.partial(one, step)):
            for name in params:
                torch.testing.assert_close(grads[name], whole[name], rtol=1e-12, atol=1e-14)
    assert orders[0] != orders[1]  # the sampler is told the epoch


def test_structures_of_inputs_and_their_device():
    def collate(examples):
        x, y = (torch.stack([example[i] for example in examples]) for i in (0, 1))
        return {"image": x, "label": y}

    loader = DataLoader(IMAGES, 4, collate_fn=collate)
    batches = from_loader(
        loader, KEY, to_batch=lambda b: (b["image"], b["label"]), device=torch.device("meta")
    )
    assert [part.device.type for part in batches(0)] == ["meta", "meta"]
    pairs = TensorDataset(torch.ones(4, 2), torch.zeros(4))
    nested = DataLoader(pairs, 2, collate_fn=lambda e: [[torch.ones(2, 1), torch.ones(2)], e[0][1]])
    with pytest.raises(UserError, match=r"from_loader: arrays of \[2, 2, 0\] examples"):
        from_loader(nested, KEY)(0)
    nested = DataLoader(pairs, 2, collate_fn=lambda e: [[torch.ones(2, 1)] * 2, torch.zeros(2)])
    x, _ = from_loader(nested, KEY)(0)
    assert isinstance(x, tuple)


def test_a_stream_takes_the_length_that_is_given():
    loader = DataLoader(Endless(), 4)
    with pytest.raises(UserError, match="has no length, needs steps_per_epoch"):
        from_loader(loader, KEY)
    batches = from_loader(loader, KEY, steps_per_epoch=2)
    assert [batches(i)[1].tolist()[0] for i in range(4)] == [0, 4, 0, 4]
    with pytest.raises(UserError, match="ends after 3 batches of epoch 0, needs 4"):
        from_loader(loader, KEY, steps_per_epoch=4)(3)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(IMAGES, 4, collate_fn=lambda e: {"x": 1}), "yields a dict, needs pairs"),
        (DataLoader(IMAGES, 4, collate_fn=lambda e: [1, 2, 3]), "yields a list, needs pairs"),
        (DataLoader(IMAGES, 4, collate_fn=lambda e: [1, 2]), "the batch holds a int, needs arrays"),
        (
            DataLoader(IMAGES, 4, num_workers=1, persistent_workers=True),
            "persistent_workers: .*needs False",
        ),
        (DataLoader(TensorDataset(torch.ones(0, 2))), "the loader has 0, needs 1 batch"),
    ],
)
def test_loaders_of_which_no_batches_come_are_told(loader, message):
    with pytest.raises(UserError, match=message):
        from_loader(loader, KEY)(0)


def test_what_can_be_read_once_only_is_refused():
    """Else the batch of a step would be another one when it is asked for again."""
    for once in ((batch for batch in [(X, Y)]), zip([X], [Y], strict=True), iter([(X, Y)])):
        with pytest.raises(UserError, match="which can be read once only; needs a DataLoader"):
            from_loader(once, KEY, steps_per_epoch=1)


class Drawing(Dataset):
    """Draw from a generator of its own."""

    def __init__(self):
        self.generator = torch.Generator()

    def __len__(self):
        return 6

    def __getitem__(self, i):
        i = torch.as_tensor(i)
        return torch.randn(i.shape, generator=self.generator), i


class Within(Sampler):
    """Yield the order of a sampler within it."""

    def __init__(self, n: int):
        self.inner = RandomSampler(range(n), generator=torch.Generator().manual_seed(0))

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)


def random_order(n: int = 6) -> RandomSampler:
    return RandomSampler(range(n), generator=torch.Generator().manual_seed(0))


class OfItsClass(Within):
    """Draw from a generator of the class."""

    generator = torch.Generator()

    def __init__(self, n: int):
        self.n = n

    def __iter__(self):
        return iter(torch.randperm(self.n, generator=self.generator).tolist())

    def __len__(self):
        return self.n


DRAWING = {
    "a generator of a class": lambda: DataLoader(Drawing(), 2, sampler=OfItsClass(6)),
    "a sampler of batches": lambda: DataLoader(
        Drawing(), batch_size=None, sampler=BatchSampler(random_order(), 2, False)
    ),
    "a sampler within": lambda: DataLoader(Drawing(), 2, sampler=Within(6)),
    "a dataset": lambda: DataLoader(Drawing(), 2),
    "a part of a dataset": lambda: DataLoader(ConcatDataset([Subset(Drawing(), range(6))]), 2),
    "draws one by one": lambda: DataLoader(
        Drawing(),
        2,
        sampler=RandomSampler(
            range(6), replacement=True, num_samples=6, generator=torch.Generator()
        ),
    ),
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_step_has_one_batch_whatever_draws(name):
    loader = DRAWING[name]()
    batches, alone = (from_loader(of, random.key(0)) for of in (loader, DRAWING[name]()))
    expected = [batches(i) for i in range(6)]
    for i in (4, 1, 5, 0):
        list(loader)  # by somebody else
        for found in (batches(i), alone(i)):
            for part, right in zip(found, expected[i], strict=True):
                assert torch.equal(part, right)
