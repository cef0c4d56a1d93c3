"""Stored trainings are begun again, and only what goes the same way is said to."""

import json

import pytest

from purenets import UserError
from purenets.core.runs import provenance
from scripts import cnn_train, replay
from scripts.shared import result_files, sweeps

COMMITS = ("1" * 40, "2" * 40)


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
    with pytest.raises(UserError, match="tiny, seed 0: go another way now"):
        replay.main(replay.Config(results=str(stored)))
    assert result_files.commit_of(row_of(stored)) == COMMITS[0]


def test_another_machine_proves_nothing(stored, capsys):
    found = result_files.read(stored)
    here, elsewhere = found["rows"][0], found["rows"][0] | {"seed": 1, "machine": "another"}
    result_files.write(stored, found | {"rows": [elsewhere, here]})
    replay.main(replay.Config(results=str(stored)))
    assert "tiny, seed 1: ran with machine another; replay it there" in capsys.readouterr().out
    commits = [result_files.commit_of(row) for row in result_files.read(stored)["rows"]]
    assert commits == list(COMMITS)


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
