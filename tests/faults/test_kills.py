"""Every training script, stopped by SIGKILL, SIGTERM or Ctrl-C at random moments and gone on with,
ends with the bytes of an uninterrupted run."""

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from purenets.core.runs import checkpoint
from tests.faults.kills import differing, stop_and_resume, timed
from tests.faults.record import FILE, record, scaled

ROOT = Path(__file__).parents[2]
RUN = (checkpoint.NAME, "history.csv", "curves.png")
IMAGES = (*RUN, "results.json", "confusion.png")
DIGITS = "--data digits --threads 1 --precision float32"
CIFAR10 = (
    f"--preset digits {DIGITS} --flip alternating --mixup --cutout 2 --ema 0.9 "
    "--evaluations 40 --epochs 8"
)


class Case(NamedTuple):
    """A script, its flags, and the files that have to be the same."""

    flags: str
    files: tuple[str, ...]
    resume: tuple[str, ...] = ("--resume",)


CASES = {
    "train_mlp_numpy": Case("--optimizer adam --max_steps 400 --eval_freq 1", RUN),
    "pytorch_train_mlp": Case("--optimizer adam --max_steps 150 --eval_freq 1 --no-compile", RUN),
    "cnn_train": Case(
        f"{DIGITS} --width 0.125 --batch_size 64 --eval_freq 5 --max_steps 150 --flip random "
        "--crop 4 --cutout 8 --ema 0.9 --optimizer adamw --weight_decay 1e-2 --schedule cosine "
        "--label_smoothing 0.1",
        IMAGES,
    ),
    "cifar10_cnn": Case(f"{CIFAR10} --channels 8,8,8", IMAGES),
    "cifar10_mlp": Case(f"{CIFAR10} --optimizer muon", IMAGES),
    "train": Case(
        "--input_length 6 --num_hidden 16 --batch_size 16 --eval_freq 10 --eval_size 200 "
        "--train_steps 600 "
        "--no-compile --threads 1",
        RUN,
    ),
    "palindrome_sweep": Case(
        "--lengths 5,6 --seeds 2 --num_hidden 16 --batch_size 16 --steps 200 --eval_freq 10 "
        "--eval_size 200 "
        "--no-compile --threads 1",
        tuple(f"default-T{T}/{name}" for T in (5, 6) for name in (checkpoint.NAME, "cell.json")),
    ),
    "compare_mlps": Case(
        "--datasets moons,blobs --seeds 2 --max_steps 20 --no-compile", ("table.md",)
    ),
    "make_report": Case("--no-pdf", ("report.html",), resume=()),
    "make_submission": Case("--student_number 123 --no-check", ("123_assignment2.zip",), resume=()),
}


@pytest.mark.parametrize("name", CASES)
def test_stopped_at_random_and_resumed_gives_the_same_bytes(name, tmp_path):
    case, wanted = CASES[name], scaled(1, 20)
    if name in ("make_report", "make_submission") and not FILE:
        pytest.skip("takes long: only in the campaign, make faults")
    command = [sys.executable, ROOT / "scripts" / f"{name}.py", *case.flags.split()]
    whole = tmp_path / "whole"
    seconds = timed([*command, "--out", whole])
    stops, stopped_runs, different = Counter(), 0, []
    while stopped_runs < wanted:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        if (
            whole / "probe.json"
        ).exists():  # the fastest way is measured: one measurement for all runs
            shutil.copy(whole / "probe.json", folder)
        own = stop_and_resume(command, folder, seconds, case.resume)
        stops += own
        stopped_runs += own.total() > 0
        different += differing(whole, folder, case.files)
    record(f"stopped: {name}", stops=dict(stops), runs=stopped_runs, differing=len(different))
    assert different == []
