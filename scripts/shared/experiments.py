"""Experiments that train one part after the other and write --results after each.

An interrupted experiment goes on with --resume: it keeps the rows that the file has.
"""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from purenets import Interrupted, UserError, runs
from purenets.core.runs.options import Options
from scripts.shared import result_files

NO_CHANGE = ("results", "resume", "threads")  # options that change no row


class Part(NamedTuple):
    """A part of an experiment: values that only its rows have, and the function that makes them."""

    values: dict[str, Any]
    train: Callable[[], list[dict]]


def run_parts(
    config: Options, name: str, schema: Any, parts: Iterable[Part], table: Callable
) -> list[dict]:
    """Train the parts that --results does not have yet; return the rows of all.

    Args:
        config: with the options `seeds`, `results` and `resume`.
        name: of the list in the file, "rows" or "cells".
        schema: of a row.
        parts: what is trained, in this order.
        table: returns the table of some rows.

    Raises:
        UserError: --resume is given without --results, or the file has rows of other options.
        Interrupted: Ctrl-C arrived; the message says what is kept and how to go on.
    """
    about = {"command": runs.command_line(config), "n": config.seeds}
    about |= {**runs.environment(), **runs.machine()}
    if config.resume and not config.results:
        raise UserError("--resume: needs --results, the file to go on with")
    with result_files.exclusive(config.results) as path:
        rows = _kept(path, name, schema, config) if config.resume else []
        for part in parts:
            if any(part.values == {key: row[key] for key in part.values} for row in rows):
                continue
            try:
                rows += part.train()
            except KeyboardInterrupt as error:
                raise Interrupted(_how_to_go_on(path, name, rows)) from error
            if path:
                result_files.write(path, {**about, name: rows}, table(rows))
    return rows


def _kept(path: Path, name: str, schema: Any, config: Options) -> list[dict]:
    """Return the rows of a file that the same options have made; none if there is no file."""
    if not path.exists():
        return []
    found = result_files.read(path, {"command": str, name: [schema]}, drafts=True)
    old, new = type(config).parse(shlex.split(found["command"])[2:]).to_dict(), config.to_dict()
    for option, value in new.items():
        if old[option] != value and option not in NO_CHANGE:
            raise UserError(
                f"--results {path}: holds {name} with --{option} {old[option]}, not {value}; give "
                "the same options, or name another file"
            )
    return found[name]


def _how_to_go_on(path: Path | None, name: str, rows: list[dict]) -> str:
    if path is None:
        return "stopped; without --results nothing is kept"
    if not rows:
        return f"stopped before the first of the {name} was ready; nothing is kept"
    return f"stopped; {path} has {len(rows)} {name}; go on with the same options and --resume"
