"""Everything in full: that its commands are those of results/, that it resumes, what it says of a
failure.
"""

import itertools
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from purenets import UserError
from scripts import run_full
from scripts.run_full import STAGES, Config, Stage

ROOT = Path(__file__).parents[2]
TOY = "compare_mlps.py --datasets moons --max_steps 4 --seeds 2 --no-compile"


def options_of(command: str) -> list[tuple[str, ...]]:
    """The flags and values of a command, without those that name files."""
    words = [word for word in shlex.split(command) if word not in ("python", "--resume")]
    flags = [i for i, word in enumerate(words) if word.startswith("--")]
    pairs = [tuple(words[a:b]) for a, b in itertools.pairwise([*flags, len(words)])]
    return sorted(
        pair for pair in pairs if pair[0] not in ("--out", "--results", "--data", "--data_dir")
    )


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_the_commands_that_wrote_the_results(name):
    path = ROOT / "results" / f"{STAGES[name].into or name}.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not in results/ yet")
    found = json.loads(path.read_text())
    if "command" in found:  # of sweeps that grow, each row has one of its own
        assert options_of(found["command"]) == options_of(STAGES[name].command)
        assert STAGES[name].command.split()[0] in found["command"]
    assert (ROOT / "scripts" / STAGES[name].command.split()[0]).exists()


def test_goes_on_where_it_failed_and_ends_in_a_report(tmp_path, monkeypatch, capsys):
    stages = {
        "part1_sets": Stage(TOY, 1),
        "part1_noise": Stage("compare_mlps.py --datasets none", 1),
    }
    monkeypatch.setattr(run_full, "STAGES", stages)
    config = Config(stages="part1_sets,part1_noise", out=str(tmp_path / "full"), pdf=False)
    with pytest.raises(
        UserError, match=r"stage part1_noise: error: --datasets none: needs .*part1_noise.log"
    ):
        run_full.main(config)
    before = run_full.read(tmp_path / "full")
    stages["part1_noise"] = Stage(f"{TOY} --noises 0.1,0.2 --optimizers sgd,adam", 1)
    page = run_full.main(config)
    done = run_full.read(tmp_path / "full")
    assert done["part1_sets"] == before["part1_sets"]  # not run again
    assert list(done) == ["part1_sets", "part1_noise"]
    assert "moons" in page.read_text()
    assert "part1_sets" in capsys.readouterr().out


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    code = (
        "import sys; from scripts import run_full; from purenets.core.runs.command import command\n"
        "run_full.STAGES['part1_sets'] = run_full.Stage('compare_mlps.py --datasets moons "
        "--max_steps 9999', 1)\n"
        "command(run_full.Config, run_full.main)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--stages",
        "part1_sets",
        "--out",
        tmp_path / "full",
        "--no-pdf",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    rows = tmp_path / "full" / "part1_sets" / "config.json"
    while not rows.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped in stage part1_sets; the same command goes on" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "full" / "stages.json").exists()


def test_unknown_stages_and_missing_images_are_named_at_once(tmp_path):
    with pytest.raises(UserError, match="--stages part9: needs one of part1_sets"):
        run_full.main(Config(stages="part9"))
    missing = Config(data="folder", data_dir=str(tmp_path / "none"), out=str(tmp_path / "full"))
    with pytest.raises(UserError, match="none"):
        run_full.main(missing)
    assert not (tmp_path / "full").exists()
