"""What a resumed run tells of itself."""

from dataclasses import dataclass

import numpy as np
import pytest

from purenets import Diverged, UserError, optim, random, runs, train_state
from purenets.core.runs import record
from purenets.core.runs.files import LOCK
from purenets.core.runs.options import Options, option, positive


@dataclass(frozen=True)
class Config(Options):
    """A run's options."""

    rate: float = option(0.1, "a rate", positive)
    max_steps: int = option(10, "steps", positive)
    schedule: str = option("constant", "of the rate")
    out: str = option(None, "folder")
    keep: int = option(2, "checkpoints", positive)
    resume: bool = option(False, "go on")

    def needs_length(self) -> str:
        return "" if self.schedule == "constant" else "its schedule"


def open_in(folder, processes: int = 1, **options) -> dict:
    """Open a run and return its config.json."""
    with runs.open_run(Config(out=str(folder), **options), processes=processes):
        return runs.read_config(folder)


@pytest.fixture
def environment(monkeypatch):
    """What the run's surroundings are said to be."""
    said = {"python": "3.11", "versions": {"torch": "2.11", "numpy": "2.0"}, "git_commit": "abc"}
    monkeypatch.setattr(record, "environment", lambda: said)
    return said


def test_commands_are_kept(tmp_path, environment):
    first = open_in(tmp_path, rate=0.2)
    again = open_in(tmp_path, rate=0.2, resume=True, max_steps=20)
    assert first["config"] == again["config"]
    assert [row["command"].split("--out")[0] for row in again["commands"]] == [
        "python scripts/test_record.py --rate 0.2 ",
        "python scripts/test_record.py --rate 0.2 --max_steps 20 ",
    ]
    assert all(row["git_commit"] == "abc" for row in again["commands"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {"torch": "2.12", "numpy": "2.0"}}, r"torch 2\.11, not 2\.12: it may not"),
        ({"git_commit": "abc-dirty"}, "commit abc, not abc-dirty"),
        ({"python": "3.12"}, r"python 3\.11, not 3\.12"),
    ],
)
def test_another_environment_is_told(tmp_path, environment, change, message):
    open_in(tmp_path)
    environment |= change
    with pytest.warns(runs.RunWarning, match=message):
        open_in(tmp_path, resume=True)
    open_in(tmp_path, resume=True)  # it is the last one's now


def test_another_number_of_processes_is_told(tmp_path, environment):
    open_in(tmp_path, processes=2)
    with pytest.warns(runs.RunWarning, match="processes 2, not 1"):
        open_in(tmp_path, resume=True)


def test_another_length_is_refused_where_the_schedule_depends_on_it(tmp_path, environment):
    open_in(tmp_path, schedule="cosine")
    for steps in (5, 20):
        with pytest.raises(UserError, match=rf"--max_steps {steps}: .* begun with 10, and its sch"):
            open_in(tmp_path, schedule="cosine", resume=True, max_steps=steps)
    open_in(tmp_path, schedule="cosine", resume=True)


def test_a_shorter_length_is_told(tmp_path, environment):
    open_in(tmp_path)
    with pytest.warns(runs.RunWarning, match="--max_steps 5: .* was begun with 10"):
        open_in(tmp_path, resume=True, max_steps=5)
    open_in(tmp_path, resume=True, max_steps=20)


def test_a_length_that_is_passed_already_is_refused(tmp_path):
    from scripts import train_mlp_numpy as script

    options = {"n_samples": 100, "eval_freq": 1, "out": str(tmp_path / "run")}
    script.train(script.Config(**options, max_steps=4))
    with (
        pytest.warns(runs.RunWarning, match="was begun with 4"),
        pytest.raises(
            UserError,
            match=r"--max_steps 2: asks for 5 steps \(2 epochs\), but the run .* has taken 10 "
            r"\(4 epochs\) and cannot go back",
        ),
    ):
        script.train(script.Config(**options, max_steps=2, resume=True))


def test_a_folder_of_an_earlier_version_is_taken(tmp_path, environment):
    """Without a digest, the number of processes and the commands."""
    old = '{"script": "test_record", "config": {"rate": 0.1, "schedule": "constant"}}'
    (tmp_path / "config.json").write_text(old)
    found = open_in(tmp_path, resume=True)
    assert [row["git_commit"] for row in found["commands"]] == ["abc"]


# --- the digests of the data ----------------------------------------------------------------------


def open_with(folder, data, **options) -> dict:
    with runs.open_run(Config(out=str(folder), **options), data=data):
        return runs.read_config(folder)


def test_digests_of_the_data_are_recorded_and_compared(tmp_path):
    one, other = {"--dataset a.csv": "1" * 64}, {"--dataset a.csv": "2" * 64}
    assert open_with(tmp_path, one)["data"] == one
    assert open_with(tmp_path, one, resume=True)["data"] == one
    with pytest.raises(
        UserError, match=r"^--dataset a\.csv: its content has changed since the run"
    ):
        open_with(tmp_path, other, resume=True)
    assert open_with(tmp_path, one, resume=True)["data"] == one


def test_a_run_from_before_digests_is_resumed(tmp_path):
    assert "data" not in open_with(tmp_path, None)
    assert "data" not in open_with(tmp_path, {"--dataset a.csv": "1" * 64}, resume=True)


def test_digests_of_another_form_are_refused(tmp_path):
    for wrong in ("--dataset", {"--dataset": 1}, [1]):
        with pytest.raises(UserError, match="open_run: data"):
            open_with(tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()


# --- a folder in which nothing was saved ----------------------------------------------------------


def test_a_folder_in_which_nothing_was_saved_may_be_begun_again(tmp_path):
    """As after an error in the script between `open_run` and the first save."""
    with pytest.raises(ZeroDivisionError), runs.open_run(Config(out=str(tmp_path))):
        1 / 0  # noqa: B018
    again = open_in(tmp_path, rate=0.5)
    assert (again["config"]["rate"], len(again["commands"])) == (0.5, 1)
    with pytest.raises(UserError, match=r"holds a run with --rate 0\.5, not 0\.1"):
        open_in(tmp_path, resume=True)


@pytest.mark.parametrize(
    "name", ["checkpoint.safetensors", "checkpoint-3.safetensors", "seconds.json", "notes.txt"]
)
def test_a_folder_with_any_other_file_is_not_begun_again(tmp_path, name):
    open_in(tmp_path)
    (tmp_path / name).write_text("mine")
    before = (tmp_path / record.NAME).read_bytes()
    with pytest.raises(UserError, match="holds a run; go on with it by --resume"):
        open_in(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / record.NAME).read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name", ["history.csv", "curves.png", "seconds.json", "checkpoint.json", "notes.txt", "a/b.txt"]
)
def test_a_folder_with_files_but_no_run_is_refused_as_it_is(tmp_path, name, resume):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("a,b")
    with pytest.raises(UserError, match=rf"holds {name.split('/')[0]} but no run; a new run needs"):
        open_in(tmp_path, resume=resume)
    assert path.read_text() == "a,b"
    assert {path.name for path in tmp_path.iterdir()} <= {name.split("/")[0], LOCK}


def test_what_a_start_that_was_killed_leaves_is_begun_again(tmp_path):
    """Before, while and after its `config.json` was written; hidden files are not the run's."""
    for names in ([LOCK], [LOCK, f".{record.NAME}.{'0' * 16}.purenets-tmp"], [".gitkeep"]):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        for name in names:
            (place / name).touch()
        assert open_in(place)["commands"]
        assert not list(place.glob("*purenets-tmp"))
        assert open_in(place, rate=0.5)["config"]["rate"] == 0.5


def test_resuming_what_was_never_begun_is_told(tmp_path):
    with pytest.warns(runs.RunWarning, match=r"^--resume: --out .*typo holds no run; begins a new"):
        open_in(tmp_path / "typo", resume=True)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / LOCK).touch()
    open_in(tmp_path / "killed", resume=True)  # without a warning, which would be an error here


def test_a_folder_that_another_process_holds_is_not_begun_again(tmp_path):
    with (
        runs.open_run(Config(out=str(tmp_path))),
        pytest.raises(UserError, match="another process is training there"),
    ):
        open_in(tmp_path)


# --- messages -------------------------------------------------------------------------------------


def state_of(step: int = 0):
    start = train_state({"w": np.zeros(1)}, {}, optim.sgd(0.1), random.key(0))
    return start._replace(step=np.array(step))


def test_a_state_is_saved_into_a_folder_that_is_there(tmp_path):
    with pytest.raises(UserError, match=r"^save: .*missing is no folder; make it first"):
        runs.save(tmp_path / "missing", state_of())
    assert not (tmp_path / "missing").exists()


def test_steps_that_are_taken_already_are_told_in_the_units_of_the_flag(tmp_path):
    runs.save(tmp_path, state_of(30))

    def train(**options):
        runs.fit_and_save(tmp_path, lambda *_: None, state_of(), float, steps=15, **options)

    plain = r"^--max_steps: asks for 15 steps, but the run in .* has taken 30 and cannot go back"
    with pytest.raises(UserError, match=plain):
        train()
    epochs = r"^--epochs 2: asks for 15 steps \(2 epochs\), but .* has taken 30 \(4 epochs\) and"
    with pytest.raises(UserError, match=epochs):
        train(steps_flag="--epochs 2", epoch=7.5)


@pytest.mark.parametrize(("hint", "end"), [({}, "yet"), ({"hint": "try less"}, "yet; try less")])
def test_a_hint_may_be_left_out(tmp_path, hint, end):
    def step(state, batch):
        return state._replace(step=state.step + 1), {"loss": np.float64("nan")}

    with pytest.raises(Diverged, match=rf"there is no good checkpoint {end}$"):
        runs.fit_and_save(tmp_path, step, state_of(), float, steps=1, **hint)
