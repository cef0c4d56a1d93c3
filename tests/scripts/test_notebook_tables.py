"""The tables, figures and modes of the notebooks: they say what the rows say."""

import json

import numpy as np
import pytest
import torch

from purenets.core.report.tables import table_of
from scripts import compare_mlps
from scripts.figures import cifar10 as image_figures
from scripts.figures import mlp as mlp_figures
from scripts.figures import rnn as rnn_figures
from scripts.shared import notebook
from scripts.shared.comparison import unpaired
from scripts.shared.mlp import MLPConfig
from scripts.tables import images, mlp, rnn


def image_row(setting: str, seed: int, test: float, held_out: bool = True, **more) -> dict:
    last = {"step": 10, "loss": 0.5, "accuracy": 0.8}
    if held_out:
        last |= {"valid_loss": 0.7, "valid_accuracy": test - 0.01}
    confusion = [[40, 10, 0], [2, 48, 0], [0, 0, 50]]
    found = {"loss": 0.6, "accuracy": test, "confusion": confusion, "classes": ["a", "b", "c"]}
    first = {"step": 0} | {name: 1.0 for name in last if name.startswith("valid")}
    return {
        "setting": setting,
        "seed": seed,
        "training_seconds": 120.0,
        "test": found | more,
        "history": [first, last],
        "command": "python scripts/cnn_train.py",
    }


ROWS = [
    *(image_row("base", i, test) for i, test in enumerate((0.70, 0.72, 0.74))),
    *(image_row("other", i, test) for i, test in enumerate((0.90, 0.92))),
    image_row("single", 0, 0.99),
]


def test_settings_have_no_empty_column_and_each_its_n():
    head, *body = images.settings(ROWS).rows
    assert head == ("setting", "steps", "training, %", "validation, %", "test, %", "n")
    assert [(row[0], row[4], row[-1]) for row in body] == [
        ("base", "72.00 ± 2.00", "3"),
        ("other", "91.00 ± 1.41", "2"),
        ("single", "99.00", "1"),
    ]
    none_held_out = [image_row("all", 0, 0.8, held_out=False)]
    assert "validation, %" not in images.settings(none_held_out).rows[0]
    assert (
        "test over views, %"
        in images.settings([image_row("v", 0, 0.8, views_accuracy=0.9)]).rows[0]
    )


def test_differences_have_an_interval_and_one_seed_tells_nothing():
    head, other, single = images.against(ROWS, "base").rows
    assert head[-2:] == ["95% interval", "n of both"]
    reach = unpaired([90, 92], [70, 72, 74]).reach
    assert other == ["other", "+19.00", f"{19 - reach:+.2f} to {19 + reach:+.2f}", "2, 3"]
    assert single == ["single", "+27.00", "", "1, 3"]


def test_the_share_of_a_confusion_is_of_all_mistakes():
    (first, *_) = images.pairs_of(ROWS[:1])
    assert first == (1.0, "b", "a", 12)
    _, row = images.confused({"net": ROWS[:2]}, 1).rows
    assert row == ["net", "b and a", "100.0%", "24"]


def test_the_outcome_names_each_part_that_was_measured():
    parts = [row[0] for row in images.outcome(ROWS[:3]).rows]
    assert parts == ["", "training, mean since the row before", "validation", "test"]
    untested = [{**image_row("x", 0, 0.5, held_out=False), "test": {}}]
    assert [row[0] for row in images.outcome(untested).rows[1:]] == [parts[1]]


def test_parameters_are_summed_by_kind():
    params = {
        "conv1.weight": torch.zeros(2, 3),
        "conv2.weight": torch.zeros(4),
        "fc.bias": torch.ones(1),
    }
    assert images.parameters(params).rows[1:] == [["conv", "10"], ["fc", "1"], ["all", "11"]]


def test_each_setting_has_its_two_panels_and_says_what_is_missing():
    rows = [*ROWS, image_row("all", 0, 0.9, held_out=False)]
    figure = image_figures.learning_curves(rows, pairs=2)
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles[::2] == [
        "base (n = 3)",
        "other (n = 2)",
        "single (n = 1)",
        "all (n = 1, none held out)",
    ]
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert {"training", "validation", "test, at the end"} <= set(labels)
    assert [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "*"] == [
        [10]
    ] * 3


def mlp_row(name: str, backend: str, seed: int = 0, **more) -> dict:
    case = MLPConfig(dataset=name, seed=seed).to_dict()
    shared = {"train_accuracy": 0.9, "test_accuracy": 0.8, "largest_difference": 1e-6}
    return {"backend": backend, "case": case, **shared, **more}


def test_sets_come_in_one_order_and_unknown_ones_last():
    names = ["digits", "blobs", "own.csv", "moons"]
    rows = [mlp_row(name, backend) for name in names for backend in ("torch", "numpy")]
    expected = ["moons", "blobs", "digits", "own.csv"]
    for table in (mlp.compared(rows, "dataset"), compare_mlps.table(rows)):
        assert [row[0] for row in table.rows[1:]] == [name for name in expected for _ in range(2)]


def test_the_curves_are_those_of_every_set_and_both_networks():
    columns = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    history = [{"step": i, **dict.fromkeys(columns, float(i))} for i in range(3)]
    rows = [
        mlp_row(n, b, history=history) for n in ("circles", "moons") for b in ("numpy", "torch")
    ]
    groups = mlp_figures.kept_histories([*rows, mlp_row("blobs", "numpy", seed=1)])
    assert list(groups) == ["moons", "circles"]
    figure = mlp_figures.curves_of(groups)
    assert [axis.get_title() for axis in figure.axes] == ["moons", "moons", "circles", "circles"]
    assert all(len(axis.lines) == 4 for axis in figure.axes)


def test_the_points_drawn_are_the_points_trained_on():
    case = MLPConfig(dataset="moons", n_samples=60, max_steps=1, eval_freq=1)
    pair = compare_mlps.train_both(case)
    (axis,) = mlp_figures.points({"moons": pair}, columns=1).axes
    drawn = np.concatenate([part.get_offsets() for part in axis.collections])
    task = pair["torch"].task
    trained = np.concatenate([task.train[0], task.test[0]])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, trained.astype(float).tolist()))


def cell(T: int, by_seed: list[float]) -> dict:
    history = [
        {
            "step": 0,
            "test_loss_0": 2.3,
            "test_loss_1": 2.3,
            "test_accuracy_0": 0.1,
            "test_accuracy_1": 1.0,
        },
        {"step": 5, "loss": 1.0, "accuracy": 0.5, "test_loss_0": 1.0, "test_loss_1": 1.0}
        | {"test_accuracy_0": by_seed[0], "test_accuracy_1": by_seed[1]},
    ]
    accuracy = {str(T): {"exhaustive": T < 8, "by_seed": by_seed}}
    return {"setting": "default", "T": T, "seeds": [0, 1], "accuracy": accuracy, "history": history}


def test_lengths_count_seeds():
    _, perfect, failing = rnn.lengths([cell(5, [1.0, 1.0]), cell(20, [0.305, 0.1])]).rows
    assert perfect[1] == "all palindromes" and perfect[4:] == ["2", "0", "0 of 0", "2"]
    assert failing[1] == "fresh palindromes" and failing[4:] == ["0", "1", "2 of 2", "2"]
    assert failing[3] == "65.2 ± 49.1"  # the best of each seed: 0.305 and 1


def test_both_curves_show_training_beside_evaluation():
    figure = rnn_figures.both_curves(rnn_figures.shown([cell(5, [1.0, 1.0]), cell(7, [1.0, 1.0])]))
    assert [axis.get_title() for axis in figure.axes] == ["T = 5 (n = 2)", ""]
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert {"evaluation", "training", "chance"} <= set(labels)
    training = next(line for line in figure.axes[1].lines if line.get_label() == "training")
    assert (list(training.get_xdata()), list(training.get_ydata())) == ([5], [0.5])


def test_mistakes_by_distance():
    counts = np.zeros((10, 10), dtype=int)
    counts[3, 3], counts[3, 4], counts[3, 6] = 5, 3, 1
    rows = rnn.mistakes(counts).rows
    assert rows[0][1] == "share of the 4 mistakes among 9"
    assert [row[1] for row in rows[1:4]] == ["75.0%", "0.0%", "25.0%"]


@pytest.mark.parametrize("quick", [False, True])
def test_the_mode_says_what_it_is(quick, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    monkeypatch.setenv("PURENETS_QUICK", "1" if quick else "")
    mode = notebook.start()
    assert mode == (quick, False) and mode.steps(1000) == (40 if quick else 1000)
    assert capsys.readouterr().out.startswith("Quick mode (PURENETS" if quick else "Full mode")
    assert notebook.start(images=True) == (True, True)
    assert "digits" in capsys.readouterr().out


def test_only_what_can_be_shown_is_shown():
    notebook.show(table_of(["a"], [[1]]), "text")
    with pytest.raises(TypeError, match="show: a dict"):
        notebook.show({})


@pytest.mark.parametrize(
    "path", sorted((notebook.ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_no_cell_of_a_notebook_builds_markdown_and_all_are_executed(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for one in code:
        text = "".join(one["source"])
        assert "Markdown" not in text and "to_markdown" not in text
        assert one["execution_count"], text
        own = [
            line
            for line in text.splitlines()
            if line and not line.startswith(("from", "import", "%"))
        ]
        assert len(own) <= 15, text
