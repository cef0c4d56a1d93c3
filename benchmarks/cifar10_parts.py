"""What a training on CIFAR-10 consists of, each part ready to be timed: of our presets and of the
public recipe.

A part has a count, how often a training does it, so that the sum of count times seconds is the time
of the training with its final test. Contestants live in processes of their own
(`benchmarks.timing.apart`): the function of a contestant returns its description at the first call,
which counts operations, and the seconds of each part at every call after it.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import recipe as public
from benchmarks.flops import flops

VIEWS = 500  # test images whose views are timed in a round
TEST = 10_000


class Source(NamedTuple):
    """Where the images are, and how many threads there are."""

    data: str
    data_dir: str
    image_size: int
    threads: int


class Part(NamedTuple):
    """A part of a training: how often it comes, and how it is done for the i-th time."""

    count: float
    take: Callable[[int], object]


def described(about: dict, parts: dict[str, Part]) -> dict:
    """Return the description of a contestant, with the operations of each part."""
    counted = {
        name: {"count": part.count, "flops": flops(lambda part=part: part.take(0))}
        for name, part in parts.items()
    }
    return about | {"parts": counted}


def seconds_of(parts: dict[str, Part], number: int, repeats: dict[str, int]) -> dict[str, float]:
    """Return the seconds of each part in one round, `repeats` times over."""
    found = {}
    for name, part in parts.items():
        n = repeats.get(name, 1)
        begin = time.perf_counter()
        for i in range(n):
            part.take(number * n + i)
        public.waited_for()
        found[name] = (time.perf_counter() - begin) / n
    return found


def rounds_of(about: dict, parts: dict[str, Part], repeats: dict[str, int]) -> Callable[[], dict]:
    """Return the function of a contestant of ours."""
    calls = iter(range(1 << 60))

    def a_round() -> dict:
        number = next(calls)
        return seconds_of(parts, number, repeats) if number else described(about, parts)

    return a_round


# --- ours -----------------------------------------------------------------------------------------


def ours(source: Source, setting: str, views_part: float) -> Callable[[], dict]:
    """Return the function of a preset, as scripts/cifar10_sweep.py names it.

    views_part: of the test images, those that --views_below finds unsure, as its runs found.
    """
    import torch

    from purenets.torch_nets.convert import device_from_name
    from purenets.torch_nets.distributed import Group
    from scripts import cifar10_sweep
    from scripts.shared import training

    torch.set_num_threads(source.threads)
    kind, preset, _ = cifar10_sweep.PRESETS[setting]
    script = cifar10_sweep.SCRIPTS[kind]
    given = source._asdict() | {"valid_fraction": 0.0}
    config = dataclasses.replace(script.PRESETS[preset], **given)
    rows = torch.arange(config.images_in_step).expand(1 << 40, -1)  # no memory: all rows are one
    plan = training.plan_of(config, script.RECIPE, device_from_name(config.device), Group())
    run = training.prepare(plan, rows=rows)
    parts = our_steps(plan, run) | small_net_parts(plan, run) | our_views(plan, run, views_part)
    about = {"precision": config.precision, "steps": plan.steps}
    about["once_seconds"] = once_seconds(plan)
    repeats = {name: max(1, public.BATCH // config.batch_size) for name in parts if "step" in name}
    return rounds_of(about, parts, repeats)


def kinds_of_steps(plan) -> dict[str, tuple[int, int]]:
    """Return the first step and the number of steps of each kind, by its name: of each size of
    images, with all params trained and with those that stand still at last."""
    fixed = plan.recipe.fixed(plan.config, plan.per_epoch)
    all_trained = min(fixed.begin, plan.steps) if fixed else 0
    kinds = {}
    for name, (begin, count) in sizes_of_steps(plan).items():
        middle, end = max(begin, min(all_trained, begin + count)), begin + count
        kinds |= {f"{name}, first bias trained": (begin, middle - begin)} if middle > begin else {}
        kinds |= {name: (middle, end - middle)} if end > middle else {}
    return kinds


def sizes_of_steps(plan) -> dict[str, tuple[int, int]]:
    """Return the first step and the number of steps of each size of images, by its name."""
    from scripts.shared.training import small_steps

    end = small_steps(plan.config, plan.steps)
    kinds = {"step": (end, plan.steps - end)}
    return kinds | ({"step, small images": (0, end)} if end else {})


def our_steps(plan, run) -> dict[str, Part]:
    """Return the steps of a training, each with the drawing of its batch."""
    import torch

    state = run.state

    def take(i: int) -> None:
        nonlocal state
        at = torch.full_like(state.step, i)
        state, _ = run.step(state._replace(step=at), run.batches(i))

    return {
        name: Part(count, lambda i, begin=begin: take(begin + i))
        for name, (begin, count) in kinds_of_steps(plan).items()
    }


def small_net_parts(plan, run) -> dict[str, Part]:
    """Return what the small net of --hardest does for each batch, and for each that it learns."""
    from purenets.torch_nets.selection import losses, proxy_steps
    from scripts.shared import training

    config = plan.config
    if config.hardest == 1:
        return {}
    batches = training.batches_of(config, plan.recipe, plan.task, plan.batch_key, plan.steps)
    model, step, state = training.proxy_of(plan)
    parts = {}
    for name, (begin, count) in sizes_of_steps(plan).items():

        def look(i: int, begin=begin) -> None:
            losses(model, state, batches(begin + i)).topk(config.images_in_step)

        def learn(i: int, begin=begin) -> None:
            step(state, run.batches(begin + i))

        parts[f"small net's look before a {name}"] = Part(count, look)
        parts[f"small net's {name}"] = Part(count * proxy_steps(plan.steps) / plan.steps, learn)
    return parts


def our_views(plan, run, views_part: float) -> dict[str, Part]:
    """Return the test over views: of all images, or a plain pass and the views of the unsure."""
    from scripts.shared.images import averaged_over, logits_of

    config = plan.config
    if config.views == "none":
        return {}
    x = plan.task.test[0][:VIEWS]
    averaged = averaged_over(config.views, run.model)

    def views(i: int) -> None:
        logits_of(averaged, run.state, x)

    def plain(i: int) -> None:
        logits_of(run.model, run.state, x)

    if config.views_below == 1:
        return {"views": Part(TEST / VIEWS, views)}
    return {
        "views": Part(views_part * TEST / VIEWS, views),
        "plain pass": Part(TEST / VIEWS, plain),
    }


def once_seconds(plan) -> float:
    """Return the seconds of what comes once, before the first step: the net with its fixed layers,
    and the images of a smaller size."""
    from scripts.shared import training

    begin = time.perf_counter()
    plan.recipe.make_net(plan.config, plan.task, training.batch_norm_of(plan.group))
    training.batches_of(plan.config, plan.recipe, plan.task, plan.batch_key, plan.steps)
    return time.perf_counter() - begin


# --- the public recipe ----------------------------------------------------------------------------


def theirs(source: Source, path: str, compiled: bool) -> Callable[[], dict]:
    """Return the function of the public recipe in the file `path`."""
    from purenets.torch_nets import images

    folder = Path(tempfile.mkdtemp())
    found = images.load(source.data, source.data_dir, source.image_size)
    public.write_images(found, folder)
    recipe = public.loaded(path, folder)
    net = public.net_of(recipe, compiled)
    paced = public.Paced(recipe, net, source.threads, VIEWS)
    calls = iter(range(1 << 60))

    def a_round() -> dict:
        if next(calls) == 0:
            return their_description(paced)
        plain = contextlib.nullcontext()
        return {**paced.ask("step", plain), **paced.ask("views", plain)}

    return a_round


def their_description(paced: public.Paced) -> dict:
    """Return the description of the public recipe; its epochs begin with a longer draw."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = {
        "step": public.STEPS,
        "draw": public.STEPS - public.EPOCHS,
        "draw, first of an epoch": public.EPOCHS - 1,
        "draw, first of all": 1,
        "views": TEST / VIEWS,
    }
    counted = dict.fromkeys(counts, 0)
    for name in ("step", "views"):
        counter = FlopCounterMode(display=False)
        paced.ask(name, counter)
        counted[name] = counter.get_total_flops()
    parts = {name: {"count": n, "flops": counted[name]} for name, n in counts.items()}
    about = {"precision": public.precision(), "steps": public.STEPS}
    return about | {"once_seconds": paced.whitening_seconds, "parts": parts}
