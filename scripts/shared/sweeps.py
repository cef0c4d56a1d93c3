"""What sweeps of trainings on images share: each setting and seed is a run of a script in a folder
of its own; a run that was stopped goes on, one that has ended is only read, and rows that
`--results` has are kept."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from purenets import runs
from purenets.core.report.tables import Table
from purenets.core.runs import history
from purenets.core.runs.options import Options
from scripts.shared import result_files

MEAN_SD = "mean ± SD, n - 1"  # of every table: the deviation of a sample, over n - 1


def sweep(
    path: Path | None,
    wanted: Iterable[tuple[str, int]],
    row_of: Callable[[str, int], dict],
    table: Callable[[list[dict]], Table],
) -> list[dict]:
    """A row for each setting and seed of `wanted` that the file has not yet; all rows, in the order
    of settings in which they came, and by seed. Beside the file lies their table as Markdown."""
    about = runs.environment() | runs.machine()  # of the beginning
    rows = result_files.read(path, drafts=True)["rows"] if path and path.exists() else []
    for setting, seed in wanted:
        if any((row["setting"], row["seed"]) == (setting, seed) for row in rows):
            continue
        print(f"{setting}, seed {seed}", flush=True)
        rows.append({"setting": setting, "seed": seed, **row_of(setting, seed)})
        order = list(grouped(rows))
        rows.sort(key=lambda row: (order.index(row["setting"]), row["seed"]))
        if path:
            n = min(map(len, grouped(rows).values()))
            result_files.write(path, {"n": n, **about, "rows": rows}, table(rows))
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
        **runs.origin_of(folder),
        "torch": begun["versions"]["torch"],
        "training_seconds": runs.training_seconds(folder) or None,
        "laps": runs.timings(folder),
        "way": fastest(json.loads((folder / "probe.json").read_text())),
        "test": json.loads((folder / "results.json").read_text()),
        "history": history.read_csv(folder / "history.csv"),
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


def deviation(values: Iterable[float]) -> float | None:
    """Return the standard deviation of a sample, over n - 1; None of a single value."""
    values = list(values)
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def spread(values: Sequence[float | None], digits: int = 2, unit: str = "") -> str:
    """Return mean ± standard deviation (n - 1) in percent; without the latter for one value."""
    if None in values:
        return ""
    texts = [f"{100 * np.mean(values):.{digits}f}{unit}"]
    if len(values) > 1:
        texts.append(f"{100 * deviation(values):.{digits}f}{unit}")
    return " ± ".join(texts)
