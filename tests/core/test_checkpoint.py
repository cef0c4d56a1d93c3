import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, tree
from purenets.core.runs import checkpoint
from purenets.core.runs.signed import UNSIGNED

ARRAYS = {
    "params": {"fc1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "opt_state": {"0": {}, "1": {"count": np.int64(3), "flag": np.array([True, False])}},
}
META = {"history": [{"step": 1, "loss": 0.1}], "text": "sha256:" + "0" * 64}


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path, ARRAYS, META)
    return tmp_path


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_load_inverts_save(tmp_path, convert):
    arrays = tree.map(convert, ARRAYS)
    checkpoint.save(tmp_path, arrays, META)
    loaded, meta = checkpoint.load(tmp_path, arrays)
    assert meta == META
    for a, b in zip(tree.leaves(arrays), tree.leaves(loaded), strict=True):
        assert type(b) is type(a)
        assert np.array_equal(a, b)
        assert a.dtype == b.dtype
    assert loaded["opt_state"]["0"] == {}


def test_arrays_that_are_not_contiguous_keep_their_order(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3).T}
    checkpoint.save(tmp_path, arrays, {})
    assert np.array_equal(checkpoint.load(tmp_path, arrays)[0]["a"], arrays["a"])


def test_the_json_beside_it_is_to_read(saved):
    text = json.loads((saved / "checkpoint.json").read_text())
    assert text["history"] == META["history"]
    assert text["arrays"]["params/fc1.weight"] == ["float32", [2, 3]]


def test_any_flipped_byte_is_refused(saved):
    path = saved / checkpoint.NAME
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        )
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load(saved, ARRAYS)


def test_any_cut_is_refused(saved):
    path = saved / checkpoint.NAME
    content = path.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load(saved, ARRAYS)
    path.write_bytes(content + b"x")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(saved, ARRAYS)


@given(st.binary(max_size=300))
def test_foreign_files_are_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("foreign")
    (folder / checkpoint.NAME).write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoint.load(folder, ARRAYS)


def test_a_checkpoint_of_another_net_is_named(saved):
    wider = {**ARRAYS, "params": {"fc1.weight": np.zeros((3, 3), np.float32)}}
    with pytest.raises(UserError, match=r"params/fc1.weight: shape is \(2, 3\), expected \(3, 3\)"):
        checkpoint.load(saved, wider)
    other = {**ARRAYS, "params": {"fc2.weight": np.zeros((2, 3), np.float32)}}
    with pytest.raises(UserError, match=r"missing params/fc2\.weight; unknown params/fc1\.weight"):
        checkpoint.load(saved, other)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(saved / "nowhere", ARRAYS)


def test_the_last_one_stays_when_writing_fails(saved, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("purenets.core.runs.files.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(saved, {**ARRAYS, "more": np.zeros(1000)}, {})
    monkeypatch.undo()
    assert checkpoint.load(saved, ARRAYS)[1] == META
    assert sorted(p.name for p in saved.iterdir()) == ["checkpoint.json", checkpoint.NAME]


def test_who_reads_the_last_one_is_not_disturbed(saved):
    """A new file takes its place: one that is open, or has another name too, stays as it is."""
    path, other = saved / checkpoint.NAME, saved / "other"
    other.hardlink_to(path)
    before = path.read_bytes()
    checkpoint.save(saved, {**ARRAYS, "more": np.zeros(1000)}, META)
    assert other.read_bytes() == before != path.read_bytes()


@pytest.mark.parametrize(
    "header", [b"", b"[]", b'{"__metadata__": {}}', b'{"__metadata__": {"purenets": "1"}}']
)
def test_a_file_that_is_signed_but_no_checkpoint_is_refused(tmp_path, header):
    """As a fuzzer makes it that watches the comparison of digests."""
    body = header + UNSIGNED.encode()
    content = len(body).to_bytes(8, "little") + body
    digest = hashlib.sha256(content).hexdigest().encode()
    (tmp_path / checkpoint.NAME).write_bytes(content.replace(UNSIGNED.encode(), digest))
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoint.load(tmp_path, ARRAYS)


def test_name_of_the_format_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match="a leaf cannot be named __metadata__"):
        checkpoint.save(tmp_path / "a.safetensors", {"__metadata__": np.zeros(1)}, {})
