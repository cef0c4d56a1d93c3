"""Every training script on its default flags, stopped by SIGKILL, SIGTERM or Ctrl-C at random
moments and gone on with, ends with the files of an uninterrupted run; in several processes too."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults import crash_points
from tests.faults.kills import ROOT, ends_in_traceback, start, stop_and_resume, timed
from tests.faults.record import FILE, record, scaled

DIGITS = "--data digits"
CIFAR10 = (
    f"--preset digits {DIGITS} --flip alternating --mixup --cutout 2 --ema 0.9 --eval_freq 10 "
    "--epochs 6"
)


class Case(NamedTuple):
    """A script and the flags that make it small, in so many processes."""

    script: str
    flags: str = ""
    processes: int = 1
    resume: tuple[str, ...] = ("--resume",)
    runs: int = 10  # that are stopped, in the campaign


CASES = [
    Case("train_mlp_numpy", "--optimizer adam --max_steps 400 --eval_freq 1"),
    Case("pytorch_train_mlp", "--optimizer adam --max_steps 100 --eval_freq 1"),
    *(
        Case(
            "cnn_train",
            f"{DIGITS} --width 0.125 --batch_size 64 --eval_freq 5 --max_steps 100 --flip random "
            "--crop 4 --cutout 4 --ema 0.9 --optimizer adamw --weight_decay 1e-2 --schedule cosine "
            "--label_smoothing 0.1",
            processes,
        )
        for processes in (1, 2)
    ),
    Case("cifar10_cnn", f"{CIFAR10} --channels 8,8,8"),
    Case("cifar10_cnn", f"{CIFAR10} --channels 8,8,8", processes=2, runs=5),
    Case("cifar10_mlp", f"{CIFAR10} --optimizer muon"),
    Case("cifar10_mlp", f"{CIFAR10} --optimizer muon", processes=2, runs=5),
    *(
        Case(
            "train",
            "--input_length 6 --num_hidden 16 --batch_size 16 --eval_freq 10 --eval_size 200 "
            "--train_steps 600",
            processes,
        )
        for processes in (1, 2)
    ),
    *(
        Case(
            "palindrome_sweep",
            "--lengths 5,6 --seeds 2 --num_hidden 16 --batch_size 16 --steps 200 --eval_freq 10 "
            "--eval_size 200",
            processes,
        )
        for processes in (1, 2)
    ),
    Case("mlp_sweep", "--rates 3 --seeds 2 --steps 100"),
    Case("compare_mlps", "--datasets moons,blobs --seeds 2 --max_steps 20"),
    Case(
        "cnn_sweep",
        f"{DIGITS} --settings 'adam 1e-3' --seeds 2 --width 0.05 --max_steps 40",
        resume=(),
    ),
    Case("cifar10_sweep", f"{DIGITS} --settings 'mlp digits' --seeds 2", resume=()),
    Case("make_report", "--no-pdf", resume=()),
    Case("make_submission", "--student_number 123 --no-check", resume=(), runs=5),
]
QUICK = [("train_mlp_numpy", 1)]  # the others take long: only in the campaign


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.script}-{case.processes}")
def test_stopped_at_random_and_resumed_gives_the_same_files(case, tmp_path):
    wanted = scaled(1, case.runs)
    if (case.script, case.processes) not in QUICK and not FILE:
        pytest.skip("takes long: only in the campaign, make faults")
    command = start(case.script, shlex.split(case.flags), case.processes)
    whole = tmp_path / "whole"
    seconds = timed([*command, "--out", whole])
    stops, stopped_runs, different, left = Counter(), 0, [], []
    while stopped_runs < wanted:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        if (whole / "probe.json").exists():  # the fastest way is measured: once for all runs
            for file in ("config.json", "probe.json"):  # as a run that has saved nothing else
                shutil.copy(whole / file, folder)
        counts = stop_and_resume(command, folder, seconds, case.resume)
        stops += counts
        stopped_runs += counts.total() > 0
        names = crash_points.differing(whole, folder)
        different += names
        left += crash_points.unfinished(folder)
        if not names:  # one that differs is kept, to be looked at
            shutil.rmtree(folder)
    record(
        f"stopped: {case.script}, processes {case.processes}",
        stops=dict(stops),
        runs=stopped_runs,
        differing=len(different),
        files_left=len(left),
    )
    assert different == []
    assert left == []


@pytest.mark.parametrize("number", ["INT", "TERM"])
def test_a_signal_that_ends_the_compiler_too_changes_no_bits(number, tmp_path, monkeypatch):
    if not FILE:
        pytest.skip("takes long: only in the campaign, make faults")
    compiler, came = tmp_path / "g++", tmp_path / "came"
    compiler.write_text(f"""#!/bin/sh
if [ ! -e "{came}" ]; then touch "{came}"; kill -{number} 0; sleep 9; fi  # 0: all of the group
exec "{shutil.which("g++")}" "$@"
""")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    flags = "--input_length 4 --num_hidden 8 --batch_size 8 --eval_size 20 --train_steps 20"
    command = start("train", [*shlex.split(flags), "--resume", "--out"])
    stopped = subprocess.run(
        [*command, tmp_path / "stopped"], capture_output=True, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (stopped.returncode, came.exists()) == (130, True)
    assert "stopped after step 0 of 20; there was nothing to save yet" in stopped.stderr
    assert "uncompiled" not in stopped.stderr
    for name in ("stopped", "whole"):
        timed([*command, tmp_path / name])
    different = crash_points.differing(tmp_path / "whole", tmp_path / "stopped")
    record(f"stopped: train while it is compiled, SIG{number}", runs=1, differing=len(different))
    assert different == []


@pytest.mark.parametrize(
    ("function", "last", "ours"),
    [
        ("<module>", "KeyboardInterrupt", False),  # the script was still being imported
        ("main", "KeyboardInterrupt", True),
        ("<module>", "ValueError: x", True),
    ],
)
def test_a_traceback_is_ours_but_for_ctrl_c_while_a_script_is_imported(function, last, ours):
    own = f'  File "{ROOT}/scripts/train.py", line 17, in {function}'
    torchrun = '  File "/lib/site-packages/torch/distributed/run.py", line 1138, in main'
    assert ends_in_traceback("\n".join([own, last, torchrun, "SignalException"])) is ours
    assert not ends_in_traceback("\n".join([torchrun, last]))
