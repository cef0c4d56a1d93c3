"""Functions that all sweeps of trainings on images share.

Each setting and seed is a run of a script in its own folder. An interrupted run continues, a
finished one is only read, and rows that are already in `--results` are kept.
"""

import itertools
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from purenets import UserError, runs
from purenets.core.report.tables import Table
from purenets.core.runs.files import exclusive_lock, folder_at
from purenets.core.runs.provenance import script_of
from purenets.core.runs.record import check_data, check_same
from purenets.core.runs.rows import rounded
from scripts.shared import result_files
from scripts.shared.images import (
    ImageOptions,
    data_digests,
    has_ended,
    results_of,
    valid_views_of,
)
from scripts.shared.schemas import SWEEP, VALID_VIEWS
from scripts.shared.training import read_probe

Member = tuple[ModuleType, ImageOptions]  # a script, and the options of a run of it
NO_CHANGE = ("--out", "--seed", "--threads", "--keep", "--data_dir")  # what a row may differ in
MEAN_SD = "mean ± SD, n - 1"  # of every table: the deviation of a sample, over n - 1


def sweep(
    out: str,
    results: str | None,
    wanted: Iterable[tuple[str, int]],
    member: Callable[[str, int], Member],
    table: Callable[[list[dict]], Table],
) -> list[dict]:
    """Make a row for each setting and seed of `wanted` that the results do not have yet.

    Args:
        out: the folder of the runs; no other process can sweep there at the same time.
        results: the JSON file of the rows, or None. Their table is written beside it as Markdown.
        wanted: settings and seeds.
        member: `member(setting, seed)` returns the script and the options of a run.
        table: returns the table of all rows.

    Returns:
        All rows. Settings are in the order in which they came; their rows are sorted by seed.

    Raises:
        UserError: the results have rows of other images, or that were trained with other options
            than `member` names for them.
    """
    with exclusive_lock(folder_at(out)), result_files.exclusive(results) as path:
        return _rows(path, list(wanted), member, table)


def _rows(path: Path | None, wanted: list, member: Callable, table: Callable) -> list[dict]:
    about = runs.environment() | runs.machine()  # of the beginning
    rows = result_files.read(path, SWEEP, drafts=True)["rows"] if path and path.exists() else []
    if rows and wanted:
        _expect_images(path, rows, member(*wanted[0])[1])
        for row in rows:
            _expect_options(path, row, member)
    for setting, seed in wanted:
        if any((row["setting"], row["seed"]) == (setting, seed) for row in rows):
            continue
        print(f"{setting}, seed {seed}", flush=True)
        rows.append({"setting": setting, "seed": seed, **trained(*member(setting, seed))})
        order = list(grouped(rows))
        rows.sort(key=lambda row: (order.index(row["setting"]), row["seed"]))
        if path:
            n = min(map(len, grouped(rows).values()))
            result_files.write(path, {"n": n, **about, "rows": rows}, table(rows))
    return rows


def _expect_images(path: Path, rows: list[dict], config: ImageOptions) -> None:
    """Raise a UserError if rows are of other images than those of a run that is wanted."""
    images = images_name(config.data, config.data_dir)
    others = [row for row in rows if images_of([row]) != images]
    if others:
        raise UserError(
            f"--results {path}: holds rows of {images_of(others)}, not of {images}; name another"
            " file"
        )
    digest = digest_of(data_digests(config))
    if any(row.get("images", digest) != digest for row in rows):
        raise UserError(
            f"--results {path}: holds rows of other images than those in {config.data_dir}; name"
            " another file"
        )


def _expect_options(path: Path, row: dict, member: Callable) -> None:
    """Raise a UserError if a row was trained with other options than its setting has here."""
    try:
        _, config = member(row["setting"], row["seed"])
    except (KeyError, UserError):
        return  # a setting that the sweep no longer has; it is not mixed with others
    here = runs.command_line(config)
    old, new = _options_of(row["command"]), _options_of(here)
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            was, now = (options.get(name, "the default") for options in (old, new))
            raise UserError(
                f"--results {path}: holds {row['setting']}, seed {row['seed']}, with {name} {was}, "
                f"not {now}; train with the same options, or name another file"
            )


def _options_of(command: str) -> dict[str, str]:
    """Return the script and the flags of a command, without those that change no result."""
    words = [*shlex.split(command), "--"]
    given = {"script": words[1]}
    for word, value in itertools.pairwise(words[2:]):
        if word.startswith("--"):
            given[word] = "" if value.startswith("--") else value
    return {name: value for name, value in given.items() if name not in NO_CHANGE}


def digest_of(digests: dict[str, str]) -> str | None:
    """Return the digest of a folder of images; None for images that need none."""
    return next(iter(digests.values()), None)


def trained(script: ModuleType, config: ImageOptions) -> dict:
    """Return the results of a run of a script, after training it if it has not ended.

    `config.out` is the folder of the run.
    """
    folder = Path(config.out)
    if not has_ended(folder):
        script.main(config)
    begun = runs.read_config(folder)
    check_same(folder, begun, {"script": script_of(config), "config": config.to_dict()})
    expect_length(folder, config)
    digests = data_digests(config)
    check_data(folder, begun.get("data", {}), digests)
    return {
        "command": runs.command_line(config),
        **runs.origin_of(folder),
        "torch": (begun["versions"] or {}).get("torch"),
        "training_seconds": runs.training_seconds(folder) or None,
        "laps": rounded(runs.timings(folder)),
        "way": fastest(read_probe(folder)),
        "test": results_of(folder),
        VALID_VIEWS: valid_views_of(folder),
        "history": rounded(runs.read_history(folder)),
        **({"images": digest_of(digests)} if digests else {}),
    }


def expect_length(folder: Path, config: ImageOptions) -> None:
    """Raise a UserError if the run in a folder has taken another number of steps."""
    taken = runs.read_history(folder)[-1]["step"]
    if not config.epochs and taken != config.max_steps:
        raise UserError(
            f"--max_steps {config.max_steps}: the run in {folder} took {taken}; name another --out"
        )


def folder_of(out: str, setting: str, seed: int) -> dict:
    """Return the options of a run below `out`: its seed, its folder, and whether to resume it."""
    folder = Path(out) / f"{setting.replace(' ', '-')}-seed{seed}"
    return {"seed": seed, "out": str(folder), "resume": (folder / "config.json").exists()}


def fastest(seconds: dict[str, float]) -> str:
    return min(seconds, key=seconds.get)


def grouped(rows: list[dict], by: str = "setting") -> dict[str, list[dict]]:
    """Return the rows of each setting, or of each value of another column `by`."""
    names = dict.fromkeys(row[by] for row in rows)
    return {name: [row for row in rows if row[by] == name] for name in names}


def place_in(names: Iterable[str]) -> Callable[[str], int]:
    """Return a sort key for the order of `names`; other names come last, in their given order."""
    places = {name: i for i, name in enumerate(names)}
    return lambda name: places.get(name, len(places))


def changes(rows: Sequence[dict], base: str) -> dict[str, list[float]]:
    """Return by how many points each variant of `base` changes the validation accuracy.

    Each seed of a variant is compared with the same seed of `base`.
    """
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
    """Return the names of the images that the rows were trained on, from their commands."""
    names = {_images_of(shlex.split(row["command"])) for row in rows}
    return " and ".join(sorted(names))


def _images_of(words: list[str]) -> str:
    given = dict(itertools.pairwise(words))  # each flag with its value
    return images_name(given.get("--data", "cifar10"), given.get("--data_dir", ""))


def images_name(source: str, data_dir: str) -> str:
    """Return the name of the images that `--data` and `--data_dir` select."""
    if source == "folder":
        return Path(data_dir).name
    return {"cifar10": "CIFAR-10"}.get(source, source)


def deviation(values: Iterable[float]) -> float | None:
    """Return the standard deviation of a sample, over n - 1; None for a single value."""
    values = list(values)
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def spread(values: Sequence[float | None], digits: int = 2, unit: str = "") -> str:
    """Return mean ± standard deviation (n - 1) in percent.

    For a single value it is the mean alone; "" if a value is None.
    """
    if None in values:
        return ""
    texts = [f"{100 * np.mean(values):.{digits}f}{unit}"]
    if len(values) > 1:
        texts.append(f"{100 * deviation(values):.{digits}f}{unit}")
    return " ± ".join(texts)
