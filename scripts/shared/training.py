"""The one training of image nets, behind cnn_train, cifar10_cnn and cifar10_mlp.

A script hands over a `Recipe`: its net and its optimizer. `ImageOptions` choose all the rest.
"""

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from purenets import (
    GradFn,
    Model,
    Optimizer,
    TrainState,
    UserError,
    evaluate,
    make_step,
    optim,
    random,
    runs,
    train_state,
    tree,
)
from purenets.core.memory import expect_room_for
from purenets.core.runs.json_files import read_json, write_json
from purenets.schedules import SCHEDULES
from scripts.shared.images import ImageOptions, open_task, save, tested
from scripts.shared.result import Result
from scripts.shared.schemas import all_of

PROBE = "probe.json"


class Recipe(NamedTuple):
    """What a script adds to the training.

    Args:
        title: what the net is called on the screen and above the curves.
        make_net: `make_net(config, task, norm)` -> the model of normalized images. `norm` is the
            constructor of BatchNorm, whose statistics are those of the batch of all processes.
        make_optimizer: `make_optimizer(config, steps, steps_per_epoch)` -> the optimizer.
        chain_moves: flip and crop take their keys from `augment.chain` instead of one after the
            other. Both are as random; each script keeps the numbers that its seeds have had.
    """

    title: str
    make_net: Callable[[Any, Any, Callable[..., Model]], Model]
    make_optimizer: Callable[[Any, int, float], Optimizer]
    chain_moves: bool = False


def train(config: ImageOptions, recipe: Recipe) -> Result:
    """Train the net of a recipe; under torchrun in several processes, which share its batches.

    The test images are looked at once, at the end.
    """
    import torch  # when work starts, here and below, so that --help is quick

    from purenets.torch_nets.convert import device_from_name
    from purenets.torch_nets.distributed import processes

    torch.set_num_threads(config.threads or torch.get_num_threads())
    device = device_from_name(config.device)
    with processes(device) as group:
        return train_as(config, recipe, device, group)


def train_as(config: ImageOptions, recipe: Recipe, device, group) -> Result:
    """Train as one of the processes; all return the same result, and rank 0 writes it."""
    from purenets.torch_nets import jit, metrics_fn
    from purenets.torch_nets.distributed import barrier, check_share, parallel_metrics

    check_share(config.batch_size, group)
    if config.compile and group.size > 1:
        raise UserError("--compile: not with several processes; leave it out")
    split_key, init_key, batch_key, step_key = random.split(random.key(config.seed), 4)
    task = open_task(config, split_key, device, group)
    plain = recipe.make_net(config, task, batch_norm_of(group))
    expect_room_for(plain, "take a smaller net", config.members)
    steps, per_epoch = steps_of(config, task)
    optimizer = make_optimizer(config, recipe, steps, per_epoch)
    with runs.open_run(config, group.writes, group.size) as folder:
        barrier(group)  # until the folder is as it has to be
        model = autotuned(plain, task, config.precision, folder, group)
        model, grad = with_members(config, model, make_grad_fn(config, recipe, model, task, group))
        step = make_step(grad, optimizer)
        state, history = runs.fit_and_save(
            folder,
            jit(step) if config.compile else step,
            start(model, optimizer, init_key, step_key, device),
            batches_of(config, task, batch_key),
            steps=steps,
            every=steps_between_evaluations(config, steps, per_epoch),
            evaluate=validation(parallel_metrics(metrics_fn(model), group), task),
            label=recipe.title,
            hint="try a lower --learning_rate",
            writes=group.writes,
            keep=config.keep,
        )
        state = optim.with_averaged_params(state)
        lap = runs.timer(folder if group.writes else None)
        result = Result(state, history, model, task, tested(config, model, state, task))
        if folder and group.writes:
            lap(int(state.step))  # the test belongs to the time of a run
            save(result, folder, recipe.title)
    return result


# --- the length of the training -------------------------------------------------------------------


def steps_of(config: ImageOptions, task) -> tuple[int, float]:
    """Return the steps to train for, and the steps of an epoch."""
    per_epoch = len(task.train[1]) / config.batch_size
    steps = math.ceil(config.epochs * per_epoch) if config.epochs else config.max_steps
    return steps, per_epoch


def steps_between_evaluations(config: ImageOptions, steps: int, per_epoch: float) -> int:
    if config.evaluations:
        return math.ceil(steps / config.evaluations)
    return config.eval_freq or math.ceil(per_epoch)


# --- model ----------------------------------------------------------------------------------------


def batch_norm_of(group) -> Callable[..., Model]:
    """Return the BatchNorm whose statistics are those of the batch of all processes."""
    from purenets.torch_nets import distributed, layers

    total = distributed.total if group.size > 1 else None
    return functools.partial(layers.BatchNorm, total=total)


def autotuned(plain: Model, task, precision: str, folder: Path | None, group) -> Model:
    """Return the model of uint8 images, in the precision and memory format measured to be fastest.

    A resumed run goes on as its `probe.json` says.
    """
    from purenets.torch_nets import distributed
    from purenets.torch_nets.precision import VARIANTS, autotune, variants_for

    recorded = folder / PROBE if folder else None
    if recorded and recorded.exists():
        seconds = read_probe(folder)
    else:
        batch = task.normalize(task.train[0][:32]), task.train[1][:32]
        seconds = autotune(plain, batch, variants_for(precision))
        seconds = distributed.broadcast_from_rank0(seconds, group)
        if recorded and group.writes:
            write_json(recorded, {"seconds": seconds})
    variant = min(seconds, key=seconds.get)
    if len(seconds) > 1:
        times = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in seconds.items())
        print(f"computing in {variant} (gradient of 32 images: {times}); params stay float32")
    return normalized(VARIANTS[variant](plain), task.normalize)


def read_probe(folder: Path) -> dict[str, float]:
    """Return the seconds of each variant that `probe.json` holds."""
    from purenets.torch_nets.precision import VARIANTS

    def known(value: dict) -> str | None:
        good = value and all(
            name in VARIANTS and type(value[name]) in (int, float) for name in value
        )
        return None if good else f"needs seconds by names among {', '.join(VARIANTS)}"

    schema = ({"seconds": all_of(dict, known)}, all_of(dict, known))  # the second: as it was before
    found = read_json(folder / PROBE, schema)
    return found.get("seconds", found)


def normalized(model: Model, normalize: Callable) -> Model:
    """Return the model of uint8 images; float images are taken as normalized already."""

    def apply(params, buffers, x, *, train=False, key=None):
        x = x if x.is_floating_point() else normalize(x)
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply, layers={})


def with_members(config: ImageOptions, model: Model, grad: GradFn) -> tuple[Model, GradFn]:
    """Return the model and the gradient of `--members` nets, side by side as one."""
    from purenets.torch_nets.ensemble import deep_ensemble, per_member_grad_fn

    if config.members == 1:
        return model, grad
    return deep_ensemble(model, config.members), per_member_grad_fn(grad, config.members)


def start(model: Model, optimizer: Optimizer, init_key, step_key, device) -> TrainState:
    """Return the state before the first step, on the device."""
    drawn = model.init(init_key)
    params, buffers = (tree.map(lambda leaf: leaf.to(device), part) for part in drawn)
    return train_state(params, buffers, optimizer, step_key)


# --- gradient and batches -------------------------------------------------------------------------


def make_grad_fn(config: ImageOptions, recipe: Recipe, model: Model, task, group) -> GradFn:
    """Return the gradient of the smoothed loss on augmented uint8 images."""
    from purenets.torch_nets import augment, grad_fn
    from purenets.torch_nets.distributed import data_parallel
    from purenets.torch_nets.losses import label_smoothed

    grad = data_parallel(grad_fn(model, label_smoothed(config.label_smoothing)), group)
    if config.mixup:
        grad = augment.mixup(grad, len(task.classes))
    if config.cutout:  # filled with the mean, so after the normalization
        grad = augment.augmented(grad, augment.cutout(config.cutout))
    grad = augment.with_input_transform(grad, task.normalize)
    moves = [augment.flip] if config.flip == "random" else []
    moves += [augment.crop(config.crop)] if config.crop else []
    if moves and recipe.chain_moves:
        moves = [augment.chain(*moves)]
    for move in reversed(moves):  # the outermost wrapper is the first to draw and to move
        grad = augment.augmented(grad, move)
    return grad


def batches_of(config: ImageOptions, task, key) -> Callable:
    """Return the function from the step to its batch."""
    from purenets.data import batches
    from purenets.torch_nets.augment import alternating_flip_batches

    draw = alternating_flip_batches if config.flip == "alternating" else batches
    return draw(task.train, config.batch_size, key)


# --- optimizer ------------------------------------------------------------------------------------


def make_optimizer(config: ImageOptions, recipe: Recipe, steps: int, per_epoch: float) -> Optimizer:
    """Return the recipe's optimizer; the running mean of the params last."""
    optimizer = recipe.make_optimizer(config, steps, per_epoch)
    return optim.chain(optimizer, optim.ema(config.ema)) if config.ema else optimizer


def scheduled(make: Callable[..., Optimizer], config, steps: int) -> Optimizer:
    """Return the optimizer of a constructor, by the options that scripts with a choice of it have.

    The options are --learning_rate, --schedule and --weight_decay; only matrices and filters decay.
    """
    rate = SCHEDULES[config.schedule](config.learning_rate, steps)
    if not config.weight_decay:
        return make(lr=rate)
    if "weight_decay" not in inspect.signature(make).parameters:
        raise UserError(f"--weight_decay: {make.__name__} takes none")
    parts = {
        "decayed": make(lr=rate, weight_decay=config.weight_decay),
        "kept": make(lr=rate, weight_decay=0),
    }
    return optim.partition(parts, lambda name, leaf: "decayed" if leaf.ndim > 1 else "kept")


# --- evaluation -----------------------------------------------------------------------------------


def validation(metrics: Callable, task) -> Callable[[TrainState], dict[str, float]] | None:
    """Return what `fit` evaluates: the metrics of the (averaged) params on the validation images.

    None where no images are held out.
    """

    def validate(state: TrainState) -> dict[str, float]:
        found = evaluate(metrics, optim.with_averaged_params(state), task.valid, batch_size=500)
        return {f"valid_{name}": value for name, value in found.items()}

    return validate if len(task.valid[1]) else None
