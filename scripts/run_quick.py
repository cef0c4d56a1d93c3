"""The whole assignment in small, on data that is always there: a table and an HTML report.

make run
python scripts/run_quick.py --out runs/quick
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import runs
from purenets.core.report import plots
from purenets.core.report.document import Document, Picture, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table, text_table
from purenets.core.runs.command import command
from purenets.core.runs.files import folder_at, write_atomically
from purenets.core.runs.options import Options, not_negative, option
from scripts import cifar10_cnn, cifar10_mlp, cnn_train, compare_mlps
from scripts import train as rnn_train
from scripts.shared import images as image_task
from scripts.shared.mlp import CURVES, MLPConfig
from scripts.shared.result import Result

RNN_LENGTHS, RNN_STEPS = (5, 8, 12, 20), 1500
MLP_SETS = {"moons": 100, "circles": 60, "blobs": 30, "digits": 30}  # epochs


@dataclass(frozen=True)
class Config(Options):
    """The whole assignment in small: a table and an HTML report."""

    out: str = option("runs/quick", "folder for the report")
    seed: int = option(0, "all randomness", not_negative)


def main(config: Config) -> Path:
    """All parts; prints the tables and returns the path of the report."""
    folder = folder_at(config.out)
    begin = time.monotonic()
    sections = [part(config) for part in PARTS]
    for section in sections:
        (table,) = (block for block in section.blocks if isinstance(block, Table))
        print(f"\n{section.title}\n\n{text_table(table.rows)}")
    about = runs.environment() | runs.machine()
    note = f"Made by `python scripts/run_quick.py` on {about['machine']}, commit {about['git_commit']}."
    path = folder / "report.html"
    page = Document("The assignment in small", [Section("About this page", [note]), *sections])
    write_atomically(path, to_html(page).encode())
    print(f"\n{time.monotonic() - begin:.0f} s; the report is {path}")
    return path


def part1(config: Config) -> Section:
    """Both MLPs on toy sets and digits, by Adam: same data, same params, same batches."""
    pairs = {}
    for name, epochs in MLP_SETS.items():
        case = MLPConfig(dataset=name, max_steps=epochs, eval_freq=2, optimizer="adam", seed=config.seed)
        pairs[name] = compare_mlps.train_both(case)
    table = [["set", "net", "train accuracy", "test accuracy", "test loss"]]
    for name, results in pairs.items():
        for backend, result in results.items():
            row = result.history[-1]
            accuracies = (f"{row[f'{part}_accuracy']:.2%}" for part in ("train", "test"))
            table.append([name, compare_mlps.BACKENDS[backend], *accuracies, f"{row['test_loss']:.4f}"])
    plane = {name: results for name, results in pairs.items() if name != "digits"}
    boundaries = compare_mlps.boundaries(plane)
    plots.save(boundaries, Path(config.out) / "boundaries.png")
    digits = {compare_mlps.BACKENDS[backend]: result.history for backend, result in pairs["digits"].items()}
    return Section(
        "Part I: the NumPy and the PyTorch MLP",
        [
            "The same network twice, 20 hidden units with ReLU: once with the backward pass written by hand, "
            "once differentiated by torch.func. Data, first params, batches and optimizer (Adam, 1e-2, "
            "batches of 32) are the same, and so are the results: the curves lie on each other.",
            Table(table, "Both nets on all sets."),
            Picture(boundaries, "Decision boundaries. Class by color and shape; train filled, test hollow."),
            Picture(plots.curves(digits, CURVES), "Digits (8 x 8 pixels, 10 classes): loss and accuracy."),
        ],
    )


def part1_mlp(config: Config) -> Section:
    """The net without convolutions, small, on digits."""
    return of_images("Part I: a net without convolutions", cifar10_mlp, config)


def part1_cnn(config: Config) -> Section:
    """The fast convolutional net, small, on digits."""
    return of_images("Part I: a fast convolutional net", cifar10_cnn, config)


def of_images(title: str, script, config: Config) -> Section:
    preset = replace(script.PRESETS["digits"], precision="float32", seed=config.seed)
    result = script.train(preset)
    return Section(
        title,
        [
            f"The net that scripts/{script.__name__.split('.')[-1]}.py trains on CIFAR-10, with few units, on "
            "scikit-learn's digits.",
            image_table(result),
            Picture(
                plots.curves({"": result.history}, image_task.CURVES),
                "Loss and accuracy, train and validation.",
            ),
        ],
    )


def image_table(result: Result) -> Table:
    """Loss and accuracy on validation and test images."""
    last, test = result.history[-1], result.test
    valid = (str(len(result.task.valid[1])), f"{last['valid_loss']:.4f}", f"{last['valid_accuracy']:.2%}")
    held_out = (str(len(result.task.test[1])), f"{test['loss']:.4f}", f"{test['accuracy']:.2%}")
    return Table(
        [["part", "images", "loss", "accuracy"], ["validation", *valid], ["test", *held_out]], "Digits."
    )


def part2(config: Config) -> Section:
    """A narrow reduced VGG on digits."""
    options = cnn_train.Config(
        data="digits", width=0.25, max_steps=200, eval_freq=20, batch_size=64, learning_rate=1e-2,
        schedule="one_cycle", precision="float32", seed=config.seed,
    )  # fmt: skip
    result = cnn_train.train(options)
    figure, axes = plots.panels(1, 1, 5.5, 4.8)
    test = result.test
    counts = np.array(test["confusion"])
    plots.confusion(axes[0, 0], counts, test["classes"], f"test accuracy {test['accuracy']:.1%}")
    return Section(
        "Part II: the reduced VGG",
        [
            "The assignment's convolutional net with a quarter of its channels, on scikit-learn's digits, which "
            "are always there. scripts/cnn_train.py trains the whole net on CIFAR-10.",
            image_table(result),
            Picture(
                plots.curves({"": result.history}, image_task.CURVES),
                "Loss and accuracy, train and validation.",
            ),
            Picture(figure, "Confusion matrix of the test images: rows are the true classes."),
        ],
    )


def part3(config: Config) -> Section:
    """The vanilla RNN with the assignment's defaults, but fewer steps, at four lengths."""
    histories, table = {}, [["T", "steps", "loss", "accuracy", "chance"]]
    for T in RNN_LENGTHS:
        options = rnn_train.Config(
            input_length=T - 1, train_steps=RNN_STEPS, eval_freq=100, eval_size=2000, seed=config.seed,
            compile=False,
        )  # fmt: skip
        histories[f"T = {T}"] = rnn_train.train(options).history
        last = histories[f"T = {T}"][-1]
        table.append([str(T), str(RNN_STEPS), f"{last['loss']:.4f}", f"{last['test_accuracy']:.2%}", "10%"])
    figure = plots.curves(histories, [("test_loss",), ("test_accuracy",)])
    return Section(
        "Part III: a vanilla RNN on palindromes",
        [
            "Equations (1) to (4) with the assignment's defaults (128 units, RMSProp 1e-3, digits as numbers), "
            f"but {RNN_STEPS} steps instead of 10,000. The last digit of a palindrome is its first one, so the "
            "network must remember over T - 2 steps: the longer, the less it does.",
            Table(table, "Accuracy over the length."),
            Picture(figure, "Loss and accuracy on fresh palindromes."),
        ],
    )


PARTS = [part1, part1_mlp, part1_cnn, part2, part3]

if __name__ == "__main__":
    command(Config, main)
