"""CIFAR-10 on a GPU: a preset beside the public speed run, whole trainings in turns on one card.

    python -m benchmarks.cifar10_gpu --recipe airbench94_muon.py

`--recipe` is the file of that name from the repository KellerJordan/cifar10-airbench, run as it
stands (`benchmarks/recipe.py`). It compiles its network, which takes minutes; with
TORCHDYNAMO_DISABLE=1 in the environment torch does not, and the table says so. Each contestant
lives in a process of its own, and begins with a whole training that does not count: it compiles
the recipe and records our steps. Then both train in turns, with another seed each time, on all
training images.

The time of a training is that which the recipe counts: the first layer's filters, the steps, and
the test over views; not reading the images, and no evaluation in between.
"""

import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import recipe as public
from benchmarks import timing
from benchmarks.cifar10_parts import once_seconds
from purenets import runs
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, not_negative, one_of, option, positive
from scripts import cifar10_sweep
from scripts.shared.images import SOURCES
from scripts.shared.sweeps import MEAN_SD, spread


@dataclass(frozen=True)
class Config(Options):
    """Time whole trainings of a preset and of the public recipe in turns on a GPU."""

    recipe: str = option("airbench94_muon.py", "the public file; without it only ours is run")
    preset: str = option("cnn 94", "of ours", one_of(cifar10_sweep.PRESETS))
    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    rounds: int = option(8, "trainings of each that count", positive)
    first_seed: int = option(200, "of the first round", not_negative)
    results: str = option("results/benchmarks_cifar10_gpu.json", "JSON file for what was found")


def main(config: Config) -> dict:
    """Train in turns; return the content of `--results`."""
    starts = {f"purenets {config.preset}": (ours, config)}
    if Path(config.recipe).exists():
        starts[Path(config.recipe).stem] = (theirs, config)
    calls = {}
    for name, (start, *arguments) in starts.items():
        calls[name] = timing.apart(start, *arguments, memory_reused=True)
        calls[name]()  # warms up, before the next one starts
    trained = {name: [] for name in calls}
    for i in range(config.rounds):
        for name in list(calls)[:: 1 if i % 2 else -1]:
            trained[name].append(calls[name]())
    told = dataclasses.replace(config, results=Config().results)  # no matter where it is written
    line = runs.command_line(told)
    about = {"command": line.replace("scripts/cifar10_gpu.py", "-m benchmarks.cifar10_gpu")}
    about |= {"options": told.to_dict(), "n": config.rounds, **runs.environment()}
    found = about | {"machine": next(iter(trained.values()))[0]["machine"], "trainings": trained}
    timing.write(config.results, found, table(found))
    return found


def ours(config: Config) -> Callable[[], dict]:
    """Return the function that trains our preset, each time with another seed."""
    from purenets.torch_nets.convert import device_from_name
    from purenets.torch_nets.distributed import Group
    from scripts.shared import training
    from scripts.shared.images import tested

    kind, preset, _ = cifar10_sweep.PRESETS[config.preset]
    script = cifar10_sweep.SCRIPTS[kind]
    given = {"data": config.data, "data_dir": config.data_dir, "valid_fraction": 0.0}
    settings = dataclasses.replace(script.PRESETS[preset], **given)
    device = device_from_name("auto")
    seeds = itertools.count(config.first_seed - 1)  # that of the warm-up comes first
    step = None

    def train() -> dict:
        nonlocal step
        one = dataclasses.replace(settings, seed=next(seeds))
        plan = training.plan_of(one, script.RECIPE, device, Group())
        run = training.prepare(plan)
        step = step or run.step  # recorded once: no seed is part of it
        once = once_seconds(plan)
        public.waited_for()
        begin = time.perf_counter()
        state, _ = training.fit(plan, run._replace(step=step), None)
        test = tested(one, run.model, run.averaged(state), plan.task)
        public.waited_for()
        seconds = once + time.perf_counter() - begin
        kept = {name: test[name] for name in ("accuracy", "views_accuracy") if name in test}
        about = {"seed": one.seed, "precision": one.precision, "steps": plan.steps}
        return about | {"seconds": seconds, **kept, **runs.machine()}

    return train


def theirs(config: Config) -> Callable[[], dict]:
    """Return the function that trains the public recipe, each time with another seed."""
    import torch

    from purenets.torch_nets import images

    folder = Path(tempfile.mkdtemp())
    public.write_images(images.load(config.data, config.data_dir), folder)
    recipe = public.loaded(str(Path(config.recipe).resolve()), folder)
    rows: list[dict] = []
    recipe["print_training_details"] = lambda variables, is_final_entry: rows.append(
        {name: variables[name] for name in ("val_acc", "time_seconds")}
        | ({"views": variables["tta_val_acc"]} if is_final_entry else {})
    )
    net = public.net_of(recipe, compiled=False)  # on a GPU it is
    compiled = torch.cuda.is_available() and os.environ.get("TORCHDYNAMO_DISABLE") != "1"
    seeds = itertools.count(config.first_seed - 1)

    def train() -> dict:
        seed = next(seeds)
        torch.manual_seed(seed)
        recipe["main"](seed, net)
        last = rows[-1]
        about = {"seed": seed, "precision": public.precision(), "steps": public.STEPS}
        about["compiled"] = compiled
        reached = {"accuracy": last["val_acc"], "views_accuracy": last["views"]}
        return about | {"seconds": last["time_seconds"], **reached, **runs.machine()}

    return train


def table(found: dict) -> Table:
    """Return a row for each contestant: seconds of a training, in units of the recipe's, and what
    it reaches."""
    *others, last = found["trainings"].values()
    unit = np.array([row["seconds"] for row in last]) if others else None  # None: without recipe
    header = ("contestant", "precision", "steps", "seconds (quartiles)", "in A (quartiles)")
    accuracies = [f"{part}, % ({MEAN_SD})" for part in ("test", "mean over views")]
    rows = []
    for name, mine in found["trainings"].items():
        seconds = [row["seconds"] for row in mine]
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        about = (mine[0]["precision"], f"{mine[0]['steps']:,}")
        times = (
            f"{median:.2f} ({low:.2f} to {high:.2f})",
            "" if unit is None else timing.with_quartiles(timing.ratio(np.array(seconds), unit)),
        )
        reached = [
            spread([row.get(kind) for row in mine]) for kind in ("accuracy", "views_accuracy")
        ]
        called = name if mine[0].get("compiled", True) else f"{name}, not compiled"
        rows.append((called, *about, *times, *reached, len(mine), found["machine"]))
    return table_of((*header, *accuracies, "n", "machine"), rows)


if __name__ == "__main__":
    command(Config, main)
