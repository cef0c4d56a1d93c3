"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from purenets.core.base import UserError


def folder_at(path: str) -> Path:
    """The folder of `--out`, made where it is missing."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be made ({error.strerror})") from error
    return Path(path)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Within the block no other process is in such a block of the same folder: it gets a UserError.
    The lock is the system's, so it is gone with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out {folder}: another process is training there; wait for it, or name "
                "another folder"
            ) from None
        yield
    finally:
        os.close(place)


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to the disk and rename it. What stood at
    `path` stays until the new content is complete, whatever happens."""
    path = Path(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); what stood there is kept"
        ) from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):  # gone where the rename succeeded
                Path(temporary).unlink()
