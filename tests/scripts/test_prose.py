"""The reports' text files: their form, their errors, and that they and their values match."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from purenets import UserError
from purenets.core.report.document import (
    Diagram,
    Formula,
    Interactive,
    Picture,
    Section,
)
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table
from purenets.core.runs import provenance
from scripts import cifar10_cnn, cifar10_mlp, make_report, run_quick
from scripts.cnn_sweep import IN_FLOAT32
from scripts.report import prose, results

ROOT = Path(__file__).parents[2]
TABLE, FIGURE = Table([["n"], ["1"]]), Figure()


@pytest.fixture
def render(tmp_path):
    """Return the function from a text and values to its sections."""

    def sections(text: str, values: dict) -> list[Section]:
        (tmp_path / "some.md").write_text(text)
        return prose.sections("some", values, tmp_path)

    return sections


def test_headings_paragraphs_tables_and_figures(render):
    text = """
# Top {name}

First line,
second line of {share:.1%}.

[[table: best-{name}]]
A caption
of {n:,}.

## Inside
[[blocks: finished]]

### Deeper

## Beside

[[figure: curve]]
Another.
""".replace("## Inside\n", "## Inside\n\n")
    values = {
        "name": "x",
        "share": 0.5,
        "n": 1000,
        "best-x": TABLE,
        "curve": FIGURE,
        "finished": ["a", TABLE],
    }
    assert render(text, values) == [
        Section(
            "Top x",
            [
                "First line, second line of 50.0%.",
                Table(TABLE.rows, "A caption of 1,000.", "best-x"),
            ],
            [
                Section("Inside", ["a", TABLE], [Section("Deeper", [], [])]),
                Section("Beside", [Picture(FIGURE, "Another.", "curve")], []),
            ],
        )
    ]


@pytest.mark.parametrize(
    ("value", "kept"), [(True, True), (0, True), ("", True), (False, False), (None, False)]
)
def test_a_part_of_a_paragraph_or_of_a_section_is_left_out(render, value, kept):
    text = "# A\n\none\n[[if: x]]\ntwo {y}\n[[end]]\nthree\n\n[[if: x]]\n## B\n\nfour\n[[end]]\n"
    (section,) = render(text, {"x": value, "y": 2})
    assert section.blocks == ["one two 2 three" if kept else "one three"]
    assert [part.title for part in section.parts] == (["B"] if kept else [])


def test_a_left_out_part_needs_no_values(render):
    (section,) = render("# A\n\n[[if: x]]\n{y}\n\n[[table: z]]\nCaption.\n[[end]]", {"x": None})
    assert section.blocks == []


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("{y}", {"x": 1, "z": 2}, "does not name x, z"),
        ("{y}", {}, "y has no value; there are none"),
        ("{y} {x}", {"x": 1}, "y has no value; there are x"),
        ("{y.real}", {}, "y.real has no value"),
        ("{y}", {"y": TABLE}, "{y} needs a text or a number"),
        ("{y}", {"y": None}, "{y} needs a text or a number"),
        ("{y}", {"y": True}, "{y} needs a text or a number"),
        ("{y:.1f}", {"y": "text"}, "{y:.1f}: Unknown format code 'f'"),
        ("a } b", {}, "a } b: Single '}' encountered"),
        ("[[table: y]]\nCaption.", {}, "y has no value"),
        ("[[table: y]]\nCaption.", {"y": FIGURE}, "y needs to be a Table, but is a Figure"),
        ("[[figure: y]]\nCaption.", {"y": TABLE}, "y needs to be a Figure, but is a Table"),
        ("[[blocks: y]]", {"y": TABLE}, "y needs to be a list, but is a Table"),
        ("[[table: y]]", {"y": TABLE}, "[[table: y]] needs its caption on the next line"),
        ("[[blocks: y]]\nCaption.", {"y": []}, "[[blocks: y]] needs a blank line below it"),
        ("Text.\n[[table: y]]", {"y": TABLE}, "[[table: y]] needs a blank line above it"),
        (
            "[[picture: y]]\nCaption.",
            {"y": FIGURE},
            "[[picture: y]]: needs [[end]], or one of table, figure",
        ),
        ("[[table y]]\nCaption.", {"y": TABLE}, "[[table y]]: needs [[end]]"),
        ("[[end: y]]", {"y": True}, "[[end: y]]: needs [[end]]"),
        ("[[if: y]]\nText.", {"y": True}, "[[if: y]] has no [[end]]"),
        ("[[end]]", {}, "[[end]] after no [[if: ...]]"),
        ("[[if: y]]\n[[if: z]]\n[[end]]", {"y": True, "z": True}, "[[if: z]] after [[if: y]]"),
        ("[[if: y]]\nText.\n[[end]]", {}, "y has no value"),
        ("$$ a = b", {}, "$$ a = b: needs $$ at its end"),
        ("[[diagram: y]]\nCaption.", {"y": FIGURE}, "y needs to be a Diagram, but is a Figure"),
        ("## Heading\nText.", {}, "## Heading needs a blank line below it"),
    ],
)
def test_what_does_not_match_gets_a_line_that_names_the_file(render, text, values, message):
    with pytest.raises(UserError) as error:
        render(f"# A\n\n{text}\n", values)
    assert str(error.value).split("some.md: ")[1].startswith(message)


def test_a_text_without_a_heading_is_refused(render):
    with pytest.raises(UserError, match="needs a heading above the first paragraph"):
        render("Text.\n\n# A\n", {})


@pytest.fixture
def smallest(monkeypatch):
    """Let the report and the quick run train as little as possible."""
    monkeypatch.setattr(run_quick, "MLP_SETS", dict.fromkeys(run_quick.MLP_SETS, 2))
    monkeypatch.setattr(run_quick, "RNN_LENGTHS", (5,))
    monkeypatch.setattr(run_quick, "RNN_STEPS", 100)
    monkeypatch.setattr(run_quick, "CNN_STEPS", 20)
    for script in (cifar10_cnn, cifar10_mlp):
        preset = replace(script.PRESETS["digits"], epochs=0.6)
        monkeypatch.setitem(script.PRESETS, "digits", preset)


def ablation(rows, kind):
    """Return rows of an ablation: a change that loses, one that gains, one that does neither."""
    points = {"": 0.0, ": no crop": 0.1, ": no flip": -0.1, ": random flip": 0.0}
    (row, *_) = (row for row in rows if row["setting"].startswith(kind))
    return [
        row
        | {"setting": kind + name, "seed": seed}
        | {"history": [row["history"][-1] | {"valid_accuracy": 0.5 + more + noise * bool(name)}]}
        for name, more in points.items()
        for seed, noise in enumerate((0.01, -0.01, 0.005, -0.005, 0.0))
    ]


def with_more_rows(folder):
    """Copy the results with what may come: several seeds of each setting of Part II, more settings,
    final runs of the reduced VGG, and three seeds of the ablation."""
    shutil.copytree(ROOT / "results", folder)
    path = folder / "part2_settings.json"
    found = json.loads(path.read_text())
    by_setting = {row["setting"]: row for row in found["rows"]}
    by_setting["40 epochs plain"] = by_setting["best"] | {"setting": "40 epochs plain"}
    by_setting[IN_FLOAT32] = by_setting["adam 1e-3"] | {"setting": IN_FLOAT32}
    found["rows"] = [row | {"seed": seed} for row in by_setting.values() for seed in (0, 1)]
    path.write_text(json.dumps(without_digest(found)))
    path = folder / "part1_cifar10.json"
    final = json.loads(path.read_text())
    final = without_digest(final)
    final["rows"] += [row | {"setting": "vgg vgg-long"} for row in final["rows"][-2:]]
    for row in final["rows"]:
        row["history"] = [point | {"valid_accuracy": 0.5} for point in row["history"]]
    path.write_text(json.dumps(final))
    changes = {"rows": [row for kind in ("cnn", "mlp") for row in ablation(final["rows"], kind)]}
    (folder / "part1_cifar10_ablation.json").write_text(json.dumps(final | changes))
    return str(folder)


def without_digest(found: dict) -> dict:
    return {name: value for name, value in found.items() if name != "digest"}


def test_every_name_has_a_value_and_every_value_is_named(tmp_path, monkeypatch, smallest):
    files = []

    class Recorded(prose._TextFile):
        def __init__(self, path, values):
            super().__init__(path, values)
            files.append(self)

    monkeypatch.setattr(prose, "_TextFile", Recorded)
    make_report.make(make_report.Config(out=str(tmp_path)))
    more = with_more_rows(tmp_path / "more")
    make_report.make(make_report.Config(out=str(tmp_path), results=more))
    to_html(make_report.make(make_report.Config(out=str(tmp_path), results=str(tmp_path))))
    run_quick.main(run_quick.Config(out=str(tmp_path)))
    assert {file.path for file in files} == set(prose.TEXT.glob("*.md"))
    for path in {file.path for file in files}:
        mine = [file for file in files if file.path == path]
        given = {name for file in mine for name, value in file.values.items() if value is not None}
        assert given == set().union(*(file.names() for file in mine)), path


def test_a_source_leaves_out_the_flags_that_name_files():
    command = "python a.py --out b --seeds 3 --results c.json"
    found = {"command": command, "rows": [{"machine": "CPU", "git_commit": "0a" * 20}]}
    where = "`results/part1_sets.json` (commit 0a0a0a0a0a; CPU)"
    assert results.origins({"part1_sets": found}) == [f"{where}: `python a.py --seeds 3`."]
    runs = [row | {"command": command} for row in 3 * found["rows"]]
    assert results.origins({"part1_sets": {"rows": runs}}) == [
        f"{where}: `python a.py --seeds 3`, and 2 more runs, whose commands the file names."
    ]


def test_formulas_are_not_filled_in(render):
    text = "# A\n\nLet $`x_{n}`$ be {n}.\n\n$$ y_{k} = 1 $$ (2)\n\n$$ z $$\n"
    (section,) = render(text, {"n": 3})
    assert section.blocks == ["Let $`x_{n}`$ be 3.", Formula("y_{k} = 1", "(2)"), Formula("z")]


def test_diagrams_and_interactive_figures_get_their_captions(render):
    values = {"net": Diagram([], "2", ""), "moved": Interactive("<b>", FIGURE, "")}
    (section,) = render("# A\n\n[[diagram: net]]\nOne.\n\n[[interactive: moved]]\nTwo.\n", values)
    assert section.blocks == [
        Diagram([], "2", "One.", "net"),
        Interactive("<b>", FIGURE, "Two.", "moved"),
    ]


@pytest.mark.parametrize("commit", ["a" * 40, None], ids=["of a commit", "from an archive"])
def test_the_quick_page_says_where_it_was_made(commit, monkeypatch):
    monkeypatch.setattr(provenance, "git_commit", lambda: commit)
    text = " ".join(
        str(block) for section in run_quick.page([]).sections for block in section.blocks
    )
    assert (f"commit {commit}" if commit else "from an archive") in text
