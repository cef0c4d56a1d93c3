"""Checkpoints: one safetensors file, whole or not at all, never pickle; and a JSON beside it to
read.

The file alone is a checkpoint: its header holds the JSON `meta` and the SHA-256 of all its other
bytes, so that any damaged byte is found before anything is used. `checkpoint.json` is a copy of
`meta` for people.

What NumPy has no dtype for (bfloat16, float8) is held as its bits, and marked in the header as what
it is, so that `safetensors.torch` reads it too. safetensors has no complex128: its numbers are
stored as pairs (..., 2) of float64, and `complex128` in the header names them.

A part of a state without arrays has a name all the same: it tells one optimizer from another
(`core.optim.internals.kinds`). The header lists these names as `empty`. A checkpoint from before it
did has no such list, and is restored by its arrays alone.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from purenets.core import tree
from purenets.core.arguments import expect_dicts, expect_leaves, expect_paths
from purenets.core.arrays import expect_plain, like, namespace, to_host
from purenets.core.base import Array, UserError
from purenets.core.runs.files import write_atomically
from purenets.core.runs.schema import mismatch
from purenets.core.runs.signed import SIGNATURE, UNSIGNED, is_whole, sign

NAME = "checkpoint.safetensors"
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
DAMAGED = "damaged or not a checkpoint of purenets; restore it or start a new --out"


class Damaged(UserError):
    """A checkpoint that is not as it was written."""


class Stored(NamedTuple):
    """An array of a file: its dtype by name, its shape, and what NumPy holds of it."""

    dtype: str
    shape: tuple[int, ...]
    array: np.ndarray


class Flat(dict):
    """The arrays of a nested dict by name, each a `Stored`.

    Args:
        arrays: the arrays.
        empty: the names of the dicts without arrays; None if they are unknown.
    """

    def __init__(self, arrays: dict[str, Stored], empty: list[str] | None):
        super().__init__(arrays)
        self.empty = empty


def save(folder: Path, arrays: dict, meta: dict[str, Any]) -> Path:
    """Write a nested dict of arrays and its `meta` (whatever JSON holds) to `folder`."""
    expect_paths("checkpoint.save", folder=folder)
    expect_leaves("checkpoint.save", arrays=arrays)
    expect_dicts("checkpoint.save", meta=meta)
    flat = on_host(arrays)
    path = Path(folder) / NAME
    write_atomically(path, encoded(flat, meta))
    write_atomically(path.with_suffix(".json"), described(flat, meta))
    return path


def load(folder: Path, template: dict) -> tuple[dict, dict[str, Any]]:
    """Return the nested dict and the `meta` of `save`; see `load_file`."""
    expect_paths("checkpoint.load", folder=folder)
    expect_leaves("checkpoint.load", template=template)
    return load_file(Path(folder) / NAME, template)


def load_file(path: Path, template: dict, schema: Any = dict) -> tuple[dict, dict[str, Any]]:
    """Return the nested dict and the `meta` of a checkpoint.

    Args:
        path: the path of the file.
        template: a dict of the names, shapes and dtypes that are expected; each array comes back as
            its library and on its device.
        schema: what the `meta` has to look like (`schema.py`).

    Raises:
        UserError: it is of another model or optimizer; the leaf that differs is named.
        Damaged: it is damaged.
    """
    flat, meta = read(path, schema)
    expected = tree.flatten(template)
    try:
        tree.check_flat(flat, {name: _stored(leaf) for name, leaf in expected.items()})
        if flat.empty is not None:
            tree.check_names(dict.fromkeys(flat.empty), dict.fromkeys(_empty_parts(template)))
    except UserError as error:
        raise UserError(f"{path}: not of this model and optimizer: {error}") from error
    return tree.unflatten(
        {name: _loaded(flat[name], leaf) for name, leaf in expected.items()}, template
    ), meta


def read(path: Path, schema: Any = dict) -> tuple[Flat, dict[str, Any]]:
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
        signed = json.loads(json.loads(header)["__metadata__"]["purenets"])
        arrays, meta = _arrays(content, signed.get("complex128", ())), signed["meta"]
        flat = Flat(arrays, signed.get("empty"))
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
    found = SIGNATURE.search(_header_of(path))
    return found and found[1]


def last_row_of(path: Path) -> int | None:
    """Return the step of the last row of a checkpoint's history, by its header alone.

    None where there is no such file, it has no rows, or its header is damaged.
    """
    try:
        return json.loads(json.loads(_header_of(path))["__metadata__"]["purenets"])["meta"][
            "history"
        ][-1]["step"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _header_of(path: Path) -> bytes:
    """Return the header of a file, without a check; b"" where there is no such file."""
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return file.read(min(length, Path(path).stat().st_size))
    except OSError:
        return b""


# --- bytes ----------------------------------------------------------------------------------------


def on_host(arrays: dict) -> Flat:
    """Return a nested dict as flat arrays of their own memory, as a file holds them."""
    flat = tree.flatten(arrays)
    if "__metadata__" in flat:
        raise UserError(
            "checkpoint: a leaf cannot be named __metadata__, which safetensors reserves"
        )
    stored = {name: _stored(leaf) for name, leaf in flat.items()}
    return Flat(stored, _empty_parts(arrays))


def _empty_parts(arrays: dict, path: str = "") -> list[str]:
    """Return the names of the dicts that hold nothing, such as "opt_state/1"."""
    found = []
    for name, part in arrays.items():
        if isinstance(part, dict):
            found += _empty_parts(part, f"{path}{name}{tree.SEPARATOR}") if part else [path + name]
    return found


def encoded(flat: dict[str, Stored], meta: dict[str, Any]) -> bytes:
    """Return the bytes of a checkpoint, signed."""
    signed = {"format": FORMAT, "digest": UNSIGNED, "meta": meta}
    pairs = [name for name, stored in flat.items() if stored.dtype == "complex128"]
    signed |= {"complex128": pairs} if pairs else {}
    empty = getattr(flat, "empty", None)
    signed |= {} if empty is None else {"empty": empty}
    try:
        header = {"purenets": json.dumps(signed)}
    except (TypeError, ValueError) as error:
        raise UserError(f"checkpoint: meta cannot be written as JSON ({error})") from error
    content = safetensors.numpy.save({name: a.array for name, a in flat.items()}, header)
    codes = {name: BITS[stored.dtype][0] for name, stored in flat.items() if stored.dtype in BITS}
    return sign(_with_codes(content, codes))


def described(flat: dict[str, Stored], meta: dict[str, Any]) -> bytes:
    """Return `meta` and what arrays there are, as JSON for people."""
    arrays = {name: [a.dtype, list(a.shape)] for name, a in sorted(flat.items())}
    return json.dumps({**meta, "arrays": arrays}, indent=1).encode()


def _stored(leaf: Array) -> Stored:
    """Return a leaf as a file holds it."""
    expect_plain("checkpoint: a leaf", leaf)
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


def _arrays(content: bytes, complex128: list[str]) -> dict[str, Stored]:
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
