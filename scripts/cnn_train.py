"""Part II: train the reduced VGG on CIFAR-10, on any folder of images, or on scikit-learn's digits.

python scripts/cnn_train.py --learning_rate 1e-3 --out runs/cnn                 # Adam's default rate
python scripts/cnn_train.py --data folder --data_dir DIR --out runs/cnn         # DIR/{train,test}/CLASS/*.jpg
python scripts/cnn_train.py --data digits --max_steps 300 --eval_freq 50
torchrun --nproc-per-node 2 scripts/cnn_train.py --data digits --out runs/two   # batches shared by two processes
"""

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import GradFn, Model, Optimizer, TrainState, UserError, optim, random, runs
from purenets.core.runs.command import command
from purenets.core.runs.options import not_negative, one_of, option, positive
from purenets.optim import OPTIMIZERS
from scripts.shared import images as image_task
from scripts.shared.images import (
    SCHEDULES,
    ImageOptions,
    Result,
    accuracy_of,
    autotuned,
    logits_of,
    report,
    save,
    scheduled,
    start,
    validation,
)

AUGMENTATIONS = ("none", "standard", "strong")
TITLE = "reduced VGG"


@dataclass(frozen=True)
class Config(ImageOptions):
    """Train the reduced VGG of the assignment on images."""

    learning_rate: float = option(1e-4, "the optimizer's (peak) rate", positive)
    max_steps: int = option(5000, "steps to train for", positive)
    epochs: float = option(None, "train for so many passes over the training images instead", positive)
    eval_freq: int = option(500, "steps between evaluations", positive)
    optimizer: str = option("adam", f"one of {', '.join(OPTIMIZERS)}", one_of(list(OPTIMIZERS)))
    schedule: str = option("constant", f"of the rate: {', '.join(SCHEDULES)}", one_of(list(SCHEDULES)))
    weight_decay: float = option(0.0, "as the optimizer takes it; not of biases and norms", not_negative)
    augment: str = option("none", "none, standard (flip, crop) or strong (and cutout)", one_of(AUGMENTATIONS))
    mirror: bool = option(False, "test also on the mean of an image and its mirror image")
    width: float = option(1.0, "factor of the channels; 1 is the assignment's net", positive)


def train(config: Config) -> Result:
    """Train the network of `config`; the test images are looked at once, at the end."""
    import torch  # when work starts, so that --help is quick

    from purenets.torch_nets.convert import device_of
    from purenets.torch_nets.distributed import processes

    torch.set_num_threads(config.threads or torch.get_num_threads())
    device = device_of(config.device)
    with processes(device) as group:
        return train_as(config, device, group)


def train_as(config: Config, device, group) -> Result:
    """What one of the processes of a training does; all have the same result, and the first writes it."""
    from purenets import make_step
    from purenets.data import batches
    from purenets.torch_nets import images, jit, metrics_fn
    from purenets.torch_nets.distributed import check_share, parallel_metrics, rank0_first

    split_key, init_key, batch_key, step_key = random.split(random.key(config.seed), 4)
    load = functools.partial(images.load, config.data, config.data_dir, config.image_size)
    found = rank0_first(load, group)  # it may fill the cache
    task = images.prepare(found, split_key, config.valid_fraction, device, config.train_images)
    n = len(task.train[1])
    if config.batch_size > n:
        raise UserError(f"--batch_size {config.batch_size}: more than the {n} training images")
    check_share(config.batch_size, group)
    if config.compile and group.size > 1:
        raise UserError("--compile: not with several processes; leave it out")

    folder = runs.open_run(config, group.writes)
    plain = make_net(config, task, group)
    model = autotuned(plain, task, config.precision, folder, group)
    steps = math.ceil(config.epochs * n / config.batch_size) if config.epochs else config.max_steps
    optimizer = make_optimizer(config, steps)
    state = start(plain, optimizer, init_key, step_key, device)
    step = make_step(make_grad_fn(config, model, task.normalize, group), optimizer)

    state, history = runs.fit_and_save(
        folder,
        jit(step) if config.compile else step,
        state,
        batches(task.train, config.batch_size, batch_key),
        steps=steps,
        every=config.eval_freq,
        evaluate=validation(parallel_metrics(metrics_fn(model), group), task),
        label="CNN",
        hint="try a lower --learning_rate",
        writes=group.writes,
    )
    state = optim.with_averaged_params(state)
    result = Result(state, history, test_of(model, state, task, config.mirror), model, task)
    if folder and group.writes:
        save(result, folder, TITLE)
    return result


def make_net(config: Config, task, group=None) -> Model:
    """The reduced VGG of float images; its BatchNorm takes the statistics of the whole group's batch."""
    from purenets.torch_nets import CNN, distributed, layers

    total = distributed.total if group and group.size > 1 else None
    norm = functools.partial(layers.BatchNorm, total=total)
    return CNN(task.train[0].shape[1], len(task.classes), width=config.width, norm=norm)


def make_optimizer(config: Config, steps: int) -> Optimizer:
    """The optimizer with its schedule; the running mean last."""
    make = OPTIMIZERS[config.optimizer]
    optimizer = scheduled(make, config.learning_rate, config.schedule, config.weight_decay, steps)
    return optim.chain(optimizer, optim.ema(config.ema)) if config.ema else optimizer


def make_grad_fn(config: Config, model: Model, normalize: Callable, group) -> GradFn:
    """The gradient of the (smoothed) loss on augmented images."""
    from purenets.torch_nets import augment, grad_fn
    from purenets.torch_nets.distributed import data_parallel
    from purenets.torch_nets.losses import cross_entropy, label_smoothed

    grad = grad_fn(model, label_smoothed(config.label_smoothing) if config.label_smoothing else cross_entropy)
    grad = data_parallel(grad, group)
    if config.augment == "strong":  # the hole is filled with the mean, so after the normalization
        grad = augment.on_inputs(augment.augmented(grad, augment.cutout(8)), normalize)
    if config.augment != "none":
        grad = augment.augmented(grad, augment.chain(augment.flip, augment.crop(4)))
    return grad


def test_of(model: Model, state: TrainState, task, mirror: bool = False) -> dict:
    """`image_task.test_of`; `mirrored_accuracy` is that of the mean of the logits of an image and of its mirror
    image."""
    from purenets.torch_nets.tta import mirror_averaged

    found = image_task.test_of(model, state, task)
    if mirror:
        both = logits_of(mirror_averaged(model), state, task.test[0])
        found["mirrored_accuracy"] = accuracy_of(both, task.test[1])
    return found


def main(config: Config) -> Result:
    result = train(config)
    report(TITLE, result)
    if config.mirror:
        print(f"  test with the mirror image  accuracy {result.test['mirrored_accuracy']:.2%}")
    return result


if __name__ == "__main__":
    command(Config, main)
