"""Each table in results/ is what its function makes of the JSON beside it, and says where every row
comes from; what no commit gives is a draft, which nothing reads.
"""

import ast
import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks import summary, timing
from purenets import UserError, runs
from purenets.core.report.tables import table_of
from purenets.core.runs import provenance
from scripts import compare_mlps, palindrome_sweep, update_readme
from scripts.figures import cifar10 as cifar10_figures
from scripts.figures import cnn as cnn_figures
from scripts.figures import rnn as rnn_figures
from scripts.report import part3
from scripts.shared import result_files
from scripts.shared.comparison import MEAN_SE
from scripts.shared.sweeps import MEAN_SD, deviation, spread
from tests.faults import record
from tests.result_tables import RESULTS, TABLES, markdown_of

ROOT = RESULTS.parent
COMMIT = "0a23456789abcdef0123456789abcdef01234567"
TABLE = table_of(("net", "accuracy"), [("a", "90%"), ("b", "80%")])


@pytest.fixture
def tree(monkeypatch):
    """Return the function that says whether files differ from the commit; at first they do not."""

    def set_commit(commit: str | None) -> None:
        monkeypatch.setattr(provenance, "git_commit", lambda: commit)

    set_commit(COMMIT)
    return set_commit


# --- stored results -------------------------------------------------------------------------------


def test_every_table_is_known():
    assert {path.stem for path in RESULTS.glob("*.md")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_made_of_its_json(name):
    assert (RESULTS / f"{name}.md").read_text() == markdown_of(name)


def tables_in(path: Path) -> list[list[list[str]]]:
    """Return the cells of each table of a Markdown file."""
    tables, cells = [[]], re.compile(r"(?<!\\)\|")
    for line in path.read_text().splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in cells.split(line)[1:-1]])
        else:
            tables.append([])
    return [[rows[0], *rows[2:]] for rows in tables if rows]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_says_its_n_its_commit_and_its_machine(name):
    counted = name not in ("faults", "mutants")  # a row has its counts
    for head, *rows in tables_in(RESULTS / f"{name}.md"):
        for row in rows:
            cells = dict(zip(head, row, strict=True))
            assert re.fullmatch(r"[0-9a-f]{10}(-dirty)?(, [0-9a-f]{10})*", cells["commit"])
            assert re.search(r"\d+ cores, Linux", cells["machine"])
            assert not counted or int(cells["n"]) > 0


@pytest.mark.parametrize("name", TABLES)
def test_the_header_says_which_deviation_it_is(name):
    for head, *rows in tables_in(RESULTS / f"{name}.md"):
        for title, *column in zip(head, *rows, strict=True):
            if any(" ± " in cell for cell in column):
                assert f"({MEAN_SD})" in title or f"({MEAN_SE})" in title


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_stored_result_comes_from_a_commit(path):
    found = json.loads(path.read_text())
    assert "draft" not in found
    assert not result_files.is_draft(found)


# --- one deviation --------------------------------------------------------------------------------

VALUES = [0.9, 0.96, 0.81, 0.875]
SD = statistics.stdev(VALUES)  # over n - 1
CELL = {
    "setting": "default",
    "T": 5,
    "steps": 10,
    "accuracy": {"5": {"exhaustive": True, "by_seed": VALUES}},
}


def test_the_deviation_is_that_of_a_sample():
    assert deviation(VALUES) == pytest.approx(SD)
    assert deviation(VALUES) != pytest.approx(statistics.pstdev(VALUES), rel=0.1)
    assert spread(VALUES) == f"{100 * statistics.mean(VALUES):.2f} ± {100 * SD:.2f}"
    assert spread(VALUES, digits=1, unit="%") == f"88.6% ± {100 * SD:.1f}%"


def test_one_seed_has_no_deviation():
    assert deviation([0.5]) is None
    assert spread([0.5]) == "50.00"
    assert spread([0.5, None]) == ""
    one = CELL | {"accuracy": {"5": {"exhaustive": True, "by_seed": [0.5]}}}
    assert palindrome_sweep.table({"cells": [one]}).rows[1][4] == "50.0%"
    assert part3.accuracies([one]).rows[1][1:4] == ["50.0%", "", "50.0%"]
    assert rnn_figures.heatmap([one]).axes[0].texts[0].get_text() == "0.50"


def test_every_table_and_figure_has_the_same_deviation():
    text = f"88.6% ± {100 * SD:.1f}%"
    assert palindrome_sweep.table({"cells": [CELL]}).rows[1][4] == text
    assert part3.accuracies([CELL]).rows[1][1:3] == text.split(" ± ")
    assert rnn_figures.heatmap([CELL]).axes[0].texts[0].get_text() == f"0.89 ± {SD:.2f}"
    band = rnn_figures.accuracy_over_length([CELL, CELL | {"T": 5}]).axes[0].collections[0]
    low, high = (f(band.get_paths()[0].vertices[:, 1]) for f in (min, max))
    assert (low, high) == pytest.approx((0.88625 - SD, min(1, 0.88625 + SD)))
    case = dict.fromkeys(("dataset", "noise", "optimizer", "batch_size"), "x")
    rows = [
        {"case": case, "backend": "numpy", "largest_difference": 0.0}
        | {"train_accuracy": value, "test_accuracy": value}
        for value in VALUES
    ]
    (entry,) = compare_mlps.summary(rows)
    assert entry["test_accuracy_deviation"] == pytest.approx(SD)
    assert compare_mlps.table(rows).rows[1][5:7] == [spread(VALUES, unit="%")] * 2


# --- drafts ---------------------------------------------------------------------------------------


def test_what_a_commit_gives_is_no_draft(tree, tmp_path):
    path = tmp_path / "found.json"
    result_files.write(path, {"n": 3, "value": 1}, TABLE)
    found = result_files.read(path)
    assert (found["value"], found["git_commit"]) == (1, COMMIT)
    assert path.with_suffix(".md").read_text() == (
        "| net | accuracy | n | commit | machine |\n|---|---:|---:|---|---|\n"
        f"| a | 90% | 3 | 0a23456789 | {runs.machine()['machine']} |\n"
        f"| b | 80% | 3 | 0a23456789 | {runs.machine()['machine']} |\n"
    )


def test_what_changed_files_give_is_a_draft_that_nothing_reads(tree, tmp_path, capsys):
    tree(f"{COMMIT}-dirty")
    for name in ("rnn_lengths", "part2_settings", "benchmarks_mlp"):
        result_files.write(tmp_path / f"{name}.json", {"rows": [], "cells": []}, TABLE)
    path = tmp_path / "rnn_lengths.json"
    assert next(iter(json.loads(path.read_text()))) == "draft"
    assert path.with_suffix(".md").read_text().startswith("**Draft**: ")
    assert "0a23456789-dirty" in path.with_suffix(".md").read_text()  # and it is shown
    with pytest.raises(UserError, match=r"rnn_lengths.json: a draft, made from files that differ"):
        result_files.read(path)
    assert result_files.load(tmp_path) == {}
    assert capsys.readouterr().out.count("left out; a draft") == 3
    for figures in (rnn_figures, cnn_figures, cifar10_figures):
        with pytest.raises(UserError, match="a draft"):
            figures.main(figures.Config(results=str(path)))
    (tmp_path / "results").mkdir()
    for file in (path, path.with_suffix(".md")):
        file.rename(tmp_path / "results" / file.name)
    page = "<!-- results/rnn_lengths.md -->\n<!-- end -->"
    with pytest.raises(UserError, match="a draft"):
        update_readme.filled(page, tmp_path)
    with pytest.raises(UserError, match="a draft"):
        summary.found(tmp_path)


def test_a_row_of_changed_files_makes_the_whole_file_a_draft(tree, tmp_path):
    rows = [{"git_commit": COMMIT}, {"git_commit": f"{COMMIT}-dirty"}]
    result_files.write(tmp_path / "a.json", {"rows": rows})
    assert "draft" in result_files.read(tmp_path / "a.json", drafts=True)
    result_files.write(tmp_path / "a.json", {"rows": rows[:1]})
    assert "draft" not in result_files.read(tmp_path / "a.json")


def test_a_figure_of_a_draft_is_not_drawn(tree, tmp_path):
    figure = rnn_figures.heatmap([CELL])
    tree(f"{COMMIT}-dirty")
    timing.save_figure(figure, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    tree(COMMIT)
    timing.save_figure(figure, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").exists()


def test_rows_of_an_old_file_have_its_commit_and_machine(tmp_path):
    old = {"git_commit": COMMIT, "machine": "m", "rows": [{"seed": 0}, {"machine": "other"}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert result_files.read(tmp_path / "old.json")["rows"] == [
        {"git_commit": COMMIT, "machine": "m", "seed": 0},
        {"git_commit": COMMIT, "machine": "other"},
    ]


@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_a_file_that_is_no_result_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x.json: cannot be read as a result \(") as error:
        result_files.read(tmp_path / "x.json")
    assert "\n" not in str(error.value)


def test_a_commit_is_shown_in_short():
    assert result_files.short(COMMIT) == "0a23456789"
    assert result_files.short(f"{COMMIT}-dirty") == "0a23456789-dirty"
    assert result_files.short(None) == "unknown"
    rows = [{"git_commit": COMMIT, "machine": "a"}, {"git_commit": None, "machine": "a"}]
    assert result_files.origin_cells(rows) == ("0a23456789, unknown", "a")


def test_the_campaign_names_the_origin_of_each_figure(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FILE", str(tmp_path / "faults.json"))
    record.record("first", tried=10)
    tree("f" * 40)
    record.record("second", tried=20)
    (table,) = tables_in(tmp_path / "faults.md")
    assert [row[:3] for row in table[1:]] == [
        ["first", "tried 10", "0a23456789"],
        ["second", "tried 20", "ffffffffff"],
    ]


# --- one writer, one reader -----------------------------------------------------------------------

PROGRAMS = [
    path
    for folder in ("scripts", "benchmarks", "tests/faults", "tests/mutants")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "result_files.py"
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_results_have_one_writer_and_one_reader(path):
    """No call but those of `result_files` writes or parses the file of `--results`."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if name in ("write_atomically", "write_text", "write_bytes", "read_text", "read_bytes"):
            text = ast.unparse(node)
            assert "config.results" not in text and "FILE" not in text, text


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_read_results_by_the_reader(path):
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for line in code.splitlines():
        assert not ("json.loads" in line and '"results"' in line), line
    assert "results" not in code or "read_text" not in code.split('"results"')[-1][:80]


def test_a_run_goes_on_that_was_killed_between_its_tables_and_its_json(tmp_path):
    """The tables are written first; then they stand alone."""
    path = tmp_path / "found.json"
    result_files.write(
        path, {"command": "x", "rows": []}, table_of(("a", *result_files.ORIGIN), [])
    )
    path.unlink()
    with result_files.exclusive(path) as held:
        assert held == path


def test_a_file_that_is_no_result_is_not_replaced(tmp_path):
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    with (
        pytest.raises(UserError, match=r"notes\.json: is no file of results; name another file"),
        result_files.exclusive(notes),
    ):
        pass
    (tmp_path / "README.md").write_text("mine")
    with (
        pytest.raises(UserError, match=r"README\.md would be replaced; name another file"),
        result_files.exclusive(tmp_path / "README.json"),
    ):
        pass
    (tmp_path / "folder.md").mkdir()
    with (
        pytest.raises(UserError, match=r"folder\.md would be replaced; name another file"),
        result_files.exclusive(tmp_path / "folder.json"),
    ):
        pass
    for _ in range(2):  # a result is gone on with
        with result_files.exclusive(tmp_path / "found.json") as path:
            result_files.write(path, {"command": "x", "rows": []}, table_of(("a",), []))
