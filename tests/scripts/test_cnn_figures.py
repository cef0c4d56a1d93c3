"""The figures of Part II: they draw what they are given."""

import numpy as np
import pytest
import torch

from purenets import random
from purenets.torch_nets import layers
from scripts.figures import cnn as cnn_figures

DRAW = np.random.default_rng(0)


def shown(figure) -> list[np.ndarray]:
    """The pixels of each image of a figure, as matplotlib holds them."""
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_a_grid_shows_color_images_channels_last_and_gray_ones_without_channels(convert):
    images = DRAW.integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    captions = list("abcde")
    figure = cnn_figures.grid(convert(images), captions, 2)
    assert [axis.get_title() for axis in figure.axes] == [*captions, ""]
    for pixels, image in zip(shown(figure), images, strict=True):
        assert np.array_equal(pixels, np.stack(list(image), axis=-1))
    gray = cnn_figures.grid(convert(images[:, :1]), captions, 2)
    for pixels, image in zip(shown(gray), images, strict=True):
        assert np.array_equal(pixels, image[0])


def test_augmentations_are_a_row_for_each_kind():
    images = DRAW.integers(0, 256, (3, 3, 12, 12), dtype=np.uint8)
    pixels = shown(cnn_figures.augmentations(images, random.key(0), 3))
    assert len(pixels) == 6 * 3
    for i, image in enumerate(images):
        original = np.stack(list(image), axis=-1)
        assert np.array_equal(pixels[i], original)
        mirrored = pixels[3 + i]  # the second row: flipped or not
        assert np.array_equal(mirrored, original) or np.array_equal(mirrored, original[:, ::-1])


def test_each_filter_is_scaled_to_its_own_range():
    weight = DRAW.normal(size=(4, 3, 2, 2)) * np.array([1e-3, 1, 10, 100])[:, None, None, None]
    for pixels, one in zip(shown(cnn_figures.filters(weight)), weight, strict=True):
        assert pixels.shape == (2, 2, 3)
        assert pixels.min() == 0 and pixels.max() == 255
        brightest = np.unravel_index(one.argmax(), one.shape)
        assert pixels[brightest[1], brightest[2], brightest[0]] == 255


def test_feature_maps_are_those_with_the_largest_activation():
    net = {"conv1": layers.Conv(1, 6, padding=1), "relu1": layers.ReLU()}
    params, buffers = layers.serial(**net).init(torch.as_tensor(random.key(0)))
    x = torch.as_tensor(DRAW.normal(size=(1, 1, 5, 7)).astype(np.float32))
    maps = layers.serial(**net).apply(params, buffers, x)[0][0].numpy()
    order = sorted(range(6), key=lambda i: -maps[i].max())
    figure = cnn_figures.feature_maps(net, params, buffers, x, ["relu1"], 3)
    for pixels, i in zip(shown(figure), order[:3], strict=True):
        assert np.array_equal(pixels, maps[i])


def test_the_accuracy_of_a_class_is_over_its_own_images():
    counts = [[[3, 1], [0, 6]], [[2, 2], [3, 3]]]
    rows = [{"test": {"confusion": table, "classes": ["cat", "dog"]}} for table in counts]
    axis = cnn_figures.per_class(rows).axes[0]
    bars = [bar.get_width() for bar in axis.patches]
    assert bars == pytest.approx([(6 / 6 + 3 / 6) / 2, (3 / 4 + 2 / 4) / 2])  # the best first
    assert [label.get_text() for label in axis.get_yticklabels()] == ["dog", "cat"]
