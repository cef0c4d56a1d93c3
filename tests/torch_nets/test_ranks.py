"""What the ranks of a training do with their parts of a batch, in threads of one process: only the
sum over the ranks is another one than in `test_distributed.py`, where they are processes."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from purenets import random, tree
from purenets.torch_nets import MLP, distributed, grad_fn, layers, metrics_fn
from purenets.torch_nets.distributed import Group

KEY = torch.as_tensor(random.key(0))
SIZE = 3


class Ranks:
    """Threads that stand for ranks and sum what each of them brings."""

    def __init__(self, size: int):
        self.size, self.place = size, threading.local()
        self.brought, self.meeting = [None] * size, threading.Barrier(size, timeout=30)

    def total(self, x: torch.Tensor) -> torch.Tensor:
        self.brought[self.place.rank] = x.detach().clone()
        self.meeting.wait()
        result = sum(self.brought[1:], self.brought[0]).clone()
        self.meeting.wait()  # nobody brings the next one before all have this one
        return result

    def run(self, f: Callable[[Group], object]) -> list:
        """Return what `f` gives on each rank."""

        def one(rank: int):
            self.place.rank = rank
            return f(Group(rank, self.size))

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(one, range(self.size)))


@pytest.fixture
def ranks(monkeypatch) -> Ranks:
    group = Ranks(SIZE)
    monkeypatch.setattr(distributed, "_all_reduced", group.total)
    return group


def batch_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random.normal(KEY, (n, 4), "float64"), torch.arange(n) % 5


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 6, 20, 21])
def test_parts_of_a_batch_are_a_partition(n, size):
    parts = [range(n)[Group(rank, size).part(n)] for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_means_over_ranks_are_means(ranks):
    def values(rank: int) -> dict:
        small, wide = torch.tensor(float(rank)), torch.arange(6, dtype=torch.float64) * rank
        return {"a": {"loss": small}, "b": wide.reshape(2, 3), "c": small.double() + 1}

    for found in ranks.run(lambda group: distributed.mean_over_ranks(values(group.rank), group)):
        assert float(found["a"]["loss"]) == 1.0  # of 0, 1, 2
        assert torch.equal(found["b"], torch.arange(6, dtype=torch.float64).reshape(2, 3))
        assert (found["b"].dtype, float(found["c"])) == (torch.float64, 2.0)


def test_gradients_of_all_ranks_are_that_of_the_whole_batch(ranks):
    model = MLP(4, [6], 5)
    params, batch = tree.cast(model.init(KEY)[0], "float64"), batch_of(12)
    whole, (_, metrics) = grad_fn(model)(params, {}, batch, None)

    def one(group):
        return distributed.data_parallel(grad_fn(model), group)(params, {}, batch, KEY)

    for grads, (_, found) in ranks.run(one):
        for name in params:
            torch.testing.assert_close(grads[name], whole[name], rtol=1e-12, atol=1e-14)
        assert {k: float(v) for k, v in found.items()} == pytest.approx(
            {k: float(v) for k, v in metrics.items()}, rel=1e-6
        )


def test_each_rank_draws_by_its_own_key(ranks):
    seen = {}

    def note(group, params, buffers, batch, key):
        seen[group.rank] = tuple(key.tolist())
        return {"w": torch.zeros(1)}, (buffers, {"loss": torch.zeros(())})

    ranks.run(
        lambda group: distributed.data_parallel(functools.partial(note, group), group)(
            {}, {}, batch_of(6), KEY
        )
    )
    assert len(set(seen.values())) == SIZE
    assert tuple(KEY.tolist()) not in seen.values()


@pytest.mark.parametrize("n", [3, 4, 7, 8])
def test_metrics_of_parts_are_weighed_by_their_size(ranks, n):
    model = MLP(4, [6], 5)
    params, batch = tree.cast(model.init(KEY)[0], "float64"), batch_of(n)
    whole = metrics_fn(model)(params, {}, batch)

    def one(group):
        return distributed.parallel_metrics(metrics_fn(model), group)(params, {}, batch)

    for found in ranks.run(one):
        assert float(found["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-12)
        assert float(found["accuracy"]) == pytest.approx(float(whole["accuracy"]), abs=1e-6)


def test_fewer_examples_than_ranks_are_evaluated_by_all():
    def mean(params, buffers, batch):
        return {"loss": batch[0].mean()}

    x, y = batch_of(2)
    found = distributed.parallel_metrics(mean, Group(2, SIZE))({}, {}, (x, y))
    assert torch.equal(found["loss"], x.mean())


def test_batch_norm_is_that_of_the_whole_batch(ranks):
    x = random.normal(KEY, (9, 2, 3, 3), "float64")
    weights = {"weight": torch.tensor([2.0, 3.0]).double(), "bias": torch.ones(2).double()}
    slopes = random.normal(random.fold_in(KEY, 1), x.shape, "float64")

    def run(norm, part: slice):
        leaf = x[part].clone().requires_grad_()
        y, buffers = norm.apply(weights, norm.init(KEY)[1], leaf, train=True)
        return y, buffers, torch.autograd.grad((y * slopes[part]).sum(), leaf)[0]

    y, buffers, slope = run(layers.BatchNorm(2), slice(None))
    shared = layers.BatchNorm(2, total=distributed.total)
    found = ranks.run(lambda group: run(shared, group.part(9)))
    torch.testing.assert_close(torch.cat([part[0] for part in found]), y)
    torch.testing.assert_close(torch.cat([part[2] for part in found]), slope)
    for name, leaf in buffers.items():
        assert all(np.allclose(part[1][name], leaf) for part in found), name
