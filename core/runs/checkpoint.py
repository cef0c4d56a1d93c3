"""Checkpoints: one safetensors file, whole or not at all, never pickle; and a JSON beside it to
read.

The file alone is a checkpoint: its header holds the JSON `meta` and the SHA-256 of all its other
bytes, so that any damaged byte is found before anything is used. `checkpoint.json` is a copy of
`meta` for people.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from purenets.core import tree
from purenets.core.arrays import like, to_host
from purenets.core.base import UserError
from purenets.core.runs.files import write_atomically
from purenets.core.runs.schema import mismatch
from purenets.core.runs.signed import SIGNATURE, UNSIGNED, is_whole, sign

NAME = "checkpoint.safetensors"
FORMAT = "purenets-1"
DAMAGED = "damaged or not a checkpoint of purenets; restore it or start a new --out"


class Damaged(UserError):
    """A checkpoint that is not as it was written."""


def save(folder: Path, arrays: dict, meta: dict[str, Any]) -> Path:
    """Write a nested dict of arrays and its `meta` (whatever JSON holds) to `folder`."""
    flat = on_host(arrays)
    path = Path(folder) / NAME
    write_atomically(path, encoded(flat, meta))
    write_atomically(path.with_suffix(".json"), described(flat, meta))
    return path


def load(folder: Path, template: dict) -> tuple[dict, dict[str, Any]]:
    """Return the nested dict and the `meta` of `save`; see `load_file`."""
    return load_file(Path(folder) / NAME, template)


def load_file(path: Path, template: dict, schema: Any = dict) -> tuple[dict, dict[str, Any]]:
    """Return the nested dict and the `meta` of a checkpoint.

    Args:
        path: of the file.
        template: a dict of the names, shapes and dtypes that are expected; each array comes back as
            its library and on its device.
        schema: of the `meta` (`schema.py`).

    Raises:
        UserError: it is of another model or optimizer; the leaf that differs is named.
        Damaged: it is damaged.
    """
    flat, meta = read(path, schema)
    expected = tree.flatten(template)
    try:
        tree.check_flat(flat, {name: to_host(leaf) for name, leaf in expected.items()})
    except UserError as error:
        raise UserError(f"{path}: not of this model and optimizer: {error}") from error
    return tree.unflatten(
        {name: like(flat[name], leaf) for name, leaf in expected.items()}, template
    ), meta


def read(path: Path, schema: Any = dict) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the flat arrays and the `meta` of a checkpoint, whatever it is of.

    Raises:
        UserError: it cannot be read.
        Damaged: it is damaged, or its `meta` is not as the schema says.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error
    header = _header(content)
    if not is_whole(content, 8 + len(header)):
        raise Damaged(f"{path}: {DAMAGED}")
    try:
        flat = safetensors.numpy.load(content)
        signed = json.loads(json.loads(header)["__metadata__"]["purenets"])
        meta = signed["meta"]
    except (
        *(safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError),
        RecursionError,
    ) as error:
        raise Damaged(f"{path}: {DAMAGED}") from error  # signed, but not by `save`
    wrong = mismatch(meta, schema)
    if wrong:
        raise Damaged(f"{path}: {DAMAGED} ({wrong})")
    return flat, meta


def digest_of(path: Path) -> bytes | None:
    """Return the digest that a checkpoint's header names; None where there is no such file."""
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = SIGNATURE.search(file.read(min(length, Path(path).stat().st_size)))
    except OSError:
        return None
    return found and found[1]


# --- bytes ----------------------------------------------------------------------------------------


def on_host(arrays: dict) -> dict[str, np.ndarray]:
    """Return a nested dict as flat NumPy arrays of their own memory."""
    return {name: np.array(to_host(leaf), order="C") for name, leaf in tree.flatten(arrays).items()}


def encoded(flat: dict[str, np.ndarray], meta: dict[str, Any]) -> bytes:
    """Return the bytes of a checkpoint, signed."""
    signed = {"format": FORMAT, "digest": UNSIGNED, "meta": meta}
    return sign(safetensors.numpy.save(flat, {"purenets": json.dumps(signed)}))


def described(flat: dict[str, np.ndarray], meta: dict[str, Any]) -> bytes:
    """Return `meta` and what arrays there are, as JSON for people."""
    arrays = {name: [str(a.dtype), list(a.shape)] for name, a in sorted(flat.items())}
    return json.dumps({**meta, "arrays": arrays}, indent=1).encode()


def _header(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")]
