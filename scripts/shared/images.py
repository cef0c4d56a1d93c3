"""Training on images: the options, the data, the test, and the report of a run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from purenets import Model, TrainState, UserError, tree
from purenets.core.runs.json_files import write_json
from purenets.core.runs.options import (
    Options,
    file_path,
    fraction,
    not_negative,
    one_of,
    option,
    positive,
    thread_count_or_0,
    up_to,
)
from purenets.core.runs.rotation import KEEP
from scripts.shared.result import Result

SOURCES = ("cifar10", "folder", "digits")
CURVES = (("loss", "valid_loss"), ("accuracy", "valid_accuracy"))
FLIPS = ("none", "random", "alternating")
RESULTS, FIGURES = "results.json", ("curves.png", "confusion.png")
VIEWS = ("none", "mirror", "shift")


@dataclass(frozen=True)
class ImageOptions(Options):
    """The options of every script that trains on images; the defaults are the assignment's."""

    # data
    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option(
        "data", "where cifar10 is kept, or the folder with train/ and test/", file_path
    )
    image_size: int = option(0, "resize a folder's images or digits; 0 for not", not_negative)
    valid_fraction: float = option(
        0.1, "the part of the training images held out for validation; 0 for none", fraction
    )
    train_images: int = option(0, "keep only so many training images; 0 for all", not_negative)
    # length and evaluations
    max_steps: int = option(5000, "steps to train for", positive)
    epochs: float = option(
        0.0, "passes to train for instead; 0 for --max_steps", up_to(1e9, not_negative)
    )
    batch_size: int = option(32, "images in a step", positive)
    eval_freq: int = option(500, "steps between evaluations; 0 for one an epoch", not_negative)
    evaluations: int = option(0, "evaluations in all instead; 0 for --eval_freq", not_negative)
    # augmentation and regularization
    flip: str = option(
        "none",
        "mirror images: none, random, or alternating (each in every other epoch)",
        one_of(FLIPS),
    )
    crop: int = option(0, "move images by up to so many pixels", not_negative)
    cutout: int = option(0, "set a square of so many pixels to the mean; 0 for none", not_negative)
    mixup: bool = option(False, "train on mixtures of two images")
    label_smoothing: float = option(0.0, "the part of a target spread over all classes", fraction)
    ema: float = option(
        0.0, "decay of the running mean of the params, which is evaluated; 0 for none", fraction
    )
    members: int = option(1, "nets trained side by side; logits are averaged", up_to(1000))
    views: str = option(
        "none",
        "test also the mean over views: mirror (an image and its mirror image) or shift (moved "
        "too)",
        one_of(VIEWS),
    )
    # the machine
    precision: str = option(
        "auto",
        "float32, bfloat16 (channels last), or auto: what is measured to be fastest",
        choices=["auto", "float32", "bfloat16"],
    )
    compile: bool = option(False, "the whole step under torch.compile (faster after a minute)")
    device: str = option("auto", "cpu, cuda, cuda:1, ... or auto")
    threads: int = option(0, "CPU threads; 0 for one a core", thread_count_or_0)
    seed: int = option(0, "all randomness: split, params, batches, augmentation", not_negative)
    out: str = option(
        None, "folder for config, history, checkpoint, results and figures", file_path
    )
    keep: int = option(KEEP, "checkpoints to keep, the best by validation apart", positive)
    resume: bool = option(False, "go on with the run in --out")

    def needs_length(self) -> str:
        schedule = getattr(self, "schedule", "constant")
        return "" if schedule == "constant" else f"its schedule ({schedule})"

    def __post_init__(self):
        super().__post_init__()
        # of two flags that exclude each other, none is ignored in silence
        fields = {field.name: field for field in dataclasses.fields(self)}
        for wins, loses in (("epochs", "max_steps"), ("evaluations", "eval_freq")):
            first, second = getattr(self, wins), getattr(self, loses)
            if first and second not in (0, fields[loses].default):
                raise UserError(f"--{loses} {second}: --{wins} {first} decides; needs --{wins} 0")


# What the presets of both CIFAR-10 scripts begin with.
CIFAR10 = {
    "valid_fraction": 0.02,
    "epochs": 8.0,
    "batch_size": 500,
    "eval_freq": 0,
    "flip": "alternating",
    "crop": 2,
    "label_smoothing": 0.2,
    "views": "shift",
}


def open_task(config: ImageOptions, key, device, group):
    """Return the `ImageTask` of the options on a device, split by `key`."""
    from purenets.torch_nets import images
    from purenets.torch_nets.distributed import rank0_first

    def load():
        return images.load(config.data, config.data_dir, config.image_size)

    found = rank0_first(load, group)  # it may fill the cache
    task = images.prepare(found, key, config.valid_fraction, device, config.train_images)
    n = len(task.train[1])
    if config.batch_size > n:
        raise UserError(f"--batch_size {config.batch_size}: more than the {n} training images")
    return task


def tested(config: ImageOptions, model: Model, state: TrainState, task) -> dict:
    """Return loss, accuracy, confusion matrix and accuracy over views on the test images."""
    from purenets.core.metrics import confusion
    from purenets.torch_nets.losses import cross_entropy

    x, y = task.test
    logits = logits_of(model, state, x)
    classes = logits.argmax(1).cpu().numpy()
    found = {
        "loss": float(cross_entropy(logits, y)),
        "accuracy": accuracy_of(logits, y),
        "confusion": confusion(classes, y.cpu().numpy(), len(task.classes)).tolist(),
        "classes": list(task.classes),
    }
    if config.views == "none":
        return found
    over_views = logits_of(averaged_over(config.views, model), state, x)
    return found | {"views": config.views, "views_accuracy": accuracy_of(over_views, y)}


def averaged_over(views: str, model: Model) -> Model:
    """Return the model that averages its logits over the views that `--views` names."""
    from purenets.torch_nets.tta import flip_averaged, shift_averaged

    model = flip_averaged(model)
    return shift_averaged(model) if views == "shift" else model


def accuracy_of(logits, y) -> float:
    return float((logits.argmax(1) == y).float().mean())


def logits_of(model: Model, state: TrainState, x):
    """Return the logits (n, classes) of images x in evaluation mode."""
    import torch

    params, buffers, parts = state.params, state.buffers, x.split(500)
    with torch.no_grad():
        return torch.cat([model.apply(params, buffers, part)[0] for part in parts])


def save(result: Result, folder: Path, title: str) -> None:
    """Write `results.json`, and the curves and the confusion matrix as PNG."""
    from purenets.core.report import plots

    write_json(folder / RESULTS, result.test)
    curves, confusion = (folder / name for name in FIGURES)
    plots.save(plots.curves({"": result.history}, CURVES, title), curves)
    figure, axes = plots.panels(1, 1, 6.5, 5.5)
    text = f"test accuracy {result.test['accuracy']:.1%}"
    plots.confusion(axes[0, 0], np.array(result.test["confusion"]), result.test["classes"], text)
    plots.save(figure, confusion)


def report(title: str, result: Result) -> None:
    """Print the last lines of a script."""
    last, test = result.history[-1], result.test
    print(f"{title}: {tree.size(result.state.params):,} parameters, {last['step']} steps")
    if "valid_loss" in last:
        print(f"  valid  loss {last['valid_loss']:.4f}  accuracy {last['valid_accuracy']:.2%}")
    print(f"  test   loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%}")
    if "views" in test:
        print(f"  test, mean over views ({test['views']})  accuracy {test['views_accuracy']:.2%}")
