"""The CNN script: what it learns, that it resumes bit by bit, and what it says of wrong input."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purenets import UserError
from purenets.core.runs import checkpoint, history
from purenets.core.runs.command import command
from purenets.core.runs.files import LOCK
from purenets.core.runs.json_files import read_json
from scripts import cnn_train
from scripts.cnn_train import Config
from scripts.shared.schemas import TEST

ROOT = Path(__file__).parents[2]
SMALL = {
    "data": "digits",
    "width": 0.125,
    "batch_size": 64,
    "eval_freq": 5,
    "precision": "float32",
    "threads": 1,
}


def command_of(flags: dict) -> list[str]:
    parts = (str(part) for name, value in flags.items() for part in (f"--{name}", value))
    return [sys.executable, str(ROOT / "scripts" / "cnn_train.py"), *parts]


def test_flags_have_the_names_and_defaults_of_the_assignment():
    config = Config.parse([])
    assert (config.learning_rate, config.max_steps, config.batch_size) == (1e-4, 5000, 32)
    assert (config.eval_freq, config.optimizer, config.width) == (500, "adam", 1.0)


def test_it_learns_digits():
    config = Config(
        **SMALL | {"width": 0.25, "eval_freq": 100},
        max_steps=200,
        learning_rate=1e-2,
        schedule="one_cycle",
    )
    result = cnn_train.train(config)
    assert result.test["accuracy"] > 0.95
    assert np.trace(result.test["confusion"]) / np.sum(result.test["confusion"]) == pytest.approx(
        result.test["accuracy"]
    )
    assert [row["step"] for row in result.history] == [0, 100, 200]


def test_it_learns_from_cifar10(cifar10_dir):
    config = Config(
        data_dir=cifar10_dir, width=0.125, batch_size=64, max_steps=60, eval_freq=60,
        learning_rate=3e-3, precision="float32", train_images=2000, valid_fraction=0.02,
        flip="random", crop=4, cutout=8,
    )  # fmt: skip
    result = cnn_train.train(config)
    assert result.task.classes[0] == "airplane"
    assert len(result.task.test[1]) == 10_000
    assert result.test["accuracy"] > 0.2  # chance is 0.1


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tmp_path):
    """A checkpoint that outgrows what may be written, as on a full disk."""
    folder = tmp_path / "run"
    cnn_train.train(Config(**SMALL, max_steps=10, out=str(folder)))
    before = (folder / checkpoint.NAME).read_bytes()
    command = command_of(SMALL | {"max_steps": 20, "out": folder})
    full = subprocess.run(
        ["bash", "-c", f"ulimit -f {len(before) // 2048}; exec \"$@\"", "-", *command, "--resume"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 2
    line = full.stderr.strip().splitlines()[-1]
    assert (
        line
        == f"error: {folder / checkpoint.NAME}: cannot be written (File too large); what stood "
        "there is kept"
    )
    assert "Traceback" not in full.stderr
    assert (folder / checkpoint.NAME).read_bytes() == before
    assert [path.name for path in folder.glob(".*")] == [LOCK]  # nothing half-written
    cnn_train.train(Config(**SMALL, max_steps=20, out=str(folder), resume=True))
    assert history.read_csv(folder / "history.csv")[-1]["step"] == 20


def test_the_run_folder_has_what_was_found(tmp_path):
    result = cnn_train.main(Config(**SMALL, max_steps=5, out=str(tmp_path / "run")))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "config.json",
        "history.csv",
        "results.json",
        "probe.json",
        "curves.png",
        "confusion.png",
    } <= names
    assert read_json(tmp_path / "run" / "results.json", TEST) == result.test


def test_the_running_mean_is_what_is_evaluated():
    slow = cnn_train.train(Config(**SMALL, max_steps=5, ema=0.999))
    fast = cnn_train.train(Config(**SMALL, max_steps=5))
    assert fast.history[-1]["loss"] == slow.history[-1]["loss"]  # the same training
    assert fast.test["loss"] != slow.test["loss"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "imagenet"], "--data imagenet: needs one of cifar10, folder, digits"),
        (["--data", "folder", "--data_dir", "missing"], "missing/train: cannot be read"),
        (
            ["--data", "digits", "--batch_size", "5000"],
            "--batch_size 5000: more than the 1294 training images",
        ),
        (
            ["--data", "digits", "--valid_fraction", "1"],
            "--valid_fraction 1.0: needs a number from 0 to below 1",
        ),
        (
            ["--data", "digits", "--train_images", "2000"],
            "--train_images 2000: there are 1294 images to train on",
        ),
        (["--data", "digits", "--optimizer", "muonn"], "--optimizer muonn: needs one of"),
        (["--precision", "float16"], "--precision float16: needs one of float32"),
        (["--epochs", "-1"], "--epochs -1.0: needs a number that is not negative"),
        (["--epochs", "2", "--max_steps", "9"], "--max_steps 9: --epochs 2.0 decides"),
        (["--epochs", "2", "--max_steps", "5000"], "--max_steps 5000: --epochs 2.0 decides"),
        (["--device", "gpu", "--data", "digits"], "--device gpu: not available here"),
        (["--flip", "hard"], "--flip hard: needs one of none, random, alternating"),
        (["--views", "all"], "--views all: needs one of none, mirror, shift"),
        (["--augment", "strong"], "unrecognized arguments: --augment strong"),
        (["--resume", "--data", "digits"], "--resume: needs --out"),
        (
            ["--data", "digits", "--data_dir", "imgs"],
            "--data_dir imgs: means nothing with --data digits; leave it out",
        ),
    ],
)
def test_wrong_flags_end_in_one_line_and_code_2(flags, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cnn_train", *flags])
    with pytest.raises(SystemExit) as stop:
        command(Config, cnn_train.main)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_cifar10_names_the_ways_out_where_there_is_no_network(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(
        UserError, match=r"no network.*with a network.*--data folder.*--data digits"
    ) as error:
        cnn_train.train(Config(data_dir=str(tmp_path)))
    assert "\n" not in str(error.value)


def images_in(folder):
    """Four bright images of class a and four dark ones of class b, to train and to test."""
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for i in range(4):
                image = np.full((9, 9), 200 * (name == "a") + i, np.uint8)
                Image.fromarray(image).save(folder / part / name / f"{i}.png")


def test_images_of_one_class_are_refused(tmp_path):
    images_in(tmp_path)
    for part in ("train", "test"):
        shutil.rmtree(tmp_path / part / "b")
    with pytest.raises(UserError, match=r"/train: only class a, needs two or more$"):
        cnn_train.train(Config(**SMALL | {"data": "folder", "data_dir": str(tmp_path)}))


def test_four_images_of_a_class_are_enough(tmp_path):
    images_in(tmp_path)
    options = SMALL | {"data": "folder", "batch_size": 4, "eval_freq": 100, "learning_rate": 1e-3}
    result = cnn_train.train(
        Config(**options, data_dir=str(tmp_path), valid_fraction=0.25, max_steps=100)
    )
    assert result.task.classes == ("a", "b")
    assert result.test["accuracy"] == 1.0


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_folder_of_images_that_has_changed_is_not_gone_on_with(part, tmp_path):
    images_in(tmp_path / "set")
    options = SMALL | {"data": "folder", "data_dir": str(tmp_path / "set"), "batch_size": 4}
    options |= {"valid_fraction": 0.25, "eval_freq": 2, "out": str(tmp_path / "run")}
    cnn_train.train(Config(**options, max_steps=2))
    changed = tmp_path / "set" / part / "b" / "3.png"
    content = changed.read_bytes()
    Image.fromarray(np.full((9, 9), 50, np.uint8)).save(changed)
    with pytest.raises(
        UserError, match=r"^--data_dir .*set: its content has changed since the run"
    ):
        cnn_train.train(Config(**options, max_steps=4, resume=True))
    changed.write_bytes(content)
    result = cnn_train.train(Config(**options, max_steps=4, resume=True))
    assert result.history[-1]["step"] == 4
