"""What scripts/cifar10_cnn.py and scripts/cifar10_mlp.py share: the recipe around a network, and its training."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from purenets import GradFn, Model, Optimizer, TrainState, UserError, optim, random, runs
from purenets.core.runs.options import fraction, not_negative, one_of, option, positive
from scripts.shared.images import (
    ImageOptions,
    Result,
    accuracy_of,
    autotuned,
    logits_of,
    save,
    start,
    test_of,
    validation,
)

FLIPS = ("alternating", "random", "none")
VIEWS = ("none", "mirror", "shift")


@dataclass(frozen=True)
class Recipe(ImageOptions):
    """The options of both scripts."""

    preset: str = option("", "the named set of values that all other options begin with")
    valid_fraction: float = option(
        0.02, "the part of the training images held out for validation; 0 for none", fraction
    )
    batch_size: int = option(500, "images in a step", positive)
    label_smoothing: float = option(0.2, "the part of a target spread over all classes", fraction)
    epochs: float = option(8.0, "passes over the training images", positive)
    evaluations: int = option(0, "evaluations on validation images in all; 0 for one an epoch", not_negative)
    flip: str = option("alternating", "mirror images: each every other epoch, at random, none", one_of(FLIPS))
    crop: int = option(2, "move images by up to so many pixels", not_negative)
    cutout: int = option(0, "set a square of so many pixels to the mean; 0 for none", not_negative)
    mixup: bool = option(False, "train on mixtures of two images")
    members: int = option(1, "nets that are trained side by side; their logits are averaged", positive)
    views: str = option(
        "shift", "test also on the mean of an image and its mirror, or shifts too", one_of(VIEWS)
    )


def train(
    config: Recipe,
    make_net: Callable[[Recipe, object], Model],
    make_optimizer: Callable[[Recipe, int, float], Optimizer],
    title: str,
) -> Result:
    """Train `make_net(config, task)`, a model of normalized images, with `make_optimizer(config, steps,
    steps_per_epoch)`; the test images are looked at once, at the end."""
    import torch  # when work starts, so that --help is quick

    from purenets import make_step
    from purenets.data import batches
    from purenets.torch_nets import augment, images, jit, metrics_fn
    from purenets.torch_nets.convert import device_of
    from purenets.torch_nets.ensemble import deep_ensemble, per_member_grad_fn

    torch.set_num_threads(config.threads or torch.get_num_threads())
    device = device_of(config.device)
    split_key, init_key, batch_key, step_key = random.split(random.key(config.seed), 4)
    found = images.load(config.data, config.data_dir, config.image_size)
    task = images.prepare(found, split_key, config.valid_fraction, device, config.train_images)
    n = len(task.train[1])
    if config.batch_size > n:
        raise UserError(f"--batch_size {config.batch_size}: more than the {n} training images")

    folder = runs.open_run(config)
    plain = make_net(config, task)
    model = autotuned(plain, task, config.precision, folder)
    steps = math.ceil(config.epochs * n / config.batch_size)
    optimizer = make_optimizer(config, steps, n / config.batch_size)
    if config.ema:
        optimizer = optim.chain(optimizer, optim.ema(config.ema))
    grad = make_grad_fn(config, model, task)
    if config.members > 1:
        model, grad = deep_ensemble(model, config.members), per_member_grad_fn(grad, config.members)
    state = start(model, optimizer, init_key, step_key, device)
    step = make_step(grad, optimizer)

    draw = augment.alternately_flipped if config.flip == "alternating" else batches
    state, history = runs.fit_and_save(
        folder,
        jit(step) if config.compile else step,
        state,
        draw(task.train, config.batch_size, batch_key),
        steps=steps,
        every=math.ceil(steps / (config.evaluations or math.ceil(config.epochs))),
        evaluate=validation(metrics_fn(model), task),
        label=title,
        hint="try a lower --learning_rate",
    )
    state = optim.with_averaged_params(state)
    lap = runs.timer(folder)
    views = tested_on_views(config, model, state, task)
    if folder:
        lap(steps)
    result = Result(state, history, test_of(model, state, task) | views, model, task)
    if folder:
        save(result, folder, title)
    return result


def make_grad_fn(config: Recipe, model: Model, task) -> GradFn:
    """The gradient of the smoothed loss on augmented images."""
    from purenets.torch_nets import augment, grad_fn
    from purenets.torch_nets.losses import label_smoothed

    grad = grad_fn(model, label_smoothed(config.label_smoothing))
    if config.mixup:
        grad = augment.mixup(grad, len(task.classes))
    if config.cutout:  # filled with the mean, so after the normalization
        grad = augment.augmented(grad, augment.cutout(config.cutout))
    grad = augment.on_inputs(grad, task.normalize)
    if config.crop:
        grad = augment.augmented(grad, augment.crop(config.crop))
    if config.flip == "random":
        grad = augment.augmented(grad, augment.flip)
    return grad


def tested_on_views(config: Recipe, model: Model, state: TrainState, task) -> dict:
    """The test accuracy of the mean of the logits of several views of an image, by `--views`."""
    from purenets.torch_nets.tta import mirror_averaged, shift_averaged

    if config.views == "none":
        return {}
    model = mirror_averaged(model)
    model = shift_averaged(model) if config.views == "shift" else model
    x, y = task.test
    return {"views": config.views, "views_accuracy": accuracy_of(logits_of(model, state, x), y)}
