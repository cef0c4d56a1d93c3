"""Checkpoints: one safetensors file, whole or not at all, never pickle; and a JSON beside it to
read.

The file alone is a checkpoint: its header holds the JSON `meta` and the SHA-256 of all its other
bytes, so that any damaged byte is found before anything is used. `checkpoint.json` is a copy of
`meta` for people.

What NumPy has no dtype for (bfloat16, float8) is held as its bits, and marked in the header as what
it is, so that `safetensors.torch` reads it too. safetensors has no complex128: its numbers are
stored as pairs (..., 2) of float64, and `complex128` in the header names them.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from purenets.core import tree
from purenets.core.arrays import like, namespace, to_host
from purenets.core.base import Array, UserError
from purenets.core.runs.files import write_atomically

NAME = "checkpoint.safetensors"
UNSIGNED = "0" * 64
SIGNATURE = re.compile(rb"sha256:([0-9a-f]{64})")
FORMAT = "purenets-1"
BITS = {  # dtypes that NumPy has not: their names in safetensors, and the integers of their bits
    "bfloat16": ("BF16", "uint16"),
    "float8_e4m3fn": ("F8_E4M3", "uint8"),
    "float8_e5m2": ("F8_E5M2", "uint8"),
}
DTYPES = {
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    **{code: name for name, (code, _) in BITS.items()},
    "BOOL": "bool",
    "C64": "complex64",
}


class Stored(NamedTuple):
    """An array of a file: its dtype by name, its shape, and what NumPy holds of it."""

    dtype: str
    shape: tuple[int, ...]
    array: np.ndarray


def save(folder: Path, arrays: dict, meta: dict[str, Any]) -> Path:
    """Write a nested dict of arrays and its `meta` (whatever JSON holds) to `folder`."""
    flat = {name: _stored(leaf) for name, leaf in tree.flatten(arrays).items()}
    signed = {"format": FORMAT, "digest": f"sha256:{UNSIGNED}", "meta": meta}
    pairs = [name for name, stored in flat.items() if stored.dtype == "complex128"]
    signed |= {"complex128": pairs} if pairs else {}
    content = safetensors.numpy.save(
        {name: stored.array for name, stored in flat.items()}, {"purenets": json.dumps(signed)}
    )
    codes = {name: BITS[stored.dtype][0] for name, stored in flat.items() if stored.dtype in BITS}
    content = _with_codes(content, codes)
    unsigned = f"sha256:{UNSIGNED}".encode()
    content = content.replace(unsigned, f"sha256:{hashlib.sha256(content).hexdigest()}".encode(), 1)
    path = Path(folder) / NAME
    write_atomically(path, content)
    described = {name: [stored.dtype, list(stored.shape)] for name, stored in flat.items()}
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
        signed = json.loads(json.loads(_header(content))["__metadata__"]["purenets"])
        flat, meta = _read(content, signed.get("complex128", ())), signed["meta"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged from error  # signed, but by nobody who writes checkpoints
    expected = tree.flatten(template)
    try:
        tree.check_flat(flat, {name: _stored(leaf) for name, leaf in expected.items()})
    except UserError as error:
        raise UserError(f"{path}: not of this model and optimizer: {error}") from error
    return tree.unflatten(
        {name: _loaded(flat[name], leaf) for name, leaf in expected.items()}, template
    ), meta


def _stored(leaf: Array) -> Stored:
    """Return a leaf as a file holds it."""
    name = str(getattr(leaf, "dtype", "")).removeprefix("torch.")
    if name in BITS:
        integer = BITS[name][1]
        bits = leaf.detach().cpu().contiguous().view(getattr(namespace(leaf), integer))
        return Stored(name, tuple(leaf.shape), np.array(np.asarray(bits)))
    array = np.array(to_host(leaf), order="C")
    if name == "complex128":
        pairs = array.reshape(*array.shape, 1).view(np.float64)
        return Stored(name, array.shape, pairs)
    return Stored(array.dtype.name, array.shape, array)


def _loaded(stored: Stored, leaf: Array) -> Array:
    """Return the array of a file as one of the library and device of `leaf`."""
    if stored.dtype not in BITS:
        return like(stored.array, leaf)
    xp = namespace(leaf)
    return xp.asarray(stored.array, device=leaf.device).view(leaf.dtype)


def _read(content: bytes, complex128: list[str]) -> dict[str, Stored]:
    """Return the arrays of a file by name."""
    flat = {}
    for name, view in safetensors.deserialize(content):
        dtype, shape = DTYPES[view["dtype"]], tuple(view["shape"])
        holds = BITS[dtype][1] if dtype in BITS else dtype
        array = np.frombuffer(view["data"], dtype=holds).reshape(shape).copy()
        if name in complex128:
            dtype, array = "complex128", array.view(np.complex128)[..., 0]
            shape = array.shape
        flat[name] = Stored(dtype, shape, array)
    return flat


def _with_codes(content: bytes, codes: dict[str, str]) -> bytes:
    """Return a safetensors file whose header calls the dtypes of some arrays otherwise."""
    if not codes:
        return content
    header = json.loads(_header(content))
    for name, code in codes.items():
        header[name]["dtype"] = code
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + len(_header(content)) :]


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
