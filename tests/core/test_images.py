"""Folders of images: what is read, what is cached, and what is wrong with them."""

import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from purenets import UserError
from purenets.core.data import images

DRAW = np.random.default_rng(0)


def make(root, classes=("cat", "dog"), n=3, size=(6, 5), mode="RGB", suffix="png"):
    """DIR/{train,test}/CLASS/*.png of random pixels; returns the pixels (n, H, W, C) of train's first class."""
    first = None
    for part in ("train", "test"):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            shape = (n, size[1], size[0]) + ((3,) if mode == "RGB" else ())
            pixels = DRAW.integers(0, 256, shape, dtype=np.uint8)
            first = pixels if first is None else first
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(folder / f"{i}.{suffix}")
    return first


def test_a_folder_is_read_in_order(tmp_path):
    pixels = make(tmp_path)
    found = images.folder(tmp_path)
    (x, y), (test_x, test_y) = found.train, found.test
    assert found.classes == ("cat", "dog")
    assert x.shape == (6, 3, 5, 6)
    assert x.dtype == np.uint8
    assert np.array_equal(y, [0, 0, 0, 1, 1, 1])
    assert y.dtype == np.int64
    assert np.array_equal(x[:3].transpose(0, 2, 3, 1), pixels)
    assert len(test_x) == len(test_y) == 6


def test_the_second_time_it_comes_from_the_cache(tmp_path, monkeypatch):
    make(tmp_path)
    first = images.folder(tmp_path)
    monkeypatch.setattr(images, "_decoded", lambda *_: pytest.fail("decoded again"))
    again = images.folder(tmp_path)
    assert isinstance(again.train[0], np.memmap)
    assert np.array_equal(first.train[0], again.train[0])


@pytest.mark.parametrize("change", ["pixels", "more", "fewer", "size"])
def test_a_changed_source_is_decoded_again(tmp_path, change):
    make(tmp_path)
    images.folder(tmp_path)
    path = tmp_path / "train" / "cat" / "0.png"
    if change == "pixels":
        Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(path)
        os.utime(path, ns=(1, 1))
    elif change == "more":
        shutil.copy(path, path.with_name("9.png"))
    elif change == "fewer":
        path.unlink()
    found = images.folder(tmp_path, size=8 if change == "size" else 0)
    expected = {"pixels": (6, 3, 5, 6), "more": (7, 3, 5, 6), "fewer": (5, 3, 5, 6), "size": (6, 3, 8, 8)}
    assert found.train[0].shape == expected[change]
    assert change != "pixels" or (found.train[0][0] == 0).all()
    assert len(list((tmp_path / ".purenets").iterdir())) == 1  # the old cache is gone


def test_grey_and_large_images_and_jpegs_are_read(tmp_path):
    make(tmp_path / "gray", mode="L", classes=("a", "b", "c"))
    assert images.folder(tmp_path / "gray").train[0].shape == (9, 1, 5, 6)
    make(tmp_path / "large", size=(70, 50), suffix="jpg", classes=("a",))
    assert images.folder(tmp_path / "large", size=32).train[0].shape == (3, 3, 32, 32)


def test_a_kill_while_decoding_leaves_nothing_that_is_taken_for_whole(tmp_path, monkeypatch):
    make(tmp_path)
    abandoned = tmp_path / ".purenets" / "unfinished-999999999"
    abandoned.mkdir(parents=True)
    (abandoned / "train_x.npy").write_bytes(b"half")
    monkeypatch.setattr(images, "_decode_parts", lambda *_: sys.exit(9))
    with pytest.raises(SystemExit):
        images.folder(tmp_path)
    monkeypatch.undo()
    assert images.folder(tmp_path).train[0].shape == (6, 3, 5, 6)
    assert not abandoned.exists()


def wrong(tmp_path, how):
    make(tmp_path)
    train = tmp_path / "train"
    if how == "missing":
        shutil.rmtree(tmp_path / "test")
    elif how == "empty":
        shutil.rmtree(train)
        train.mkdir()
    elif how == "no images":
        shutil.rmtree(train / "cat")
        (train / "cat").mkdir()
    elif how == "classes":
        shutil.rmtree(tmp_path / "test" / "dog")
    elif how == "sizes":
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(train / "dog" / "1.png")
    elif how == "corrupt":
        path = train / "dog" / "1.png"
        path.write_bytes(path.read_bytes()[:60])
    elif how == "zero bytes":
        (tmp_path / "test" / "dog" / "1.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"test: cannot be read .* needs a folder for each class"),
        ("empty", "train: holds no class folders"),
        ("no images", "cat: holds no images"),
        ("classes", "the classes of train and test differ: dog is in one of them only"),
        ("sizes", r"1\.png: is 9 x 9, others are 6 x 5; resize all with --image_size"),
        ("corrupt", r"1\.png: cannot be decoded"),
        ("zero bytes", r"1\.png: cannot be decoded"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, how, message):
    wrong(tmp_path, how)
    with pytest.raises(UserError, match=message):
        images.folder(tmp_path)
    caches = tmp_path / ".purenets"
    assert not caches.exists() or list(caches.iterdir()) == []


def test_a_damaged_cache_is_named(tmp_path):
    make(tmp_path)
    images.folder(tmp_path)
    (cache,) = (tmp_path / ".purenets").iterdir()
    (cache / "train_x.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"the cache is damaged .* remove that folder"):
        images.folder(tmp_path)


def test_digits_are_always_there():
    found = images.digits()
    assert found.train[0].shape[1:] == (1, 8, 8)
    assert len(found.train[1]) + len(found.test[1]) == 1797
    assert set(found.test[1]) == set(range(10))


def test_mean_and_deviation_are_exact():
    x = DRAW.integers(0, 256, (2500, 3, 4, 5), dtype=np.uint8)
    x[:, 2] = 7
    mean, deviation = images.mean_and_deviation(x)
    assert np.allclose(mean, x.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(deviation[:2], x.std(axis=(0, 2, 3))[:2], rtol=1e-10)
    assert deviation[2] == 1  # constant


def test_digits_of_another_size():
    small, large = images.digits(), images.digits(32)
    assert large.train[0].shape == (len(small.train[1]), 1, 32, 32)
    assert np.array_equal(large.train[1], small.train[1])
    shrunk = large.train[0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    assert np.abs(shrunk - small.train[0][:, 0]).mean() < 15  # of 255
