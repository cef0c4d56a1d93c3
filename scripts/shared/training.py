"""The training of image nets that cnn_train, cifar10_cnn and cifar10_mlp share.

A script provides a `Recipe` with its net and its optimizer; `ImageOptions` set everything else.
"""

import functools
import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from purenets import (
    GradFn,
    History,
    Model,
    Optimizer,
    Step,
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
from purenets.core.runs import checkpoint
from purenets.core.runs.files import write_atomically
from purenets.core.runs.json_files import read_json, write_json
from purenets.schedules import SCHEDULES
from scripts.shared.fixed_params import Fixed, with_fixed
from scripts.shared.images import (
    ImageOptions,
    data_digests,
    open_task,
    remove_earlier_end,
    save,
    tested,
    validated_over_views,
)
from scripts.shared.result import Result
from scripts.shared.schemas import all_of

PROBE = "probe.json"
STATISTICS = 5000  # training images for BatchNorm's statistics with averaged params
ROWS = "hardest.safetensors"  # in a run's folder: which rows of each batch are trained on


class Recipe(NamedTuple):
    """What a script adds to the training.

    Args:
        title: the name of the net on the screen and above the curves.
        make_net: `make_net(config, task, norm)` -> the model of normalized images. `norm` is the
            constructor of BatchNorm, with statistics over the batch of all processes.
        make_optimizer: `make_optimizer(config, steps, steps_per_epoch)` -> the optimizer.
        chain_moves: flip and crop get their keys from `augment.chain` instead of one after the
            other. Both ways are equally random; with this option each script keeps the results of
            its seeds.
        proxy: `proxy(config)` -> the options of the small net for --hardest.
        fixed: `fixed(config, steps_per_epoch)` -> the params that are fixed from some step on.
    """

    title: str
    make_net: Callable[[Any, Any, Callable[..., Model]], Model]
    make_optimizer: Callable[[Any, int, float], Optimizer]
    chain_moves: bool = False
    proxy: Callable[[Any], Any] | None = None
    fixed: Callable[[Any, float], Fixed | None] = lambda config, steps_per_epoch: None


class Plan(NamedTuple):
    """What a training consists of, before its folder is opened.

    Args:
        config: the options.
        recipe: the recipe of the script.
        group: the processes.
        task: the images.
        plain: the model of normalized images in float32.
        optimizer: the optimizer with its schedule.
        steps: the number of steps to train for.
        per_epoch: the number of steps of an epoch.
        init_key, batch_key, step_key: the keys of the params, of the batches, and of the draws in a
            step.
    """

    config: ImageOptions
    recipe: Recipe
    group: Any
    task: Any
    plain: Model
    optimizer: Optimizer
    steps: int
    per_epoch: float
    init_key: Any
    batch_key: Any
    step_key: Any


class Training(NamedTuple):
    """Everything that a training needs, except the loop.

    Args:
        model: the model of uint8 images.
        step: the training step for `fit`.
        state: the state before the first step.
        batches: the function from a step to its batch.
        averaged: `averaged(state)` -> the state to evaluate.
        evaluate: the function with which `fit` evaluates a state; None if no images are held out.
    """

    model: Model
    step: Step
    state: TrainState
    batches: Callable
    averaged: Callable[[TrainState], TrainState]
    evaluate: Callable[[TrainState], dict[str, float]] | None


def train(config: ImageOptions, recipe: Recipe) -> Result:
    """Train the net of a recipe; under torchrun, several processes share its batches.

    The test images are used only once, at the end; with --no-test they are not used.
    """
    import torch  # imported late, here and below, so that --help is fast

    from purenets.torch_nets.convert import device_from_name
    from purenets.torch_nets.distributed import processes

    torch.set_num_threads(config.threads or torch.get_num_threads())
    device = device_from_name(config.device)
    torch.backends.cudnn.allow_tf32 = False  # float32 keeps its 24 bits on a GPU too
    with processes(device, config.shards) as group:
        return train_as(config, recipe, device, group)


def train_as(config: ImageOptions, recipe: Recipe, device, group) -> Result:
    """Train as one of the processes; all return the same result, and rank 0 writes it."""
    from purenets.torch_nets.distributed import barrier

    plan = plan_of(config, recipe, device, group)
    digests = data_digests(config) if config.out and group.writes else None
    with runs.open_run(config, group.writes, group.size, digests) as folder:
        barrier(group)  # wait until the folder is ready
        training = prepare(plan, folder)
        if folder and group.writes:
            remove_earlier_end(folder, plan.steps)
        state, history = fit(plan, training, folder)
        state = training.averaged(state)
        held_out = validated_over_views(config, training.model, state, plan.task)
        lap = runs.timer(folder if group.writes else None)
        found = tested(config, training.model, state, plan.task) if config.test else None
        result = Result(state, history, training.model, plan.task, found, held_out or None)
        if folder and group.writes:
            lap(int(state.step))  # the test belongs to the time of a run
            save(result, folder, recipe.title)
    return result


def fit(plan: Plan, training: Training, folder: Path | None) -> tuple[TrainState, History]:
    """Train from where the run's folder stands; return the last state and the history."""
    return runs.fit_and_save(
        folder,
        training.step,
        training.state,
        training.batches,
        steps=plan.steps,
        every=steps_between_evaluations(plan.config, plan.steps, plan.per_epoch),
        evaluate=training.evaluate,
        label=plan.recipe.title,
        hint="try a lower --learning_rate",
        writes=plan.group.writes,
        keep=plan.config.keep,
        **flag_of_steps(plan),
    )


def flag_of_steps(plan: Plan) -> dict[str, Any]:
    """Return the flag that sets the steps, for messages, and the epoch length with --epochs."""
    epochs, steps = plan.config.epochs, plan.config.max_steps
    if not epochs:
        return {"steps_flag": f"--max_steps {steps}"}
    return {"steps_flag": f"--epochs {epochs:g}", "epoch": plan.per_epoch}


def plan_of(config: ImageOptions, recipe: Recipe, device, group) -> Plan:
    """Return the plan of a training; errors are raised here, before its folder is opened."""
    from purenets.torch_nets.distributed import check_share

    check_share(config.batch_size, group)
    check_one_process(config, group)
    if config.hardest < 1 and recipe.proxy is None:
        raise UserError(f"--hardest {config.hardest}: there is no small net for the {recipe.title}")
    keys = random.split(random.key(config.seed), 4)
    task = open_task(config, keys[0], device, group)
    check_small_size(config, task)
    plain = recipe.make_net(config, task, batch_norm_of(group))
    expect_room_for(plain, "take a smaller net", config.members)
    steps, per_epoch = steps_of(config, task)
    optimizer = make_optimizer(config, recipe, steps, per_epoch)
    return Plan(config, recipe, group, task, plain, optimizer, steps, per_epoch, *keys[1:])


def prepare(plan: Plan, folder: Path | None = None, rows=None) -> Training:
    """Return the training of a plan, ready to begin or to continue in its folder.

    Args:
        plan: as `plan_of` returns it.
        folder: the opened folder of the run, or None.
        rows: the rows of each batch to train on, (steps, images), for --hardest; by default those
            that the small net selects, which is trained for this.
    """
    from purenets.torch_nets import metrics_fn
    from purenets.torch_nets.distributed import parallel_metrics

    config, task, group = plan.config, plan.task, plan.group
    one = autotuned(plan.plain, task, config.precision, folder, group)
    fixed = plan.recipe.fixed(config, plan.per_epoch)
    step = with_fixed(functools.partial(step_of, plan), one, fixed)
    model = members_of(config, one)
    averaged = averaged_state_fn(model, task, config.batch_size, group)
    return Training(
        model=model,
        step=step,
        state=start(model, plan.optimizer, plan.init_key, plan.step_key, task.train[0].device),
        batches=hardest_batches(plan, folder, rows),
        averaged=averaged,
        evaluate=validation(parallel_metrics(metrics_fn(model), group), averaged, task),
    )


def step_of(plan: Plan, model: Model) -> Step:
    """Return the training step of a model, which trains all `--members` of it at once."""
    from purenets.torch_nets.ensemble import per_member_grad_fn

    config = plan.config
    grad = make_grad_fn(config, plan.recipe, model, plan.task, plan.group)
    if config.members > 1:
        grad = per_member_grad_fn(grad, config.members)
    return compiled(config, make_step(grad, plan.optimizer), plan.group)


def check_one_process(config: ImageOptions, group) -> None:
    """Raise a UserError for options that do not work with several processes or with shards."""
    if group.size == 1 and not group.shards:
        return
    what = "several processes" if group.size > 1 else "--shards"
    for given, flag in ((config.compile, "--compile"), (config.hardest < 1, "--hardest")):
        if given:
            raise UserError(f"{flag}: not with {what}; leave it out")


def compiled(config: ImageOptions, step: Step, group) -> Step:
    """Return the step, under `jit` with --compile, and recorded as a CUDA graph on a GPU."""
    from purenets.torch_nets import jit
    from purenets.torch_nets.fast.cuda_graph import cuda_graph

    step = jit(step) if config.compile else step
    return cuda_graph(step) if group.size == 1 else step


# --- the length of the training -------------------------------------------------------------------


def steps_of(config: ImageOptions, task) -> tuple[int, float]:
    """Return the number of steps to train for, and that of an epoch."""
    per_epoch = Fraction(len(task.train[1]), config.batch_size)
    epochs = Fraction(repr(config.epochs))  # 1.1 means 11/10
    steps = math.ceil(epochs * per_epoch) if epochs else config.max_steps
    return steps, float(per_epoch)


def steps_between_evaluations(config: ImageOptions, steps: int, per_epoch: float) -> int:
    if config.evaluations:
        return math.ceil(steps / config.evaluations)
    return config.eval_freq or math.ceil(per_epoch)


def small_steps(config: ImageOptions, steps: int) -> int:
    """Return how many steps, from the first on, use images of --small_size."""
    return round(config.small_fraction * steps) if config.small_size else 0


# --- model ----------------------------------------------------------------------------------------


def batch_norm_of(group) -> Callable[..., Model]:
    """Return the BatchNorm with statistics over the batch of all processes.

    With shards, the statistics are those of each shard.
    """
    from purenets.torch_nets import distributed, layers

    total = distributed.total if group.size > 1 and not group.shards else None
    return functools.partial(layers.BatchNorm, total=total)


def autotuned(plain: Model, task, precision: str, folder: Path | None, group) -> Model:
    """Return the model of uint8 images, in the precision and memory format that `precision` names.

    Only "auto" measures which is fastest; a resumed run keeps the choice in its `probe.json`.
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
    """Return the seconds of each variant in `probe.json`."""
    from purenets.torch_nets.precision import VARIANTS

    def known(value: dict) -> str | None:
        good = value and all(
            name in VARIANTS and type(value[name]) in (int, float) for name in value
        )
        return None if good else f"needs seconds by names among {', '.join(VARIANTS)}"

    schema = ({"seconds": all_of(dict, known)}, all_of(dict, known))  # the second: older format
    found = read_json(folder / PROBE, schema)
    return found.get("seconds", found)


def normalized(model: Model, normalize: Callable) -> Model:
    """Return the model of uint8 images; float images are taken as already normalized."""

    def apply(params, buffers, x, *, train=False, key=None):
        x = x if x.is_floating_point() else normalize(x)
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply, layers={})


def members_of(config: ImageOptions, model: Model) -> Model:
    """Return a model of `--members` nets, which run side by side."""
    from purenets.torch_nets.ensemble import deep_ensemble

    return model if config.members == 1 else deep_ensemble(model, config.members)


def start(model: Model, optimizer: Optimizer, init_key, step_key, device) -> TrainState:
    """Return the state before the first step, on the device."""
    drawn = model.init(init_key)
    params, buffers = (tree.map(lambda leaf: leaf.to(device), part) for part in drawn)
    state = train_state(params, buffers, optimizer, step_key)
    try:
        optim.with_averaged_params(state)
    except UserError as error:
        raise UserError(f"--ema: --optimizer averages the params itself ({error})") from error
    return state


# --- gradient and batches -------------------------------------------------------------------------


def make_grad_fn(config: ImageOptions, recipe: Recipe, model: Model, task, group) -> GradFn:
    """Return the gradient of the smoothed loss on augmented uint8 images."""
    from purenets.torch_nets import augment, grad_fn
    from purenets.torch_nets.distributed import data_parallel
    from purenets.torch_nets.losses import label_smoothed

    grad = data_parallel(grad_fn(model, label_smoothed(config.label_smoothing)), group)
    if config.mixup:
        grad = augment.mixup(grad, len(task.classes), config.mixup_alpha)
    if config.cutout:  # filled with the mean, so after the normalization
        grad = augment.augmented(grad, augment.cutout(config.cutout))
    if config.brightness or config.contrast:  # in deviations, so there too
        grad = augment.augmented(grad, augment.color_jitter(config.brightness, config.contrast))
    grad = augment.with_input_transform(grad, task.normalize)
    in_gradient = moves_of(config, recipe) if config.hardest == 1 else []
    for move in reversed(in_gradient):  # the outermost wrapper is the first to draw and to move
        grad = augment.augmented(grad, move)
    return grad


def moves_of(config: ImageOptions, recipe: Recipe) -> list:
    """Return the augmentations of uint8 images, in their order."""
    from purenets.torch_nets import augment

    moves = [augment.flip] if config.flip == "random" else []
    moves += [augment.crop(config.crop)] if config.crop else []
    return [augment.chain(*moves)] if moves and recipe.chain_moves else moves


def batches_of(config: ImageOptions, recipe: Recipe, task, key, steps: int) -> Callable:
    """Return the function from a step to its batch; the first steps may have smaller images."""
    from purenets.torch_nets.augment import resized

    full = drawn_batches(config, recipe, task.train, key)
    end, size = small_steps(config, steps), config.small_size
    if not end:
        return full
    x, y = task.train
    small = drawn_batches(config, recipe, (resized(x, size), y), key)  # the same, in the same order
    return lambda step: (small if step < end else full)(step)


def check_small_size(config: ImageOptions, task) -> None:
    height, width = task.train[0].shape[2:]
    size = config.small_size
    if size and size >= min(height, width):
        raise UserError(f"--small_size {size}: images are {height} x {width}, needs a smaller one")


def drawn_batches(config: ImageOptions, recipe: Recipe, images, key) -> Callable:
    """Return the batches of images and classes.

    With --hardest they are already flipped and cropped, so that both nets see the same.
    """
    from purenets.data import batches
    from purenets.torch_nets import augment

    alternating = config.flip == "alternating"
    draw = augment.alternating_flip_batches if alternating else batches
    found = draw(images, config.batch_size, key)
    moves = moves_of(config, recipe) if config.hardest < 1 else []
    if not moves:
        return found
    return augment.augmented_batches(found, augment.chain(*moves), random.fold_in(key, MOVES))


MOVES = 1 << 31  # folded into the key of the batches, which themselves fold in the epoch


# --- the hardest images ---------------------------------------------------------------------------


def hardest_batches(plan: Plan, folder: Path | None, rows=None) -> Callable:
    """Return the batches of a training.

    With --hardest they have only the images that a small net finds hardest. This net is trained
    here, unless a resumed run has kept its selection.
    """
    from purenets.torch_nets.selection import selected

    config = plan.config
    batches = batches_of(config, plan.recipe, plan.task, plan.batch_key, plan.steps)
    if config.hardest == 1:
        return batches
    return selected(batches, rows_in(plan, folder, batches) if rows is None else rows)


def rows_in(plan: Plan, folder: Path | None, batches: Callable):
    """Return the hardest rows that a folder keeps; if it has none, find and keep them."""
    import torch

    path = folder / ROWS if folder else None
    if path and path.exists():
        rows = checkpoint.read(path)[0]["rows"].array
        if len(rows) != plan.steps:
            raise UserError(
                f"{path}: has the rows of {len(rows)} steps, not of {plan.steps}; with --hardest a "
                "run cannot be resumed to another length"
            )
        return torch.from_numpy(rows)
    lap = runs.timer(folder)
    rows = hardest_rows_of(plan, batches)
    if path:
        lap(0)  # it belongs to the time of the run
        write_atomically(path, checkpoint.encoded(checkpoint.on_host({"rows": rows}), {}))
    return rows


def hardest_rows_of(plan: Plan, batches: Callable):
    """Train the small net of the recipe; return the rows of each batch that it finds hardest."""
    from purenets.torch_nets.selection import hardest_rows

    model, step, state = proxy_of(plan)
    return hardest_rows(model, step, state, batches, plan.steps, plan.config.images_in_step)


def proxy_of(plan: Plan) -> tuple:
    """Return model, step and initial state of the small net."""
    from purenets.torch_nets.selection import TRAINED, proxy_steps

    recipe, task, group = plan.recipe, plan.task, plan.group
    small = recipe.proxy(plan.config)
    plain = recipe.make_net(small, task, batch_norm_of(group))
    model = autotuned(plain, task, small.precision, None, group)
    grad = make_grad_fn(small, recipe, model, task, group)
    optimizer = recipe.make_optimizer(small, proxy_steps(plan.steps), plan.per_epoch / TRAINED)
    init_key, step_key = random.split(random.fold_in(random.key(small.seed), 0))
    state = start(model, optimizer, init_key, step_key, task.train[0].device)
    return model, compiled(small, make_step(grad, optimizer), group), state


# --- optimizer ------------------------------------------------------------------------------------


def make_optimizer(config: ImageOptions, recipe: Recipe, steps: int, per_epoch: float) -> Optimizer:
    """Return the recipe's optimizer with lookahead and the running mean of --ema.

    Lookahead is around the optimizer, and the running mean of the params comes last.
    """
    optimizer = recipe.make_optimizer(config, steps, per_epoch)
    optimizer = optim.lookahead(optimizer, config.lookahead) if config.lookahead else optimizer
    return optim.chain(optimizer, optim.ema(config.ema)) if config.ema else optimizer


def scheduled(make: Callable[..., Optimizer], config, steps: int) -> Optimizer:
    """Return the optimizer of a constructor, with the schedule and weight decay of the options.

    The options are --learning_rate, --schedule and --weight_decay. Only matrices and filters decay;
    without --weight_decay nothing decays, whatever the optimizer's own default is.
    """
    rate = SCHEDULES[config.schedule](config.learning_rate, steps)
    decays = "weight_decay" in inspect.signature(make).parameters
    if not config.weight_decay:
        return make(lr=rate, weight_decay=0) if decays else make(lr=rate)
    if not decays:
        raise UserError(
            f"--weight_decay {config.weight_decay}: {make.__name__} has none; needs 0, or another "
            "--optimizer"
        )
    parts = {
        "decayed": make(lr=rate, weight_decay=config.weight_decay),
        "kept": make(lr=rate, weight_decay=0),
    }
    return optim.partition(parts, lambda name, leaf: "decayed" if leaf.ndim > 1 else "kept")


# --- evaluation -----------------------------------------------------------------------------------


def averaged_state_fn(
    model: Model, task, batch_size: int, group
) -> Callable[[TrainState], TrainState]:
    """Return the function from a state to the state to evaluate.

    If the optimizer keeps an average of the params, the latter has the averaged params, with
    BatchNorm's statistics computed anew for them. The statistics are those of the first training
    images without augmentation, since images are not augmented in the evaluation either. Processes
    share each batch, as BatchNorm's statistics cover all of them. With shards each process computes
    whole batches, so that the bits do not depend on the number of processes.
    """
    from purenets.torch_nets import update_batchnorm

    x, y = task.train
    size = min(batch_size, 500, len(y))
    rank, processes = (0, 1) if group.shards else (group.rank, group.size)
    size -= size % processes
    begins = range(0, min(len(y), STATISTICS) - size + 1, size)  # no batch of a few images
    share = size // processes
    own = [slice(i + rank * share, i + (rank + 1) * share) for i in begins]
    parts = [(x[at], y[at]) for at in own]

    def averaged(state: TrainState) -> TrainState:
        found = optim.with_averaged_params(state)
        if found is state or not any(name.endswith("running_mean") for name in state.buffers):
            return found
        buffers = update_batchnorm(model, found.params, found.buffers, parts, key=state.key)
        return found._replace(buffers=buffers)

    return averaged


def validation(
    metrics: Callable, averaged: Callable[[TrainState], TrainState], task
) -> Callable[[TrainState], dict[str, float]] | None:
    """Return the function for `fit` that evaluates the `averaged` state on the validation images.

    None if no images are held out.
    """

    def validate(state: TrainState) -> dict[str, float]:
        found = evaluate(metrics, averaged(state), task.valid, batch_size=500)
        return {f"valid_{name}": value for name, value in found.items()}

    return validate if len(task.valid[1]) else None
