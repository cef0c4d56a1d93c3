"""CIFAR-10 in little time: scripts/cifar10_cnn.py beside the public speed run, on the same images
and machine.

    python -m benchmarks.cifar10 --recipe airbench94_muon.py --data folder --data_dir DIR --seeds 3

`--recipe` is the file of that name from the repository KellerJordan/cifar10-airbench; no code of it
is here. It is run as it stands where there is a GPU. On a CPU its words for devices are replaced:
tensors stay on the CPU, half precision is bfloat16 (a CPU has no fast half), the network is not
compiled unless `--compile`. Its images are those of `--data`, all training images. The contestants
take turns, seed by seed, each in a process of its own. Seconds are of training and of the final
test over views of an image, without the evaluations in between and without the start of the
process, for both. Rows that `--results` has are kept.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange

from benchmarks import timing
from purenets import runs
from purenets.core.report.tables import Table, table_of
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, not_negative, option, positive
from scripts.shared import result_files
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.sweeps import MEAN_SD, grouped, spread

# what the file says of the GPU, and what is said of the CPU instead
ON_CPU = (
    ('torch.device("cuda")', 'torch.device("cpu")'),
    (".half()", ".bfloat16()"),
    ("torch.cuda.Event(enable_timing=True)", "Moment()"),
    ("torch.cuda.synchronize()", "None"),
)
COMMAND = "python -m benchmarks.cifar10 --recipe airbench94_muon.py --data folder --data_dir "
"data/cifar10-jpeg75"


@dataclass(frozen=True)
class Config(Options):
    """Train our fast net and the public recipe in turns."""

    recipe: str = option(
        "airbench94_muon.py", "the public file; where it is missing only ours is run"
    )
    preset: str = option("94", "of scripts/cifar10_cnn.py")
    data: str = option(
        "cifar10", "cifar10, folder or digits", choices=["cifar10", "folder", "digits"]
    )
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    image_size: int = option(
        0, "resize the images of a folder, or digits, to this; 0 to leave", not_negative
    )
    compile: bool = option(False, "the public recipe's network compiled, on a CPU too")
    seeds: int = option(3, "of each contestant", positive)
    first_seed: int = option(0, "the first of them", not_negative)
    threads: int = option(0, "CPU threads; 0 for one a core", not_negative)
    results: str = option("results/benchmarks_cifar10.json", "JSON file for what was found")


class Moment:
    """An event of torch.cuda, on a CPU."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, later: "Moment") -> float:
        return 1e3 * (later.time - self.time)


def public(config: Config, seed: int) -> dict:
    """What one run of the public recipe reaches, and its seconds."""
    import torch

    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(seed)
    on_gpu, source = torch.cuda.is_available(), Path(config.recipe).read_text()
    for old, new in () if on_gpu else ON_CPU:
        source = source.replace(old, new)
    sys.argv[0] = config.recipe  # it reads its own source
    rows = []
    recipe = {"__name__": "recipe", "Moment": Moment}
    with tempfile.TemporaryDirectory() as folder:
        write_images(config, Path(folder))
        exec(compile(source.replace('"cifar10"', repr(folder)), config.recipe, "exec"), recipe)
        recipe["print_training_details"] = lambda variables, is_final_entry: rows.append(
            dict(variables)
        )
        net = recipe["CifarNet"]().to(
            "cuda" if on_gpu else "cpu", memory_format=torch.channels_last
        )
        if on_gpu or config.compile:
            net.compile(mode="max-autotune")
            recipe["main"]("warmup", net)
        recipe["main"](seed, net)
    last = rows[-1]
    return {
        "accuracy": last["val_acc"],
        "views_accuracy": last["tta_val_acc"],
        "seconds": last["time_seconds"],
        "epochs": [
            {"accuracy": row["val_acc"], "seconds": row["time_seconds"]} for row in rows[:-1]
        ],
    }


def write_images(config: Config, folder: Path) -> None:
    """The images of `--data` as the files that the recipe keeps."""
    import torch

    from purenets.torch_nets import images

    found = images.load(config.data, config.data_dir, config.image_size)
    for name, (x, y) in {"train": found.train, "test": found.test}.items():
        pixels = torch.from_numpy(rearrange(np.array(x), "n c h w -> n h w c").copy())
        content = {
            "images": pixels,
            "labels": torch.from_numpy(np.array(y)),
            "classes": list(found.classes),
        }
        torch.save(content, folder / f"{name}.pt")


def ours(config: Config, seed: int) -> dict:
    """What one run of scripts/cifar10_cnn.py reaches, and its seconds."""
    from scripts import cifar10_cnn

    settings = cifar10_cnn.PRESETS[config.preset].to_dict() | {"seed": seed, "valid_fraction": 0.0}
    for name in ("data", "data_dir", "image_size", "threads"):
        settings[name] = getattr(config, name)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = cifar10_cnn.main(cifar10_cnn.Config.from_dict(settings | {"out": str(out)}))
        laps = runs.timings(out)
    found = {name: result.test[name] for name in ("accuracy", "views_accuracy")}
    return found | {"seconds": laps[-1]["seconds"], "laps": laps}


def main(config: Config) -> list[dict]:
    path = Path(config.results)
    rows = result_files.read(path, drafts=True)["rows"] if path.exists() else []
    contestants = {f"purenets {config.preset}": ours}
    if Path(config.recipe).exists():
        contestants[Path(config.recipe).stem] = public
    else:
        print(f"--recipe {config.recipe}: not there, so only ours is run")
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        for name, contestant in contestants.items():
            if not any((row["contestant"], row["seed"]) == (name, seed) for row in rows):
                found = timing.apart(
                    one, contestant, config, seed, memory_reused=contestant is ours
                )()
                rows.append(
                    {
                        "contestant": name,
                        "seed": seed,
                        **runs.environment(),
                        **runs.machine(),
                        **found,
                    }
                )
                n = min(map(len, grouped(rows, "contestant").values()))
                about = {"command": COMMAND, "n": n, **runs.environment(), **runs.machine()}
                timing.write(config.results, about | {"rows": rows}, table(rows))
    return rows


def one(contestant, config: Config, seed: int):
    return lambda: contestant(config, seed)


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
