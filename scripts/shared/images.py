"""Training on images: the options, the data, the test, and the report of a run."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from purenets import Diverged, Model, TrainState, UserError, runs, tree
from purenets.core.data.images import folder_digest
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.options import (
    SHARDS,
    Options,
    file_path,
    fraction,
    not_negative,
    one_of,
    open_fraction,
    option,
    positive,
    shard_count,
    thread_count_or_0,
    up_to,
)
from purenets.core.runs.rotation import KEEP
from scripts.shared.result import Result
from scripts.shared.schemas import RESULTS_OF_RUN, VALID_VIEWS

SOURCES = ("cifar10", "folder", "digits")
CURVES = (("loss", "valid_loss"), ("accuracy", "valid_accuracy"))
FLIPS = ("none", "random", "alternating")
RESULTS, FIGURES = "results.json", ("curves.png", "confusion.png")
VIEWS = ("none", "mirror", "shift")
# an option, the option that it needs, and the value of the latter that leaves it without effect
NEEDS = (
    ("mixup_alpha", "mixup", False),
    ("views_below", "views", "none"),
    ("small_fraction", "small_size", 0),
)


def unit_interval(value) -> str | None:
    return None if 0 < value <= 1 else "a number above 0 and at most 1"


@dataclass(frozen=True)
class ImageOptions(Options):
    """The options of every script that trains on images; the defaults are the assignment's."""

    # data
    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option(
        "data", "where cifar10 is kept, or the folder with train/ and test/", file_path
    )
    image_size: int = option(
        0, "resize a folder's images or digits; 0 keeps their size", not_negative
    )
    valid_fraction: float = option(
        0.1, "the part of the training images held out for validation; 0 for none", fraction
    )
    train_images: int = option(0, "keep only this many training images; 0 for all", not_negative)
    # length and evaluations
    max_steps: int = option(5000, "steps to train for", positive)
    epochs: float = option(
        0.0, "passes to train for instead; 0 for --max_steps", up_to(1e9, not_negative)
    )
    batch_size: int = option(32, "images in a step", positive)
    eval_freq: int = option(500, "steps between evaluations; 0 for one an epoch", not_negative)
    evaluations: int = option(
        0, "about so many evaluations in all instead; 0 for --eval_freq", not_negative
    )
    # augmentation and regularization
    flip: str = option(
        "none",
        "mirror images: none, random, or alternating (each in every other epoch)",
        one_of(FLIPS),
    )
    crop: int = option(0, "shift images by up to this many pixels", not_negative)
    cutout: int = option(
        0, "side in pixels of a random square that is set to the mean; 0 for none", not_negative
    )
    brightness: float = option(
        0.0,
        "add a random number of up to this many standard deviations to an image, or subtract it",
        not_negative,
    )
    contrast: float = option(
        0.0, "scale the contrast of an image by a factor from 1 - this to 1 + this", fraction
    )
    mixup: bool = option(False, "train on mixtures of two images")
    mixup_alpha: float = option(
        1.0, "the share of each is drawn from Beta(alpha, alpha): 1 for uniform", unit_interval
    )
    label_smoothing: float = option(0.0, "the part of a target spread over all classes", fraction)
    ema: float = option(
        0.0, "decay of the running mean of the params, which is evaluated; 0 for none", fraction
    )
    lookahead: int = option(
        0,
        "after each series of this many steps, go half of the way back to where it began; 0 for "
        "never",
        not_negative,
    )
    members: int = option(1, "nets trained side by side; logits are averaged", up_to(1000))
    views: str = option(
        "none",
        "test also the mean over views: mirror (an image and its mirror image) or shift (moved "
        "too)",
        one_of(VIEWS),
    )
    views_below: float = option(
        1.0, "average over views only if the largest class probability is below this", unit_interval
    )
    test: bool = option(True, "look at the test images, once, at the end; not to choose settings")
    # fewer operations
    small_size: int = option(
        0,
        "height and width of the images in the first part of the training; 0 for all at full size",
        not_negative,
    )
    small_fraction: float = option(0.5, "the part of the steps with --small_size", open_fraction)
    hardest: float = option(
        1.0,
        "train on this part of each batch: the images that a small net, trained before, finds "
        "hardest",
        unit_interval,
    )
    # the machine
    precision: str = option(
        "float32",
        "float32, bfloat16 (channels last), or auto: what is measured to be fastest here, so that "
        "another run may compute other bits",
        choices=["float32", "bfloat16", "auto"],
    )
    compile: bool = option(False, "compile the whole step (faster after a minute)")
    device: str = option("auto", "cpu, cuda, cuda:1, ... or auto")
    threads: int = option(
        0, "CPU threads; 0: one per core, or one per process with --shards", thread_count_or_0
    )
    shards: int = option(0, SHARDS, shard_count)
    seed: int = option(0, "all randomness: split, params, batches, augmentation", not_negative)
    out: str = option(
        None, "folder for config, history, checkpoint, results and figures", file_path
    )
    keep: int = option(
        KEEP, "how many of the newest checkpoints to keep, besides the best by validation", positive
    )
    resume: bool = option(False, "go on with the run in --out; begin it if there is none")

    def needs_length(self) -> str:
        schedule = getattr(self, "schedule", "constant")
        parts = [f"its schedule ({schedule})"] * (schedule != "constant")
        return " and ".join(parts + ["its --small_size"] * bool(self.small_size))

    def __post_init__(self):
        super().__post_init__()
        if self.shards and not self.threads:  # otherwise one process would use all cores
            object.__setattr__(self, "threads", 1)
        self.expect_used(self.changed())

    def unused(self) -> Iterator[tuple[str, str]]:
        for wins, loses in (("epochs", "max_steps"), ("evaluations", "eval_freq")):
            value = getattr(self, wins)
            if value and (loses, getattr(self, loses)) != ("eval_freq", 0):
                yield loses, f"--{wins} {value} decides; needs --{wins} 0"
        if self.out is None:
            yield "keep", "means nothing without --out; leave it out"
        changed, fields = self.changed(), {field.name: field for field in dataclasses.fields(self)}
        if self.data == "digits" and "data_dir" in changed:
            yield "data_dir", "means nothing with --data digits; leave it out"
        for name, other, without in NEEDS:
            if getattr(self, other) == without and name in changed:  # by a preset, too
                default = fields[name].default
                yield name, f"means nothing without --{other}; needs --{name} {default}"

    def own(self, names: Iterable[str], presets: Callable[[], dict]) -> Iterator[str]:
        """Yield those of these options that have neither their default nor the preset's value.

        `presets()` is asked only if there is a changed one: presets are such options themselves.
        """
        changed = self.changed()
        for name in [name for name in names if name in changed]:
            preset = presets().get(self.preset)
            if preset is None or getattr(self, name) != getattr(preset, name):
                yield name

    @property
    def images_in_step(self) -> int:
        """Return the number of images that a step trains on: the batch, or its --hardest part."""
        return max(1, round(self.hardest * self.batch_size))


# What the presets of all three scripts begin with: an evaluation after each epoch, and a precision
# that no measurement chooses, so that a preset computes the same bits again.
CIFAR10 = {
    "valid_fraction": 0.02,
    "epochs": 8.0,
    "batch_size": 500,
    "eval_freq": 0,
    "flip": "alternating",
    "crop": 2,
    "label_smoothing": 0.2,
    "views": "shift",
    "precision": "bfloat16",
}


def open_task(config: ImageOptions, key, device, group):
    """Return the `ImageTask` of the options on a device, split by `key`."""
    from purenets.torch_nets import images
    from purenets.torch_nets.distributed import rank0_first

    def load():
        return images.load(config.data, config.data_dir, config.image_size)

    found = rank0_first(load, group)  # it may fill the cache
    if len(found.classes) < 2:
        only = f"only class {found.classes[0]}, needs two or more"
        raise UserError(f"{Path(config.data_dir) / 'train'}: {only}")
    try:
        task = images.prepare(found, key, config.valid_fraction, device, config.train_images)
    except UserError as error:
        text = str(error).replace("n_train ", "--train_images ")
        flag = "--" if text.startswith("valid_fraction") else ""
        raise UserError(f"{flag}{text}") from error
    n = len(task.train[1])
    if config.batch_size > n:
        raise UserError(f"--batch_size {config.batch_size}: more than the {n} training images")
    side = min(task.train[0].shape[2:])
    for name in ("crop", "cutout"):
        if (value := getattr(config, name)) >= side:
            raise UserError(f"--{name} {value}: images have a side of {side}, needs less")
    return task


def data_digests(config: ImageOptions) -> dict[str, str]:
    """Return the digest of a folder of the user's images, for `open_run`; else {}."""
    if config.data != "folder":
        return {}  # CIFAR-10 is checked as it is read, digits come with scikit-learn
    return {f"--data_dir {config.data_dir}": folder_digest(Path(config.data_dir))}


def tested(config: ImageOptions, model: Model, state: TrainState, task) -> dict:
    """Return loss, accuracy, confusion matrix and accuracy over views on the test images."""
    from purenets.core.metrics import confusion
    from purenets.torch_nets.losses import cross_entropy

    x, y = task.test
    logits = logits_of(model, state, x)
    if bool(logits.isnan().any()):
        raise Diverged("the logits of test images are not finite")
    classes = logits.argmax(1).cpu().numpy()
    found = {
        "loss": float(cross_entropy(logits, y)),
        "accuracy": accuracy_of(logits, y),
        "confusion": confusion(classes, y.cpu().numpy(), len(task.classes)).tolist(),
        "classes": list(task.classes),
    }
    return found | tested_over_views(config, model, state, task.test, logits)


def tested_over_views(config: ImageOptions, model: Model, state: TrainState, test, logits) -> dict:
    """Return the accuracy over the views of --views and --views_below; {} without views."""
    from purenets.torch_nets.tta import unsure

    if config.views == "none":
        return {}
    x, y = test
    over_views = logits_of(with_views(config, model), state, x)
    found = {"views": config.views, "views_accuracy": accuracy_of(over_views, y)}
    if config.views_below == 1:
        return found
    part = float(unsure(logits, config.views_below).float().mean())
    return found | {"views_below": config.views_below, "views_part": part}


def validated_over_views(config: ImageOptions, model: Model, state: TrainState, task) -> dict:
    """Return the accuracy over views on held-out images; {} without views or such images.

    Settings can thus be chosen by what they are judged by later, the accuracy over the same views.
    """
    x, y = task.valid
    if config.views == "none" or not len(y):
        return {}
    return {VALID_VIEWS: accuracy_of(logits_of(with_views(config, model), state, x), y)}


def with_views(config: ImageOptions, model: Model) -> Model:
    """Return the model that averages logits over views, for all images or for the unsure ones."""
    from purenets.torch_nets.tta import where_unsure

    averaged = averaged_over(config.views, model)
    return (
        averaged if config.views_below == 1 else where_unsure(model, averaged, config.views_below)
    )


def averaged_over(views: str, model: Model) -> Model:
    """Return the model that averages its logits over the views that `--views` names."""
    from purenets.torch_nets.tta import flip_averaged, shift_averaged

    model = flip_averaged(model)
    return shift_averaged(model) if views == "shift" else model


def accuracy_of(logits, y) -> float:
    """Return the accuracy; a row with NaN among its logits counts as wrong."""
    from purenets.core.metrics import class_accuracy

    return float(class_accuracy(logits, y))


def logits_of(model: Model, state: TrainState, x):
    """Return the logits (n, classes) of images x in evaluation mode."""
    import torch

    params, buffers, parts = state.params, state.buffers, x.split(500)
    with torch.no_grad():
        return torch.cat([model.apply(params, buffers, part)[0] for part in parts])


def save(result: Result, folder: Path, title: str) -> None:
    """Write `results.json`, and the curves and the confusion matrix as PNG.

    If the test images were not used, there are no test results and no confusion matrix.
    """
    from purenets.core.report import plots

    write_json(folder / RESULTS, (result.test or {}) | (result.valid or {}))
    curves, confusion = (folder / name for name in FIGURES)
    plots.save(plots.curves({"": result.history}, CURVES, title), curves)
    if not result.test:
        return
    figure, axes = plots.panels(1, 1, 6.5, 5.5)
    text = f"test accuracy {result.test['accuracy']:.1%}"
    plots.confusion(axes[0, 0], np.array(result.test["confusion"]), result.test["classes"], text)
    plots.save(figure, confusion)


def remove_earlier_end(folder: Path, steps: int) -> None:
    """Remove what `save` wrote at the end of a run that now goes on to more steps."""
    if (folder / RESULTS).exists() and runs.read_history(folder)[-1]["step"] < steps:
        for name in (RESULTS, *FIGURES):
            (folder / name).unlink(missing_ok=True)


def has_ended(folder: Path) -> bool:
    """Return whether the run in a folder has written everything that `save` writes."""
    if not (folder / RESULTS).exists():
        return False
    curves, confusion = (folder / name for name in FIGURES)
    return curves.exists() and (confusion.exists() or not results_of(folder))


def results_of(folder: Path) -> dict:
    """Return a run's results on the test images; {} if it did not use them."""
    found = read_json(folder / RESULTS, RESULTS_OF_RUN)
    return {name: value for name, value in found.items() if name != VALID_VIEWS}


def valid_views_of(folder: Path) -> float | None:
    """Return a run's accuracy over views on the held-out images; None where it took no views."""
    return read_json(folder / RESULTS, RESULTS_OF_RUN).get(VALID_VIEWS)


def report(title: str, result: Result) -> None:
    """Print the size and the length of a training, and its final loss and accuracy."""
    last, test = result.history[-1], result.test
    print(f"{title}: {tree.size(result.state.params):,} parameters, {last['step']} steps")
    if "valid_loss" in last:
        print(f"  valid  loss {last['valid_loss']:.4f}  accuracy {last['valid_accuracy']:.2%}")
    if result.valid:
        print(f"  valid, mean over views  accuracy {result.valid[VALID_VIEWS]:.2%}")
    if not test:
        return
    print(f"  test   loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%}")
    if "views" in test:
        print(f"  test, mean over views ({test['views']})  accuracy {test['views_accuracy']:.2%}")
