"""Files that are written whole or not at all, their modes, and what killed writes leave."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from purenets import UserError
from purenets.core.report import plots
from purenets.core.runs import files

ROOT = Path(__file__).parents[2]
KILLED = """
import os, sys
from pathlib import Path
from purenets.core.runs import files

def fill(file, content):
    file.write(content[: len(content) // 2])
    file.flush()
    os._exit(9)

files._fill = fill
files.write_atomically(Path(sys.argv[1]), b"new content")
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def killed_half_way(path: Path) -> None:
    """Write to a path in a process that ends half-way, as by SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment)
    assert done.returncode == 9


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write_atomically(tmp_path / "a", b"a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_the_next_start_removes_what_a_killed_write_left(tmp_path):
    files.write_atomically(tmp_path / "a", b"old content")
    killed_half_way(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old content"
    assert len(names(tmp_path)) == 2
    files.remove_unfinished(tmp_path)
    assert names(tmp_path) == {"a"}


def test_nothing_else_is_removed(tmp_path):
    kept = [".a", ".a.0123456789abcdef", "a.0123456789abcdef.purenets-tmp", ".hidden.tmp"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".b.0123456789abcdef.purenets-tmp").mkdir()
    (tmp_path / ".c.0123456789abcdef.purenets-tmp").symlink_to(tmp_path / ".a")
    before = names(tmp_path)
    files.remove_unfinished(tmp_path)
    assert names(tmp_path) == before
    (tmp_path / ".d.0123456789abcdef.purenets-tmp").touch()
    files.remove_unfinished(tmp_path, ("e",))  # other files' writes may go on
    assert names(tmp_path) == before | {".d.0123456789abcdef.purenets-tmp"}
    files.remove_unfinished(tmp_path / "nowhere")


def test_a_link_keeps_what_stood_there_when_its_source_is_written(tmp_path):
    files.write_atomically(tmp_path / "a", b"1")
    files.link_atomically(tmp_path / "a", tmp_path / "b")
    files.link_atomically(tmp_path / "a", tmp_path / "b")  # again, which rename does not undo
    files.write_atomically(tmp_path / "a", b"2")
    assert (tmp_path / "b").read_bytes() == b"1"
    assert names(tmp_path) == {"a", "b"}


def test_without_hard_links_a_copy_is_made(tmp_path, monkeypatch):
    def none(source, path):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", none)
    files.write_atomically(tmp_path / "a", b"1")
    files.link_atomically(tmp_path / "a", tmp_path / "b")
    files.write_atomically(tmp_path / "a", b"2")
    assert (tmp_path / "b").read_bytes() == b"1"
    assert names(tmp_path) == {"a", "b"}


def test_a_file_of_results_is_one_process_at_a_time(tmp_path):
    path = tmp_path / "results" / "rows.json"
    with (
        files.exclusive_file(path),
        pytest.raises(UserError, match=r"--results .*rows\.json: another process"),
        files.exclusive_file(path),
    ):
        pass
    killed_half_way(path)
    with files.exclusive_file(path):
        assert names(path.parent) == {".rows.json.lock"}
    with files.exclusive_file(None):  # nothing to write
        pass


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_a_name_that_cannot_be_is_told_in_one_line(tmp_path, name):
    with pytest.raises(UserError, match="cannot be written"):
        files.write_atomically(tmp_path / name, b"")
    with pytest.raises(UserError, match=r"--out .*: cannot be made"):
        files.folder_at(tmp_path / name)


def test_a_folder_that_is_missing_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file"):
        with pytest.raises(UserError, match=rf"a: cannot be written \(.*{name} is no folder\)$"):
            files.write_atomically(tmp_path / name / "a", b"")


def test_a_figure_is_whole_or_not_there(tmp_path, monkeypatch):
    figure, _ = plots.panels(1, 1)
    plots.save(figure, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    full_disk = r"\.png: cannot be written \(No space left on device\)"
    with pytest.raises(UserError, match=rf"a{full_disk}; what stood there is kept$"):
        plots.save(figure, tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"b{full_disk}$"):  # nothing stood there
        plots.save(figure, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert names(tmp_path) == {"a.png"}
