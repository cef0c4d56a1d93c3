import numpy as np
import pytest

from purenets import UserError, data, random
from purenets.core.report import plots

HISTORY = [{"step": i, "train_loss": 1 / (i + 1), "test_loss": 1.1 / (i + 1)} for i in range(5)]


def test_curves_draw_every_column_of_every_run():
    figure = plots.curves({"numpy": HISTORY, "torch": HISTORY}, [("train_loss", "test_loss")])
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == [
        "numpy train",
        "numpy test",
        "torch train",
        "torch test",
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 4
    assert np.array_equal(lines[1].get_ydata(), [row["test_loss"] for row in HISTORY])


@pytest.mark.parametrize(
    ("runs", "names", "match"),
    [
        (
            {"adam": HISTORY},
            [["nope"]],
            "no run has a column nope; there are step, test_loss, train_loss",
        ),
        ({"adam": HISTORY}, ["train_loss"], r"names has the text 'train_loss', needs groups"),
        (HISTORY, [["train_loss"]], "runs is a list, needs a dict"),
    ],
)
def test_curves_that_are_not_there_are_refused(runs, names, match):
    with pytest.raises(UserError, match=match):
        plots.curves(runs, names)


@pytest.mark.parametrize("name", ["moons", "digits"])
def test_scatter_shows_class_by_color_and_split_by_fill(name):
    task = data.load(name, random.key(0), n=60)
    _, axes = plots.panels(1, 1)
    plots.scatter(axes[0, 0], task)
    drawn = axes[0, 0].collections
    assert len(drawn) == 2 * task.n_classes
    faces = [tuple(part.get_facecolor()[0][:3]) for part in drawn]
    assert len(set(faces[: task.n_classes])) == min(task.n_classes, len(plots.COLORS))
    assert set(faces[task.n_classes :]) == {(1.0, 1.0, 1.0)}
    assert sum(len(part.get_offsets()) for part in drawn) == len(task.train[1]) + len(task.test[1])


def test_boundary_and_confusion_make_pictures(tmp_path):
    task = data.load("blobs", random.key(0), n=60)
    figure, axes = plots.panels(1, 2)
    plots.boundary(axes[0, 0], lambda x: (x[:, 0] > 0).astype(int) + (x[:, 1] > 0), task)
    plots.confusion(axes[0, 1], np.array([[5, 1], [0, 7]]), ["a", "b"])
    plots.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert [text.get_text() for text in axes[0, 1].texts] == ["5", "1", "7"]


def test_scatter_of_one_feature_lies_on_a_line():
    points = np.linspace(0, 1, 6)[:, None], np.arange(6) % 2
    task = data.prepare(points, random.key(0), 0.5)
    _, axes = plots.panels(1, 1)
    plots.scatter(axes[0, 0], task)
    places = np.concatenate([part.get_offsets() for part in axes[0, 0].collections])
    assert len(places) == 6
    assert not places[:, 1].any()


def test_a_column_that_no_row_has_is_not_in_the_legend():
    rows = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]
    (axis,) = plots.curves({"": rows}, [("loss", "valid_loss")]).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["train"]
