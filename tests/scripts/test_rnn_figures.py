"""The figures of Part III: they draw what they are given."""

import numpy as np

from scripts.figures import rnn as rnn_figures


def cell(T: int, setting: str = "default") -> dict:
    history = [
        {"step": s, "test_accuracy_0": 0.1 + s / 100, "test_accuracy_1": 0.1} for s in (0, 50)
    ]
    accuracy = {str(n): {"exhaustive": False, "by_seed": [0.6, 0.1]} for n in (T, 2 * T)}
    return {"setting": setting, "T": T, "seeds": [0, 1], "accuracy": accuracy, "history": history}


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_accuracy_over_length():
    axis = rnn_figures.accuracy_over_length([cell(5), cell(6)]).axes[0]
    assert axis.get_xticks().tolist() == [5, 6]
    dots = np.concatenate(
        [part.get_offsets() for part in axis.collections if len(part.get_offsets()) == 2]
    )
    assert sorted(dots[:, 1].tolist()) == [0.1, 0.1, 0.6, 0.6]
    assert axis.lines[0].get_ydata().tolist() == [0.35, 0.35]


def test_learning_curves_hide_the_panels_left_over():
    figure = rnn_figures.learning_curves([cell(5), cell(9)], columns=3)
    assert [axis.axison for axis in figure.axes] == [True, True, False]
    assert figure.axes[0].lines[2].get_ydata().tolist() == [0.1, 0.35]  # after each seed, the mean


def test_heatmap_has_a_number_for_each_cell():
    figure = rnn_figures.heatmap([cell(T, name) for T in (5, 9) for name in ("a", "b")])
    assert texts(figure.axes[0]) == ["0.35 ± 0.35"] * 4  # over n - 1


def test_memory_over_lengths():
    axis = rnn_figures.memory([cell(5)], ["latches"]).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [5, 10]


def test_curves_over_time_and_singular_values():
    groups = {"one": {"before": np.ones(3), "after": np.zeros(3)}, "two": {"before": np.ones(4)}}
    assert len(rnn_figures.over_time(groups, "norm").axes) == 2
    assert rnn_figures.singular_values(groups).axes[0].lines[1].get_ydata().min() == 1e-12


def test_traces():
    points = np.random.default_rng(0).normal(size=(30, 4, 2))
    figure = rnn_figures.traces({"net": (points, np.arange(30) % 10)}, [1, 4])
    assert [axis.get_title() for axis in figure.axes] == ["t = 1", "t = 4"]
