"""A damaged checkpoint is refused in one clear line, before anything of it is used."""

import json
import tracemalloc

import numpy as np
import pytest

from purenets import UserError, init_state, optim, random, runs
from purenets.core.runs import checkpoint
from purenets.numpy_nets import MLP
from tests.faults.record import record, scaled

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
    record("damaged checkpoints", tried=n, refused=refused, other=n - refused)


def test_a_damaged_config_is_named(tmp_path):
    from scripts import train_mlp_numpy

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
    record("damaged config.json", tried=n, refused=refused, other=n - refused)
