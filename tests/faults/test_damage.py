"""A damaged file is refused in one clear line, before anything of it is used."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from purenets import UserError, init_state, optim, random, runs
from purenets.core.data import image_cache
from purenets.core.runs import checkpoint, laps, record
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.rotation import BEST
from purenets.numpy_nets import MLP
from scripts import mlp_sweep, run_full, train_mlp_numpy
from scripts.shared import result_files, schemas
from scripts.shared.images import RESULTS
from scripts.shared.training import PROBE, read_probe
from tests.faults.record import record as add
from tests.faults.record import scaled

KINDS = ("flipped", "cut", "grown", "zeroed", "swapped", "shuffled", "header")


@pytest.fixture
def saved(tmp_path):
    """A run's checkpoint, its state, and the checkpoint of a run of another net."""
    state = init_state(MLP(2, [20], 2), optim.adam(), random.key(0))._replace(step=np.int64(1))
    runs.save(tmp_path, state, [{"step": 1, "loss": 0.5}], {})
    other = tmp_path / "other"
    other.mkdir()
    runs.save(other, init_state(MLP(2, [21], 2), optim.adam(), random.key(0)), [], {})
    return tmp_path, state, (other / checkpoint.NAME).read_bytes()


def damaged(content: bytes, other: bytes, kind: str, draw: np.random.Generator) -> bytes:
    """The content with one thing wrong, at a random place."""
    place = int(draw.integers(len(content)))
    length = int(draw.integers(1, 64))
    if kind == "flipped":
        return (
            content[:place]
            + bytes([content[place] ^ (1 << int(draw.integers(8)))])
            + content[place + 1 :]
        )
    if kind == "cut":
        return content[:place]
    if kind == "grown":
        return content[:place] + draw.bytes(length) + content[place:]
    if kind == "zeroed":
        end = min(len(content), place + length)
        zeros = bytes(end - place)
        return (
            content[:place]
            + (zeros if content[place:end] != zeros else b"\xff" * (end - place))
            + content[end:]
        )
    if kind == "swapped":  # the end of another run's file
        return content[: len(content) // 2] + other[len(content) // 2 :]
    if kind == "header":  # a header that claims to be as long as it likes
        return int(draw.integers(2**62)).to_bytes(8, "little") + content[8:]
    middle = len(content) // 2
    return content[middle:] + content[:middle]


def test_every_damage_is_refused(saved):
    folder, state, other = saved
    path, draw, n = folder / checkpoint.NAME, np.random.default_rng(0), scaled(140, 1400)
    content, largest, refused = path.read_bytes(), 0, 0
    for i in range(n):
        path.write_bytes(damaged(content, other, KINDS[i % len(KINDS)], draw))
        tracemalloc.start()
        with pytest.raises(UserError, match=r"damaged or not a checkpoint of purenets") as error:
            runs.restore(folder, state)
        largest = max(largest, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        refused += 1
    assert largest < 20 * len(content)  # nothing is made of what a header claims
    path.write_bytes(other)
    with pytest.raises(UserError, match=r"fc1\.\w+: shape is \(21.*, expected \(20"):
        runs.restore(folder, state)
    path.write_bytes(content)
    restored, _, _ = runs.restore(folder, state)
    assert all(np.array_equal(restored.params[name], state.params[name]) for name in state.params)
    add("damaged checkpoints", tried=n, refused=refused, accepted=n - refused)


# --- every kind of file that is read back ---------------------------------------------------------


class Kind(NamedTuple):
    """A kind of file.

    Args:
        name: of the file.
        write: `write(path, i)` makes a good one, another for each i.
        read: what reads it back.
    """

    name: str
    write: Callable[[Path, int], object]
    read: Callable[[Path], object]


def found_of(i: int) -> dict:
    return {"loss": 0.5 + i, "accuracy": 0.25, "confusion": [[i, 1], [2, 3]], "classes": ["a", "b"]}


def run_of(i: int) -> dict:
    rows = [{"step": 10, "loss": 0.5 + i, "accuracy": 0.5, "valid_accuracy": 0.4}]
    about = {"setting": "best", "seed": i, "training_seconds": 1.5, "way": "float32"}
    return {**about, "test": found_of(i), "history": rows}


def cell_of(i: int) -> dict:
    accuracy = {"5": {"exhaustive": True, "by_seed": [0.5, 0.25 * i]}}
    history = [{"step": 10, "test_accuracy_0": 0.5}]
    about = {"setting": "default", "T": 5, "steps": 10, "seeds": [0, 1]}
    return {**about, "accuracy": accuracy, "history": history}


def compared_of(i: int) -> dict:
    case = {"dataset": "moons", "noise": None, "optimizer": "sgd", "batch_size": 32, "seed": i}
    reached = {"train_accuracy": 0.5, "test_accuracy": 0.25, "largest_difference": 1e-8}
    return {"backend": "numpy", "case": case, **reached}


def write_config(path: Path, i: int) -> None:
    path.unlink(missing_ok=True)
    with runs.open_run(train_mlp_numpy.Config(out=str(path.parent), seed=i)):
        pass


def write_run(path: Path, i: int) -> None:
    """A run of two checkpoints, of which `path` is one."""
    state = init_state(MLP(2, [3], 2), optim.sgd(0.1), random.key(i))
    rows = [{"step": step, "valid_loss": float(i + 1)} for step in (1, 2)]
    newest = runs.save(path.parent, state._replace(step=np.int64(1)), rows[:1], {})
    runs.save(path.parent, state._replace(step=np.int64(2)), rows, {}, newest=newest)


def read_rows(schema: dict) -> Callable[[Path], object]:
    return lambda path: result_files.read(path, schema, drafts=True)


def rows_writer(name: str, row_of: Callable[[int], dict]) -> Callable[[Path, int], object]:
    return lambda path, i: result_files.write(path, {"n": 2, name: [row_of(i), row_of(i + 1)]})


FILES = [
    Kind(checkpoint.NAME, write_run, checkpoint.read),
    Kind("checkpoint-1.safetensors", write_run, checkpoint.read),
    Kind(BEST, write_run, checkpoint.read),
    Kind(record.NAME, write_config, lambda path: runs.read_config(path.parent)),
    Kind(
        laps.TIME,
        lambda path, i: laps.write(path.parent, [{"step": 10, "seconds": 1.5 + i}]),
        lambda path: runs.timings(path.parent),
    ),
    Kind(
        PROBE,
        lambda path, i: write_json(path, {"seconds": {"float32": 0.5 + i}}),
        lambda path: read_probe(path.parent),
    ),
    Kind(
        RESULTS,
        lambda path, i: write_json(path, found_of(i)),
        lambda path: read_json(path, schemas.TEST),
    ),
    Kind(
        "cell.json",
        lambda path, i: write_json(path, cell_of(i)),
        lambda path: read_json(path, schemas.CELL),
    ),
    Kind(
        mlp_sweep.SWEEP,
        lambda path, i: write_json(path, {"rates": [0.1], mlp_sweep.ACCURACY: [[0.5, 0.25 * i]]}),
        lambda path: read_json(path, {mlp_sweep.ACCURACY: [[float]]}),
    ),
    Kind(
        run_full.DONE,
        lambda path, i: write_json(path, {"seconds": {"part1_sets": 60.5 + i}}),
        lambda path: run_full.read(path.parent),
    ),
    Kind("table.json", rows_writer("rows", compared_of), read_rows(schemas.COMPARISON)),
    Kind("part2_settings.json", rows_writer("rows", run_of), read_rows(schemas.SWEEP)),
    Kind("rnn_lengths.json", rows_writer("cells", cell_of), read_rows(schemas.CELLS)),
]


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.name)
def test_a_damaged_file_of_any_kind_is_refused(kind, tmp_path, capsys):
    path, other = tmp_path / "a" / kind.name, tmp_path / "b" / kind.name
    for i, place in enumerate((path, other)):
        place.parent.mkdir()
        kind.write(place, i)
    content, end_of_other = path.read_bytes(), other.read_bytes()
    kind.read(path)
    draw, n, refused = np.random.default_rng(0), scaled(21, 154), 0
    for i in range(n):
        wrong = damaged(content, end_of_other, KINDS[i % len(KINDS)], draw)
        if wrong in (content, end_of_other):  # whole, of one run or of the other
            continue
        path.write_bytes(wrong)
        with pytest.raises(UserError) as error:
            kind.read(path)
        assert len(str(error.value).splitlines()) == 1
        assert kind.name in str(error.value)
        refused += 1
    add(f"damaged {kind.name}", tried=refused, refused=refused, accepted=0, tracebacks=0)


@pytest.mark.parametrize("kind", FILES[3:], ids=lambda kind: kind.name)
def test_a_file_whose_content_is_something_else_is_refused(kind, tmp_path):
    """Right JSON, of any depth, but not what it should be; without a digest, and with a right
    one."""
    path = tmp_path / kind.name
    kind.write(path, 0)
    good = json.loads(path.read_text())
    wrong: list = [[], None, 3, "text", {}, {"rows": 1}, {"config": {"a": {"b": {"c": [1]}}}}]
    wrong += [
        {**good, name: odd} for name in good for odd in (None, {}, [[]], "x", {"a": {"b": 1}})
    ]
    tried = 0
    for content in wrong:
        if isinstance(content, dict):
            write_json(path, {k: v for k, v in content.items() if k != "digest"})
        else:
            path.write_text(json.dumps(content))
        tried += 1
        try:
            kind.read(path)  # what is only told to people may be anything
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            assert kind.name in str(error)
    path.write_text("[" * 10**5)
    with pytest.raises(UserError, match="nested too deep"):
        kind.read(path)
    add(f"other content: {kind.name}", tried=tried + 1, tracebacks=0)


def test_a_damaged_cache_of_images_is_refused(tmp_path):
    """Each of its files, and more often the first bytes of one, which say its dtype and shape."""
    for i, name in enumerate(("mine", "other")):
        cached_images(tmp_path, name, i)
    good, draw, counts = cached_images(tmp_path, "mine", 0), np.random.default_rng(2), Counter()
    names = (*image_cache.ARRAYS, image_cache.ABOUT)
    for i in range(scaled(100, 1000)):
        path = tmp_path / "mine" / names[i % len(names)]
        content, other = path.read_bytes(), (tmp_path / "other" / path.name).read_bytes()
        kind = KINDS[i // 2 % len(KINDS)]
        wrong = damaged_head(content, draw) if i % 2 else damaged(content, other, kind, draw)
        path.write_bytes(wrong)
        try:
            found = cached_images(tmp_path, "mine", 0)
            counts["accepted"] += not all(map(np.array_equal, found, good))
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            assert "the cache is damaged" in str(error)
            counts["refused"] += 1
        path.write_bytes(content)
        counts["tried"] += wrong != content
    add("damaged cache of images", **counts, tracebacks=0)
    assert counts["accepted"] == 0
    assert counts["refused"] > 0.9 * counts["tried"]  # the others say the same, as spaces in JSON


def damaged_head(content: bytes, draw: np.random.Generator) -> bytes:
    """The content with another byte among the first ones."""
    place = int(draw.integers(min(128, len(content))))
    return content[:place] + draw.bytes(1) + content[place + 1 :]


def cached_images(folder: Path, key: str, seed: int) -> list[np.ndarray]:
    """The arrays of an entry of a cache, made where it is missing."""

    def decode(into: Path) -> None:
        draw = np.random.default_rng(seed)
        for part in image_cache.PARTS:
            np.save(into / f"{part}_x.npy", draw.integers(256, size=(4, 1, 8, 8), dtype=np.uint8))
            np.save(into / f"{part}_y.npy", draw.integers(2, size=4))

    parts = image_cache.cached(folder, key, ("a", "b"), decode)
    return [array for part in parts for array in part]


def test_a_damaged_config_is_named(tmp_path):
    options = {"max_steps": 2, "out": str(tmp_path / "run")}
    train_mlp_numpy.train(train_mlp_numpy.Config(**options))
    path, draw = tmp_path / "run" / "config.json", np.random.default_rng(1)
    content, refused, n = path.read_bytes(), 0, scaled(40, 400)
    for _ in range(n):
        path.write_bytes(content[: int(draw.integers(len(content) - 3))])
        with pytest.raises(UserError, match="--out"):
            train_mlp_numpy.train(train_mlp_numpy.Config(**options, resume=True))
        refused += 1
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(UserError, match="--out"):
        train_mlp_numpy.train(train_mlp_numpy.Config(**options, resume=True))
    add("damaged config.json on resume", tried=n, refused=refused, accepted=n - refused)
