"""What happens around a run: another one in its folder, no room, no memory, images that change,
names that lie.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from purenets import UserError
from purenets.core.data import images
from purenets.core.report import plots
from purenets.core.report.document import Document, Picture, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table
from purenets.core.runs import checkpoint, history
from purenets.core.runs.files import LOCK, exclusive_file, exclusive_lock, folder_at
from purenets.torch_nets.dataset import PalindromeDataset
from scripts import train_mlp_numpy
from tests.faults.kills import differing
from tests.faults.record import record, scaled

ROOT = Path(__file__).parents[2]
MLP = [sys.executable, str(ROOT / "scripts" / "train_mlp_numpy.py")]


def limited(limit: str, command: list) -> subprocess.CompletedProcess:
    """The command under a `ulimit`."""
    shell = ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", *map(str, command)]
    return subprocess.run(shell, capture_output=True, text=True, check=False)


def in_one_line(done: subprocess.CompletedProcess) -> str:
    """The only line of what a refused command says."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_two_runs_in_one_folder(tmp_path):
    """The second is refused while the first trains, and the first ends as if alone."""
    long = [*MLP, "--max_steps", "200", "--eval_freq", "1", "--out"]
    folder = tmp_path / "run"
    first = subprocess.Popen([*long, folder], stdout=subprocess.DEVNULL)
    while not (folder / checkpoint.NAME).exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.run(
        [*long, folder, "--resume"], capture_output=True, text=True, check=False
    )
    assert first.poll() is None, "the first was done too soon for this test"
    assert "another process is training there" in in_one_line(second)
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130
    done = history.read_csv(folder / "history.csv")[-1]["step"]
    subprocess.run([*long, tmp_path / "alone"], check=True, capture_output=True)
    subprocess.run([*long, folder, "--resume"], check=True, capture_output=True)
    assert done > 0
    assert differing(folder, tmp_path / "alone", (checkpoint.NAME, "history.csv")) == []


def test_two_runs_begun_at_once_in_a_new_folder(tmp_path):
    """The folder is that of the one that trains: its options, its checkpoint."""
    trials, wrong = scaled(1, 60), 0
    for i in range(trials):
        folder = tmp_path / str(i)
        command = [*MLP, "--max_steps", "40", "--eval_freq", "20", "--out", folder, "--seed"]
        both = [
            subprocess.Popen([*map(str, command), seed], stderr=subprocess.PIPE, text=True)
            for seed in "12"
        ]
        errors = [process.communicate()[1] for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 2], errors
        assert errors[codes.index(2)].startswith(f"error: --out {folder}: ")
        config = json.loads((folder / "config.json").read_text())
        wrong += config["config"]["seed"] != 1 + codes.index(0)
    record("two runs begun at once", tried=trials, refused=trials, differing=wrong)
    assert wrong == 0


def test_a_sweep_holds_its_folder(tmp_path):
    """A second sweep in the folder, or into the same results, is refused before it trains."""
    out, results = tmp_path / "out", tmp_path / "rows.json"
    sweep = [sys.executable, str(ROOT / "scripts" / "cnn_sweep.py"), "--data", "digits"]
    with exclusive_lock(folder_at(out)):
        done = subprocess.run([*sweep, "--out", out], capture_output=True, text=True, check=False)
    assert "another process is training there" in in_one_line(done)
    with exclusive_file(results):
        sweep += ["--out", tmp_path / "other", "--results", results]
        done = subprocess.run(sweep, capture_output=True, text=True, check=False)
    assert f"--results {results}: another process" in in_one_line(done)


def test_a_full_disk(tmp_path):
    """No file may grow over a limit, as on a full disk: the last checkpoint stays, byte for
    byte.
    """
    folder = tmp_path / "run"
    small = [
        *MLP,
        "--dnn_hidden_units",
        "40,40",
        "--max_steps",
        "4",
        "--eval_freq",
        "1",
        "--out",
        folder,
    ]
    subprocess.run(small, check=True, capture_output=True)
    before = (folder / checkpoint.NAME).read_bytes()
    more = [*small, "--max_steps", "8", "--resume"]
    line = in_one_line(limited(f"-f {len(before) // 1024 - 2}", more))
    assert "cannot be written (File too large); what stood there is kept" in line
    assert (folder / checkpoint.NAME).read_bytes() == before
    assert [path.name for path in folder.glob(".*")] == [LOCK]
    subprocess.run(more, check=True, capture_output=True)
    assert history.read_csv(folder / "history.csv")[-1]["step"] > 4


@pytest.mark.parametrize("place", ["/proc/run", "/dev/null/run"])
def test_a_folder_that_cannot_be_written(place):
    line = in_one_line(
        subprocess.run([*MLP, "--out", place], capture_output=True, text=True, check=False)
    )
    assert f"--out {place}: cannot be" in line


def test_too_little_memory(tmp_path):
    """A net that does not fit: one line, exit code 2, nothing written over the folder's run."""
    command = [
        *MLP,
        "--dnn_hidden_units",
        "300000,300000",
        "--max_steps",
        "1",
        "--out",
        tmp_path / "run",
    ]
    line = in_one_line(limited(f"-v {4 * 2**20}", command))
    assert "memory" in line


def test_a_clock_that_jumps_changes_no_result(tmp_path, monkeypatch):
    whole = train_mlp_numpy.train(train_mlp_numpy.Config(max_steps=20, out=str(tmp_path / "whole")))
    times = iter(np.random.default_rng(0).uniform(-1e9, 1e9, 10**5))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(times)) * 10**9)
    jumped = train_mlp_numpy.train(
        train_mlp_numpy.Config(max_steps=20, out=str(tmp_path / "jumped"))
    )
    assert whole.history == jumped.history
    assert (
        differing(tmp_path / "whole", tmp_path / "jumped", (checkpoint.NAME, "history.csv")) == []
    )


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(path)


def test_images_that_change_between_two_runs_are_decoded_anew(tmp_path):
    for part in ("train", "test"):
        for i in range(2):
            picture(tmp_path / part / "cat" / f"{i}.png", 10)
            picture(tmp_path / part / "dog" / f"{i}.png", 200)
    before = images.folder(tmp_path)
    picture(tmp_path / "train" / "cat" / "0.png", 99)
    os.utime(tmp_path / "train" / "cat" / "0.png", (1, 1))
    after = images.folder(tmp_path)
    assert before.train[0].max() == 200
    assert (np.array(after.train[0]) == 99).any()
    assert not (np.array(before.train[0]) == 99).any()


def test_names_of_classes_are_text_and_nothing_else(tmp_path):
    """A class is a folder's name: it can lead out of no folder and put nothing into a page."""
    evil = ["<script>alert(1)<", "..", "a&b\"'", "$(touch x)", "C:\\con", "`#let x = 1`"]
    names = [name for name in evil if name != ".."]
    for name in names:
        for part in ("train", "test"):
            picture(tmp_path / "data" / part / name / "0.png", 7)
    (tmp_path / "data" / "train" / "dot").symlink_to(tmp_path)
    (tmp_path / "data" / "test" / "dot").symlink_to(tmp_path)
    # a link is followed to read, never to write
    with pytest.raises(UserError, match="is a folder with images"):
        images.folder(tmp_path / "data")
    for part in ("train", "test"):
        (tmp_path / "data" / part / "dot").unlink()
    found = images.folder(tmp_path / "data")
    assert sorted(found.classes) == sorted(names)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    figure, axes = plots.panels(1, 1)
    plots.confusion(axes[0, 0], np.eye(len(names), dtype=int), found.classes)
    rows = [["class"], *([name] for name in names)]
    page = to_html(
        Document(names[0], [Section(names[0], [Table(rows, names[0]), Picture(figure, names[0])])])
    )
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert not re.search(r"<[^>]*\son\w+=", page)


def test_a_worker_of_a_dataloader_that_dies_is_said_and_nothing_hangs():
    """Our scripts draw their batches in the process itself; a user's DataLoader over our dataset
    does not hang.
    """
    dataset = PalindromeDataset(6, size=10**6)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=1, timeout=30)
    drawn = iter(loader)
    next(drawn)
    os.kill(drawn._workers[0].pid, signal.SIGKILL)
    # a batch that it was handing over when it died is an end of file
    with pytest.raises((RuntimeError, EOFError, ConnectionError)):
        for _ in range(1000):
            next(drawn)
    with contextlib.suppress(RuntimeError):  # which says once more that the worker is gone
        drawn._shutdown_workers()
