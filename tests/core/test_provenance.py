"""The commit that a result names: dirty where code differs, whatever results themselves do."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from purenets import runs
from purenets.core.runs import provenance
from purenets.core.runs.options import Options, option

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


def git(root, *arguments: str) -> str:
    user = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *user, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a checkout with one file in each folder, and without changes."""
    for name in (
        provenance.HERE,
        "core/a.py",
        "results/a.json",
        "notebooks/a.ipynb",
        "docs/figures/a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / ".gitignore").write_text("/runs/\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path.resolve())
    monkeypatch.setattr(provenance, "git_commit", provenance.git_commit.__wrapped__)
    return tmp_path


def test_a_clean_tree_names_its_commit(checkout):
    assert provenance.git_commit() == git(checkout, "rev-parse", "HEAD")
    assert provenance.changed_files() == []


@pytest.mark.parametrize("name", ["core/a.py", "core/new file.py", "docs/a.md", "README.md"])
def test_a_changed_or_new_file_makes_it_dirty(checkout, name):
    (checkout / name).write_text("2")
    assert provenance.git_commit() == git(checkout, "rev-parse", "HEAD") + "-dirty"
    assert provenance.changed_files() == [name]


def test_a_staged_or_removed_file_makes_it_dirty(checkout):
    (checkout / "core" / "a.py").unlink()
    assert provenance.git_commit().endswith("-dirty")
    git(checkout, "checkout", "-q", ".")
    (checkout / "core" / "a.py").write_text("2")
    git(checkout, "add", "-A")
    assert provenance.git_commit().endswith("-dirty")


@pytest.mark.parametrize(
    "name",
    ["results/a.json", "results/new.json", "notebooks/a.ipynb", "docs/figures/b.png", "runs/x.py"],
)
def test_results_and_what_git_ignores_do_not(checkout, name):
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("2")
    assert provenance.git_commit() == git(checkout, "rev-parse", "HEAD")


def test_a_copy_below_another_repository_has_no_commit(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", (checkout / "core").resolve())
    (checkout / "core" / "a.py").write_text("2")
    assert provenance.git_commit() is None
    assert provenance.changed_files() == []


def test_a_copy_outside_of_any_repository_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit.__wrapped__() is None
    assert provenance.changed_files() == []


def test_a_copy_at_the_top_of_another_repository_has_no_commit(checkout):
    git(checkout, "rm", "-q", "--cached", provenance.HERE)
    assert provenance.git_commit() is None


def test_a_commit_is_asked_for_here_whatever_git_is_told(checkout, tmp_path, monkeypatch):
    other = tmp_path / "runs"  # as in a hook of another project
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.git_commit() == git_without(checkout, "GIT_DIR", monkeypatch)


def git_without(root, name: str, monkeypatch) -> str:
    monkeypatch.delenv(name)
    return git(root, "rev-parse", "HEAD")


def test_the_machine_says_family_and_model_where_the_system_does():
    info = Path("/proc/cpuinfo")
    if not info.exists() or "cpu family" not in info.read_text():
        pytest.skip("the system does not tell the processor's family")
    pattern = r".+ \(family \d+, model \d+\), \d+ cores, Linux"
    assert re.fullmatch(pattern, runs.machine()["machine"])


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Options of a run."""

    widths: tuple[int, ...] = option((20,), "of layers")
    names: tuple[str, ...] = option(("a",), "of sets")
    rate: float = option(0.01, "the optimizer's")
    compile: bool = option(True, "the step")
    out: str = option(None, "folder")
    resume: bool = option(False, "go on")
    preset: str = option("", "values that all other options begin with")


def test_the_command_gives_the_same_options():
    config = Config(widths=(20, 10), names="a b,c", rate=0.1, compile=False, out="x y", resume=True)
    command = shlex.split(runs.command_line(config))
    assert command[:2] == ["python", "scripts/test_provenance.py"]
    assert Config.parse(command[2:]) == dataclasses.replace(config, resume=False)
    assert runs.command_line(Config()) == "python scripts/test_provenance.py"


def test_the_command_gives_what_differs_from_the_preset_alone(monkeypatch):
    """A value that is the default of its option is named if the preset has another."""
    presets = {"fast": Config(rate=0.1, compile=False, preset="fast"), "slow": Config(rate=1.0)}
    monkeypatch.setattr(sys.modules[__name__], "PRESETS", presets, raising=False)
    for config in (Config(preset="fast"), Config(preset="slow", rate=0.5), presets["fast"]):
        command = shlex.split(runs.command_line(config))[2:]
        assert Config.parse(command, presets) == config
    command = shlex.split(runs.command_line(Config()))[2:]  # as the first preset is the default
    assert Config.parse(command, presets) == Config(preset="fast")


def test_a_config_of_a_prompt_or_notebook_has_a_run_too(tmp_path):
    """There is no file to read the script's name from."""
    lines = (
        "from dataclasses import dataclass",
        "from purenets.runs import Options, open_run, option",
        "@dataclass(frozen=True)",
        "class Config(Options):",
        "    out: str = option(None, 'folder')",
        "    resume: bool = option(False, 'go on')",
        f"with open_run(Config(out={str(tmp_path / 'run')!r})) as folder: pass",
        f"with open_run(Config(out={str(tmp_path / 'run')!r}, resume=True)) as folder: pass",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=provenance.ROOT)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["script"] == provenance.INTERACTIVE and len(written["commands"]) == 2


def test_a_run_that_changed_code_goes_on_with_is_dirty_for_good(tmp_path, monkeypatch):
    clean = "a" * 40

    def open_at(commit: str, resume: bool) -> str:
        monkeypatch.setattr(provenance, "git_commit", lambda: commit)
        with runs.open_run(Config(out=str(tmp_path / "run"), resume=resume)) as path:
            config = json.loads((path / "config.json").read_text())
            origin = {name: config[name] for name in ("git_commit", "machine")}
            assert runs.origin_of(path) == origin
        return config["git_commit"]

    def resume_at(commit: str) -> str:
        with pytest.warns(runs.RunWarning, match="the run so far is of commit"):
            return open_at(commit, True)

    assert open_at(clean, False) == clean
    assert resume_at("b" * 40) == clean  # where it began
    assert resume_at(f"{clean}-dirty") == f"{clean}-dirty"
    assert resume_at(clean) == f"{clean}-dirty"
