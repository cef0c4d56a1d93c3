"""Folders and locks, and files that are written whole or not at all."""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from purenets.core.arguments import expect_paths
from purenets.core.base import UserError

LOCK = ".lock"  # stays in its folder: to remove it would be a race
UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.purenets-tmp")


def folder_at(path: str | Path, flag: str = "--out") -> Path:
    """Return a folder that `flag` names, made where it is missing."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a ValueError: a NUL in the path
        raise UserError(f"{flag} {path}: cannot be made ({_reason(error)})") from error
    return Path(path)


def is_folder(path: str | Path) -> bool:
    """Return True if there is a folder, False for what no system takes as a path."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def exclusive_lock(folder: Path, name: str = LOCK, flag: str = "--out") -> Iterator[None]:
    """Exclude every other process from such a block of the same folder: it gets a UserError.

    The lock is the system's, so it is gone with its process, however that ends.

    Args:
        folder: where the lock's file lies.
        name: the name of the lock's file.
        flag: what names the folder, for the message.
    """
    from filelock import FileLock, Timeout

    path = Path(folder)
    shown = path if name == LOCK else path / name.removeprefix(".").removesuffix(".lock")
    lock = FileLock(path / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{flag} {shown}: another process is training there; wait for it, or name another"
        ) from None
    except (OSError, NotImplementedError, ValueError) as error:  # a ValueError: no name of a file
        raise UserError(f"{flag} {shown}: cannot be locked ({_reason(error)})") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive_file(path: str | Path | None, flag: str = "--results") -> Iterator[Path | None]:
    """Exclude other processes from a file that is read, and later written with more in it.

    What a killed process left of a write of it is removed. Yields its path; None for None, where
    there is nothing to exclude from. Its name ends in .json, since tables are written beside it.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    if path.suffix != ".json":
        raise UserError(f"{flag} {path}: is written as JSON; needs a name that ends in .json")
    folder_at(path.parent, flag)
    with exclusive_lock(path.parent, f".{path.name}.lock", flag):
        remove_unfinished(path.parent, (path.name, path.with_suffix(".md").name))
        yield path


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to the disk and rename it.

    What stood at `path` stays until the new content is complete, whatever happens. A temporary file
    that a killed process leaves is removed by `remove_unfinished`.
    """
    path = Path(path)
    with _errors_named(path):
        temporary = _temporary(path)
        try:
            # 0o666 less the umask, which mkstemp would not ask
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
                _fill(file, content)
                file.flush()
                os.fsync(file.fileno())
            _rename(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # gone where the rename succeeded
                temporary.unlink()


def link_atomically(source: Path, path: Path) -> None:
    """Let `path` be the file that `source` is now, as a second name of it where that is possible.

    A later `write_atomically` to `source` leaves it as it is.
    """
    path = Path(path)
    with _errors_named(path):
        temporary = _temporary(path)
        try:
            os.link(source, temporary)
        except (OSError, NotImplementedError, AttributeError):  # not on every file system
            write_atomically(path, Path(source).read_bytes())
            return
        try:
            _rename(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # also left where both were one file already
                temporary.unlink()


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, as `open_run` takes it for a run's data.

    Args:
        path: the path of the file.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> from purenets import runs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "set.csv"
        ...     _ = path.write_text("1.5,0\\n2.5,1\\n")
        ...     runs.file_digest(path)[:16]
        '45b60ffdd70b1579'
    """
    expect_paths("file_digest", path=path)
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
            raise UserError(f"{path}: cannot be read (no regular file)")
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error


def remove_unfinished(folder: Path, names: tuple[str, ...] | None = None) -> None:
    """Remove what killed processes left of `write_atomically` in a folder.

    Call it under the folder's lock, or of `names` under a lock of theirs: nobody writes them then.
    Files of other names are never touched.
    """
    with contextlib.suppress(OSError):
        for entry in sorted(Path(folder).iterdir()):
            found = UNFINISHED.fullmatch(entry.name)
            mine = found and (names is None or found["name"] in names)
            if mine and entry.is_file() and not entry.is_symlink():
                entry.unlink()


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.purenets-tmp"


def _fill(file, content: bytes) -> None:
    file.write(content)


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = _reason(error) if is_folder(path.parent) else f"{path.parent} is no folder"
        kept = "; what stood there is kept" if os.path.lexists(path) else ""
        raise UserError(f"{path}: cannot be written ({reason}){kept}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
