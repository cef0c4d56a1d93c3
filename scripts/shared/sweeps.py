"""What sweeps of trainings on images share: each setting and seed is a run of a script in a folder
of its own; a run that was stopped goes on, one that has ended is only read, and rows that
`--results` has are kept."""

import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from purenets import runs
from purenets.core.report.tables import Table, to_markdown
from purenets.core.runs import history
from purenets.core.runs.files import write_atomically
from purenets.core.runs.options import Options
from purenets.core.runs.rows import rounded, rows_text


def sweep(
    path: Path | None,
    wanted: Iterable[tuple[str, int]],
    row_of: Callable[[str, int], dict],
    table: Callable[[list[dict]], Table],
) -> list[dict]:
    """A row for each setting and seed of `wanted` that the file has not yet; all rows, in the order
    of settings in which they came, and by seed. Beside the file lies their table as Markdown."""
    rows = json.loads(path.read_text())["rows"] if path and path.exists() else []
    for setting, seed in wanted:
        if any((row["setting"], row["seed"]) == (setting, seed) for row in rows):
            continue
        print(f"{setting}, seed {seed}", flush=True)
        rows.append({"setting": setting, "seed": seed, **row_of(setting, seed)})
        order = list(grouped(rows))
        rows.sort(key=lambda row: (order.index(row["setting"]), row["seed"]))
        if path:
            about = {
                "n": min(map(len, grouped(rows).values())),
                **runs.environment(),
                **runs.machine(),
            }
            write_atomically(path, rows_text({**about, "rows": rows}).encode())
            write_atomically(path.with_suffix(".md"), to_markdown(table(rows)).encode())
    return rows


def trained(script: ModuleType, config: Options) -> dict:
    """What the run of a script found, trained as far as it is not yet.

    `config` says where it is kept.
    """
    folder = Path(config.out)
    if not (folder / "results.json").exists():
        script.main(config)
    begun = json.loads((folder / "config.json").read_text())
    return {
        "command": runs.command_line(config),
        "git_commit": begun["git_commit"],
        "torch": begun["versions"]["torch"],
        **runs.machine(),
        "training_seconds": runs.training_seconds(folder) or None,
        "laps": rounded(runs.timings(folder)),
        "way": fastest(json.loads((folder / "probe.json").read_text())),
        "test": json.loads((folder / "results.json").read_text()),
        "history": rounded(history.read_csv(folder / "history.csv")),
    }


def folder_of(out: str, setting: str, seed: int) -> dict:
    """The options of a run that is kept below `out`, to be gone on with where it was begun."""
    folder = Path(out) / f"{setting.replace(' ', '-')}-seed{seed}"
    return {"seed": seed, "out": str(folder), "resume": (folder / "config.json").exists()}


def fastest(seconds: dict[str, float]) -> str:
    return min(seconds, key=seconds.get)


def grouped(rows: list[dict], by: str = "setting") -> dict[str, list[dict]]:
    """The rows of each setting."""
    names = dict.fromkeys(row[by] for row in rows)
    return {name: [row for row in rows if row[by] == name] for name in names}


def changes(rows: Sequence[dict], base: str) -> dict[str, list[float]]:
    """Return what validation accuracy loses or gains when one ingredient of `base` is changed, in
    points, each seed against the same seed of `base`."""
    by_setting = grouped(list(rows))
    whole = {row["seed"]: row["history"][-1]["valid_accuracy"] for row in by_setting[base]}
    return {
        setting.removeprefix(f"{base}: "): [
            100 * (row["history"][-1]["valid_accuracy"] - whole[row["seed"]])
            for row in mine
            if row["seed"] in whole
        ]
        for setting, mine in by_setting.items()
        if setting.startswith(f"{base}: ")
    }


def images_of(rows: list[dict]) -> str:
    """Return what the rows were trained on, by their commands: CIFAR-10, or the folder's name."""
    names = {_images_of(shlex.split(row["command"])) for row in rows}
    return " and ".join(sorted(names))


def _images_of(words: list[str]) -> str:
    given = dict(itertools.pairwise(words))  # each flag with its value
    source = given.get("--data", "cifar10")
    if source == "folder":
        return Path(given["--data_dir"]).name
    return {"cifar10": "CIFAR-10"}.get(source, source)


def spread(values: list[float | None]) -> str:
    """Mean ± standard deviation in percent; without the latter for one value."""
    if None in values:
        return ""
    deviation = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{deviation}"
