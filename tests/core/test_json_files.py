"""JSON that is read back: its digest, and the schemas that it is checked by."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError
from purenets.core.runs.json_files import encoded, read_json, write_json
from purenets.core.runs.schema import mismatch

CONTENT = {"rows": [{"seed": 1, "loss": 0.25, "name": "a"}], "n": 3}
SCHEMA = {"rows": [{"seed": int, "loss": float, "name": str}], "n": int}


def test_read_inverts_write(tmp_path):
    write_json(tmp_path / "a.json", CONTENT)
    assert read_json(tmp_path / "a.json", SCHEMA) == CONTENT


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path):
    path, good = tmp_path / "a.json", encoded(CONTENT)
    for place in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            with pytest.raises(UserError, match=r"a\.json: "):
                read_json(path, SCHEMA)
        path.write_bytes(good[:place])
        with pytest.raises(UserError, match=r"a\.json: "):
            read_json(path, SCHEMA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b"[" * 10**5, "nested too deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b"[]", "content: needs an object, not a list"),
        (b'{"n": 1}', "rows: is missing"),
        (b'{"n": 1, "rows": {}}', "rows: needs a list, not an object"),
        (b'{"n": true, "rows": []}', "n: needs an integer, not true or false"),
        (b'{"n": 1e999, "rows": []}', "n: needs an integer, not inf"),
        (b'{"n": 99999999999999999999999, "rows": []}', "n: needs an integer, not 999"),
        (
            b'{"n": 1, "rows": [{"seed": 1, "loss": NaN, "name": ""}]}',
            r"rows\[0\].loss: needs a finite number, not nan",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(tmp_path / "a.json", SCHEMA)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("pipe", "no regular file"), (".", "no regular"), ("none", "No such file")):
        with pytest.raises(UserError, match=why):
            read_json(tmp_path / name, SCHEMA)


def test_one_without_a_digest_is_taken_by_its_schema(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    assert read_json(tmp_path / "a.json", SCHEMA) == CONTENT


@pytest.mark.parametrize(
    ("value", "schema", "wrong"),
    [
        (None, (int, None), None),
        ("a", (int, None), "content: needs an integer, not a text"),
        ({"a": 1, "b": 2}, {str: int}, None),
        ({"a": 1, "b": "2"}, {str: int}, "b: needs an integer, not a text"),
        ({}, {"a?": int}, None),
        ({"a": "1"}, {"a?": int}, "a: needs an integer, not a text"),
        ({"a": [[1], [2.5]]}, {"a": [[int]]}, "a[1][0]: needs an integer, not 2.5"),
        (3, lambda value: "is odd" if value % 2 else None, "content: is odd"),
    ],
)
def test_schemas(value, schema, wrong):
    assert mismatch(value, schema) == wrong


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@given(anything)
def test_any_json_matches_or_is_told(value):
    wrong = mismatch(value, SCHEMA)
    assert wrong is None or (isinstance(wrong, str) and wrong)
