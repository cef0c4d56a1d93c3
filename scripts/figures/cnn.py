"""Figures of Part II, from the results of the sweep and from a trained network.

    python scripts/figures/cnn.py  # curves of all settings, from results/part2_settings.json

Functions return a `matplotlib.figure.Figure`. `rows` are the rows of the sweep's JSON file, one for
each setting and seed. Images are uint8 arrays or tensors (n, channels, height, width).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # runs from an unpacked copy without install

import numpy as np
from einops import rearrange, reduce
from matplotlib.figure import Figure

from purenets.core.report import plots
from purenets.core.report.plots import COLORS, LINES, literal, panels, save
from purenets.core.runs.command import command
from purenets.core.runs.history import column
from purenets.core.runs.options import Options, option
from scripts import cnn_sweep
from scripts.figures.cifar10 import draw_tests, learning_curves
from scripts.shared import result_files
from scripts.shared.schemas import SWEEP
from scripts.shared.sweeps import grouped, images_of


def settings_curves(rows: Sequence[dict], title: str = "", training: bool = False) -> Figure:
    """Draw validation loss and accuracy of all settings: mean and range of the seeds.

    With `training`, a row of panels above shows the same for the training images.
    """
    parts = ({"": "training"} if training else {}) | {"valid_": "validation"}
    figure, axes = panels(len(parts), 2, 5.4, 4.0 if len(parts) == 1 else 3.2)
    for (prefix, part), pair in zip(parts.items(), axes, strict=True):
        for axis, kind in zip(pair, ("loss", "accuracy"), strict=True):
            draw_settings(axis, rows, f"{prefix}{kind}")
            axis.set(xlabel="step", ylabel=f"{part} {kind}")
        pair[0].set_ylim(0.5 if part == "validation" else 0.2, 2.6)
    figure.suptitle(title)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
    )
    return figure


def draw_settings(axis, rows: Sequence[dict], name: str) -> None:
    """Draw a metric of each setting over the steps: mean and range of the seeds."""
    for i, (setting, mine) in enumerate(grouped(list(rows)).items()):
        steps = column(mine[0]["history"], name)[0]
        values = np.array([column(row["history"], name)[1] for row in mine])
        style = {"color": COLORS[i % len(COLORS)], "linewidth": 0}
        axis.fill_between(steps, values.min(0), values.max(0), alpha=0.15, **style)
        style = {"color": COLORS[i % len(COLORS)], "label": f"{setting} (n = {len(mine)})"}
        axis.plot(steps, values.mean(0), LINES[i % len(LINES)], **style)


def parts_curves(rows: Sequence[dict], title: str = "") -> Figure:
    """Draw loss and accuracy of one setting in training, validation and test; thin lines are seeds.

    Training values are means over the steps since the previous row. The test is at the end.
    """
    figure, axes = panels(1, 2, 4.8, 3.6)
    for axis, name in zip(axes[0], ("loss", "accuracy"), strict=True):
        plots.training_and_validation(axis, [row["history"] for row in rows], name)
        draw_tests(axis, rows, name)
        axis.set(xlabel="step", ylabel=name)
    axes[0, 0].legend(fontsize=9, frameon=False)
    figure.suptitle(title)
    return figure


def per_class(rows: Sequence[dict], title: str = "") -> Figure:
    """Draw the test accuracy of every class, with the worst class at the top.

    Bars are means over the seeds, dots are seeds.
    """
    names = rows[0]["test"]["classes"]
    counts = np.array([row["test"]["confusion"] for row in rows])
    images = reduce(counts, "seed true predicted -> seed true", "sum")
    accuracy = np.diagonal(counts, axis1=1, axis2=2) / images
    order = accuracy.mean(axis=0).argsort()[::-1]
    figure, axes = panels(1, 1, 6.5, 3.8)
    axis, places = axes[0, 0], np.arange(len(names))
    axis.barh(places, accuracy.mean(axis=0)[order], color=COLORS[5], height=0.7)
    for values in accuracy:
        axis.plot(values[order], places, "o", color=COLORS[0], markersize=4)
    for place, value in zip(places, accuracy.mean(axis=0)[order], strict=True):
        axis.text(0.02, place, f"{value:.1%}", va="center", fontsize=9)
    axis.set(yticks=places, yticklabels=[literal(names[i]) for i in order], xlim=(0, 1))
    axis.set_title(literal(title))
    axis.set_xlabel("test accuracy")
    axis.grid(axis="y", visible=False)
    return figure


def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix of counts, (true, predicted)."""
    figure, axes = panels(1, 1, 6.2, 5.4)
    plots.confusion(axes[0, 0], counts, names, title)
    return figure


def grid(
    images, captions: Sequence[str], columns: int, size: float = 1.15, title: str = ""
) -> Figure:
    """Draw images (1 or 3 channels, height, width) in rows of `columns`, each below its caption."""
    rows = -(-len(images) // columns)
    figure, axes = panels(rows, columns, size, size * (1.2 if any(captions) else 1.0))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.axis("on")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="gray", linewidth=0.5)  # a white image has an edge
        axis.imshow(rearrange(np.asarray(image), "c h w -> h w c"), cmap="gray")
        axis.set_title(literal(caption), fontsize=8)
    figure.suptitle(literal(title))
    return figure


def augmentations(images, key, n: int = 8) -> Figure:
    """Draw the first n images as they are and under each augmentation.

    The same key gives the same augmentations.
    """
    import torch

    from purenets.torch_nets import augment

    x, key = torch.as_tensor(images[:n]), torch.as_tensor(key)
    kinds = {
        "as it is": lambda key, x: x,
        "flip": augment.flip,
        "crop by up to 4": augment.crop(4),
        "color jitter": augment.color_jitter(0.3, 0.3),
        "cutout 8": augment.cutout(8),
        "flip, crop, cutout": augment.chain(augment.flip, augment.crop(4), augment.cutout(8)),
    }
    shown = [f(key, x.float()).clamp(0, 255).byte() for f in kinds.values()]
    shown = rearrange(shown, "kind n c h w -> (kind n) c h w")
    captions = [kind if i == 0 else "" for kind in kinds for i in range(n)]
    return labelled(shown, captions, n, "One key, one batch: whole-batch augmentations")


def labelled(images, captions: Sequence[str], columns: int, title: str) -> Figure:
    """Draw a grid whose row labels, at the left, may be longer than an image is wide."""
    figure = grid(
        images, ["" if not caption else " " for caption in captions], columns, title=title
    )
    for axis, caption in zip(figure.axes, captions, strict=True):
        axis.set_title(literal(caption), fontsize=9, loc="left")
    return figure


def mistakes(logits, images, targets, classes: Sequence[str], n: int = 18) -> Figure:
    """Draw the wrong predictions with the highest probability.

    Each caption has the prediction, its probability and the true class.
    """
    scores = np.asarray(logits, dtype=np.float64)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    probability = scores / scores.sum(axis=1, keepdims=True)
    predicted, confidence = probability.argmax(axis=1), probability.max(axis=1)
    targets = np.asarray(targets)
    wrong = predicted != targets
    worst = np.argsort(np.where(wrong, -confidence, 0.0))[: min(n, int(wrong.sum()))]
    captions = [
        f"{classes[predicted[i]]} {confidence[i]:.0%}\nis {classes[targets[i]]}" for i in worst
    ]
    return grid(np.asarray(images)[worst], captions, 6, 1.4, "Most confident mistakes")


def filters(weight, title: str = "First-layer filters") -> Figure:
    """Draw convolution weights (n_out, n_in, height, width) as images, each on its own scale."""
    weight = np.asarray(weight)
    low, high = (reduce(weight, "filter c h w -> filter 1 1 1", kind) for kind in ("min", "max"))
    pixels = (255 * (weight - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    pixels = pixels if pixels.shape[1] == 3 else pixels[:, :1]
    return grid(pixels, [""] * len(pixels), 16, 0.5, title)


def feature_maps(
    layers: dict, params: dict, buffers: dict, x, names: Sequence[str], n: int = 8
) -> Figure:
    """Draw the feature maps of one image x, (1, channels, height, width), after some layers.

    For each layer of `names`, the n maps with the largest activation are shown. They are computed
    by a net that consists of the layers up to this one, with their params.
    """
    from purenets.torch_nets.layers import serial

    order = list(layers)
    shown, captions = [], []
    for name in names:
        part = {k: layers[k] for k in order[: order.index(name) + 1]}
        own, state = (
            {k: v for k, v in d.items() if k.split(".")[0] in part} for d in (params, buffers)
        )
        maps = np.asarray(serial(**part).apply(own, state, x)[0])[0]
        largest = reduce(maps, "map h w -> map", "max").argsort()[::-1][:n]
        shown += [*rearrange(maps[largest], "map h w -> map 1 h w")]
        captions += [f"{name} {maps.shape[1]} x {maps.shape[2]}", *[""] * (n - 1)]
    return labelled(shown, captions, n, "Feature maps of one image")


@dataclass(frozen=True)
class Config(Options):
    """Draw the curves of all settings: validation together, training and validation of each."""

    results: str = option("results/part2_settings.json", "what scripts/cnn_sweep.py wrote")
    out: str = option("docs/figures/cnn_settings.png", "PNG of all settings on validation images")
    curves: str = option("docs/figures/cnn_curves.png", "PNG of each setting, a pair of panels")


def main(config: Config) -> None:
    rows = result_files.read(config.results, SWEEP)["rows"]
    title = f"The reduced VGG on {images_of(rows)}"
    save(learning_curves(rows, title, pairs=2), Path(config.curves))
    rows = [row for row in rows if row["setting"] in cnn_sweep.COMPARED]
    save(settings_curves(rows, f"The reduced VGG on {images_of(rows)}"), Path(config.out))


if __name__ == "__main__":
    command(Config, main)
