"""JSON that is read back: written with a digest, read by one reader that checks it and a schema."""

import json
from pathlib import Path
from typing import Any

from purenets.core.base import UserError
from purenets.core.runs.files import write_atomically
from purenets.core.runs.rows import rows_text
from purenets.core.runs.schema import mismatch
from purenets.core.runs.signed import UNSIGNED, is_whole, sign

DIGEST = "digest"
MARKS = (b'"digest"', b"sha256:")  # one of them survives a damage that hits the other


def encoded(value: dict) -> bytes:
    """Return an object as JSON that ends with the digest of all of it; "rows" take a line each."""
    text = rows_text({**value, DIGEST: UNSIGNED})
    return sign((text + "\n").encode())


def write_json(path: Path, value: dict) -> None:
    """Write an object with its digest, whole or not at all."""
    write_atomically(path, encoded(value))


def read_json(path: Path, schema: Any, *, restore: str = "remove it or restore it") -> dict:
    """Return the object of a JSON file, without its digest.

    A file without any digest is taken by its schema alone: one from before they were written, or
    from elsewhere.

    Args:
        path: the path of the file.
        schema: what it has to look like (`schema.py`).
        restore: what to do about one that is wrong, for the message.

    Raises:
        UserError: one line that names the file and what is wrong with it.
    """
    return decoded(_bytes(Path(path), restore), schema, str(path), restore)


def decoded(content: bytes, schema: Any, name: str, restore: str = "restore it") -> Any:
    """Return the value of JSON in bytes, checked as `read_json` says; `name` begins a message."""
    if any(mark in content for mark in MARKS) and not is_whole(content):
        raise UserError(f"{name}: damaged, its digest is not that of its content; {restore}")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{name}: cannot be read as JSON ({reason}); {restore}") from error
    wrong = mismatch(value, schema)
    if wrong:
        raise UserError(f"{name}: {wrong}; {restore}")
    if isinstance(value, dict):
        value.pop(DIGEST, None)
    return value


def _bytes(path: Path, restore: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: cannot be read (no regular file); {restore}")
        return path.read_bytes()
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); {restore}") from error
