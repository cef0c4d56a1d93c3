"""Data sets and batches: toy sets, folders of images, palindromes; all split and drawn by a key."""

from purenets.core.data.tasks import (
    DATASETS,
    Dataset,
    batches,
    check,
    from_csv,
    load,
    prepare,
    split,
    standardize,
    steps_per_epoch,
)

__all__ = [
    "DATASETS",
    "Dataset",
    "batches",
    "check",
    "from_csv",
    "load",
    "prepare",
    "split",
    "standardize",
    "steps_per_epoch",
]
