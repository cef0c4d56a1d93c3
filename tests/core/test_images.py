"""Folders of images: what is read, what is cached, and what is wrong with them."""

import json
import os
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from purenets import UserError, random, runs
from purenets.core.data import image_cache, image_files, images

DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache for each test."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PURENETS_CACHE", str(place))
    return place


def entries(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def make(root, classes=("cat", "dog"), n=3, size=(6, 5), mode="RGB", suffix="png"):
    """DIR/{train,test}/CLASS/*.png of random pixels; returns the pixels (n, H, W, C) of train's
    first class.
    """
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
    monkeypatch.setattr(images, "decoded", lambda *_: pytest.fail("decoded again"))
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
    expected = {
        "pixels": (6, 3, 5, 6),
        "more": (7, 3, 5, 6),
        "fewer": (5, 3, 5, 6),
        "size": (6, 3, 8, 8),
    }
    assert found.train[0].shape == expected[change]
    assert change != "pixels" or (found.train[0][0] == 0).all()


def test_grey_and_large_images_and_jpegs_are_read(tmp_path):
    make(tmp_path / "gray", mode="L", classes=("a", "b", "c"))
    assert images.folder(tmp_path / "gray").train[0].shape == (9, 1, 5, 6)
    make(tmp_path / "large", size=(70, 50), suffix="jpg", classes=("a",))
    assert images.folder(tmp_path / "large", size=32).train[0].shape == (3, 3, 32, 32)


@pytest.mark.parametrize("suffix", ["jpe", "jif", "jfif"])
def test_jpegs_are_read_by_all_of_their_names(tmp_path, suffix):
    make(tmp_path)
    shutil.copy(tmp_path / "train" / "dog" / "1.png", tmp_path / "train" / "dog" / f"9.{suffix}")
    assert images.folder(tmp_path).train[0].shape == (7, 3, 5, 6)


def test_a_kill_while_decoding_leaves_nothing_that_is_taken_for_whole(tmp_path, cache, monkeypatch):
    make(tmp_path)

    def killed(files, size, into):
        (into / "train_x.npy").write_bytes(b"half")
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(images, "_decode_parts", killed)
        images.folder(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.name.split("-")[0] for path in entries(cache)] == ["unfinished"]
    assert images.folder(tmp_path).train[0].shape == (6, 3, 5, 6)
    assert len(entries(cache)) == 1
    assert not entries(cache)[0].name.startswith("unfinished")


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
    elif how == "loose":
        shutil.copy(train / "dog" / "1.png", train / "1.png")
    elif how == "deep":
        (train / "dog" / "a" / "b").mkdir(parents=True)
        shutil.copy(train / "dog" / "1.png", train / "dog" / "a" / "b" / "1.png")
    elif how == "other format":
        (train / "dog" / "1.tga").write_bytes(b"0")


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
        ("loose", r"train/1\.png: is of no class; move it into a folder of its class"),
        ("deep", "dog/a/b: is a folder with images; they lie directly in their class's"),
        ("other format", r"1\.tga: is no PNG or JPEG file; convert it"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, cache, how, message):
    wrong(tmp_path, how)
    with pytest.raises(UserError, match=message):
        images.folder(tmp_path)
    assert entries(cache) == []


def test_digits_are_always_there():
    found = images.digits()
    assert found.train[0].shape[1:] == (1, 8, 8)
    assert len(found.train[1]) + len(found.test[1]) == 1797
    assert set(found.test[1]) == set(range(10))


def test_no_digit_is_trained_on_and_tested():
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    found = images.digits()
    held_out = np.arange(1797) % 5 == 4
    for (x, y), rows in zip((found.train, found.test), (~held_out, held_out), strict=True):
        assert np.array_equal(x.reshape(-1, 64), np.round(pixels[rows] * (255 / 16)))
        assert np.array_equal(y, classes[rows])


def test_mean_and_deviation_are_exact():
    x = DRAW.integers(0, 256, (2500, 3, 4, 5), dtype=np.uint8)
    x[:, 2] = 7
    mean, deviation = images.channel_mean_std(x)
    assert np.allclose(mean, x.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(deviation[:2], x.std(axis=(0, 2, 3))[:2], rtol=1e-10)
    assert deviation[2] == 1  # constant


def test_digits_of_another_size():
    small, large = images.digits(), images.digits(32)
    assert large.train[0].shape == (len(small.train[1]), 1, 32, 32)
    assert np.array_equal(large.train[1], small.train[1])
    shrunk = large.train[0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    assert np.abs(shrunk - small.train[0][:, 0]).mean() < 15  # of 255


def test_channel_that_hardly_varies_has_an_exact_deviation():
    x = np.full((40, 1, 250, 250), 200, np.uint8)
    x[7, 0, 3, 5] = 201
    mean, deviation = images.channel_mean_std(x)
    p = 1 / x.size
    assert np.allclose(mean, 200 + p, rtol=1e-15)
    assert np.allclose(deviation, np.sqrt(p * (1 - p)), rtol=1e-9)


@pytest.mark.parametrize(
    "x", [np.zeros((2, 1, 3, 3)), np.zeros((0, 1, 3, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)]
)
def test_what_are_no_images_have_no_mean(x):
    with pytest.raises(UserError, match="needs uint8"):
        images.channel_mean_std(x)


# --- files that are not what most are -------------------------------------------------------------

GRAYS = np.array([[0, 1000, 20000, 65535]] * 4, np.uint16)
TOP_BLACK = np.r_[np.zeros((8, 16, 3), np.uint8), np.full((8, 16, 3), 255, np.uint8)]
COLORS = DRAW.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def folder_of(root, *saves):
    """A set of one class; each of `saves` gets the folder of its images in both parts."""
    for part in images.PARTS:
        (root / part / "a").mkdir(parents=True)
        for save in saves:
            save(root / part / "a")
    return images.folder(root)


def saved(image, name="0.png", **options):
    return lambda where: image.save(where / name, **options)


def first(root, *saves):
    return folder_of(root, *saves).train[0][0]


def test_16_bit_gray_image_keeps_its_grays(tmp_path):
    x = first(tmp_path, saved(Image.fromarray(GRAYS)))
    assert x.shape == (1, 4, 4)
    assert x[0, 0].tolist() == [0, 4, 78, 255]


def png_of_16_bits(x, kind):
    """The bytes of a PNG of (height, width, channels) uint16; kind 2 is RGB, 4 gray and alpha."""

    def chunk(name, content):
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)
    head = b"".join(n.to_bytes(4, "big") for n in x.shape[1::-1]) + bytes([16, kind, 0, 0, 0])
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_color_image_keeps_its_colors(tmp_path):
    content = png_of_16_bits(COLORS.astype(np.uint16) * 257, 2)
    x = first(tmp_path, lambda where: (where / "0.png").write_bytes(content))
    assert np.array_equal(x.transpose(1, 2, 0), COLORS)


def test_16_bit_gray_image_with_alpha_gives_its_upper_bits(tmp_path):
    content = png_of_16_bits(np.stack([GRAYS, np.full_like(GRAYS, 65535)], axis=2), 4)
    x = first(tmp_path, lambda where: (where / "0.png").write_bytes(content))
    assert np.array_equal(x, np.stack([GRAYS >> 8] * 3))


@pytest.mark.parametrize("kind", ["gray", "color", "gray and alpha"])
def test_values_of_8_bits_in_16_are_named(tmp_path, kind):
    """They would all be 0 or 1; one image that is light proves that the dark ones are meant."""
    alpha = np.full_like(GRAYS, 65535)
    dark = {
        "gray": lambda x: png_of_16_bits(x[..., None], 0),
        "color": lambda x: png_of_16_bits(np.stack([x] * 3, axis=2), 2),
        "gray and alpha": lambda x: png_of_16_bits(np.stack([x, alpha], axis=2), 4),
    }[kind]
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        (tmp_path / part / "cat" / "0.png").write_bytes(dark(GRAYS // 257))
        (tmp_path / part / "cat" / "1.png").write_bytes(dark(GRAYS // 513))
    with pytest.raises(UserError, match=r"train/cat/0.png: has 16 bits, .*; save 8-bit values"):
        images.folder(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "cat" / "1.png").write_bytes(dark(GRAYS))
    assert images.folder(tmp_path).train[0].max() == 255


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_fills_the_range(tmp_path, bits):
    image = Image.fromarray(np.array([[0, 255]] * 2, np.uint8))
    save = saved(image.convert("1")) if bits == 1 else saved(image.quantize(2), bits=bits)
    assert np.array_equal(first(tmp_path, save)[0], [[0, 255]] * 2)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_stands_as_viewers_show_it(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(
        np.array([[0, 80, 160], [240, 40, 200]], np.uint8), np.ones((16, 16), np.uint8)
    )
    x = first(tmp_path, saved(Image.fromarray(blocks), f"0.{suffix}", exif=exif))[0][8::16, 8::16]
    grid = blocks[8::16, 8::16]  # by the table of the EXIF standard
    right = [grid, grid[:, ::-1], grid[::-1, ::-1], grid[::-1], grid.T]
    right += [grid.T[:, ::-1], grid[::-1, ::-1].T, grid.T[::-1]]
    assert x.shape == right[orientation - 1].shape
    assert np.abs(x.astype(int) - right[orientation - 1]).max() <= 3


def test_palette_becomes_its_colors(tmp_path):
    image = Image.fromarray(COLORS).quantize(16)
    assert np.array_equal(
        first(tmp_path, saved(image)).transpose(1, 2, 0), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped(tmp_path, mode):
    image = Image.fromarray(COLORS).convert(mode[:-1])
    x = first(tmp_path, saved(image.convert(mode)))
    assert np.array_equal(np.squeeze(x.transpose(1, 2, 0)), np.asarray(image))


def transparent(mode):
    alpha = Image.fromarray(np.where(np.eye(16), 128, 255).astype(np.uint8))
    image = Image.fromarray(COLORS).convert(mode[:-1] if mode in ("LA", "RGBA") else "RGB")
    if mode in ("LA", "RGBA"):
        image.putalpha(alpha)
        return saved(image)
    if mode == "P":
        return saved(image.quantize(4), transparency=1)
    if mode == "I;16":
        return saved(Image.fromarray(GRAYS), transparency=1000)
    image = image.convert(mode)
    return saved(image, transparency=image.getpixel((3, 3)))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB", "I;16"])
def test_transparent_pixels_have_no_color_and_are_refused(tmp_path, mode):
    with pytest.raises(UserError, match=r"0\.png: has transparent pixels"):
        folder_of(tmp_path, transparent(mode))


def test_cmyk_photo_becomes_rgb(tmp_path):
    image = Image.fromarray(np.full((16, 16, 3), (200, 60, 20), np.uint8)).convert("CMYK")
    x = first(tmp_path, saved(image, "0.jpg", quality=100))
    assert np.abs(x.reshape(3, -1).T.astype(int) - [200, 60, 20]).max() <= 4


@pytest.mark.parametrize("order", [("0.png", "1.png"), ("1.png", "0.png")])
def test_one_color_image_among_gray_ones_keeps_its_colors(tmp_path, order):
    gray = Image.fromarray(COLORS).convert("L")
    found = folder_of(
        tmp_path, saved(gray, order[0]), saved(Image.fromarray(COLORS), order[1])
    ).train[0]
    right = [np.repeat(np.asarray(gray)[None], 3, 0), COLORS.transpose(2, 0, 1)]
    assert np.array_equal(found, right if order[0] == "0.png" else right[::-1])


def test_hidden_files_are_left_out(tmp_path):
    def add(where):
        (where / "._0.png").write_bytes(b"\0\5\x16\7Mac OS X")
        (where / ".0.png").write_bytes(b"")

    assert len(folder_of(tmp_path, saved(Image.fromarray(COLORS)), add).train[0]) == 1


def in_a_folder_below(where):
    (where / "more").mkdir()
    saved(Image.fromarray(COLORS))(where / "more")


LEFT_OUT = {
    "gif": saved(Image.fromarray(COLORS), "1.gif"),
    "webp": saved(Image.fromarray(COLORS), "1.WEBP"),
    "tiff": saved(Image.fromarray(COLORS), "1.tiff"),
    "below": in_a_folder_below,
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_image_that_would_be_left_out_is_named(tmp_path, name):
    with pytest.raises(
        UserError, match=r"1\.\w+: is no PNG or JPEG file|more: is a folder with images"
    ):
        folder_of(tmp_path, saved(Image.fromarray(COLORS)), LEFT_OUT[name])


def test_what_is_no_image_may_lie_beside_them(tmp_path):
    def add(where):
        (where / "notes.txt").write_text("by hand")
        (where / "masks").mkdir()
        (where / ".cache").mkdir()

    assert len(folder_of(tmp_path, saved(Image.fromarray(COLORS)), add).train[0]) == 1


ODD = {
    "an empty file": (lambda path: path.touch(), "the file is empty"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "a pipe": (os.mkfifo, "no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "a folder": (lambda path: path.mkdir(), "no regular file"),
    "text": (lambda path: path.write_text("no image"), "cannot be decoded"),
    **{
        kind: (
            lambda path, kind=kind: Image.fromarray(COLORS).save(path, kind),
            "cannot be decoded",
        )
        for kind in ("EPS", "GIF", "BMP", "TIFF", "PDF", "WEBP", "PPM", "TGA")
    },
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_png_or_jpeg_is_named_and_nothing_hangs(tmp_path, monkeypatch, odd):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("starts a program"))
    add, message = ODD[odd]
    raised = []

    def read():
        try:
            folder_of(tmp_path, saved(Image.fromarray(COLORS)), lambda where: add(where / "1.png"))
        except UserError as error:
            raised.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert not reader.is_alive()
    assert message in raised[0]
    assert "1.png" in raised[0] or odd == "a link to itself"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_file_that_ends_early_is_named_wherever_it_ends(tmp_path, suffix):
    path = tmp_path / f"0.{suffix}"
    Image.fromarray(COLORS).save(path)
    content, right = path.read_bytes(), image_files.decoded(str(path))
    for end in range(1, len(content), 7):
        path.write_bytes(content[:end])
        try:
            assert np.array_equal(image_files.decoded(str(path)), right)  # all pixels are there
        except UserError as error:
            assert path.name in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_file_name_that_is_not_utf_8_is_read(tmp_path):
    def save(where):
        Image.fromarray(COLORS).save(where / "0.png")
        os.rename(where / "0.png", os.fsencode(where) + b"/\xff.png")  # noqa: PTH104

    assert np.array_equal(first(tmp_path, save).transpose(1, 2, 0), COLORS)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_class_name_that_is_not_utf_8_is_refused_in_characters_that_print(tmp_path):
    make(tmp_path, classes=("a",))
    for part in images.PARTS:
        shutil.copytree(tmp_path / part / "a", os.fsdecode(os.fsencode(tmp_path / part) + b"/\xff"))
    with pytest.raises(UserError, match=r"udcff: the name of this class is not UTF-8") as caught:
        images.folder(tmp_path)
    str(caught.value).encode("ascii")


@pytest.mark.parametrize("size", [-1, 2.5, "8"])
def test_size_that_is_none_is_refused(tmp_path, size):
    for call in (lambda: images.folder(tmp_path, size), lambda: images.digits(size)):
        with pytest.raises(UserError, match="needs a positive integer"):
            call()


def test_path_with_a_nul_is_refused():
    with pytest.raises(UserError, match="cannot be read"):
        images.folder(Path("a\0b"))


# --- the cache ------------------------------------------------------------------------------------


def test_nothing_is_written_or_removed_beside_the_images(tmp_path):
    root, precious = tmp_path / "set", tmp_path / "precious"
    make(root)
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    (root / ".purenets").symlink_to(precious)
    before = sorted(tmp_path.rglob("*"))
    images.folder(root)
    Image.fromarray(COLORS[:5, :6]).save(root / "train" / "cat" / "0.png")
    images.folder(root)
    assert sorted(tmp_path.rglob("*")) == before
    assert (precious / "thesis.txt").read_text() == "mine"


def test_cache_keeps_what_it_did_not_write(tmp_path, cache):
    make(tmp_path)
    images.folder(tmp_path)
    (entry,) = entries(cache)
    mine = [cache / "mine", cache / f"unfinished-{entry.name}-mine"]
    for path in mine:
        path.mkdir()
        (path / "thesis.txt").write_text("mine")
    shutil.rmtree(entry)
    images.folder(tmp_path)
    assert all((path / "thesis.txt").read_text() == "mine" for path in mine)


def test_cache_stands_where_it_is_asked_for(tmp_path, cache):
    make(tmp_path / "set")
    found = images.folder(tmp_path / "set", cache=tmp_path / "set" / "cache")
    assert Path(found.train[0].filename).is_relative_to(tmp_path / "set" / "cache")
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere"
)
def test_read_only_set_is_read(tmp_path):
    make(tmp_path / "set")
    for path in [tmp_path / "set", *(tmp_path / "set").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert len(images.folder(tmp_path / "set").train[0]) == 6


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    make(tmp_path / "set")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PURENETS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        UserError, match=r"cannot be written .* environment variable PURENETS_CACHE"
    ):
        images.folder(tmp_path / "set")


def test_copy_of_a_set_is_not_decoded_again(tmp_path, monkeypatch):
    make(tmp_path / "one")
    right = images.folder(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(images, "decoded", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(images.folder(tmp_path / "two").train[0], right.train[0])


def test_pixel_that_changed_behind_length_and_time_is_seen(tmp_path):
    make(tmp_path)
    path = tmp_path / "train" / "cat" / "0.png"
    images.folder(tmp_path)
    about = path.stat()
    other = 255 - np.asarray(Image.open(path))
    Image.fromarray(other).save(path)
    content = path.read_bytes()
    path.write_bytes(content.ljust(about.st_size, b"\0")[: max(about.st_size, len(content))])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert np.array_equal(images.folder(tmp_path).train[0][0].transpose(1, 2, 0), other)


def damage(entry, how):
    x, y = np.load(entry / "train_x.npy"), np.load(entry / "train_y.npy")
    about = json.loads((entry / "about.json").read_text())
    if how == "bytes":
        (entry / "train_x.npy").write_bytes(b"damaged")
    elif how == "a pixel":
        x[3, 0, 2, 2] ^= 1
    elif how == "a label":
        y[0] = 1 - y[0]
    elif how == "a missing label":
        y = y[:-1]
    elif how == "a shape":
        x = x.reshape(6, 3, 6, 5)
    elif how == "a dtype":
        y = y.astype(np.int32)
    elif how == "half of a file":
        content = (entry / "test_x.npy").read_bytes()
        (entry / "test_x.npy").write_bytes(content[: len(content) // 2])
    elif how == "a missing file":
        (entry / "test_y.npy").unlink()
    elif how == "other classes":
        (entry / "about.json").write_text(json.dumps(about | {"classes": ["cow", "pig"]}))
    elif how == "no JSON":
        (entry / "about.json").write_text("{")
    if how != "bytes":
        np.save(entry / "train_x.npy", x)
        np.save(entry / "train_y.npy", y)


DAMAGES = ["bytes", "a pixel", "a label", "a missing label", "a shape", "a dtype", "half of a file"]


@pytest.mark.parametrize("how", [*DAMAGES, "a missing file", "other classes", "no JSON"])
def test_a_damaged_cache_is_named(tmp_path, cache, how):
    make(tmp_path)
    images.folder(tmp_path)
    damage(*entries(cache), how)
    with pytest.raises(UserError, match=r"the cache is damaged .* remove that folder"):
        images.folder(tmp_path)


def test_entry_of_another_set_is_found(tmp_path, cache):
    for name in ("one", "two"):
        make(tmp_path / name)
        images.folder(tmp_path / name)
        if name == "one":
            (one,) = entries(cache)
    (two,) = set(entries(cache)) - {one}
    shutil.rmtree(two)
    shutil.copytree(one, two)
    with pytest.raises(UserError, match="the cache is damaged"):
        images.folder(tmp_path / "two")


OPEN = """
import sys, time
from pathlib import Path
from purenets.core.data import images
plain = images._decode_parts
images._decode_parts = lambda *arguments: (plain(*arguments), time.sleep(0.5), print("decoded"))
print(images.folder(Path(sys.argv[1])).train[0].sum())
"""


def test_three_processes_open_one_new_set_at_once(tmp_path, cache):
    make(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    results = [
        (process.communicate(timeout=120), process.returncode)
        for process in [subprocess.Popen(command, **pipes) for _ in range(3)]
    ]
    assert [code for _, code in results] == [0, 0, 0], results
    lines = "".join(out for (out, _), _ in results).split()
    assert lines.count("decoded") == 1
    assert len(set(lines) - {"decoded"}) == 1
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_cache_is_in_the_folder_of_the_system(platform, monkeypatch):
    for name in ("PURENETS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    folder = image_cache.cache_folder()
    assert folder.is_relative_to(Path.home())
    assert folder.parts[-2:] == ("purenets", "images")


def test_images_that_are_sorted_by_class_are_shuffled_where_none_are_held_out():
    """The first of them determine statistics, and n_train keeps the first."""
    from purenets.torch_nets import images as torch_images

    x, y = np.arange(60, dtype=np.uint8).repeat(48).reshape(60, 3, 4, 4), np.repeat([0, 1, 2], 20)
    found = images.ImageDataset((x, y), (x[:3], y[::20]), ("a", "b", "c"))
    task = torch_images.prepare(found, random.key(0), 0.0, n_train=30)
    assert np.bincount(task.train[1], minlength=3).min() > 3
    whole = torch_images.prepare(found, random.key(0), 0.0)
    assert sorted(whole.train[0][:, 0, 0, 0].tolist()) == list(range(60))
    assert (whole.train[1] == whole.train[0][:, 0, 0, 0] // 20).all()
    mixed = found._replace(train=(x[::-1], y[::-1]))
    assert (torch_images.prepare(mixed, random.key(0), 0.0).train[1].numpy() == y[::-1]).all()
    with pytest.raises(UserError, match="n_train 61: there are 60 images to train on"):
        torch_images.prepare(found, random.key(0), 0.0, n_train=61)


@pytest.mark.parametrize(("bits", "grays"), [(10, 5), (12, 17)])
def test_a_loss_of_grays_is_warned_of(tmp_path, bits, grays):
    deep = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8, 1)
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        (tmp_path / part / "cat" / "0.png").write_bytes(png_of_16_bits(deep, 0))
    with pytest.warns(runs.RunWarning, match=rf"0\.png: has 16 bits, .* {grays} grays are left"):
        images.folder(tmp_path)
