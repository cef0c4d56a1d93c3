"""Data sets and batches: toy sets, folders of images, palindromes; all split and drawn by a key."""

from purenets.core.data.sampling import batches, part_of, steps_per_epoch
from purenets.core.data.scaling import standardize
from purenets.core.data.tables import from_csv
from purenets.core.data.tasks import Dataset, check, prepare, split
from purenets.core.data.toy import DATASETS, load

__all__ = [
    "DATASETS",
    "Dataset",
    "batches",
    "check",
    "from_csv",
    "load",
    "part_of",
    "prepare",
    "split",
    "standardize",
    "steps_per_epoch",
]
