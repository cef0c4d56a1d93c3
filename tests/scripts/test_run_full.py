"""Everything in full: that its commands are those of results/, that it resumes, what it says of a
failure.
"""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from purenets import UserError
from purenets.core.runs import provenance
from scripts import run_full
from scripts.run_full import STAGES, Config

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


def in_checkout(folder: Path, second: str, *flags) -> subprocess.CompletedProcess:
    """Run two small stages in a checkout without changes, where results are no drafts."""
    code = (
        "import sys; sys.path.insert(0, '.'); from scripts import run_full\n"
        "from purenets.core.report import html\n"
        "from purenets.core.runs.command import command\n"
        "from scripts.report import results\n"
        "html.png = lambda *figure, **options: b''\n"  # to draw them takes longer than all else
        "results.quick_run = lambda part, config: ['in small']\n"
        f"run_full.STAGES = {{'part1_sets': run_full.Stage({TOY!r}, 1),\n"
        f" 'part1_noise': run_full.Stage({second!r}, 1)}}\n"
        "command(run_full.Config, run_full.main)"
    )
    command = [sys.executable, "-c", code, "--stages", "part1_sets,part1_noise", "--no-pdf"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, *flags], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_goes_on_where_it_failed_and_ends_in_a_report(clean_checkout, tmp_path):
    out = tmp_path / "full"
    failed = in_checkout(clean_checkout, "compare_mlps.py --datasets none", "--out", out)
    assert failed.returncode == 2
    assert re.search(
        r"stage part1_noise: error: --datasets none: needs .*part1_noise.log", failed.stderr
    )
    before = run_full.read(out)
    second = f"{TOY} --noises 0.1,0.2 --optimizers sgd,adam"
    done = in_checkout(clean_checkout, second, "--out", out)
    assert done.returncode == 0, done.stderr
    stages = run_full.read(out)
    assert stages["part1_sets"] == before["part1_sets"]  # not run again
    assert list(stages) == ["part1_sets", "part1_noise"]
    assert "part1_sets" in done.stdout
    assert "draft" not in done.stdout
    page = (out / "report" / "report.html").read_text()
    assert f"python scripts/{TOY}</code>" in page
    assert re.search(r"Accuracy of both networks on each data set .*\(mean ± SD, n = 2\)\.", page)


def test_changed_files_are_named_before_hours_are_spent(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "changed_files", lambda: ["core/base.py", "setup.cfg"])
    with pytest.raises(UserError, match=r"core/base.py: differs from the commit.*commit first"):
        run_full.main(Config(out=str(tmp_path / "full")))
    assert not (tmp_path / "full").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    code = (
        "import sys; from scripts import run_full; from purenets.core.runs.command import command\n"
        "run_full.expect_clean_tree = lambda: None\n"
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


def test_unknown_stages_and_missing_images_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "changed_files", list)
    with pytest.raises(UserError, match="--stages part9: needs one of part1_sets"):
        run_full.main(Config(stages="part9"))
    missing = Config(data="folder", data_dir=str(tmp_path / "none"), out=str(tmp_path / "full"))
    with pytest.raises(UserError, match="none"):
        run_full.main(missing)
    assert not (tmp_path / "full").exists()
