"""Checkpoints: one safetensors file, whole or not at all, never pickle; and a JSON beside it to
read.

The file alone is a checkpoint: its header holds the JSON `meta` and the SHA-256 of all its other
bytes, so that any damaged byte is found before anything is used. `checkpoint.json` is a copy of
`meta` for people.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from purenets.core import tree
from purenets.core.arrays import like, to_host
from purenets.core.base import UserError
from purenets.core.runs.files import write_atomically

NAME = "checkpoint.safetensors"
UNSIGNED = "0" * 64
SIGNATURE = re.compile(rb"sha256:([0-9a-f]{64})")
FORMAT = "purenets-1"


def save(folder: Path, arrays: dict, meta: dict[str, Any]) -> Path:
    """Write a nested dict of arrays and its `meta` (whatever JSON holds) to `folder`."""
    flat = {name: np.array(to_host(leaf), order="C") for name, leaf in tree.flatten(arrays).items()}
    signed = {"format": FORMAT, "digest": f"sha256:{UNSIGNED}", "meta": meta}
    content = safetensors.numpy.save(flat, {"purenets": json.dumps(signed)})
    unsigned = f"sha256:{UNSIGNED}".encode()
    content = content.replace(unsigned, f"sha256:{hashlib.sha256(content).hexdigest()}".encode(), 1)
    path = Path(folder) / NAME
    write_atomically(path, content)
    described = {name: [str(a.dtype), list(a.shape)] for name, a in flat.items()}
    text = json.dumps({**meta, "arrays": described}, indent=1)
    write_atomically(path.with_suffix(".json"), text.encode())
    return path


def load(folder: Path, template: dict) -> tuple[dict, dict[str, Any]]:
    """The nested dict and the `meta` of `save`.

    template: a dict of the names, shapes and dtypes that are expected; each array comes back as its
    library and on its device. A UserError says what is damaged, or names the leaf that differs.
    """
    path = Path(folder) / NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    damaged = UserError(
        f"{path}: damaged or not a checkpoint of purenets; restore it or start a new --out"
    )
    if not _is_whole(content):
        raise damaged
    try:
        flat = safetensors.numpy.load(content)
        meta = json.loads(_header(content))["__metadata__"]["purenets"]
        meta = json.loads(meta)["meta"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged from error  # signed, but by nobody who writes checkpoints
    expected = tree.flatten(template)
    try:
        tree.check_flat(flat, {name: to_host(leaf) for name, leaf in expected.items()})
    except UserError as error:
        raise UserError(f"{path}: not of this model and optimizer: {error}") from error
    return tree.unflatten(
        {name: like(flat[name], leaf) for name, leaf in expected.items()}, template
    ), meta


def _header(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _is_whole(content: bytes) -> bool:
    """Whether the digest in the header is that of all other bytes."""
    found = SIGNATURE.search(_header(content))
    if not found:
        return False
    begin, end = (8 + place for place in found.span(1))
    digest = hashlib.sha256(content[:begin])
    digest.update(UNSIGNED.encode())
    digest.update(content[end:])
    return digest.hexdigest().encode() == found[1]
