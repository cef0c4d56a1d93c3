"""Part II: train the reduced VGG on CIFAR-10, on any folder of images, or on scikit-learn's digits.

python scripts/cnn_train.py --learning_rate 1e-3 --out runs/cnn                 # Adam's default rate
python scripts/cnn_train.py --data folder --data_dir DIR --out runs/cnn         # DIR/{train,test}/CLASS/*.jpg
python scripts/cnn_train.py --data digits --max_steps 300 --eval_freq 50
torchrun --nproc-per-node 2 scripts/cnn_train.py --data digits --out runs/two   # batches shared by two processes
"""

import functools
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core import optim, random, run, schedule, tree
from core.base import GradFn, Model, Optimizer, TrainState, UserError
from core.config import Options, fraction, not_negative, one_of, option, positive
from core.config import run as run_script
from core.files import write_atomically
from core.history import History
from core.optim import OPTIMIZERS

SCHEDULES = {
    "constant": lambda rate, steps: rate,
    "cosine": lambda rate, steps: schedule.cosine(rate, steps),
    "one_cycle": lambda rate, steps: schedule.one_cycle(rate, steps),
}
AUGMENTATIONS = ("none", "standard", "strong")
CURVES = (("loss", "valid_loss"), ("accuracy", "valid_accuracy"))


@dataclass(frozen=True)
class Config(Options):
    """Train the reduced VGG of the assignment on images."""

    data: str = option("cifar10", "cifar10, folder or digits", choices=["cifar10", "folder", "digits"])
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    image_size: int = option(0, "resize the images of a folder to this; 0 to leave them", not_negative)
    valid_fraction: float = option(0.1, "the part of the training images held out for validation", fraction)
    train_images: int = option(0, "keep only so many training images; 0 for all", not_negative)
    learning_rate: float = option(1e-4, "the optimiser's (peak) rate", positive)
    max_steps: int = option(5000, "steps to train for", positive)
    epochs: float = option(None, "train for so many passes over the training images instead", positive)
    batch_size: int = option(32, "images in a step", positive)
    eval_freq: int = option(500, "steps between evaluations", positive)
    optimizer: str = option("adam", f"one of {', '.join(OPTIMIZERS)}", one_of(list(OPTIMIZERS)))
    schedule: str = option("constant", f"of the rate: {', '.join(SCHEDULES)}", one_of(list(SCHEDULES)))
    weight_decay: float = option(0.0, "as the optimiser takes it; not of biases and norms", not_negative)
    augment: str = option("none", "none, standard (flip, crop) or strong (and cutout)", one_of(AUGMENTATIONS))
    label_smoothing: float = option(0.0, "the part of a target spread over all classes", fraction)
    ema: float = option(
        0.0, "decay of the running mean of the params, which is evaluated; 0 for none", fraction
    )
    mirror: bool = option(False, "test also on the mean of an image and its mirror image")
    width: float = option(1.0, "factor of the channels; 1 is the assignment's net", positive)
    precision: str = option(
        "auto",
        "float32, bfloat16, or auto: what a probe finds fastest",
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
    task: object  # torch_nets.images.Task


def train(config: Config) -> Result:
    """Train the network of `config`; the test images are looked at once, at the end."""
    import torch  # when work starts, so that --help is quick

    from torch_nets.convert import device_of
    from torch_nets.distributed import processes

    torch.set_num_threads(config.threads or torch.get_num_threads())
    device = device_of(config.device)
    with processes(device) as group:
        return train_as(config, device, group)


def train_as(config: Config, device, group) -> Result:
    """What one of the processes of a training does; all have the same result, and the first writes it."""
    from core.data import batches
    from core.train import evaluate, make_step
    from torch_nets import images, jit, metrics_fn
    from torch_nets.distributed import check_share, first_alone, parallel_metrics

    split_key, init_key, batch_key, step_key = random.split(random.key(config.seed), 4)
    load = functools.partial(images.load, config.data, config.data_dir, config.image_size)
    found = first_alone(load, group)  # it may fill the cache
    task = images.prepare(found, split_key, config.valid_fraction, device, config.train_images)
    n = len(task.train[1])
    if config.batch_size > n:
        raise UserError(f"--batch_size {config.batch_size}: more than the {n} training images")
    check_share(config.batch_size, group)
    if config.compile and group.size > 1:
        raise UserError("--compile: not with several processes; leave it out")

    folder = run.open_run(config, group.writes)
    model, plain = make_model(config, task, folder, group)
    steps = math.ceil(config.epochs * n / config.batch_size) if config.epochs else config.max_steps
    optimizer = make_optimizer(config, steps)
    state = start(plain, optimizer, init_key, step_key, device)
    step = make_step(make_grad_fn(config, model, task.normalise, group), optimizer)
    metrics = parallel_metrics(metrics_fn(model), group)

    def validate(state: TrainState) -> dict[str, float]:
        found = evaluate(metrics, optim.averaged(state), task.valid, batch_size=500)
        return {f"valid_{name}": value for name, value in found.items()}

    state, history = run.fit(
        folder,
        jit(step) if config.compile else step,
        state,
        batches(task.train, config.batch_size, batch_key),
        steps=steps,
        every=config.eval_freq,
        evaluate=validate,
        label="CNN",
        hint="try a lower --learning_rate",
        writes=group.writes,
    )
    state = optim.averaged(state)
    result = Result(state, history, test_of(model, state, task, config.mirror), model, task)
    if folder and group.writes:
        save(result, folder)
    return result


def make_model(config: Config, task, folder: Path | None, group=None) -> tuple[Model, Model]:
    """The network that takes uint8 images in the way that is fastest here, and the same without either."""
    from torch_nets import distributed, layers
    from torch_nets.cnn_model import CNN
    from torch_nets.pace import WAYS, probe, ways_of

    group, n_channels = group or distributed.Group(), task.train[0].shape[1]
    total = distributed.total if group.size > 1 else None
    norm = functools.partial(layers.BatchNorm, total=total)
    plain = CNN(n_channels, len(task.classes), width=config.width, norm=norm)
    recorded = folder / "probe.json" if folder else None
    if recorded and recorded.exists():  # a resumed run goes on as it began
        seconds = json.loads(recorded.read_text())
    else:
        batch = task.normalise(task.train[0][: config.batch_size]), task.train[1][: config.batch_size]
        seconds = probe(plain, batch, ways_of(config.precision))
        seconds = distributed.first_of_ranks(seconds, group)
        if recorded and group.writes:
            write_atomically(recorded, json.dumps(seconds, indent=1).encode())
    way = min(seconds, key=seconds.get)
    times = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in seconds.items())
    print(f"computing in {way} (gradient of at most 32 images: {times}); params stay float32")
    return normalised(WAYS[way](plain), task.normalise), plain


def normalised(model: Model, normalise: Callable) -> Model:
    """The model of uint8 images; float images are taken as normalised already."""

    def apply(params, buffers, x, *, train=False, key=None):
        x = x if x.is_floating_point() else normalise(x)
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply)


def make_optimizer(config: Config, steps: int) -> Optimizer:
    """The optimiser with its schedule; weight decay on matrices and filters only; the running mean last."""
    make = OPTIMIZERS[config.optimizer]
    rate = SCHEDULES[config.schedule](config.learning_rate, steps)
    if config.weight_decay:
        if "weight_decay" not in inspect.signature(make).parameters:
            raise UserError(f"--weight_decay: {config.optimizer} takes none")
        parts = {
            "decayed": make(lr=rate, weight_decay=config.weight_decay),
            "kept": make(lr=rate, weight_decay=0),
        }
        optimizer = optim.partition(parts, lambda name, leaf: "decayed" if leaf.ndim > 1 else "kept")
    else:
        optimizer = make(lr=rate)
    return optim.chain(optimizer, optim.ema(config.ema)) if config.ema else optimizer


def make_grad_fn(config: Config, model: Model, normalise: Callable, group) -> GradFn:
    """The gradient of the (smoothed) loss on augmented images."""
    from torch_nets import augment, grad_fn
    from torch_nets.distributed import data_parallel
    from torch_nets.losses import cross_entropy, smoothed

    grad = grad_fn(model, smoothed(config.label_smoothing) if config.label_smoothing else cross_entropy)
    grad = data_parallel(grad, group)
    if config.augment == "strong":  # the hole is filled with the mean, so after the normalisation
        grad = augment.on_inputs(augment.augmented(grad, augment.cutout(8)), normalise)
    if config.augment != "none":
        grad = augment.augmented(grad, augment.chain(augment.flip, augment.crop(4)))
    return grad


def start(model: Model, optimizer: Optimizer, init_key, step_key, device) -> TrainState:
    """The state before the first step, on the device."""
    from core.train import train_state

    params, buffers = (tree.map(lambda leaf: leaf.to(device), part) for part in model.init(init_key))
    return train_state(params, buffers, optimizer, step_key)


def test_of(model: Model, state: TrainState, task, mirror: bool = False) -> dict:
    """Loss, accuracy and confusion matrix on the test images; `mirrored_accuracy` is that of the mean of the
    logits of an image and of its mirror image."""
    from core.metrics import confusion
    from torch_nets.losses import cross_entropy
    from torch_nets.wrappers import mirror_averaged

    x, y = task.test
    logits = logits_of(model, state, x)
    found = {
        "loss": float(cross_entropy(logits, y)),
        "accuracy": float((logits.argmax(1) == y).float().mean()),
        "confusion": confusion(logits.argmax(1).cpu().numpy(), y.cpu().numpy(), len(task.classes)).tolist(),
        "classes": list(task.classes),
    }
    if mirror:
        both = logits_of(mirror_averaged(model), state, x)
        found["mirrored_accuracy"] = float((both.argmax(1) == y).float().mean())
    return found


def logits_of(model: Model, state: TrainState, x):
    """(n, classes), in evaluation mode."""
    import torch

    with torch.no_grad():
        return torch.cat([model.apply(state.params, state.buffers, part)[0] for part in x.split(500)])


def save(result: Result, folder: Path) -> None:
    """`results.json`, and the curves and the confusion matrix as PNG."""
    from core import plots

    write_atomically(folder / "results.json", json.dumps(result.test, indent=1).encode())
    plots.save(plots.curves({"": result.history}, CURVES, "reduced VGG"), folder / "curves.png")
    figure, axes = plots.panels(1, 1, 6.5, 5.5)
    title = f"test accuracy {result.test['accuracy']:.1%}"
    plots.confusion(axes[0, 0], np.array(result.test["confusion"]), result.test["classes"], title)
    plots.save(figure, folder / "confusion.png")


def main(config: Config) -> Result:
    result = train(config)
    last, test = result.history[-1], result.test
    print(f"reduced VGG: {tree.size(result.state.params):,} parameters, {last['step']} steps")
    print(f"  valid  loss {last['valid_loss']:.4f}  accuracy {last['valid_accuracy']:.2%}")
    print(f"  test   loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%}")
    if config.mirror:
        print(f"  test with the mirror image  accuracy {test['mirrored_accuracy']:.2%}")
    return result


if __name__ == "__main__":
    run_script(Config, main)
