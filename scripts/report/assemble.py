"""The report as a document, assembled from its parts."""

import re
from collections.abc import Sequence

from purenets.core.report.document import Document
from scripts import compare_mlps, run_quick
from scripts.figures import rnn as figures
from scripts.report import cifar10, conclusion, more_curves, part1, part2, part3, settings
from scripts.report.prose import sections
from scripts.shared.sweeps import grouped, images_of, spread

PARTS = (part1.section, cifar10.mlp_section, cifar10.cnn_section, part2.section, part3.section)


def document(
    found: dict[str, dict], quick: run_quick.Config, byline: Sequence[str] = ()
) -> Document:
    """Return the report of the results in `found`.

    Args:
        found: The content of the result files, by name.
        quick: The options of what is trained here: always the interactive figure, and every part
            whose results are missing.
        byline: Lines below the title: who wrote it.
    """
    parts = [part(found, quick) for part in PARTS]
    end = conclusion.section(found)
    values = of_perceptrons(found) | of_cifar10(found) | of_vgg(found) | of_rnn(found)
    (top,) = sections("abstract", values)
    return Document(
        top.title,
        [*parts, end] if end else parts,
        top.blocks,
        references(),
        contents=True,
        byline=byline,
        appendix=[*settings.appendix(found), *more_curves.appendix(found)],
    )


def references() -> list[str]:
    """Return the references without their numbers.

    Raises:
        ValueError: the numbers are not [1], [2], ... in this order.
    """
    (section,) = sections("references", {})
    numbered = [re.fullmatch(r"\[(\d+)\] (.*)", text) for text in section.blocks]
    numbers = [match and int(match[1]) for match in numbered]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError("references.md: the numbers need to be [1], [2], ...")
    return [reference[2] for reference in numbered]


# --- the abstract's values; None where a result is missing ---


def of_perceptrons(found: dict) -> dict:
    """Return the test accuracy of both MLPs on moons."""
    rows = compare_mlps.summary(found.get("part1_sets", {"rows": []})["rows"])
    moons = {
        row["backend"]: row["test_accuracy_spread"] for row in rows if row["dataset"] == "moons"
    }
    if not moons:
        return {"moons_same": None, "moons_differ": None}
    numpy, torch = moons["numpy"], moons["torch"]
    return {"moons_same": numpy == torch, "moons_differ": numpy != torch} | {
        "moons_numpy": numpy,
        "moons_torch": torch,
        "moons_n": found["part1_sets"]["n"],
    }


def of_cifar10(found: dict) -> dict:
    """Return the test accuracies of the networks without and with convolutions."""
    values = {}
    for kind in ("mlp", "cnn"):
        rows = cifar10.of_kind(found, kind)
        reached = {"single": None}
        if rows:
            reached = cifar10.reached(rows) | {"images": images_of(rows)}
            (mine,) = cifar10.headline(rows).values()
            reached["views"] = over_views(mine)
            del reached["accuracy"]
        values |= {f"{kind}_{name}": value for name, value in reached.items()}
    return values


def over_views(rows: Sequence[dict]) -> str:
    """Return the accuracy over views as a text to append; "" if a run took no views."""
    found = [row["test"].get("views_accuracy") for row in rows]
    return "" if None in found else f"; {spread(found)}% over several views"


def of_vgg(found: dict) -> dict:
    """Return the test accuracy of the reduced VGG, in the assignment's setting and at its best."""
    rows = grouped(found.get("part2_settings", {"rows": []})["rows"])
    final = part2.of_final(found.get("part1_cifar10"))
    values = {f"vgg_{name}": value for name, value in final.items()}
    course = part2.of_course(found.get("part2_settings"))
    values |= {name: value for name, value in course.items() if name != "course_epochs"}
    return values | of_setting("vgg", rows.get(part2.ADAM))


def of_setting(name: str, rows: Sequence[dict] | None) -> dict:
    """Return the accuracy and the number of seeds of one setting."""
    if rows is None:
        return {f"{name}_accuracy": None}
    accuracy = spread([row["test"]["accuracy"] for row in rows])
    images = images_of(rows)
    return {
        f"{name}_accuracy": accuracy,
        f"{name}_n": len(rows),
        f"{name}_images": images,
        f"{name}_views": over_views(rows),
    }


def of_rnn(found: dict) -> dict:
    """Return the final accuracy of the RNN at the shortest and the longest palindromes."""
    cells = sorted(found.get("rnn_lengths", {"cells": []})["cells"], key=lambda cell: cell["T"])
    if not cells:
        return {"rnn_T": None, "rnn_learned": None}
    ends = [spread(list(figures.at_own_length(cell)), digits=1) for cell in cells]
    return {
        "rnn_T": cells[0]["T"],
        "rnn_accuracy": ends[0],
        "rnn_learned": part3.longest_learned(cells),
        "rnn_last_T": cells[-1]["T"],
        "rnn_last": ends[-1],
        "rnn_n": len(cells[0]["seeds"]),
        "rnn_chance": conclusion.CHANCE,
    }
