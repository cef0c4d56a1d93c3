"""The report says what results/ says; the archive is reproducible and complete."""

import importlib
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from purenets.core.report import plots
from purenets.core.report.document import Diagram, Formula, Picture, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table
from purenets.core.runs.command import command
from scripts import make_report, make_submission
from scripts.report import results
from scripts.shared.sweeps import spread
from tests.result_tables import RESULTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report():
    return make_report.make(make_report.Config(pdf=False))


def blocks(sections) -> list:
    found = []
    for section in sections:
        found += [*section.blocks, *blocks(section.parts)]
    return found


def test_every_network_has_structure_dimensions_and_analysis(report):
    *networks, end = report.sections
    assert len(networks) == 5 and end.title == "Conclusion"
    for section in networks:
        assert [part.title for part in section.parts] == [
            "Structure",
            "Training and dimensions",
            "Analysis",
        ]
        for part in section.parts:
            assert any(isinstance(block, Table | Picture) for block in part.blocks), part.title
        training = section.parts[1].blocks
        assert any(isinstance(block, Diagram | Picture) for block in training)
        assert any(isinstance(b, Table) and "formula" in b.rows[0] for b in training)


def test_every_figure_and_table_with_a_key_is_spoken_of(report):
    every = blocks([*report.sections, *report.appendix])
    text = " ".join(block for block in every if isinstance(block, str))
    keys = {block.key for block in every if not isinstance(block, str | Formula) and block.key}
    assert keys == set(re.findall(r"@([\w-]+)", text))


def test_every_reference_is_cited_and_every_citation_has_one(report):
    every = blocks([*report.sections, *report.appendix])
    every = [b for b in every if not isinstance(b, Formula)]
    text = [b if isinstance(b, str) else b.caption for b in every]
    cited = dict.fromkeys(map(int, re.findall(r"\[(\d+)\]", " ".join(text))))
    assert list(cited) == list(range(1, len(report.references) + 1))  # in order of appearance


def test_the_abstract_has_the_numbers_of_the_parts(report):
    _, numbers = report.abstract
    text = " ".join(block for block in blocks(report.sections) if isinstance(block, str))
    for kind in ("without", "with"):  # on single images, as those of the reduced VGG
        found = re.search(
            rf"network {kind} convolutions reaches (\S+ ± \S+%) on CIFAR-10",
            numbers,
        )
        assert f"reaches {found[1]} test accuracy on single images" in text
    tables = {
        block.key: block.rows for block in blocks(report.sections) if isinstance(block, Table)
    }
    vgg = {row[0]: row[4] for row in tables["settings"]}
    assert f"VGG reaches {vgg['adam 1e-3']}% on CIFAR-10 with the assignment's" in numbers
    rows = json.loads((RESULTS / "part1_cifar10.json").read_text())["rows"]
    longest = [r["test"]["accuracy"] for r in rows if r["setting"] == "vgg vgg-long"]
    assert (
        f"training images for 50 epochs, it reaches {spread(longest)}% (n = {len(longest)};"
        in numbers
    )
    recipe = make_report.run_quick.cnn_train.PRESETS["vgg-long"]  # what the abstract says of it
    assert recipe.optimizer == "filter_muon" and recipe.dirac and recipe.mixup
    assert recipe.label_smoothing and recipe.small_fraction and recipe.crop and recipe.epochs == 50
    best = (
        f"By SGD with Nesterov momentum and augmentation it reaches {vgg['40 epochs augmented']}%"
    )
    assert best in numbers
    moons = [row[3] for row in tables["sets"] if row[0] == "moons"]
    assert moons[0] == moons[1]
    assert f"reaches {moons[0]} test accuracy (mean ± SD, n = 5), in NumPy and in" in numbers
    learned = [
        cell["T"]
        for cell in json.loads((ROOT / "results/rnn_lengths.json").read_text())["cells"]
        if learned_once(cell)
    ]
    assert f"Up to T = {max(learned)} each seed has at least one evaluation without" in numbers
    first = next(row for row in tables["accuracies"][1:] if row[0] == "5")
    found = re.search(r"RNN ends at (\S+) ± (\S+)% for palindromes of T = 5 ", numbers)
    assert [f"{value}%" for value in found.groups()] == first[1:3]


def test_the_conclusion_has_the_numbers_of_the_parts(report):
    tables = {
        block.key: block.rows for block in blocks(report.sections) if isinstance(block, Table)
    }
    network, single, views, *_ = zip(*tables["networks"][1:], strict=True)
    every = json.loads((RESULTS / "part1_cifar10.json").read_text())["rows"]
    for setting, title in {"cnn 94": "fast CNN, preset 94", "mlp mlp": "MLP"}.items():
        tests = [row["test"] for row in every if row["setting"] == setting]
        at = network.index(title)
        assert single[at] == spread([test["accuracy"] for test in tests])
        assert views[at] == spread([test["views_accuracy"] for test in tests])
    vgg = {row[0]: row[4] for row in tables["settings"]}
    assert single[network.index("reduced VGG, adam 1e-3")] == vgg["adam 1e-3"]
    text = " ".join(block for block in report.sections[-1].blocks if isinstance(block, str))
    steps = [row[4] for row in tables["ladder"][1:]]
    assert f"gains {steps[1]} points" in text and f"gains another {steps[2]} points" in text


def test_every_set_has_its_boundaries_and_curves(report):
    pictures = {block.key: block for block in blocks(report.sections) if isinstance(block, Picture)}
    assert {"boundaries", "curves", "adam", "best", "rnn-curves"} <= pictures.keys()


def learned_once(cell: dict) -> bool:
    """Return True if each seed has an evaluation without a mistake."""
    return all(
        max(row[f"test_accuracy_{seed}"] for row in cell["history"]) == 1 for seed in cell["seeds"]
    )


def test_numbers_are_those_of_the_results(report):
    tables = {
        block.key: block.rows for block in blocks(report.sections) if isinstance(block, Table)
    }
    cells = json.loads((ROOT / "results" / "rnn_lengths.json").read_text())["cells"]
    for cell, row in zip(cells, tables["accuracies"][1:], strict=True):
        values = cell["accuracy"][str(cell["T"])]["by_seed"]
        assert row[:2] == [str(cell["T"]), f"{sum(values) / len(values):.1%}"]
        best = [max(row[f"test_accuracy_{i}"] for row in cell["history"]) for i in cell["seeds"]]
        assert row[2:7] == [
            f"{statistics.stdev(values):.1%}",  # over n - 1
            *(f"{min(values):.1%}", f"{statistics.mean(best):.1%}"),
            *(str(sum(value > 0.99 for value in values)), str(len(values))),
        ]
    rows = json.loads((ROOT / "results" / "part2_settings.json").read_text())["rows"]
    for row in tables["settings"][1:]:
        accuracies = [100 * r["test"]["accuracy"] for r in rows if r["setting"] == row[0]]
        assert row[4].split(" ± ")[0] == f"{sum(accuracies) / len(accuracies):.2f}"
        assert row[6] == str(len(accuracies))


def test_a_missing_result_is_trained_in_small_and_said(tmp_path, monkeypatch):
    parts = []
    # tests/scripts/test_page.py looks at the pictures; to draw them takes longer than all else
    monkeypatch.setattr("purenets.core.report.html.png", lambda *figure, **options: b"")
    monkeypatch.setattr(
        results, "quick_run", lambda part, config: parts.append(part) or ["in small"]
    )
    document = make_report.make(make_report.Config(results=str(tmp_path), pdf=False))
    assert parts == make_report.run_quick.PARTS
    assert to_html(document).count("trained in small for this report") == len(parts)
    assert len(document.abstract) == 1  # no sentence about a result that is not there


def test_the_archive_has_code_notebooks_and_results_and_nothing_else():
    names = [name for name, _ in make_submission.files()]
    for needed in (
        *(
            "core/base.py",
            "numpy_nets/mlp_numpy.py",
            "torch_nets/vanilla_rnn.py",
            "scripts/train.py",
        ),
        *(
            "notebooks/part1_mlp.ipynb",
            "notebooks/part2_cnn.ipynb",
            "notebooks/part3_rnn.ipynb",
            "setup.cfg",
        ),
        *("results/rnn_lengths.json", "docs/assignment.md", "Makefile", "README.md"),
        "scripts/report/text/part1.md",
    ):
        assert needed in names
    assert not [
        name for name in names if re.search(r"pycache|safetensors|\.jpg$|^data|^runs|/\.", name)
    ]


def test_the_archive_has_every_file_of_its_folders_that_git_has():
    git = shutil.which("git")
    if not git or not (make_submission.ROOT / ".git").exists():
        pytest.skip("not in a clone")
    listed = subprocess.run(
        [git, "ls-files", *make_submission.FOLDERS, *make_submission.FILES],
        cwd=make_submission.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    missing = set(listed.stdout.split()) - {name for name, _ in make_submission.files()}
    assert {name for name in missing if not Path(name).name.startswith(".")} == set()


def test_the_first_page_names_the_seven_files_and_where_they_are():
    page, names = make_submission.read_me_first("123"), dict(make_submission.files())
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w./]+)` \|", page, re.MULTILINE)
    assert [name for name, _ in rows] == list(make_submission.SEVEN) and len(rows) == 7
    assert all(path in names and path.endswith(f"/{name}") for name, path in rows)
    assert "student 123" in page
    for script, flags in re.findall(r"`python scripts/(\w+)\.py([^`]*)`", page):
        if script != "run_quick":
            importlib.import_module(f"scripts.{script}").Config.parse(flags.split())


def test_the_same_files_give_the_same_bytes():
    contents = dict(make_submission.files())
    a, b = make_submission.packed(contents), make_submission.packed(contents)
    assert a == b
    file = zipfile.ZipFile(io.BytesIO(a))
    assert file.testzip() is None
    assert file.namelist() == list(contents)


def test_an_archive_that_does_not_run_is_not_written(tmp_path, monkeypatch):
    broken = [("scripts/run_quick.py", b"raise SystemExit('broken')")]
    monkeypatch.setattr(make_submission, "files", lambda: broken)
    made = []
    monkeypatch.setattr(
        make_report,
        "make",
        lambda config: made.append(config) or make_report.Document("t", [Section("s")]),
    )
    with pytest.raises(
        make_submission.UserError, match=r"not written: its quick path fails \(broken\)"
    ):
        make_submission.main(make_submission.Config(student_number="1", out=str(tmp_path)))
    assert not list(tmp_path.iterdir())
    assert [config.student_number for config in made] == ["1"]


@pytest.mark.parametrize("script", [make_report, make_submission])
def test_a_missing_typst_is_named_before_the_work_begins(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    monkeypatch.setattr(make_report, "make", lambda config: pytest.fail("it has begun"))
    with pytest.raises(make_submission.UserError, match=r'pip install -e "\.\[report\]" in'):
        script.main(script.Config(student_number="1", out=str(tmp_path)))


def test_the_report_of_the_archive_is_that_of_make_report(tmp_path, monkeypatch):
    pytest.importorskip("typst", reason="needs the extra report")

    def drawn(_):
        figure, axes = plots.panels(1, 2, 4.8, 3.6)  # its layout shows what it was drawn as before
        for axis in axes[0]:
            axis.plot([0, 5000], [0.123, 2.8])
            axis.set(xlabel="step", ylabel="loss")
        picture = Picture(figure, "A figure.", "figure")
        return make_report.Document("t", [Section("s", ["See @figure.", picture])])

    monkeypatch.setattr(make_report, "make", drawn)
    make_report.main(make_report.Config(out=str(tmp_path)))
    archived = make_submission.made_report(make_submission.Config(student_number="1"))
    assert archived == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(archived) == {"report.html", "report.pdf"}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_archive_without_a_student_number_says_how_to_give_one(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "submission", "STUDENT="],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and "make submission STUDENT=12345678" in done.stderr
    assert not (tmp_path / ".venv").exists()  # before the install


def test_an_archive_whose_run_never_ends_is_not_written(monkeypatch):
    sleeps = [("a/scripts/run_quick.py", b"import time; time.sleep(60)")]
    monkeypatch.setattr(make_submission, "LONGEST", 0.2)
    with pytest.raises(make_submission.UserError, match=r"quick path takes more than 0.2 s"):
        make_submission.check(make_submission.packed(dict(sleeps)), "a")


@pytest.mark.parametrize("number", ["", "12a", "1/2", "1 2", "../1", "\u0661"])
def test_a_wrong_number_gets_a_line(number, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_submission", "--student_number", number])
    with pytest.raises(SystemExit) as stop:
        command(make_submission.Config, make_submission.main)
    assert stop.value.code == 2
    assert "--student_number" in capsys.readouterr().err
