"""What the scripts that train on images share: the way a net computes, the start, the test, the results."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from purenets import History, Model, Optimizer, TrainState, UserError, optim, schedules, tree
from purenets.core.runs.files import write_atomically
from purenets.core.runs.options import Options, fraction, not_negative, open_fraction, option, positive

SCHEDULES = {
    "constant": lambda rate, steps: rate,
    "linear": lambda rate, steps: schedules.linear(rate, 0.0, steps),
    "cosine": lambda rate, steps: schedules.cosine(rate, steps),
    "one_cycle": lambda rate, steps: schedules.one_cycle(rate, steps),
}
CURVES = (("loss", "valid_loss"), ("accuracy", "valid_accuracy"))


@dataclass(frozen=True)
class ImageOptions(Options):
    """The options of every script that trains on images."""

    data: str = option("cifar10", "cifar10, folder or digits", choices=["cifar10", "folder", "digits"])
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    image_size: int = option(0, "resize the images of a folder, or digits, to this; 0 to leave", not_negative)
    valid_fraction: float = option(
        0.1, "the part of the training images held out for validation", open_fraction
    )
    train_images: int = option(0, "keep only so many training images; 0 for all", not_negative)
    batch_size: int = option(32, "images in a step", positive)
    label_smoothing: float = option(0.0, "the part of a target spread over all classes", fraction)
    ema: float = option(
        0.0, "decay of the running mean of the params, which is evaluated; 0 for none", fraction
    )
    precision: str = option(
        "auto",
        "float32, bfloat16 (channels last), or auto: what a probe finds fastest",
        choices=["auto", "float32", "bfloat16"],
    )
    compile: bool = option(False, "the whole step under torch.compile (faster after a minute)")
    device: str = option("auto", "cpu, cuda, cuda:1, ... or auto")
    threads: int = option(0, "CPU threads; 0 for one a core", not_negative)
    seed: int = option(0, "all randomness: split, params, order of batches, augmentation", not_negative)
    out: str = option(None, "folder for config, history, checkpoint, results and figures")
    resume: bool = option(False, "go on with the run in --out")


class Result(NamedTuple):
    """A trained network: all that a notebook or a figure needs of it."""

    state: TrainState  # params are the running mean where --ema asks for one
    history: History
    test: dict  # loss, accuracy, confusion (classes, classes)
    model: Model  # takes uint8 images
    task: object  # purenets.torch_nets.images.Task


def autotuned(plain: Model, task, precision: str, folder: Path | None, group=None) -> Model:
    """The network in the precision and memory format that a probe finds fastest here, on images as `task` has
    them; a resumed run goes on as its `autotune.json` says."""
    from purenets.torch_nets import distributed
    from purenets.torch_nets.precision import VARIANTS, autotune, variants_for

    group = group or distributed.Group()
    recorded = folder / "probe.json" if folder else None
    if recorded and recorded.exists():
        seconds = json.loads(recorded.read_text())
    else:
        batch = task.normalize(task.train[0][:32]), task.train[1][:32]
        seconds = autotune(plain, batch, variants_for(precision))
        seconds = distributed.broadcast_from_rank0(seconds, group)
        if recorded and group.writes:
            write_atomically(recorded, json.dumps(seconds, indent=1).encode())
    variant = min(seconds, key=seconds.get)
    if len(seconds) > 1:
        times = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in seconds.items())
        print(f"computing in {variant} (gradient of at most 32 images: {times}); params stay float32")
    return normalized(VARIANTS[variant](plain), task.normalize)


def normalized(model: Model, normalize: Callable) -> Model:
    """The model of uint8 images; float images are taken as normalized already."""

    def apply(params, buffers, x, *, train=False, key=None):
        x = x if x.is_floating_point() else normalize(x)
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply)


def scheduled(
    make: Callable[..., Optimizer], peak: float, schedule_name: str, weight_decay: float, steps: int
) -> Optimizer:
    """The optimizer of a constructor with its schedule; weight decay on matrices and filters only."""
    rate = SCHEDULES[schedule_name](peak, steps)
    if not weight_decay:
        return make(lr=rate)
    if "weight_decay" not in inspect.signature(make).parameters:
        raise UserError(f"--weight_decay: {make.__name__} takes none")
    parts = {"decayed": make(lr=rate, weight_decay=weight_decay), "kept": make(lr=rate, weight_decay=0)}
    return optim.partition(parts, lambda name, leaf: "decayed" if leaf.ndim > 1 else "kept")


def start(model: Model, optimizer: Optimizer, init_key, step_key, device) -> TrainState:
    """The state before the first step, on the device."""
    from purenets import train_state

    params, buffers = (tree.map(lambda leaf: leaf.to(device), part) for part in model.init(init_key))
    return train_state(params, buffers, optimizer, step_key)


def validation(metrics: Callable, task) -> Callable[[TrainState], dict[str, float]] | None:
    """What `fit` evaluates: the metrics on the validation images, with averaged params where there are some; None
    where no images are held out."""
    from purenets import evaluate

    def validate(state: TrainState) -> dict[str, float]:
        found = evaluate(metrics, optim.with_averaged_params(state), task.valid, batch_size=500)
        return {f"valid_{name}": value for name, value in found.items()}

    return validate if len(task.valid[1]) else None


def test_of(model: Model, state: TrainState, task) -> dict:
    """Loss, accuracy and confusion matrix on the test images."""
    from purenets.core.metrics import confusion
    from purenets.torch_nets.losses import cross_entropy

    x, y = task.test
    logits = logits_of(model, state, x)
    return {
        "loss": float(cross_entropy(logits, y)),
        "accuracy": accuracy_of(logits, y),
        "confusion": confusion(logits.argmax(1).cpu().numpy(), y.cpu().numpy(), len(task.classes)).tolist(),
        "classes": list(task.classes),
    }


def accuracy_of(logits, y) -> float:
    return float((logits.argmax(1) == y).float().mean())


def logits_of(model: Model, state: TrainState, x):
    """(n, classes), in evaluation mode."""
    import torch

    with torch.no_grad():
        return torch.cat([model.apply(state.params, state.buffers, part)[0] for part in x.split(500)])


def save(result: Result, folder: Path, title: str) -> None:
    """`results.json`, and the curves and the confusion matrix as PNG."""
    from purenets.core.report import plots

    write_atomically(folder / "results.json", json.dumps(result.test, indent=1).encode())
    plots.save(plots.curves({"": result.history}, CURVES, title), folder / "curves.png")
    figure, axes = plots.panels(1, 1, 6.5, 5.5)
    text = f"test accuracy {result.test['accuracy']:.1%}"
    plots.confusion(axes[0, 0], np.array(result.test["confusion"]), result.test["classes"], text)
    plots.save(figure, folder / "confusion.png")


def report(title: str, result: Result) -> None:
    """The last lines of a script."""
    last, test = result.history[-1], result.test
    print(f"{title}: {tree.size(result.state.params):,} parameters, {last['step']} steps")
    if "valid_loss" in last:
        print(f"  valid  loss {last['valid_loss']:.4f}  accuracy {last['valid_accuracy']:.2%}")
    print(f"  test   loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%}")
    if "views" in test:
        print(f"  test, mean over views ({test['views']})  accuracy {test['views_accuracy']:.2%}")
