"""Image files that are not what most are."""

import os
import threading

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from purenets import UserError
from purenets.core.data import images
from tests.wrong_numbers.choice import or_refused

GRAY = np.array([[0, 1000, 20000, 65535]] * 4, np.uint16)
TOP_BLACK = np.r_[np.zeros((8, 16, 3), np.uint8), np.full((8, 16, 3), 255, np.uint8)]


def folder(root, save):
    """A set of two classes; `save(folder)` fills the folder of each class in both parts."""
    for part in images.PARTS:
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            save(root / part / name)
    return images.folder(root)


def beside_an_image(add):
    def save(where):
        Image.fromarray(TOP_BLACK).save(where / "0.png")
        add(where)

    return save


def gray_16_bit(root):
    return folder(root, lambda where: Image.fromarray(GRAY).save(where / "0.png")).train[0]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="read as RGB")
def test_16_bit_gray_image_has_one_channel(tmp_path):
    assert gray_16_bit(tmp_path).shape == (2, 1, 4, 4)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="all over 255 becomes 255")
def test_16_bit_gray_image_keeps_its_grays(tmp_path):
    row = gray_16_bit(tmp_path)[0, 0, 0].astype(int)
    assert np.abs(row - [0, 4, 78, 255]).max() <= 1


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the EXIF orientation is ignored")
def test_photo_stands_as_viewers_show_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees

    def save(where):
        Image.fromarray(TOP_BLACK).save(where / "0.jpg", exif=exif)

    assert folder(tmp_path, save).train[0][0, :, 0].mean() > 250


def test_file_of_macos_beside_an_image_is_left_out_or_named(tmp_path):
    def add(where):
        (where / "._0.png").write_bytes(b"\0\5\x16\7Mac OS X")

    _left_out_or_named(tmp_path, add, "._0.png")


def test_empty_file_is_left_out_or_named(tmp_path):
    _left_out_or_named(tmp_path, lambda where: (where / "1.png").touch(), "1.png")


@pytest.mark.xfail(strict=True, raises=FileNotFoundError, reason="a traceback")
def test_dangling_link_is_left_out_or_named(tmp_path):
    def add(where):
        (where / "1.png").symlink_to(where / "nowhere")

    _left_out_or_named(tmp_path, add, "1.png")


def _left_out_or_named(root, add, name):
    try:
        assert len(folder(root, beside_an_image(add)).train[0]) == 2
    except UserError as error:
        assert name in str(error)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="waits until somebody writes into it")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # while it hangs, the pipe is left open
def test_pipe_among_the_images_does_not_hang(tmp_path):
    read = threading.Thread(
        target=or_refused,
        args=(folder, tmp_path, beside_an_image(lambda where: os.mkfifo(where / "1.png"))),
        daemon=True,
    )
    read.start()
    read.join(1.5)
    hangs = read.is_alive()
    while read.is_alive():  # let it go
        for pipe in tmp_path.rglob("1.png"):
            try:
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads it
                continue
        read.join(0.05)
    assert not hangs


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="any format is opened")
def test_postscript_called_png_starts_no_other_program(tmp_path, monkeypatch):
    started = []

    def ghostscript(*args, **options):
        started.append(args)
        raise OSError("not in a test")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)

    def add(where):
        Image.fromarray(TOP_BLACK).save(where / "1.png", "EPS")

    or_refused(folder, tmp_path, beside_an_image(add))
    assert not started
