"""Stored trainings are begun again, and only what goes the same way is said to."""

import dataclasses
import importlib
import json
import shutil

import pytest

from purenets import UserError
from purenets.core.runs import provenance
from scripts import cnn_train, replay
from scripts.shared import dependencies, result_files, short_runs, sweeps

COMMITS = ("1" * 40, "2" * 40)


@pytest.fixture(scope="module", autouse=True)
def current_code_runs_once():
    """Each command of these tests is run once with the current code, for all of them."""

    def once(run):
        known = {}

        def found(line, code):
            if code != dependencies.ROOT:
                return run(line, code)
            command = tuple(short_runs.without(line.split(), "--out"))
            if command not in known:
                known[command] = run(line, code)
            return known[command]

        return found

    with pytest.MonkeyPatch.context() as patch:
        for name in ("training", "experiment"):
            patch.setattr(short_runs, name, once(getattr(short_runs, name)))
        yield


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A result of one training, made by a commit before this one."""
    monkeypatch.setattr(provenance, "git_commit", lambda: COMMITS[1])
    options = {"data": "digits", "width": 0.125, "max_steps": 3, "eval_freq": 1, "threads": 1}
    config = cnn_train.Config(**options, out=str(tmp_path / "run"))
    row = {"setting": "tiny", "seed": 0, **sweeps.trained(cnn_train, config)}
    path = tmp_path / "found.json"
    result_files.write(path, {"n": 1, "rows": [row | {"git_commit": COMMITS[0]}]})
    return path


def row_of(path):
    return result_files.read(path)["rows"][0]


def test_a_training_that_goes_the_same_way_notes_the_commit(stored):
    before = row_of(stored)
    replay.main(replay.Config(results=str(stored), evaluations=2))
    assert row_of(stored) == before | {"replayed": COMMITS[1]}
    assert result_files.commit_of(row_of(stored)) == COMMITS[1]


@pytest.mark.parametrize("name", ["loss", "valid_accuracy"])
def test_a_training_that_goes_another_way_is_named(stored, name):
    found = json.loads(stored.read_text())
    found.pop("digest")
    found["rows"][0]["history"][1][name] *= 1.0001
    found["rows"][0]["replayed"] = "3" * 40
    stored.write_text(json.dumps(found))
    with pytest.raises(UserError, match="tiny, seed 0: no longer give the stored values"):
        replay.main(replay.Config(results=str(stored)))
    assert result_files.commit_of(row_of(stored)) == COMMITS[0]


@pytest.fixture
def elsewhere(stored):
    """The same result with rows of two seeds, as if another machine had made them."""
    found = result_files.read(stored)
    row = found["rows"][0] | {"machine": "another"}
    row["history"][1]["loss"] *= 1.0001  # as another machine rounds
    command = row["command"] + " --seed 1"
    result_files.write(stored, found | {"rows": [row, row | {"seed": 1, "command": command}]})
    return stored


def code_of_before(change, name="cnn_train"):
    """Return a function that writes this code into a folder, with a change to a script of it."""

    def unpack(commit, folder):
        assert commit == COMMITS[0]
        for path in dependencies.ROOT.iterdir():
            if path.name not in ("scripts", "data"):
                (folder / path.name).symlink_to(path)
        shutil.copytree(dependencies.ROOT / "scripts", folder / "scripts")
        script = folder / f"scripts/{name}.py"
        script.write_text(change(script.read_text()))

    return unpack


def test_rows_of_another_machine_are_compared_with_their_commit(elsewhere, monkeypatch, capsys):
    unpacked = []
    unpack = code_of_before(lambda text: text)
    monkeypatch.setattr(dependencies, "unpack", lambda *at: unpacked.append(unpack(*at)))
    replay.main(replay.Config(results=str(elsewhere)))
    how = "it ran with machine another: a short training compares its commit with this one"
    said = [f"tiny, seed {seed} ({how}): the same" for seed in (0, 1)]
    assert "\n".join(said) in capsys.readouterr().out
    rows = result_files.read(elsewhere)["rows"]
    assert [result_files.commit_of(row) for row in rows] == [COMMITS[1]] * 2
    assert len(unpacked) == 1  # the rows differ by their seed alone


def test_a_row_of_another_machine_whose_code_differed_goes_another_way(elsewhere, monkeypatch):
    rate = "1e-4, "
    assert rate in (dependencies.ROOT / "scripts/cnn_train.py").read_text()
    change = code_of_before(lambda text: text.replace(rate, "2e-4, "))
    monkeypatch.setattr(dependencies, "unpack", change)
    with pytest.raises(
        UserError, match=r"tiny, seed 0 .*; tiny, seed 1 .*: no longer give the stored values"
    ):
        replay.main(replay.Config(results=str(elsewhere)))
    assert result_files.commit_of(row_of(elsewhere)) == COMMITS[0]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A result of a command that writes all its rows at once, made by a commit before this one."""
    monkeypatch.setattr(provenance, "git_commit", lambda: COMMITS[1])
    path = tmp_path / "sets.json"
    command = "python scripts/compare_mlps.py --datasets moons --no-compile --out runs/sets"
    row = {"git_commit": COMMITS[0], "machine": "another", "test_accuracy": 0.9}
    result_files.write(path, {"n": 2, "command": command, "rows": [row, row | {"seed": 1}]})
    return path


def test_the_rows_of_an_experiment_are_compared_at_once(experiment, monkeypatch, capsys):
    unpacked, unpack = [], code_of_before(lambda text: text)
    monkeypatch.setattr(dependencies, "unpack", lambda *at: unpacked.append(unpack(*at)))
    replay.main(replay.Config(results=str(experiment)))
    assert "the rows of 1111111111: the same\n" in capsys.readouterr().out
    rows = result_files.read(experiment)["rows"]
    assert [result_files.commit_of(row) for row in rows] == [COMMITS[1]] * 2
    replay.main(replay.Config(results=str(experiment)))  # now they are known
    assert len(unpacked) == 1
    assert capsys.readouterr().out == ""


def test_an_experiment_whose_code_differed_goes_another_way(experiment, monkeypatch):
    used = "    key = random.key(case.seed)\n"
    text = (dependencies.ROOT / "scripts/compare_mlps.py").read_text()
    assert used in text
    other = used.replace("case.seed", "case.seed + 1")
    change = code_of_before(lambda text: text.replace(used, other), "compare_mlps")
    monkeypatch.setattr(dependencies, "unpack", change)
    with pytest.raises(UserError, match="the rows of 1111111111: no longer give the stored values"):
        replay.main(replay.Config(results=str(experiment)))
    rows = result_files.read(experiment)["rows"]
    assert [result_files.commit_of(row) for row in rows] == [COMMITS[0]] * 2


def test_every_experiment_can_be_made_short():
    """Its options exist, and each result that one command writes is made by one of them."""
    for script, options in short_runs.EXPERIMENTS.items():
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        assert {*options, "results"} <= {field.name for field in dataclasses.fields(module.Config)}
    for path in sorted((dependencies.ROOT / "results").glob("*.json")):
        words = json.loads(path.read_text()).get("command", "").split()
        if words[:1] == ["python"] and words[1] != "-m":
            assert words[1] in short_runs.EXPERIMENTS, path.name


def test_changed_files_prove_nothing(stored, monkeypatch):
    monkeypatch.setattr(provenance, "git_commit", lambda: f"{COMMITS[1]}-dirty")
    with pytest.raises(UserError, match="commit them first"):
        replay.main(replay.Config(results=str(stored)))


def test_a_command_that_fails_is_not_another_way(stored):
    found = result_files.read(stored)
    found["rows"][0]["command"] += " --no-such-flag"
    result_files.write(stored, found)
    with pytest.raises(UserError, match="--no-such-flag: ended before its first evaluations"):
        replay.main(replay.Config(results=str(stored)))


def test_a_preset_that_the_code_does_not_have_is_left_out():
    line = "python scripts/cnn_train.py --preset {} --epochs 50.0"
    code = dependencies.ROOT
    assert short_runs.as_known_to(code, line.format("vgg")) == line.format("vgg")
    assert short_runs.as_known_to(code, line.format("new")) == line.replace(" --preset {}", "")
