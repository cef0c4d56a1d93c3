"""Canaries for leaks: what a training may not look at is poisoned, and nothing that comes before
the last evaluation changes by a bit.

A part is poisoned by giving it other inputs and other targets throughout. Test images may change
what is said of the test; validation images what is said of the validation; and no more.
"""

import csv
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import safetensors.numpy
import torch

from purenets import TrainState, data, random, torch_nets, tree
from purenets.core.arrays import to_host
from purenets.core.data import palindromes as palindrome_data
from purenets.core.data.images import ImageDataset
from purenets.core.runs import checkpoint
from purenets.torch_nets import images
from scripts import (
    cifar10_cnn,
    cifar10_mlp,
    cifar10_sweep,
    cnn_sweep,
    cnn_train,
    compare_mlps,
    mlp_sweep,
    palindrome_sweep,
    pytorch_train_mlp,
    train_mlp_numpy,
)
from scripts import train as rnn
from scripts.shared import images as image_task
from scripts.shared import mlp as mlp_task
from scripts.shared.result import Result

SMALL = {
    "data": "digits", "image_size": 32, "train_images": 200, "valid_fraction": 0.2,
    "epochs": 2.0, "batch_size": 50, "evaluations": 3, "precision": "float32", "threads": 1,
    "flip": "random", "crop": 2, "cutout": 4, "mixup": True, "label_smoothing": 0.1,
    "ema": 0.5, "views": "mirror", "seed": 3,
}  # fmt: skip
IMAGE_RUNS = {
    "cnn_train": (cnn_train, cnn_train.Config(**SMALL, width=0.03, learning_rate=1e-2)),
    "cifar10_cnn": (
        cifar10_cnn,
        cifar10_cnn.Config(**SMALL | {"flip": "alternating"}, channels=(4, 8, 8)),
    ),
    "cifar10_mlp": (cifar10_mlp, cifar10_mlp.Config(**SMALL, width=8, depth=1)),
    "hardest of small images": (
        cifar10_cnn,
        cifar10_cnn.Config(**SMALL, channels=(4, 8, 8), hardest=0.5, small_size=26),
    ),
    "whitened inputs": (cifar10_mlp, cifar10_mlp.Config(**SMALL, width=8, depth=1, pca=20)),
}
image_runs = pytest.mark.parametrize(
    ("script", "config"), IMAGE_RUNS.values(), ids=list(IMAGE_RUNS)
)


def other_images(part: tuple) -> tuple:
    """Return other images of other classes: the negative of each, lighter, and the next class."""
    x, y = map(np.array, part)
    return (255 - x // 2).astype(np.uint8), (y + 1) % 10


def poisoned_test(found: ImageDataset, config) -> ImageDataset:
    return found._replace(test=other_images(found.test))


def poisoned_valid(found: ImageDataset, config) -> ImageDataset:
    """Return the set with other images where the split of the seed holds them out."""
    x, y = map(np.array, found.train)
    rows, split_key = np.arange(len(y)), random.split(random.key(config.seed), 4)[0]
    _, (valid, _) = data.split((rows, rows), split_key, config.valid_fraction)
    x[valid], y[valid] = other_images((x[valid], y[valid]))
    return found._replace(train=(x, y))


@pytest.fixture
def train_on(monkeypatch) -> Callable:
    """Return the function that trains on a poisoned set, or, with None, on the set as it is."""
    load = images.load

    def train(script, config, poison: Callable | None = None) -> Result:
        found = load(config.data, config.data_dir, config.image_size)
        found = poison(found, config) if poison else found
        monkeypatch.setattr(images, "load", lambda *arguments: found)
        return script.train(config)

    return train


def bits(state: TrainState) -> dict[str, bytes]:
    """Return every leaf of a state as its bytes."""
    return {name: to_host(leaf).tobytes() for name, leaf in tree.flatten(state._asdict()).items()}


def without(rows: list[dict], prefix: str) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith(prefix)} for row in rows]


# --- images ---------------------------------------------------------------------------------------


@image_runs
def test_test_images_change_nothing_but_the_test(script, config, train_on):
    plain, poisoned = train_on(script, config), train_on(script, config, poisoned_test)
    assert bits(plain.state) == bits(poisoned.state)
    assert plain.history == poisoned.history
    assert len(plain.history) == 4
    for name in ("loss", "accuracy", "confusion", "views_accuracy"):
        assert plain.test[name] != poisoned.test[name]  # the poison was there


@image_runs
def test_validation_images_change_nothing_but_the_validation(script, config, train_on):
    plain, poisoned = train_on(script, config), train_on(script, config, poisoned_valid)
    assert bits(plain.state) == bits(poisoned.state)
    assert plain.test == poisoned.test
    assert without(plain.history, "valid_") == without(poisoned.history, "valid_")
    for a, b in zip(plain.history, poisoned.history, strict=True):
        assert a["valid_loss"] != b["valid_loss"]
    x = plain.task.train[0][:10]
    assert torch.equal(plain.task.normalize(x), poisoned.task.normalize(x))


@image_runs
def test_the_test_is_of_the_test_images(script, config, train_on):
    result = train_on(script, config)
    x, y = result.task.test
    params, buffers = result.state.params, result.state.buffers
    with torch.no_grad():
        logits = torch.cat([result.model.apply(params, buffers, part)[0] for part in x.split(500)])
    guesses = logits.argmax(1)
    assert result.test["accuracy"] == pytest.approx(float((guesses == y).double().mean()))
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (y.numpy(), guesses.numpy()), 1)
    assert result.test["confusion"] == counts.tolist()  # true, predicted
    loss = torch.nn.functional.cross_entropy(logits, y)
    assert result.test["loss"] == pytest.approx(float(loss), rel=1e-6)
    held_out = [len(part[1]) for part in (result.task.train, result.task.valid, result.task.test)]
    assert held_out == [200, 288, 359]


@image_runs
def test_the_validation_is_of_the_params_that_are_tested(script, config, train_on):
    """The running mean, with --ema: its accuracy is what the last row has."""
    result = train_on(script, config)
    x, y = result.task.valid
    with torch.no_grad():
        logits, _ = result.model.apply(result.state.params, result.state.buffers, x)
    loss = torch.nn.functional.cross_entropy(logits, y)
    assert result.history[-1]["valid_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_all_of_the_test_images_are_tested(monkeypatch):
    """A net that reads the class from the first pixel makes exactly the mistakes that are planted,
    in each part of the test set."""
    x = torch.zeros(1203, 1, 4, 4, dtype=torch.uint8)
    y = torch.arange(1203) % 3
    x[:, 0, 0, 0] = y
    x[::401, 0, 0, 0] = (y[::401] + 1) % 3  # 3 mistakes
    model = torch_nets.layers.Flatten()._replace(
        apply=lambda params, buffers, x, **options: (
            torch.nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).float(),
            buffers,
        )
    )
    state = TrainState({}, {}, {}, random.key(0), 0)
    none = (x[:0], y[:0])
    task = images.ImageTask(none, none, (x, y), ("a", "b", "c"), lambda x: x)
    found = image_task.tested(cnn_train.Config(data="digits"), model, state, task)
    assert found["accuracy"] == pytest.approx(1200 / 1203)
    assert np.trace(found["confusion"]) == 1200
    assert np.sum(found["confusion"]) == 1203


# --- sweeps of images -----------------------------------------------------------------------------

CLOCK = ("training_seconds", "laps", "machine")  # what differs between any two runs


def kept(rows: list[dict]) -> str:
    """Return what no test image may change of the rows of a sweep."""
    return json.dumps(
        [{k: v for k, v in row.items() if k not in (*CLOCK, "test", "command")} for row in rows]
    )


def sweeps(monkeypatch, out) -> dict[str, Callable[[], list[dict]]]:
    quick = {k: v for k, v in SMALL.items() if k not in ("seed", "threads", "data")}
    setting = {**quick, "learning_rate": 1e-2}
    monkeypatch.setitem(cnn_sweep.SETTINGS, "adam 1e-3", setting)
    for kind, changes in (("cnn", {"channels": (4, 8, 8)}), ("mlp", {"width": 8, "depth": 1})):
        monkeypatch.setitem(cifar10_sweep.VARIANTS, kind, (kind, "digits", {**quick, **changes}))
    shared = {"data": "digits", "seeds": 2, "threads": 1, "out": str(out)}
    return {
        "cnn_sweep": lambda: cnn_sweep.main(
            cnn_sweep.Config(settings="adam 1e-3", width=0.03, **shared)
        ),
        "cifar10_sweep": lambda: cifar10_sweep.main(
            cifar10_sweep.Config(settings="cnn,mlp", **shared)
        ),
    }


@pytest.mark.parametrize("name", ["cnn_sweep", "cifar10_sweep"])
def test_test_images_change_no_row_of_a_sweep_but_its_test(name, tmp_path, monkeypatch):
    load, found = images.load, {}
    for poison in (None, poisoned_test):
        monkeypatch.setattr(
            images, "load", lambda *a, p=poison: p(load(*a), None) if p else load(*a)
        )
        out = tmp_path / ("poisoned" if poison else "plain")
        found[poison] = sweeps(monkeypatch, out)[name]()
    plain, poisoned = found.values()
    assert kept(plain) == kept(poisoned)
    for a, b in zip(plain, poisoned, strict=True):
        assert a["test"]["accuracy"] != b["test"]["accuracy"]


def test_each_column_of_a_sweep_is_that_of_its_images():
    row = {
        "setting": "s",
        "seed": 0,
        "training_seconds": 60.0,
        "history": [{"step": 9, "accuracy": 0.1, "valid_accuracy": 0.2}],
        "valid_views_accuracy": 0.25,
        "test": {"accuracy": 0.3, "views_accuracy": 0.4},
    }
    head, cells = cnn_sweep.table([row]).rows
    assert [text.split(", %")[0] for text in head[2:6]] == [
        *("train", "validation", "test", "test, mean over views")
    ]
    assert cells[2:6] == ["10.00", "20.00", "30.00", "40.00"]
    head, cells = cifar10_sweep.table([row]).rows
    assert [text.split(", %")[0] for text in head[2:6]] == [
        *("validation", "validation, mean over views", "test", "test, mean over views")
    ]
    assert cells[2:6] == ["20.00", "25.00", "30.00", "40.00"]
    head, cells = cifar10_sweep.table([row | {"valid_views_accuracy": None}]).rows
    assert not any("validation, mean" in text for text in head)
    assert cells[2:5] == ["20.00", "30.00", "40.00"]


# --- MLPs -----------------------------------------------------------------------------------------

MLP = {"max_steps": 6, "eval_freq": 2, "optimizer": "adam", "dropout": 0.1, "seed": 5}
MLP_RUNS = {
    "train_mlp_numpy": (train_mlp_numpy, {}),
    "pytorch_train_mlp": (pytorch_train_mlp, {"compile": False}),
}
mlp_runs = pytest.mark.parametrize(("script", "options"), MLP_RUNS.values(), ids=list(MLP_RUNS))


def write_table(path, poisoned_rows=()) -> None:
    """Write a table of 3 features and 3 classes, other numbers and classes in some rows."""
    x = np.random.default_rng(0).normal(size=(90, 3)) * [1, 10, 100]
    y = np.arange(90) % 3
    rows = np.array(poisoned_rows, dtype=int)
    x[rows], y[rows] = 3 * x[rows] + 50, (y[rows] + 1) % 3
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [*map(repr, map(float, row)), k] for row, k in zip(x, y, strict=True)
        )


@mlp_runs
def test_test_rows_of_a_table_change_nothing_but_the_test(script, options, tmp_path):
    """Not its standardization either: the poison is in the file itself."""
    rows, data_key = np.arange(90), random.split(random.key(MLP["seed"]), 4)[0]
    _, (held_out, _) = data.split((rows, rows), random.split(data_key)[1], 0.2)
    results = []
    for name, poison in (("plain.csv", []), ("poisoned.csv", held_out)):
        write_table(tmp_path / name, poison)
        config = script.Config(**MLP, **options, dataset=str(tmp_path / name))
        results.append(script.train(config))
    plain, poisoned = results
    assert bits(plain.state) == bits(poisoned.state)
    assert without(plain.history, "test_") == without(poisoned.history, "test_")
    for a, b in zip(plain.task.train, poisoned.task.train, strict=True):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(plain.history, poisoned.history, strict=True):
        assert a["test_loss"] != b["test_loss"]


@mlp_runs
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_accuracies_of_an_mlp_are_those_of_their_parts(script, options, part):
    result = script.train(script.Config(**MLP, **options))
    x, y = getattr(result.task, part)
    accuracy = float((result.predict(x) == y).mean())
    assert result.history[-1][f"{part}_accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert (len(result.task.train[1]), len(result.task.test[1])) == (800, 200)


def other_points(part: tuple, n_classes: int) -> tuple:
    x, y = part
    return 2 * x + 1, (y + 1) % n_classes


def test_the_test_set_changes_no_row_of_the_comparison_but_its_test(tmp_path, monkeypatch):
    load, found = mlp_task.load_data, {}
    for poison in (False, True):

        def load_data(case, key, poison=poison):
            task = load(case, key)
            test = other_points(task.test, task.n_classes) if poison else task.test
            return task._replace(test=test)

        monkeypatch.setattr(mlp_task, "load_data", load_data)
        config = compare_mlps.Config(
            datasets="moons,digits", seeds=2, max_steps=4, eval_freq=2, compile=False,
            out=str(tmp_path / str(poison)),
        )  # fmt: skip
        found[poison] = compare_mlps.main(config)
    for a, b in zip(found[False], found[True], strict=True):
        (mine,), (other,) = without([a], "test_"), without([b], "test_")
        history, other_history = mine.pop("history", []), other.pop("history", [])
        assert mine == other
        assert without(history, "test_") == without(other_history, "test_")
        assert a["test_loss"] != b["test_loss"]


@pytest.fixture
def params_of_sweeps(monkeypatch) -> list[dict[str, bytes]]:
    """Return the list to which each sweep of rates adds the params that it measures."""
    found, original = [], torch_nets.ensemble_metrics

    def watched(metrics):
        def measure(params, *others):
            found.append({name: leaf.numpy().tobytes() for name, leaf in params.items()})
            return original(metrics)(params, *others)

        return measure

    monkeypatch.setattr(torch_nets, "ensemble_metrics", watched)
    return found


def test_the_sweep_of_rates_sees_no_test_point_and_learns_no_validation_point(
    monkeypatch, params_of_sweeps
):
    load, accuracies = data.load, {}
    for poison in ("none", "test", "validation"):

        def load_data(*arguments, poison=poison):
            task = load(*arguments)
            x, y = map(np.array, task.train)
            fifth, n_classes = len(y) // 5, task.n_classes
            if poison == "validation":
                x[:fifth], y[:fifth] = other_points((x[:fifth], y[:fifth]), n_classes)
            test = other_points(task.test, n_classes) if poison == "test" else task.test
            return task._replace(train=(x, y), test=test)

        monkeypatch.setattr(data, "load", load_data)
        config = mlp_sweep.Config(rates=2, seeds=2, steps=8, compile=False)
        accuracies[poison] = mlp_sweep.train(config).tolist()
    of_none, of_test, of_validation = params_of_sweeps
    assert of_none == of_test == of_validation
    assert accuracies["none"] == accuracies["test"]
    assert accuracies["none"] != accuracies["validation"]


# --- palindromes ----------------------------------------------------------------------------------

RNN = {"num_hidden": 8, "batch_size": 16, "eval_freq": 5, "eval_size": 300, "compile": False}


def poison_evaluation(monkeypatch) -> None:
    """Let every evaluation be of other palindromes, with other last digits."""
    original = palindrome_data.evaluation_batches

    def poisoned(*arguments, **options) -> Iterator[tuple]:
        return ((9 - x, (y + 1) % 10) for x, y in original(*arguments, **options))

    monkeypatch.setattr(palindrome_data, "evaluation_batches", poisoned)


@pytest.mark.parametrize("T", [4, 12])  # all palindromes, and fresh ones
def test_evaluation_palindromes_change_nothing_but_the_evaluation(T, monkeypatch):
    config = rnn.Config(**RNN, input_length=T - 1, train_steps=20)
    plain = rnn.train(config)
    poison_evaluation(monkeypatch)
    poisoned = rnn.train(config)
    assert bits(plain.state) == bits(poisoned.state)
    assert without(plain.history, "test_") == without(poisoned.history, "test_")
    for a, b in zip(plain.history, poisoned.history, strict=True):
        assert a["test_loss"] != b["test_loss"]


def test_evaluation_palindromes_change_no_cell_but_its_accuracy(tmp_path, monkeypatch):
    found = []
    for name in ("plain", "poisoned"):
        options = {"lengths": "5,12", "seeds": 2, "steps": 10, "threads": 1}
        config = palindrome_sweep.Config(**RNN, **options, out=str(tmp_path / name))
        found.append(palindrome_sweep.main(config)["cells"])
        poison_evaluation(monkeypatch)
    for a, b in zip(*found, strict=True):
        assert a.pop("accuracy") != b.pop("accuracy")
        assert without(a.pop("history"), "test_") == without(b.pop("history"), "test_")
        assert a == b
    for T in (5, 12):
        arrays = [
            safetensors.numpy.load_file(tmp_path / name / f"default-T{T}" / checkpoint.NAME)
            for name in ("plain", "poisoned")
        ]
        plain, poisoned = ({k: v.tobytes() for k, v in part.items()} for part in arrays)
        assert plain == poisoned


class Lineage:
    """What every key was made of, and which keys were drawn from in the two parts of a run."""

    def __init__(self, monkeypatch):
        self.parents, self.evaluating = {}, False
        self.drawn = {"training": set(), "evaluation": set()}
        split, fold_in, bits_, evaluate_at = (
            *(random.split, random.fold_in, random.bits),
            rnn.evaluate_at,
        )

        def watched_split(key, n=2):
            children = split(key, n)
            self.note(key, *children)
            return children

        def watched_fold_in(key, number):
            child = fold_in(key, number)
            self.note(key, child)
            return child

        def watched_bits(key, n):
            self.drawn["evaluation" if self.evaluating else "training"].add(name_of(key))
            return bits_(key, n)

        def watched_evaluation(*arguments, **options):
            self.evaluating = True
            try:
                return evaluate_at(*arguments, **options)
            finally:
                self.evaluating = False

        for name, f in (("split", watched_split), ("fold_in", watched_fold_in)):
            monkeypatch.setattr(random, name, f)
        monkeypatch.setattr(random, "bits", watched_bits)
        monkeypatch.setattr(rnn, "evaluate_at", watched_evaluation)

    def note(self, key, *children) -> None:
        for child in children:
            self.parents[name_of(child)] = name_of(key)

    def ancestors(self, part: str) -> set[tuple]:
        """Return the keys that a part draws from, and all that they are made of."""
        found = set()
        for key in self.drawn[part]:
            while key is not None:
                found.add(key)
                key = self.parents.get(key)
        return found


def name_of(key) -> tuple[int, ...]:
    return tuple(np.asarray(key).tolist())


def test_training_cannot_reach_a_key_of_the_evaluation(monkeypatch):
    lineage = Lineage(monkeypatch)
    rnn.train(rnn.Config(**RNN, input_length=11, train_steps=20, seed=4))
    state, training, evaluation = map(name_of, rnn.keys(4))
    trained, evaluated = lineage.ancestors("training"), lineage.ancestors("evaluation")
    assert len(lineage.drawn["training"]) > 20  # params, and a batch for every step
    assert len(lineage.drawn["evaluation"]) == 1  # the same palindromes at each evaluation
    assert evaluation in evaluated
    assert evaluated.isdisjoint({state, training})
    assert trained >= {state, training}
    assert evaluation not in trained
    assert trained & evaluated == trained & {*map(name_of, roots(4))}  # what seed and data are


def roots(seed: int) -> list:
    """Return the keys above those of a run: of the seed, and of all data."""
    key = random.key(seed)
    return [key, random.split(key)[1]]


def test_members_of_a_sweep_are_evaluated_by_a_key_that_none_of_them_trains_with(
    tmp_path, monkeypatch
):
    seen = {"training": set(), "evaluation": set()}
    draw, evaluate_at = palindrome_sweep.ensemble_batches, rnn.evaluate_at

    def watched_batches(member, keys):
        seen["training"] |= set(map(name_of, keys))
        return draw(member, keys)

    def watched_evaluation(metrics, state, key, *others):
        seen["evaluation"].add(name_of(key))
        return evaluate_at(metrics, state, key, *others)

    monkeypatch.setattr(palindrome_sweep, "ensemble_batches", watched_batches)
    monkeypatch.setattr(rnn, "evaluate_at", watched_evaluation)
    options = {"lengths": "12", "seeds": 3, "steps": 2, "threads": 1}
    palindrome_sweep.main(palindrome_sweep.Config(**RNN, **options, out=str(tmp_path)))
    own = [rnn.keys(seed) for seed in range(3)]
    assert seen["training"] == {name_of(keys.training) for keys in own}
    assert seen["evaluation"] == {name_of(own[0].evaluation)}
