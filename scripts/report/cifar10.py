"""The report on CIFAR-10 as high as it goes: a net without convolutions, and a fast one with them."""

from collections.abc import Sequence

import numpy as np

from purenets.core.report.diagrams import network
from purenets.core.report.document import Picture
from purenets.core.report.tables import Table
from purenets.core.report.tabulate import as_table, tabulate
from purenets.core.runs.history import column
from scripts import cifar10_mlp, cifar10_sweep
from scripts.figures import cifar10 as figures
from scripts.shared.sweeps import grouped, spread

BATCH = 16  # of the dimensions that are shown


def mlp_structure() -> tuple[list, list]:
    """The structure and the training of the net without convolutions."""
    import torch

    from purenets.torch_nets.image_mlps import residual_mlp

    preset = cifar10_mlp.PRESETS["mlp"]
    rows = tabulate(residual_mlp(3072, preset.width, preset.depth, 10), torch.zeros(BATCH, 3, 32, 32))
    structure = [
        "A linear embedding of all 3,072 numbers of an image, then inverted bottlenecks x + W2 gelu(W1 norm(x)) "
        "with "
        f"LayerNorm, {preset.expansion} times as wide inside [10]: {total(rows)} parameters (@best-mlp-layers). "
        "No unit is "
        "told which pixels are neighbors: after any fixed shuffling of the pixels it would be the same net.",
        Table(
            as_table(rows),
            f"The net without convolutions layer by layer, for a batch of {BATCH}.",
            "best-mlp-layers",
        ),
    ]
    training = [
        "Every product is that of a linear layer, as in Part I: y = x W^T forward, dx = dy W and dW = dy^T x "
        "backward "
        "(@best-mlp-dimensions). The sum in x + f(x) hands its gradient to both terms unchanged, so the first "
        "layer "
        "gets a gradient that no block has made smaller. Muon [11] makes the step of each matrix equally long "
        "in all "
        f"directions; its rate rises to {preset.learning_rate} and falls to 0 by half cosines. Batches of "
        f"{preset.batch_size}, {preset.epochs:.0f} passes, weight decay {preset.weight_decay}, dropout "
        f"{preset.dropout}, label smoothing {preset.label_smoothing}; images are mirrored in every other pass and "
        f"moved by up to {preset.crop} pixels. In evaluation logits are averaged over an image, its mirror "
        "image, and "
        "both moved by a pixel.",
        Picture(
            network(rows, f"The net without convolutions, batch of {BATCH}"),
            "What goes forward (blue) and comes back (orange) between its layers.",
            "best-mlp-dimensions",
        ),
    ]
    return structure, training


def cnn_structure() -> tuple[list, list]:
    """The structure and the training of the fast convolutional net."""
    import torch

    from purenets.torch_nets.fast_cnn import FastCNN
    from scripts import cifar10_cnn

    preset = cifar10_cnn.PRESETS[cifar10_cnn.BEST]
    widths = preset.channels
    net = FastCNN(3, 10, filters=torch.zeros(24, 3, 2, 2), widths=widths, depth=preset.depth)
    rows = tabulate(net, torch.zeros(BATCH, 3, 32, 32))
    structure = [
        "In the manner of the public speed runs [12]: 2 x 2 filters that whiten their patch and are not "
        f"trained, three groups of {preset.depth} 3 x 3 convolutions with pooling, the last two a residual "
        "branch, BatchNorm that only shifts, and GELU; the logits are means over "
        f"{widths[-1]} features: {total(rows)} parameters (@best-cnn-layers). Convolutions begin as the identity "
        "on their first channels.",
        Table(as_table(rows), f"The fast CNN layer by layer, for a batch of {BATCH}.", "best-cnn-layers"),
    ]
    training = [
        "A convolution is a product of patches, as in Part II (@best-cnn-dimensions). Muon [11] moves the "
        "filters, which are brought "
        "back to a fixed length before each step, so that its rate means the same to all and at all times; "
        "Nesterov's momentum "
        "moves biases and the last layer. All rates fall in a straight line to 0. Batches of "
        f"{preset.batch_size}, label "
        f"smoothing {preset.label_smoothing}; each image is mirrored in every other pass, and moved by up to "
        f"{preset.crop} "
        "pixels. Products are computed in bfloat16, parameters stay float32.",
        Picture(
            network(rows, f"The fast CNN, batch of {BATCH}"),
            "What goes forward (blue) and comes back (orange) between its layers.",
            "best-cnn-dimensions",
        ),
    ]
    return structure, training


def total(rows: Sequence) -> str:
    return f"{sum(row.params for row in rows):,}"


def analysis(found: dict, kind: str, mirror: str) -> list:
    """What the settings of one kind ("mlp" or "cnn") reached, over time, by class, and by ingredient."""
    rows = [row for row in found["part1_cifar10"]["rows"] if row["setting"].split()[0] == kind]
    by_setting = grouped(rows)
    best = headline(by_setting)
    about = (
        f"{mirror}; `python scripts/cifar10_sweep.py --settings final`, {found['part1_cifar10']['machine']}."
    )
    reached, n = spread([figures.final(row) for row in by_setting[best]]), len(by_setting[best])
    minutes = np.mean([row["training_seconds"] for row in by_setting[best]]) / 60
    gap = 100 * np.mean(
        [row["history"][-1]["accuracy"] - row["history"][-1]["valid_accuracy"] for row in by_setting[best]]
    )
    from_views = 100 * np.mean([figures.final(row) - row["test"]["accuracy"] for row in by_setting[best]])
    blocks = [
        f"{reached}% of the test images (n = {n}) after {minutes:.0f} minutes on two cores "
        f"(@best-{kind}-settings), of "
        f"which {from_views:.1f} points come from the mean over views. The recipe was tuned by validation images."
        + choice_text(by_setting, best),
        Table(
            [
                line.strip("|").split("|")
                for line in cifar10_sweep.markdown(rows).splitlines()
                if "---" not in line
            ],
            f"Accuracy in percent, mean and deviation over n seeds. {about}",
            f"best-{kind}-settings",
        ),
        Picture(
            figures.over_minutes(rows),
            f"Validation accuracy over the minutes of training; markers are the test accuracy at the end. {about}",
            f"best-{kind}-minutes",
        ),
        f"In the last third of the steps (@best-{kind}-minutes), while the rate falls to 0, validation accuracy "
        "rises "
        f"by {late_gain(by_setting[best]):.1f} points. At the end the accuracy on training batches, augmented "
        "and while "
        f"training, is {gap:+.1f} points from that on validation images.",
    ]
    if "part1_cifar10_ablation" in found:
        short = found["part1_cifar10_ablation"]
        n = min(len(mine) for name, mine in grouped(short["rows"]).items() if name.split(":")[0] == kind)
        blocks += [
            Picture(
                figures.ablation(short["rows"], kind),
                "What changing one ingredient does in a short training, on a fifth of the training images, held "
                f"out; dots are seeds (n = {n}). {mirror}; "
                f"`python scripts/cifar10_sweep.py --settings ablation`, {short['machine']}.",
                f"best-{kind}-ablation",
            ),
            ablation_text(short["rows"], kind),
        ]
    names = np.array(by_setting[best][0]["test"]["classes"])
    by_class = figures.class_accuracy(by_setting[best])
    order = by_class.argsort()
    blocks += [
        Picture(
            figures.two_confusions({best: by_setting[best]}),
            f"Confusion matrix on the test images, mean of {len(by_setting[best])} seeds: rows are the true "
            f"classes. {about}",
            f"best-{kind}-confusion",
        ),
        f"Worst is {names[order[0]]} ({by_class[order[0]]:.1%}), best {names[order[-1]]} "
        f"({by_class[order[-1]]:.1%}); "
        f"@best-{kind}-confusion has all mistakes.",
    ]
    return blocks


def headline(by_setting: dict[str, Sequence[dict]]) -> str:
    """The setting with the most seeds, and the best of them: a lucky single run is none."""

    def rank(name: str) -> tuple[int, float]:
        rows = by_setting[name]
        return len(rows), float(np.mean([figures.final(row) for row in rows]))

    return max(by_setting, key=rank)


def choice_text(by_setting: dict[str, Sequence[dict]], best: str) -> str:
    """Which seeds of the headline are free of the choice among settings that ran once, and what they reach."""
    among = max(row.get("chosen_among", 1) for row in by_setting[best])
    fresh = [figures.final(row) for row in by_setting[best] if "chosen_among" not in row]
    if among == 1 or not fresh:
        return ""
    return (
        f" Validation images do not tell {among} settings apart that were tried; which of them was "
        "run with more seeds was decided by the test accuracy of seed 0. The other seeds, free of that "
        "choice, reach "
        f"{spread(fresh)}% (n = {len(fresh)})."
    )


def late_gain(rows: Sequence[dict]) -> float:
    """The points of validation accuracy that the last third of the steps brings, mean of the seeds."""
    gains = []
    for row in rows:
        steps, accuracy = column(row["history"], "valid_accuracy")
        before = [a for step, a in zip(steps, accuracy, strict=True) if step <= 2 * steps[-1] / 3]
        gains.append(100 * (accuracy[-1] - before[-1]))
    return float(np.mean(gains))


def ablation_text(rows: Sequence[dict], kind: str) -> str:
    """The ingredients that matter most, in words."""
    changes = {name: float(np.mean(points)) for name, points in figures.changes(rows, kind).items()}
    worst = sorted(changes, key=changes.get)[:3]
    text = ", ".join(f"{name} {changes[name]:+.1f}" for name in worst)
    return (
        f"@best-{kind}-ablation changes one ingredient at a time. What costs most: {text} points. In so short a "
        "training what counts is how fast a net learns; regularization, which pays late, may cost here."
    )
