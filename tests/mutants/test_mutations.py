"""The list of deliberate mistakes is up to date, and none survives without a reason."""

import ast
import json
import re
from pathlib import Path

import pytest

from purenets import UserError
from tests.mutants import run
from tests.mutants.mutations import AREAS, Mutation

ROOT = Path(__file__).parents[2]
MUTATIONS = [mutation for mutations in AREAS.values() for mutation in mutations]
each = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)


@each
def test_a_mistake_has_its_place(mutation):
    text = (ROOT / mutation.file).read_text()
    wrong = run.mutated(text, mutation)
    assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(text))


@each
def test_the_tests_of_a_mistake_are_there(mutation):
    words = re.sub(r" -k \w+", "", mutation.tests).split()
    assert words
    for word in words:
        file, _, name = word.partition("::")
        assert not name or re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
        assert "faults" not in file and "mutants" not in file


def test_no_mistake_is_made_twice():
    assert len({(m.file, m.old, m.new) for m in MUTATIONS}) == len(MUTATIONS) >= 50
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("text", ["a = 1\n", "b = 2\nb = 2\n"])
def test_a_place_that_is_not_found_once_is_an_error(text):
    mistake = Mutation("m", "x.py", "b = 2", "b = 3", "tests")
    assert run.mutated("b = 2\n", mistake) == "b = 3\n"
    with pytest.raises(UserError, match=r"x.py: 'b = 2' is there [02] times, needs once \(m\)"):
        run.mutated(text, mistake)


@pytest.fixture
def small_tree(tmp_path) -> Path:
    (tmp_path / "code.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "test_code.py").write_text(
        "from code_ import double\n\ndef test_four():\n    assert double(2) == 4\n\n"
        "def test_zero():\n    assert double(0) == 0\n"
    )
    (tmp_path / "code.py").rename(tmp_path / "code_.py")
    return tmp_path


def test_a_mistake_is_killed_by_a_failing_test_and_undone(small_tree):
    before = (small_tree / "code_.py").read_text()
    mistake = Mutation("tripled", "code_.py", "2 * x", "3 * x", "test_code.py")
    row = run.outcome_of(mistake, small_tree)
    assert (row["outcome"], row["by"]) == ("killed", "test_code.py::test_four")
    assert (small_tree / "code_.py").read_text() == before


def test_a_mistake_that_no_test_sees_survives(small_tree):
    mistake = Mutation("tripled", "code_.py", "2 * x", "3 * x", "test_code.py::test_zero")
    assert run.outcome_of(mistake, small_tree)["outcome"] == "survived"


def test_tests_that_cannot_run_are_an_error(small_tree):
    for tests in ("test_code.py::test_three", "test_other.py"):
        mistake = Mutation("tripled", "code_.py", "2 * x", "3 * x", tests)
        with pytest.raises(UserError, match="tripled: pytest ended with code 4"):
            run.outcome_of(mistake, small_tree)
    with pytest.raises(UserError, match="the tests fail without any mistake"):
        run.expect_green(small_tree, [Mutation("m", "code_.py", "2", "3", "test_other.py")])


def test_all_mistakes_were_made_and_none_survives_without_a_reason():
    rows = json.loads((ROOT / "results" / "mutants.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [mutation.name for mutation in MUTATIONS]
    reasons = {mutation.name: mutation.reason for mutation in MUTATIONS}
    for row in rows:
        assert row["outcome"] == "killed" or reasons[row["name"]], row["name"]
        assert not (row["outcome"] == "killed" and reasons[row["name"]]), row["name"]
