"""The best possible accuracy is that of known classes, and that of many drawn points."""

import numpy as np
import pytest
from sklearn import datasets

from purenets.core.data.toy import CORNER_SD, CORNERS, DATASETS
from scripts.report import part1
from scripts.report.best_possible import CURVES, best_accuracy, best_possible, density


def test_of_four_clusters_it_is_the_closed_form():
    corners = [np.array([corner], dtype=float) for corner in CORNERS]
    assert best_accuracy(corners, CORNER_SD) == pytest.approx(part1.overlap_limit(), abs=1e-5)


def test_of_two_distant_classes_it_is_one_and_of_equal_ones_a_guess():
    far, near = np.array([[0.0, 0.0]]), np.array([[100.0, 0.0]])
    assert best_accuracy([far, near], 1.0) == pytest.approx(1.0, abs=1e-4)
    assert best_accuracy([far, far], 1.0) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "make", "noise", "fixed"),
    [
        ("moons", datasets.make_moons, 0.3, {}),
        ("circles", datasets.make_circles, 0.2, {"factor": 0.5}),
    ],
)
def test_the_densest_class_is_right_so_often_on_drawn_points(name, make, noise, fixed):
    x, y = make(4000, noise=noise, random_state=0, **fixed)
    scores = [
        np.exp(-0.5 * ((x[:, None] - own) ** 2).sum(axis=2) / noise**2).mean(axis=1)
        for own in CURVES[name]()
    ]
    right = float((np.argmax(scores, axis=0) == y).mean())
    assert best_possible(name, noise) == pytest.approx(right, abs=0.015)  # 2 to 3 standard errors


def test_a_density_adds_up_to_one():
    line = np.linspace(-6, 6, 300)
    grid = np.stack([line, line], axis=1)
    cell = (line[1] - line[0]) ** 2
    assert density(CURVES["moons"]()[0], grid, 0.3).sum() * cell == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", sorted(CURVES))
def test_the_noise_that_the_report_names_is_that_of_the_set(name):
    at_its_own, named = DATASETS[name](50, None, 1), DATASETS[name](50, part1.NOISE, 1)
    assert np.array_equal(at_its_own[0], named[0])
