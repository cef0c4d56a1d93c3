"""Schemas of the files of results, which check what is read back (`core/runs/schema.py`)."""

from collections.abc import Callable
from typing import Any

from purenets.core.runs.history import check_rows
from purenets.core.runs.json_files import DIGEST
from purenets.core.runs.laps import LAP
from purenets.core.runs.schema import mismatch

ABOUT = {"n": int, "machine": str, "git_commit": (str, None), "command?": str}


def rows_with(*columns: str) -> Callable[[Any], str | None]:
    """Return the schema of a history whose last row has these columns."""

    def check(value: Any) -> str | None:
        wrong = check_rows(value)
        if wrong:
            return wrong
        lacks = [name for name in columns if not value or name not in value[-1]]
        return f"its last row has no {', '.join(lacks)}" if lacks else None

    return check


def rows_of_one_length(value: list) -> str | None:
    """Check that the rows of a matrix have one length; a vector has none."""
    lengths = {len(row) for row in value if isinstance(row, list)}
    return "needs rows of one length" if len(lengths) > 1 else None


def confusion_and_classes(value: Any) -> str | None:
    """Check that the confusion matrix of a test is square, with a row for each named class."""
    n = len(value["classes"])
    square = len(value["confusion"]) == n and all(len(row) == n for row in value["confusion"])
    return None if square and n else f"needs a confusion matrix of {n} x {n}, and classes"


def all_of(*schemas: Any) -> Callable[[Any], str | None]:
    """Return a schema that requires all of these schemas, checked in order."""
    return lambda value: next(filter(None, (mismatch(value, part) for part in schemas)), None)


def not_empty(schema: Any) -> Callable[[Any], str | None]:
    """Return a schema that also requires the list or object not to be empty."""
    return all_of(schema, lambda value: None if value else "is empty")


VALID_VIEWS = "valid_views_accuracy"  # over views, of the held-out images
TEST = all_of(
    {
        "loss": float,
        "accuracy": float,
        "confusion": [[int]],
        "classes": [str],
        "views?": str,
        "views_accuracy?": float,
        "views_below?": float,
        "views_part?": float,
        f"{VALID_VIEWS}?": float,
    },
    confusion_and_classes,
)


def no_test(value: Any) -> str | None:
    """Check that no results stand in place of a test if the test images were not used."""
    empty = isinstance(value, dict) and value.keys() <= {DIGEST, VALID_VIEWS}
    return None if empty else "needs a test's loss and accuracy, or an empty object"


RESULTS_OF_RUN = (TEST, all_of({f"{VALID_VIEWS}?": float}, no_test))
RUN = {  # of a sweep over images: a setting and a seed
    "setting": str,
    "seed": int,
    "images?": str,  # the digest of a folder of images
    "replayed?": str,  # the last commit that was seen to begin it alike (scripts/replay.py)
    "training_seconds": (float, None),
    "laps?": [LAP],
    f"{VALID_VIEWS}?": (float, None),
    "test": (TEST, no_test),
    "history": rows_with("step", "accuracy"),
}
SWEEP = {"rows": [RUN]}

CASE = {"dataset": str, "noise": (float, None), "optimizer": str, "batch_size": int, "seed": int}
COMPARED = {  # of both MLPs: a case and a backend
    "backend": str,
    "case": CASE,
    "train_accuracy": float,
    "test_accuracy": float,
    "largest_difference": float,
    "history?": rows_with("test_loss", "test_accuracy"),
    "params?": {str: all_of(([float], [[float]]), rows_of_one_length)},
}
COMPARISON = {"rows": [COMPARED]}

EVALUATED = {"exhaustive": bool, "by_seed": not_empty([float])}
CELL = {  # of a sweep over palindromes: a setting and a length
    "setting": str,
    "T": int,
    "steps": int,
    "accuracy": not_empty({str: EVALUATED}),
    "history": rows_with("step"),
}
CELLS = {"n": int, "cells": not_empty([CELL])}

SHUFFLED = {  # of the digits with their pixels in order or shuffled: a network and a seed
    "net": str,
    "pixels": str,
    "seed": int,
    "test_accuracy": float,
    "history?": rows_with("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
}
HOLDOUT = {  # of palindromes with held-out first halves: a length and a number of halves
    "T": int,
    "halves": int,
    "steps": int,
    "train": not_empty([float]),
    "held_out": not_empty([float]),
    "history": rows_with("step"),
}
SEEN = {"gradients": [[float]], "radius": not_empty([float]), "readable": [[float]]}
STATES = {  # of what hidden states hold: a setting and a length
    "setting": str,
    "T": int,
    "steps": int,
    "accuracy": not_empty([float]),
    "before": SEEN,
    "after": SEEN,
    "plane": {"times": [int], "digits": [int], "points": [[[float]]]},
}

# the files of results/ that the report is made of, by how their names begin
REPORTED = {
    "part1_cifar10": ABOUT | SWEEP,
    "part2_settings": ABOUT | SWEEP,
    "part1_shuffled": ABOUT | {"rows": not_empty([SHUFFLED])},
    "part1_": ABOUT | COMPARISON,
    "rnn_holdout": ABOUT | {"cells": not_empty([HOLDOUT])},
    "rnn_states": ABOUT | {"cells": not_empty([STATES])},
    "rnn_": ABOUT | CELLS,
}


def of_results(name: str) -> Any:
    """Return the schema of a file in results/, by its name without suffix."""
    return next((REPORTED[begin] for begin in REPORTED if name.startswith(begin)), dict)
