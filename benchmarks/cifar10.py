"""CIFAR-10 in little time: our presets beside the public speed run, on the same images and machine.

    python -m benchmarks.cifar10 --recipe airbench94_muon.py --presets "cnn 94,cnn 95"
    python -m benchmarks.cifar10 --recipe airbench94_muon.py --rounds 0 --seeds 3

`--recipe` is the file of that name from the repository KellerJordan/cifar10-airbench, run as it
stands (`benchmarks/recipe.py`); ours are presets as scripts/cifar10_sweep.py names them.

Time: each preset is timed beside the recipe alone, since a process that waits long for its turn is
slower afterwards. In each round the recipe takes a step
and the preset takes its steps on as many images, each in a process of its own, both with malloc set
as our scripts set it; the first rounds, which warm up, do not count. The time of a training is the
sum over its parts (`benchmarks/cifar10_parts.py`): their number times the median of their seconds.
It is given in units of A, the time of the recipe in the same rounds. Evaluations in between,
reading the images and the start of the process are left out for all. Measure it on a machine that
does nothing else: the load before and after is in the file.

Accuracy: with `--seeds` all train in full, seed by seed in turns, on all training images; hours
long. Rows that `--results` has are kept.
"""

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import cifar10_parts, products, timing
from benchmarks import recipe as public_recipe
from purenets import UserError, runs
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, each, not_negative, one_of, option
from scripts import cifar10_sweep
from scripts.shared import result_files
from scripts.shared.images import SOURCES
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import SWEEP
from scripts.shared.sweeps import MEAN_SD, grouped, spread

WARMUP = 2  # rounds that do not count


@dataclass(frozen=True)
class Config(Options):
    """Time our presets and the public recipe in turns, or train all in full."""

    recipe: str = option(
        "airbench94_muon.py", "the public file; where it is missing only ours is run"
    )
    presets: tuple[str, ...] = option(
        ("cnn 94",), "of ours, with commas", each(one_of(cifar10_sweep.PRESETS))
    )
    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    image_size: int = option(
        0, "resize the images of a folder, or digits, to this; 0 to leave", not_negative
    )
    compile: bool = option(False, "the public recipe's network compiled, on a CPU too")
    rounds: int = option(20, "rounds of steps in turns; 0 to time nothing", not_negative)
    seeds: int = option(0, "full trainings of each contestant, hours long", not_negative)
    first_seed: int = option(0, "the first of them", not_negative)
    threads: int = option(0, "CPU threads; 0 for one a core", not_negative)
    trained: str = option(
        "results/part1_cifar10.json", "trainings of scripts/cifar10_sweep.py: how many took views"
    )
    results: str = option("results/benchmarks_cifar10.json", "JSON file for what was found")


def main(config: Config) -> dict:
    """Measure what is asked for; return the content of `--results`."""
    path = Path(config.results)
    found = result_files.read(path, {"rows": [dict]}, drafts=True) if path.exists() else {}
    found = {"rows": [], **found}
    expect_same_images(config, found)
    if config.rounds:
        found = {"rows": found["rows"], "time": measured(config)}  # the commit is the time's
        write(config, found)
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        for name, contestant in trainings(config).items():
            if not any((row["contestant"], row["seed"]) == (name, seed) for row in found["rows"]):
                reached = timing.apart(one, contestant, config, seed, memory_reused=True)()
                about = {"contestant": name, "seed": seed, "images": images_of(config)}
                found["rows"].append(about | runs.environment() | runs.machine() | reached)
                write(config, found)
    return found


def images_of(config: Config) -> str:
    """Return the name of what all contestants are trained on."""
    return "CIFAR-10" if config.data == "cifar10" else f"{config.data} {config.data_dir}"


def expect_same_images(config: Config, found: dict) -> None:
    """Raise a UserError if the file has rows of other images."""
    for row in found["rows"]:
        if row.get("images") != images_of(config):
            raise UserError(
                f"--results {config.results}: holds rows of other images; name another file"
            )


def write(config: Config, found: dict) -> None:
    options = {name: value for name, value in config.to_dict().items() if name != "results"}
    about = {"command": "python -m benchmarks.cifar10", "options": options}
    n = [len(mine) for mine in grouped(found["rows"], "contestant").values()]
    n += [found["time"]["n"]] if "time" in found else []
    about |= {"n": min(n), **runs.environment(), **runs.machine()}
    timing.write(config.results, about | {"rows": []} | found, *tables(about | found))


def recipe_name(config: Config) -> str | None:
    """Return the name of the public recipe; None where its file is not there."""
    if Path(config.recipe).exists():
        return Path(config.recipe).stem
    print(f"--recipe {config.recipe}: not there, so only ours is run")
    return None


# --- the time of a training -----------------------------------------------------------------------


def measured(config: Config) -> dict:
    """Return the description and the seconds by parts of each preset and of the recipe beside
    it."""
    import torch

    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    theirs = recipe_name(config)
    load = os.getloadavg()
    # alone, before the contestants start: beside them it was seen to be half
    peaks = {dtype: products.peak_gigaflops(dtype) for dtype in ("bfloat16", "float32")}
    pairs = {
        name: timed(contestants(config, name, theirs, threads), config.rounds)
        for name in config.presets
    }
    return {
        "n": config.rounds,
        "threads": threads,
        "load_before": load,
        "load_after": os.getloadavg(),
        "unit": theirs,
        "peak_gigaflops": peaks,
        "pairs": pairs,
    }


def contestants(config: Config, setting: str, theirs: str | None, threads: int) -> dict:
    """Return the functions that start the recipe, where it is there, and a preset, each in a
    process of its own."""
    source = cifar10_parts.Source(config.data, config.data_dir, config.image_size, threads)
    path, views = str(Path(config.recipe).resolve()), part_of_views(config.trained, setting)
    apart = functools.partial(timing.apart, memory_reused=True)
    ours = functools.partial(apart, cifar10_parts.ours, source, setting, views)
    peer = functools.partial(apart, cifar10_parts.theirs, source, path, config.compile)
    return ({theirs: peer} if theirs else {}) | {f"purenets {setting}": ours}


def timed(starts: dict[str, Callable], n: int) -> dict:
    """Return the contestants' descriptions and seconds of `n` rounds in turns."""
    calls, about = {}, {}
    for name, start in starts.items():  # one after the other, since also the start is timed
        calls[name] = start()
        about[name] = calls[name]()
    rounds = [{name: call() for name, call in calls.items()} for _ in range(WARMUP + n)]
    return {name: summed(about[name], [r[name] for r in rounds[WARMUP:]]) for name in calls}


def part_of_views(trained: str, setting: str) -> float:
    """Return the part of the test images whose views the trainings of a preset took; 1 where none
    is known."""
    rows = result_files.read(trained, SWEEP)["rows"] if Path(trained).exists() else []
    parts = [row["test"].get("views_part", 1.0) for row in rows if row["setting"] == setting]
    return float(np.mean(parts)) if parts else 1.0


def summed(about: dict, rounds: list[dict]) -> dict:
    """Return a contestant's description with the median seconds of each part, and the whole."""
    parts = {}
    for name, part in about["parts"].items():
        times = [found[name] for found in rounds if name in found]
        low, median, high = np.quantile(times or [0.0], [0.25, 0.5, 0.75])
        seconds = {"seconds": float(median), "quartiles": [float(low), float(high)]}
        parts[name] = {**part, **seconds, "n": len(times)}
    total = sum(part["count"] * part["seconds"] for part in parts.values())
    count = sum(part["count"] * part["flops"] for part in parts.values())
    whole = {"seconds": about["once_seconds"] + total, "teraflop": count / 1e12}
    return about | {"parts": parts} | whole


# --- full trainings -------------------------------------------------------------------------------


def trainings(config: Config) -> dict:
    """Return the functions of the contestants, by name; each takes a seed."""
    found = {f"purenets {name}": ours(name) for name in config.presets}
    theirs = recipe_name(config)
    return found | ({theirs: public} if theirs else {})


def one(contestant, config: Config, seed: int):
    return lambda: contestant(config, seed)


class ours:
    """A full training of a preset: what it reaches, and its seconds."""

    def __init__(self, setting: str):
        self.setting = setting

    def __call__(self, config: Config, seed: int) -> dict:
        kind, preset, _ = cifar10_sweep.PRESETS[self.setting]
        script = cifar10_sweep.SCRIPTS[kind]
        names = ("data", "data_dir", "image_size", "threads")
        settings = script.PRESETS[preset].to_dict() | {n: getattr(config, n) for n in names}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            settings |= {"seed": seed, "valid_fraction": 0.0, "out": str(out)}
            result = script.main(script.Config.from_dict(settings))
            laps = runs.timings(out)
        kept = ("accuracy", "views_accuracy", "views_part")
        found = {name: result.test[name] for name in kept if name in result.test}
        about = {"precision": settings["precision"], "seconds": laps[-1]["seconds"], "laps": laps}
        return found | about


def public(config: Config, seed: int) -> dict:
    """A full training of the public recipe: what it reaches, and its seconds."""
    import torch

    from purenets.torch_nets import images

    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = images.load(config.data, config.data_dir, config.image_size)
        public_recipe.write_images(found, Path(folder))
        recipe = public_recipe.loaded(config.recipe, Path(folder))
        recipe["print_training_details"] = lambda variables, is_final_entry: rows.append(
            dict(variables)
        )
        recipe["main"](seed, public_recipe.net_of(recipe, config.compile))
    last = rows[-1]
    epochs = [{"accuracy": row["val_acc"], "seconds": row["time_seconds"]} for row in rows[:-1]]
    return {
        "accuracy": last["val_acc"],
        "views_accuracy": last["tta_val_acc"],
        "precision": public_recipe.precision(),
        "seconds": last["time_seconds"],
        "epochs": epochs,
    }


# --- tables ---------------------------------------------------------------------------------------


def tables(found: dict) -> list[Table]:
    """Return the table of times, where they were measured, and that of full trainings."""
    times = [time_table(found["time"])] if "time" in found else []
    return times + ([table(found["rows"])] if found["rows"] else [])


def time_table(found: dict) -> Table:
    """Return a row for each preset, and for the recipe beside it: seconds of a step, and of a whole
    training with its test over views, in units of that recipe; its operations, and their part of
    the peak."""
    cells = []
    for pair in found["pairs"].values():
        unit = pair.get(found["unit"], {}).get("seconds")
        cells += [time_cells(name, one_, unit, found) for name, one_ in pair.items()]
    header = ("contestant", "precision", "steps", "seconds of a step (quartiles)", "seconds")
    return table_of((*header, "in A", "TFLOP", "of the peak", "n"), cells)


def time_cells(name: str, about: dict, unit: float | None, found: dict) -> tuple:
    """Return a contestant's row of the table of times."""
    part = about["parts"]["step"]
    low, high = part["quartiles"]
    speed = 1e3 * about["teraflop"] / about["seconds"]
    return (
        name,
        about["precision"],
        f"{about['steps']:,}",
        f"{part['seconds']:.3f} ({low:.3f} to {high:.3f})",
        f"{about['seconds']:.0f}",
        f"{about['seconds'] / unit:.2f}" if unit else "",
        f"{about['teraflop']:.0f}",
        f"{speed / found['peak_gigaflops'][about['precision']]:.0%}",
        found["n"],
    )


def table(rows: list[dict]) -> Table:
    """Return a row for each contestant: accuracies in percent, and the median of the seconds."""
    accuracies = [f"{part}, % ({MEAN_SD})" for part in ("test", "mean over views")]
    cells = []
    for name, mine in grouped(rows, "contestant").items():
        reached = (spread([row[kind] for row in mine]) for kind in ("accuracy", "views_accuracy"))
        seconds = np.median([row["seconds"] for row in mine])
        cells.append((name, *reached, f"{seconds:.0f}", len(mine), *origin_cells(mine)))
    return table_of(("contestant", *accuracies, "seconds, median", "n", *ORIGIN), cells)


if __name__ == "__main__":
    command(Config, main)
