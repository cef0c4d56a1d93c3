"""Shards: any number of processes computes the same bits."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from purenets import UserError, evaluate, init_state, optim, random, tree
from purenets.core.metrics import r2
from purenets.core.sam import sam
from purenets.torch_nets import (
    CNN,
    MLP,
    augment,
    distributed,
    grad_fn,
    layers,
    losses,
    metrics_fn,
    shards,
)
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.distributed import Group
from purenets.torch_nets.ensemble import per_member_grad_fn
from scripts import cnn_train, pytorch_train_mlp, train
from scripts.shared import training
from tests.torch_nets import forked_ranks

KEY = torch.as_tensor(random.key(0))
OF_THE_CLOCK = ("config.json", "seconds.json")  # and of how many processes there were
CASES = {
    "pytorch_train_mlp": "--optimizer adam --dropout 0.1 --batch_size 160 --max_steps 5 "
    "--eval_freq 1 --no-compile",
    "cnn_train": "--data digits --width 0.0625 --batch_size 32 --eval_freq 5 --max_steps 25 "
    "--flip random --crop 4 --ema 0.9 --optimizer adamw --weight_decay 1e-2 --schedule cosine "
    "--precision float32",
    "train": "--input_length 4 --num_hidden 16 --batch_size 16 --eval_freq 5 --eval_size 200 "
    "--train_steps 25 --no-compile",
}


# --- scripts, in processes ------------------------------------------------------------------------


WHOLE = [[1, 0]]  # one process to the end
# four, killed in their 13th step, after the checkpoint of step 10; one, in step 18; two to the end
KILLED = [[4, 13], [1, 8], [2, 0]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return the folder with what each script leaves, whole or killed and gone on with."""
    place = tmp_path_factory.mktemp("shards")
    jobs = [
        (script, f"{flags} --shards 4 --out {place / script / name}", legs)
        for script, flags in CASES.items()
        for name, legs in {"whole": WHOLE, "killed": KILLED}.items()
    ]
    ends, messages = forked_ranks.run(jobs)
    assert "it may not end with the same bits" not in messages  # with shards it does
    assert ends == [[False], [True, True, False]] * len(CASES)
    return place


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what the run left: checkpoints, history, results, figures."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in OF_THE_CLOCK}


@pytest.mark.parametrize("script", CASES)
def test_killed_and_resumed_by_other_numbers_of_processes_all_files_are_the_same(script, trained):
    whole, killed = trained / script / "whole", trained / script / "killed"
    one, several = files_of(whole), files_of(killed)
    assert {"checkpoint.safetensors", "checkpoint.json", "history.csv"} <= one.keys()
    assert one.keys() == several.keys()
    assert [name for name in one if one[name] != several[name]] == []
    config = json.loads((killed / "config.json").read_text())
    assert [entry["processes"] for entry in config["commands"]] == [4, 1, 2]


@pytest.mark.parametrize("script", [cnn_train, pytorch_train_mlp, train])
def test_shards_that_the_processes_cannot_share_are_named(script, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--shards 3: needs a multiple of the 2 processes"):
        script.train(script.Config(shards=3))


def test_the_number_of_threads_is_fixed_with_shards():
    assert cnn_train.Config(shards=4).threads == 1
    assert cnn_train.Config(shards=4, threads=2).threads == 2
    assert cnn_train.Config().threads == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": True}, "--compile: not with --shards; leave it out"),
        ({"hardest": 0.5}, "--hardest: not with --shards; leave it out"),
        ({"batch_size": 30}, "--batch_size 30: needs a multiple of the 4 shards"),
    ],
)
def test_what_shards_exclude_is_named(options, message):
    config = cnn_train.Config(data="digits", shards=4, **options)
    with pytest.raises(UserError, match=message):
        training.train_as(config, cnn_train.RECIPE, torch.device("cpu"), Group(shards=4))


# --- functions ------------------------------------------------------------------------------------


def batch_of(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random.normal(KEY, (n, 4), "float64"), torch.arange(n) % 5


class Exchange:
    """What ranks that run one after the other gather: each brings its vectors, and a second pass
    sees those of all."""

    def __init__(self, size: int):
        self.size, self.brought = size, [[] for _ in range(size)]

    def run(self, f) -> list:
        """Return `f(group, gather)` of each rank."""
        for rank in range(self.size):
            bring = self.brought[rank].append
            f(rank, lambda x, bring=bring: [bring(x) or x] * self.size)
        return [f(rank, self._all_in_turn()) for rank in range(self.size)]

    def _all_in_turn(self):
        rounds = zip(*self.brought, strict=True)
        return lambda x: next(rounds)


def in_ranks(size: int, make) -> list:
    """Return `make(own, gather)` of each of `size` ranks, of 4 shards."""
    return Exchange(size).run(lambda rank, gather: make(range(rank, 4, size), gather))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradient_is_that_of_the_whole_batch_and_the_same_bits_on_each_rank(size):
    model, batch = MLP(4, [6], 5), batch_of(12)
    params = tree.cast(model.init(KEY)[0], "float64")
    whole, (_, metrics) = grad_fn(model)(params, {}, batch, None)
    alone, (_, mean) = shards.sharded_grad_fn(grad_fn(model), 4, range(4))(params, {}, batch, None)

    def one(own, gather):
        return shards.sharded_grad_fn(grad_fn(model), 4, own, gather)(params, {}, batch, None)

    for grads, (_, found) in in_ranks(size, one):
        for name in params:
            torch.testing.assert_close(grads[name], whole[name], rtol=1e-12, atol=1e-14)
            assert torch.equal(grads[name], alone[name])
        assert float(found["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-12)
        assert all(torch.equal(found[name], mean[name]) for name in mean)


def test_sums_are_taken_in_the_order_of_the_shards():
    values = [torch.tensor([v]) for v in (1e8, 1.0, -1e8, 1.0)]  # float32: each order another sum
    expected = (((values[0] + values[1]) + values[2]) + values[3]) / 4
    for size in (1, 2, 4):

        def one(own, gather):
            return shards.mean_in_order(({"a": values[s]} for s in own), 4, gather)

        assert all(torch.equal(found["a"], expected) for found in in_ranks(size, one))
    assert float(expected) != float(sum(values[::-1], torch.zeros(1)) / 4)


def test_half_precision_is_summed_in_float32_and_integers_are_the_first():
    values = [{"a": torch.tensor([v]).half(), "n": torch.tensor(v)} for v in (2048, 1, 1, 1)]
    found = shards.mean_in_order(values, 4, shards.alone)
    assert found["a"].dtype == torch.float16
    assert float(found["a"]) == float(torch.tensor(2051 / 4).half()) > 512
    assert torch.equal(found["n"], torch.tensor(2048))


def test_batch_norm_has_the_statistics_of_its_shard_and_running_ones_are_means():
    norm, x = layers.BatchNorm(2), random.normal(KEY, (8, 2, 3, 3))
    params, buffers = norm.init(KEY)

    def grad(params, buffers, batch, key):
        y, new = norm.apply(params, buffers, batch[0], train=True)
        return {"w": y.sum()}, (new, {"loss": y.mean()})

    _, (new, _) = shards.sharded_grad_fn(grad, 4, range(4))(
        params, buffers, (x, torch.zeros(8)), None
    )
    parts = [norm.apply(params, buffers, part, train=True)[1] for part in x.split(2)]
    assert torch.equal(new["num_batches_tracked"], parts[0]["num_batches_tracked"])
    for name in ("running_mean", "running_var"):
        mean = torch.stack([part[name] for part in parts]).mean(0)
        torch.testing.assert_close(new[name], mean, rtol=1e-6, atol=1e-7)


def test_buffers_that_do_not_move_keep_their_bits():
    values = random.normal(KEY, (50,), "float32")
    buffers = {"filters": values, "mask": torch.tensor([0.0, -torch.inf]), "n": torch.tensor(7)}

    def grad(params, buffers, batch, key):
        return {"w": torch.zeros(1)}, ({k: v.clone() for k, v in buffers.items()}, {})

    x, y = batch_of(9)  # the mean of three equal numbers, x + x + x over 3, may be another one
    _, (new, _) = shards.sharded_grad_fn(grad, 3, range(3))({}, buffers, (x, y), None)
    assert all(torch.equal(new[name], buffers[name]) for name in buffers)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_buffers_that_leave_infinity_or_a_sentinel_are_means_of_their_new_values(parts):
    x = torch.tensor([2.5, -1.25, 0.5, 3.0])
    buffers = {"lo": torch.tensor(torch.inf), "big": torch.tensor(-1e30), "none": torch.nan * x[:2]}

    def grad(params, buffers, batch, key):
        lo, big = torch.minimum(buffers["lo"], x.min()), torch.maximum(buffers["big"], x.max())
        new = {"lo": lo - batch[0].mean(), "big": big, "none": batch[0][:1].expand(2)}
        return {"w": torch.zeros(1)}, (new, {})

    sharded = shards.sharded_grad_fn(grad, parts, range(parts))
    _, (new, _) = sharded({}, buffers, (x, torch.zeros(4)), None)
    assert new["lo"] == x.min() - x.mean()
    assert new["big"] == 3.0
    assert torch.equal(new["none"], x[:: 4 // parts].mean().expand(2))


def test_each_shard_draws_by_its_own_key_whoever_computes_it():
    def keys(own, gather) -> list:
        seen = []

        def grad(params, buffers, batch, key):
            seen.append(tuple(key.tolist()))
            return {"w": torch.zeros(1)}, (buffers, {"loss": torch.zeros(())})

        shards.sharded_grad_fn(grad, 4, own, gather)({}, {}, batch_of(8), KEY)
        return seen

    alone = keys(range(4), shards.alone)
    assert len({*alone, tuple(KEY.tolist())}) == 5
    assert in_ranks(2, keys) == [alone[::2], alone[1::2]]


@pytest.mark.parametrize("n", [3, 4, 7, 8])
def test_metrics_are_those_of_the_whole_batch(n):
    model, batch = MLP(4, [6], 5), batch_of(n)
    params = tree.cast(model.init(KEY)[0], "float64")
    whole = metrics_fn(model)(params, {}, batch)

    def one(own, gather):
        return shards.sharded_metrics(metrics_fn(model), 4, own, gather)(params, {}, batch)

    for found in in_ranks(1, one) + (in_ranks(2, one) if n >= 4 else []):
        assert float(found["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-12)
        assert float(found["accuracy"]) == pytest.approx(float(whole["accuracy"]), abs=1e-6)


def test_inputs_in_a_dict_are_cut_too():
    batch = {"a": torch.arange(8), "b": (torch.arange(8) * 2,)}, torch.arange(8)
    x, y = shards.shard_of(batch, 1, 4)
    assert [x["a"].tolist(), x["b"][0].tolist(), y.tolist()] == [[2, 3], [4, 6], [2, 3]]


def test_groups_with_shards_take_them():
    model, batch, group = MLP(4, [6], 5), batch_of(8), Group(shards=4)
    params = tree.cast(model.init(KEY)[0], "float64")
    expected, _ = shards.sharded_grad_fn(grad_fn(model), 4, range(4))(params, {}, batch, None)
    grads, _ = distributed.data_parallel(grad_fn(model), group)(params, {}, batch, None)
    assert all(torch.equal(grads[name], expected[name]) for name in grads)
    assert list(Group(1, 2, 6).own_shards) == [1, 3, 5]
    with pytest.raises(UserError, match="split=False: not with shards"):
        distributed.data_parallel(grad_fn(model), group, split=False)


def test_metrics_that_are_no_means_are_taken_of_the_whole_batch():
    model, (x, y) = MLP(4, [6], 5), batch_of(8)
    params = tree.cast(model.init(KEY)[0], "float64")
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    ignored = torch.where(torch.arange(8) < 3, -100, y)
    for loss, targets in (
        (torch.nn.CrossEntropyLoss(weight=weight), y),
        (torch.nn.functional.cross_entropy, ignored),
    ):
        metrics = metrics_fn(model, loss)
        right = metrics(params, {}, (x, targets))
        for group in (Group(0, 2), Group(shards=4)):
            parallel = distributed.parallel_metrics(metrics, group)
            assert parallel(params, {}, (x, targets)) == right


def test_a_step_of_shards_is_one_of_the_whole_batch():
    """A net without BatchNorm or draws: the same params within rounding."""
    from purenets import init_state, make_step

    model, optimizer = MLP(4, [6], 5), optim.adam(1e-2)
    params = {}
    for group in (Group(), Group(shards=4)):
        state = init_state(model, optimizer, KEY)
        step = make_step(distributed.data_parallel(grad_fn(model), group), optimizer)
        for i in range(5):
            state, _ = step(
                state,
                tuple(
                    part.float() if part.is_floating_point() else part
                    for part in batch_of(8 + 4 * i)
                ),
            )
        params[group.shards] = state.params
    for name in params[0]:
        assert np.allclose(params[0][name], params[4][name], rtol=1e-5, atol=1e-6), name


def test_a_cnn_keeps_the_names_and_dtypes_of_its_buffers():
    model = CNN(1, 5, width=1 / 16)
    params, buffers = model.init(KEY)
    x, y = random.normal(KEY, (8, 1, 32, 32)), torch.arange(8) % 5
    grads, (new, _) = shards.sharded_grad_fn(grad_fn(model), 4, range(4))(
        params, buffers, (x, y), None
    )
    for before, after in ((params, grads), (buffers, new)):
        assert list(before) == list(after)
        assert all(before[name].dtype == after[name].dtype for name in before)
        assert all(before[name].shape == after[name].shape for name in before)


@pytest.mark.parametrize(
    ("loss", "targets", "names"),
    [
        (torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0])), [0, 1, 1, 0], "loss"),
        (torch.nn.CrossEntropyLoss(reduction="sum"), [0, 1, 1, 0], "loss"),
        (torch.nn.CrossEntropyLoss(), [0, -100, 1, 0], "loss, accuracy"),
    ],
)
def test_a_loss_whose_parts_do_not_average_to_it_is_refused(loss, targets, names):
    model = layers.Linear(3, 2)
    params, _ = model.init(torch.as_tensor(random.key(0)))
    batch = torch.eye(4, 3), torch.tensor(targets)
    grad = grad_fn(model, loss)
    with pytest.raises(UserError, match=rf"^sharded_grad_fn: {names} of the batch is not the mean"):
        shards.sharded_grad_fn(grad, 2, range(2))(params, {}, batch, None)
    with pytest.raises(UserError, match=rf"^data_parallel: {names} of the batch is not the mean"):
        distributed.data_parallel(grad, Group(0, 2))(params, {}, batch, None)


WRAPPED = {
    "with_input_transform": lambda grad: augment.with_input_transform(grad, lambda x: x),
    "augmented": lambda grad: augment.augmented(grad, augment.chain()),
    "mixup": lambda grad: augment.mixup(grad, n_classes=2),
    "sam": lambda grad: sam(grad, 0.1),
    "per_member_grad_fn": lambda grad: per_member_grad_fn(grad, 1),
    "partial": lambda grad: functools.partial(grad),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_gradient_is_refused_like_its_own(name):
    grad = WRAPPED[name](grad_fn(MLP(3, [], 2), torch.nn.CrossEntropyLoss(reduction="sum")))
    params, _ = MLP(3, [], 2).init(KEY)
    params = tree.prefixed(params, "0.") if name == "per_member_grad_fn" else params
    batch = torch.eye(4, 3), torch.tensor([0, 1, 1, 0])
    grad(params, {}, batch, KEY)
    with pytest.raises(UserError, match=r"^sharded_grad_fn: loss of the batch is not the mean"):
        shards.sharded_grad_fn(grad, 2, range(2))(params, {}, batch, KEY)


@pytest.mark.parametrize(
    ("noise", "batch_size", "what"), [(1.0, None, "noise"), (0.0, 4, "batch_size")]
)
def test_private_gradients_of_parts_are_refused(noise, batch_size, what):
    """Each part would have noise of its own, and be divided by the size of the whole batch."""
    model = layers.Linear(3, 2)
    params, _ = model.init(KEY)
    batch = torch.eye(4, 3), torch.tensor([0, 1, 1, 0])
    plain = dp_grad_fn(model, 1.0, 0.0)
    found, _ = shards.sharded_grad_fn(plain, 2, range(2))(params, {}, batch, KEY)
    torch.testing.assert_close(found, plain(params, {}, batch, KEY)[0])
    grad = dp_grad_fn(model, 1.0, noise, batch_size=batch_size)
    with pytest.raises(UserError, match=f"a private gradient with {what} of the batch is not the"):
        shards.sharded_grad_fn(grad, 2, range(2))(params, {}, batch, KEY)


@pytest.mark.parametrize("group", [Group(0, 2), Group(shards=2)])
def test_parts_of_a_set_have_no_r2_in_several_processes_either(group):
    measure = metrics_fn(MLP(1, [], 1), losses.mse, {"r2": r2})
    state = init_state(MLP(1, [], 1), optim.sgd(0.1), KEY)
    data = torch.arange(4.0)[:, None], torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    parallel = distributed.parallel_metrics(measure, group)
    with pytest.raises(UserError, match="evaluate: r2 on 4 examples is not the mean of its values"):
        evaluate(parallel, state, data, batch_size=2)
