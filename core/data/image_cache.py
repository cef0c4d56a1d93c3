"""A cache of decoded images, in the user's folder of caches, with a key and a digest.

An entry is a folder named by its key, which holds `{train,test}_{x,y}.npy` and `about.json`. It is
written under another name and renamed when complete; of processes that begin one entry at once, one
decodes and the others wait. Nothing is removed but unfinished entries, and of these only the files
that are named here.
"""

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from purenets.core.base import UserError

PARTS = ("train", "test")
ARRAYS = tuple(f"{part}_{name}.npy" for part in PARTS for name in "xy")
ABOUT = "about.json"
UNFINISHED = "unfinished"


def cache_folder() -> Path:
    """Return where caches are: $PURENETS_CACHE, or the system's folder for the user's caches."""
    if os.environ.get("PURENETS_CACHE"):
        return Path(os.environ["PURENETS_CACHE"])
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "purenets" / "images"


def cached(
    folder: Path, key: str, classes: Sequence[str], decode: Callable[[Path], None]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (x, y) of train and test from the cache; x is a memory map.

    Args:
        folder: the folder of the cache.
        key: changes with all that the pixels depend on.
        classes: their names, in the order of the class numbers.
        decode: `decode(folder)` writes ARRAYS where the entry is missing.

    Raises:
        UserError: the cache cannot be written, or the entry is damaged.
    """
    entry = Path(folder) / key
    try:
        if not (entry / ABOUT).exists():
            Path(folder).mkdir(parents=True, exist_ok=True)
            with FileLock(Path(folder) / f"{key}.lock"):
                if not (entry / ABOUT).exists():
                    _write(entry, classes, decode)
    except OSError as error:
        raise UserError(
            f"{folder}: the cache of images cannot be written ({error.strerror or error}); name "
            "another "
            "folder by the environment variable PURENETS_CACHE"
        ) from error
    return _read(entry, classes)


def _write(entry: Path, classes: Sequence[str], decode: Callable[[Path], None]) -> None:
    """Write an entry whole or not at all; called under its lock."""
    begun = f"{UNFINISHED}-{entry.name}-"
    for abandoned in entry.parent.glob(f"{begun}*"):  # whoever wrote it held this lock, and is gone
        _remove(abandoned)
    place = entry.parent / f"{begun}{uuid.uuid4().hex}"
    place.mkdir()
    try:
        decode(place)
        about = {
            "key": entry.name,
            "classes": list(classes),
            "digest": _digest(place, entry.name, classes),
        }
        (place / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        place.rename(entry)
    finally:
        _remove(place)  # where it is still there


def _remove(place: Path) -> None:
    """Remove an unfinished entry; what we did not write stays, and its folder with it."""
    if place.is_dir() and not place.is_symlink():
        with contextlib.suppress(OSError):
            for name in (*ARRAYS, ABOUT):
                (place / name).unlink(missing_ok=True)
            place.rmdir()


def _read(entry: Path, classes: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
        expected = {
            "key": entry.name,
            "classes": list(classes),
            "digest": _digest(entry, entry.name, classes),
        }
        if about != expected:
            raise ValueError("its digest is another")
        return [_arrays(entry, part) for part in PARTS]
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise UserError(f"{entry}: the cache is damaged ({error}); remove that folder") from error


def _arrays(entry: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, y) of a part; their files are those that were written."""
    x, y = np.load(entry / f"{part}_x.npy", mmap_mode="r"), np.load(entry / f"{part}_y.npy")
    if (x.dtype, x.ndim, y.dtype, y.shape) != (np.uint8, 4, np.int64, (len(x),)):
        raise ValueError(f"{part}: {x.dtype} of shape {x.shape}, {y.dtype} of shape {y.shape}")
    return x, y


def _digest(entry: Path, key: str, classes: Sequence[str]) -> str:
    """Return the SHA-256 of key, classes and the bytes of all files of an entry.

    Bytes, so that NumPy parses no header before it is known to be whole.
    """
    digest = hashlib.sha256(json.dumps([key, list(classes)]).encode())
    for name in ARRAYS:
        with (entry / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
