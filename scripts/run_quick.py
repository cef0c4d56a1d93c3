"""Run a small version of the whole assignment, without a download; write an HTML report.

make run
python scripts/run_quick.py --out runs/quick
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets import Interrupted, runs
from purenets.core.data.palindromes import is_exhaustive
from purenets.core.report import plots
from purenets.core.report.document import Document, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
from purenets.core.runs.files import folder_at, write_atomically
from purenets.core.runs.options import (
    Options,
    file_path,
    not_negative,
    option,
)
from scripts import cifar10_cnn, cifar10_mlp, cnn_train, compare_mlps
from scripts import train as rnn_train
from scripts.figures.cnn import confusion_matrix
from scripts.figures.legends import one_legend
from scripts.report import one_step
from scripts.report.prose import sections
from scripts.shared import images
from scripts.shared.mlp import CURVES, MLPConfig
from scripts.shared.result import Result

RNN_LENGTHS, RNN_STEPS = (5, 8, 12, 20), 1500
CNN_STEPS = 200
MLP_SETS = {"moons": 100, "circles": 60, "blobs": 30, "digits": 30}  # epochs


@dataclass(frozen=True)
class Config(Options):
    """Run a small version of the whole assignment: tables and an HTML report."""

    out: str = option("runs/quick", "folder for the report", file_path)
    seed: int = option(0, "all randomness", not_negative)


def main(config: Config) -> Path:
    """Run all parts; print the tables and return the path of the report."""
    folder = folder_at(config.out)
    begin = time.monotonic()
    try:
        parts = [part(config) for part in PARTS]
    except Interrupted as error:
        raise Interrupted("stopped; nothing of this run is kept") from error
    path = folder / "report.html"
    write_atomically(path, to_html(page([*parts, step_by_hand(config)])).encode())
    for section in parts:
        (table,) = (block for block in section.blocks if isinstance(block, Table))
        print(f"\n{section.title}\n\n{to_text(table)}")
    print(f"\n{time.monotonic() - begin:.0f} s; the report is {path}")
    return path


def page(parts: list[Section]) -> Document:
    """Return the document of all parts, which begins with the machine and the commit."""
    commit = runs.environment()["git_commit"]  # None in an unpacked archive
    about = runs.machine() | {"source": f"commit {commit}" if commit else "from an archive"}
    (top,) = sections("quick_about", about)
    return Document(top.title, [*top.parts, *parts])


def part1(config: Config) -> Section:
    """Train both MLPs on several sets, with the same params and batches; return the section."""
    defaults = MLPConfig(eval_freq=2, optimizer="adam", seed=config.seed)
    pairs = {
        name: compare_mlps.train_both(replace(defaults, dataset=name, max_steps=epochs))
        for name, epochs in MLP_SETS.items()
    }
    plane = {name: results for name, results in pairs.items() if name != "digits"}
    boundaries = compare_mlps.boundaries(plane)
    plots.save(boundaries, Path(config.out) / "boundaries.png")
    curves = {compare_mlps.BACKENDS[name]: run.history for name, run in pairs["digits"].items()}
    values = {
        "hidden": len(pairs["digits"]["numpy"].state.params["fc1.bias"]),
        "batch_size": defaults.batch_size,
        "learning_rate": defaults.learning_rate,
        "quick-sets": mlp_table(pairs),
        "quick-boundaries": boundaries,
        "quick-digits": plots.curves(curves, CURVES),
    }
    (section,) = sections("quick_part1", values)
    return section


def step_by_hand(config: Config) -> Section:
    """Return the section with the interactive figure of one training step."""
    values = {
        "hidden": one_step.HIDDEN,
        "examples": one_step.EXAMPLES,
        "quick-one-step": one_step.interactive(config.seed),
    }
    (section,) = sections("quick_step", values)
    return section


def mlp_table(pairs: dict) -> Table:
    """Return a row for each set and network."""
    rows = []
    for name, results in pairs.items():
        for backend, result in results.items():
            last = result.history[-1]
            accuracies = (f"{last[f'{part}_accuracy']:.2%}" for part in ("train", "test"))
            names = (name, MLP_SETS[name], compare_mlps.BACKENDS[backend])
            rows.append((*names, *accuracies, f"{last['test_loss']:.4f}"))
    header = ("set", "epochs", "net", "train accuracy", "test accuracy", "test loss")
    return table_of(header, rows)


def part1_mlp(config: Config) -> Section:
    """Train a small network without convolutions on digits; return the section."""
    return of_images("Part I: a network without convolutions", "mlp", cifar10_mlp, config)


def part1_cnn(config: Config) -> Section:
    """Train a small, fast convolutional network on digits; return the section."""
    return of_images("Part I: a fast convolutional network", "cnn", cifar10_cnn, config)


def of_images(title: str, kind: str, script: ModuleType, config: Config) -> Section:
    """Train the preset "digits" of a script for CIFAR-10; return the section."""
    options = replace(script.PRESETS["digits"], precision="float32", seed=config.seed)
    result = script.train(options)
    names = ("epochs", "batch_size", "label_smoothing", "crop")
    values = {name: getattr(options, name) for name in names} | {
        "title": title,
        "kind": kind,
        "script": script.__name__.split(".")[-1],
        f"quick-{kind}": image_table(result),
        f"quick-{kind}-curves": plots.curves({"": result.history}, images.CURVES),
    }
    (section,) = sections("quick_images", values)
    return section


def image_table(result: Result) -> Table:
    """Return a table of loss and accuracy on validation and test images."""
    last, test = result.history[-1], result.test
    n_valid, n_test = len(result.task.valid[1]), len(result.task.test[1])
    rows = [
        ("validation", n_valid, f"{last['valid_loss']:.4f}", f"{last['valid_accuracy']:.2%}"),
        ("test", n_test, f"{test['loss']:.4f}", f"{test['accuracy']:.2%}"),
    ]
    return table_of(("part", "images", "loss", "accuracy"), rows)


def part2(config: Config) -> Section:
    """Train a narrow reduced VGG on digits; return the section."""
    options = cnn_train.Config(
        data="digits", width=0.25, max_steps=CNN_STEPS, eval_freq=20, batch_size=64,
        learning_rate=1e-2, schedule="one_cycle", precision="float32", seed=config.seed,
    )  # fmt: skip
    result = cnn_train.train(options)
    counts, classes = np.array(result.test["confusion"]), result.test["classes"]
    title = f"test accuracy {result.test['accuracy']:.1%}"
    values = {
        "width": options.width,
        "steps": options.max_steps,
        "batch_size": options.batch_size,
        "epochs": options.max_steps * options.batch_size / len(result.task.train[1]),
        "quick-vgg": image_table(result),
        "quick-vgg-curves": plots.curves({"": result.history}, images.CURVES),
        "quick-vgg-confusion": confusion_matrix(counts, classes, title),
    }
    (section,) = sections("quick_part2", values)
    return section


def part3(config: Config) -> Section:
    """Train the vanilla RNN at several lengths; return the section.

    The options are the assignment's defaults, but with fewer steps and a smaller evaluation.
    """
    defaults = rnn_train.Config()
    options = replace(
        defaults,
        train_steps=RNN_STEPS,
        eval_freq=100,
        eval_size=2000,
        seed=config.seed,
        compile=False,
    )
    histories, rows = {}, []
    for T in RNN_LENGTHS:
        histories[f"T = {T}"] = rnn_train.train(replace(options, input_length=T - 1)).history
        last = histories[f"T = {T}"][-1]
        rows.append((T, f"{last['test_loss']:.4f}", f"{last['test_accuracy']:.2%}", "10%"))
    all_of = [T for T in RNN_LENGTHS if is_exhaustive(T, options.eval_size)]
    curves = plots.curves(histories, [("test_loss",), ("test_accuracy",)])
    one_legend(curves, len(RNN_LENGTHS))
    values = {
        "hidden": defaults.num_hidden,
        "learning_rate": defaults.learning_rate,
        "steps": RNN_STEPS,
        "batch_size": defaults.batch_size,
        "default_steps": defaults.train_steps,
        "eval_size": options.eval_size,
        "exhaustive": " and ".join(f"T = {T}" for T in all_of),
        "quick-rnn": table_of(("T", "test loss", "test accuracy", "chance"), rows),
        "quick-rnn-curves": curves,
    }
    (section,) = sections("quick_part3", values)
    return section


PARTS = [part1, part1_mlp, part1_cnn, part2, part3]

if __name__ == "__main__":
    command(Config, main)
