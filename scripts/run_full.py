"""Run every experiment of the report from the start, then make the report; this takes more than a
day.

    make full                                                      # or:
    python scripts/run_full.py --data_dir data --out runs/full

Each stage is a command that writes a file of results; the files in results/ of this repository were
written by the same commands. Finished work is kept: after Ctrl-C, a kill or a failure, the same
command continues, also within a stage.
"""

import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Interrupted, UserError
from purenets.core.report.tables import table_of, to_text
from purenets.core.runs import provenance
from purenets.core.runs.command import command
from purenets.core.runs.files import exclusive_lock, folder_at, remove_unfinished
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.options import (
    Options,
    each,
    file_path,
    one_of,
    option,
)
from purenets.core.signals import stop_requested

ROOT = Path(__file__).parents[1]
DONE = "stages.json"  # the seconds of each finished stage


class Stage(NamedTuple):
    """A command without its options for files and images, and its expected minutes on two cores."""

    command: str
    minutes: float
    images: bool = False  # whether it has options for the images
    into: str = ""  # the name of the results file, if not the stage's


LATCHES = "palindrome_sweep.py --settings latches"
STAGES = {
    "part1_sets": Stage("compare_mlps.py", 2),
    "part1_strategies": Stage(
        "compare_mlps.py --datasets moons --batch_sizes 0,32,1 --max_steps 200", 2
    ),
    "part1_noise": Stage(
        "compare_mlps.py --datasets moons --noises 0.1,0.2,0.3 --optimizers sgd,adam", 2
    ),
    "part1_cifar10": Stage("cifar10_sweep.py --settings final --first_seed 100", 800, images=True),
    "part1_cifar10_ablation": Stage(
        "cifar10_sweep.py --settings ablation --seeds 2", 450, images=True
    ),
    "part1_shuffled": Stage("shuffled_pixels.py", 4),
    "part2_settings": Stage("cnn_sweep.py", 200, images=True),
    "part2_best": Stage(
        'cnn_sweep.py --settings "40 epochs plain,40 epochs augmented,best" --seeds 2',
        300,
        images=True,
        into="part2_settings",
    ),
    "rnn_lengths": Stage("palindrome_sweep.py", 60),
    "rnn_settings": Stage(
        "palindrome_sweep.py --settings "
        "default,scalar-unclipped,scalar-orthogonal,scalar-orthogonal-unclipped,"
        "onehot,onehot-unclipped,onehot-orthogonal,onehot-orthogonal-unclipped,"
        "scalar-frozen,onehot-frozen,"
        "scalar-orthogonal-frozen,onehot-orthogonal-frozen --lengths 10,20 --seeds 5 --steps "
        "1500 --eval_freq 500 "
        "--eval_size 2000 --no-compile",
        20,
    ),
    "rnn_memory": Stage(
        f"{LATCHES} --lengths 20 --also 10,50,100,200,500,1000,2000,5000 --seeds 5 --steps 2000 "
        "--eval_freq 200",
        15,
    ),
    "rnn_memory_T500": Stage(
        f"{LATCHES} --lengths 500 --also 100,750,1000,2000 --seeds 5 --steps 500 --eval_freq "
        "100 --eval_size 2000",
        15,
    ),
    "rnn_memory_T1000": Stage(
        f"{LATCHES} --lengths 1000 --also 500,1500,2000 --seeds 5 --steps 400 --batch_size 64 "
        "--eval_freq 100 "
        "--eval_size 2000",
        15,
    ),
    "rnn_memory_why": Stage(
        f"{LATCHES},latches-gain1,latches-gain1.5,latches-gain3,latches-frozen,"
        "latches-scalar,latches-orthogonal,"
        "small-input-orthogonal,onehot --lengths 20 --also 10,50,100,200,500,1000 --seeds 5 "
        "--steps 2000 "
        "--eval_freq 200 --eval_size 2000",
        40,
    ),
    "rnn_holdout": Stage("palindrome_holdout.py", 8),
    "rnn_states": Stage("palindrome_states.py", 8),
}
BAR = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} expected minutes [{elapsed}, "
    "{remaining} left]"
)
WHOLE = ("shuffled_pixels.py", "palindrome_holdout.py", "palindrome_states.py")  # without --out
KEEPERS = ("cnn_sweep.py", "cifar10_sweep.py")  # continue by themselves; others need --resume


@dataclass(frozen=True)
class Config(Options):
    """Run every experiment of the report, then make the report."""

    data: str = option("cifar10", "cifar10 or folder", choices=["cifar10", "folder"])
    data_dir: str = option(
        "data", "where cifar10 is kept, or the folder with train/ and test/", file_path
    )
    stages: tuple[str, ...] = option(
        tuple(STAGES), "stages to run, with commas", each(one_of(STAGES))
    )
    pdf: bool = option(True, "the report as a PDF too (needs the package typst)")
    out: str = option("runs/full", "folder of runs, results, logs and report", file_path)


def main(config: Config) -> Path:
    """Run all unfinished stages; print a table and return the path of the report."""
    names = config.stages
    expect_clean_tree()
    if any(STAGES[name].images for name in names):
        open_images(config)
    folder = folder_at(config.out)
    for part in ("results", "logs", "report"):
        folder_at(folder / part)
    with exclusive_lock(folder):
        remove_unfinished(folder)
        done = run_stages(config, folder)
    spent = [(name, f"{done[name] / 60:.1f}") for name in names]
    print(to_text(table_of(["stage", "minutes"], spent)))
    from scripts import make_report  # draws and trains, so only now

    make_report.main(
        make_report.Config(
            out=str(folder / "report"), results=str(folder / "results"), pdf=config.pdf
        )
    )
    return folder / "report" / "report.html"


def run_stages(config: Config, folder: Path) -> dict[str, float]:
    """Run the unfinished stages; return the seconds of all finished ones."""
    names, done = config.stages, read(folder)
    minutes = {name: STAGES[name].minutes for name in names}
    before = sum(minutes[name] for name in names if name in done)
    with tqdm(total=sum(minutes.values()), initial=before, bar_format=BAR, disable=None) as bar:
        for i, name in enumerate(names, start=1):
            if name not in done:
                bar.set_description(f"{name} ({i} of {len(names)})")
                done[name] = run_stage(config, folder, name)
                write_json(folder / DONE, {"seconds": done})
                bar.update(minutes[name])
    return done


def expect_clean_tree() -> None:
    """Raise a UserError if files differ from the commit.

    Otherwise the stages would work for hours on drafts, which the report does not read.
    """
    if changed := provenance.changed_files():
        raise UserError(
            f"{changed[0]}: differs from the commit, so that all results would be drafts, which "
            "no report reads; commit first"
        )


def open_images(config: Config) -> None:
    """Open the images, so that an error shows before hours of work; this also fills their cache."""
    from purenets.torch_nets import images

    images.load(config.data, config.data_dir)


def read(folder: Path) -> dict[str, float]:
    """Return the seconds of each finished stage."""
    path, seconds = folder / DONE, {str: float}
    # the second schema reads the older format
    found = read_json(path, ({"seconds": seconds}, seconds)) if path.exists() else {}
    return found.get("seconds", found)


def command_of(config: Config, folder: Path, name: str) -> list[str]:
    """Return the command of a stage, with its folder, its results file, and the images."""
    script, *flags = shlex.split(STAGES[name].command)
    into = STAGES[name].into or name
    results = folder / "results" / f"{into}.json"
    files = ["--results", str(results)]
    files += [] if script in WHOLE else ["--out", str(folder / into)]
    begun = results if script in WHOLE else folder / into / "config.json"
    files += ["--resume"] if begun.exists() and script not in KEEPERS else []
    images = ["--data", config.data, "--data_dir", config.data_dir] if STAGES[name].images else []
    return [sys.executable, str(ROOT / "scripts" / script), *flags, *images, *files]


def run_stage(config: Config, folder: Path, name: str) -> float:
    """Run a stage; return the seconds that it took.

    Ctrl-C and SIGTERM are passed on once: the stage saves its state and ends.

    Raises:
        Interrupted: the stage was stopped.
        UserError: the stage failed.
    """
    log, begin, told = folder / "logs" / f"{name}.log", time.monotonic(), False
    command = command_of(config, folder, name)
    with log.open("ab") as file, stop_requested() as stop:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None:
            time.sleep(0.1)
            if stop() and not told:
                process.send_signal(signal.SIGINT)
                told = True
        if told:
            raise Interrupted(
                f"stopped in stage {name}; the same command goes on, and keeps what is done"
            )
    if process.returncode != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"stage {name}: {''.join(last)} (see {log}); the same command goes on from here"
        )
    return time.monotonic() - begin


if __name__ == "__main__":
    command(Config, main)
