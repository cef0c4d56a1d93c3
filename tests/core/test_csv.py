"""Tables: what is read from a CSV file, and what is named as wrong in it."""

import codecs
import os

import numpy as np
import pytest

from purenets import UserError, data, evaluate, fit, init_state, make_step, optim, random
from purenets.core.runs.notes import RunWarning
from purenets.numpy_nets import MLP, grad_fn, metrics_fn

KEY = random.key(0)
ROWS = "".join(f"{i},{i % 2}\n" for i in range(100))


def read(folder, content: str | bytes, **options):
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return data.from_csv(path, KEY, **options)


def rows_of(task) -> int:
    return len(task.train[0]) + len(task.test[0])


def test_csv_is_read(tmp_path):
    rows = [f"{i / 7},{-i},{i % 3}" for i in range(30)]
    task = read(tmp_path, "\n".join(["a,b,class", *rows]))
    assert (task.n_features, task.n_classes) == (2, 3)
    assert len(task.train[1]) == 24


FORMS = {
    "a byte order mark": codecs.BOM_UTF8 + ROWS.encode(),
    "a byte order mark and names": codecs.BOM_UTF8 + b"x,class\n" + ROWS.encode(),
    "names": "x,class\n" + ROWS,
    "names in quotes": '"x","the ""class"", as a number"\n' + ROWS,
    "a comment of NumPy": "# x,class\n" + ROWS,
    "numbers in quotes": "".join(f'"{i}","{i % 2}"\n' for i in range(100)),
    "lines of Windows": ROWS.replace("\n", "\r\n"),
    "lines of old Macs": ROWS.replace("\n", "\r"),
    "empty lines": "\n\n" + ROWS.replace("\n", "\n\n") + "  \n",
    "no last line end": ROWS[:-1],
    "spaces": ROWS.replace(",", " ,\t "),
    "classes with a point": ROWS.replace("\n", ".0\n"),
    "exponents": "".join(f"{i}e0,{i % 2:.18e}\n" for i in range(100)),
    "signs": "".join(f"+{i},{i % 2}\n" for i in range(100)),
}


@pytest.mark.parametrize("form", FORMS)
def test_common_forms_of_a_table_give_the_same_set(tmp_path, form):
    task, right = read(tmp_path, FORMS[form]), read(tmp_path, ROWS)
    assert rows_of(task) == 100
    for found, expected in zip((*task.train, *task.test), (*right.train, *right.test), strict=True):
        assert np.array_equal(found, expected)


WRONG = {
    "names of classes": (
        "x,y,kind\n0.0,0.0,dog\n1.0,0.0,cat\n",
        "row 2 is not 3 numbers: 0.0,0.0,dog; class names must be numbered from 0",
    ),
    "one class": ("1,2,0\n2,3,0\n4,5,0\n", "all rows are of class 0, needs two classes or more"),
    "a word": ("1,2,0\n1,x,1\n", "row 2 is not 3 numbers: 1,x,1"),
    "a short row": ("1,2,0\n1,1\n", "row 2 is not 3 numbers"),
    "a long row": ("1,2,0\n1,1,1,1\n", "row 2 is not 3 numbers"),
    "the row after names and an empty line": ("a,b\n\n1,0\n1,x\n", "row 4 is not 2 numbers"),
    "a missing value": ("1,,0\n1,2,1\n", "row 1 is not 3 numbers: 1,,0"),
    "a trailing comma": ("1,2,0,\n1,2,1,\n", "row 1 is not 4 numbers: 1,2,0,"),
    "trailing commas after names": ("a,b,c,\n1,2,0,\n1,2,1,\n", "row 1 names no column 4"),
    "an index without a name": (",a,c\n0,1,0\n1,2,1\n", "row 1 names no column 1"),
    "names for fewer columns": ("a,c\n0,1,0\n1,2,1\n", "row 1 names 2 columns, row 2 has 3"),
    "names that are column numbers": ("0,1\n" + ROWS, "row 1 is 0,1: an example, or the numbers"),
    "names and years": (
        "2019,2020,class\n1,2,0\n1,2,1\n",
        "row 1 is not 3 numbers: 2019,2020,class",
    ),
    "semicolons": ("1.5;2.5;0\n1;2;1\n", "row 1 is not 2 numbers.*separated by commas, not ';'"),
    "semicolons after names": ("a;b;c\n1;2;0\n1;2;1\n", "row 1 is not 2 numbers.*not ';'"),
    "decimal commas": ("1,5;2,5;0\n1,5;2,5;1\n", "row 1 is not 3 numbers.*not ';'"),
    "tabs": ("1\t2\t0\n1\t2\t1\n", r"row 1 is not 2 numbers.*not '\\t'"),
    "an underscore": ("1_000,1\n" + ROWS, "row 1 is not 2 numbers: 1_000,1"),
    "a row of underscores": ("1_0,1_0\n" + ROWS, "row 1 is not 2 numbers"),
    "thousands": ('"1,000",1\n' + ROWS, "row 1 is not 2 numbers: 1,000,1"),
    "digits of another script": ("\u0661,1\n" + ROWS, "row 1 is not 2 numbers"),
    "single quotes": ("'1','0'\n'2','1'\n'3','0'\n", "row 2 is not 2 numbers"),
    "an open quote": ('"1,0\n' + ROWS, "row 101 cannot be read"),
    "nan": ("1,nan,0\n1,2,1\n", "row 1 has a value that is not finite: nan"),
    "a row of nan": ("nan,nan\n" + ROWS, "row 1 has a value that is not finite: nan"),
    "inf": (ROWS + "-inf,1\n", "row 101 has a value that is not finite: -inf"),
    "an overflow": (ROWS + "1e999,1\n", "row 101 has a value that is not finite: 1e999"),
    "a nan as class": (ROWS + "1,nan\n", "row 101 has a value that is not finite"),
    "a fraction as class": (
        "1,2,0.5\n1,2,1\n",
        "row 1: the last column must be the class.* not 0.5",
    ),
    "a negative class": ("1,2,0\n1,2,-1\n", "row 2: the last column must be the class.* not -1"),
    "a huge class": (
        ROWS + "1,1e300\n",
        r"row 101: the last column must be the class.* not 1e\+300",
    ),
    "a gap in the classes": ("5,1000000\n" + ROWS, "row 1 has class 1000000, but none has class 2"),
    "classes from 1": ("5,1\n6,2\n", "row 1 has class 1, but none has class 0"),
    "one column": ("1\n2\n", "row 1 is not 2 numbers"),
    "nothing": ("", "at least two rows"),
    "names only": ("a,b,c\n", "at least two rows"),
    "a NUL": (ROWS + "1\0,1\n", "row 101 holds a NUL"),
    "a NUL in a name": ("a\0,b\n" + ROWS, "row 1 holds a NUL"),
    "Latin-1": (ROWS.encode() + b"\xe9,1\n", "row 101 is no UTF-8 text"),
    "UTF-16": (ROWS.encode("utf-16"), "UTF-16 text.; save it as UTF-8"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_table_is_named_with_its_row(tmp_path, wrong):
    content, message = WRONG[wrong]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, content)
    assert "table.csv: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_first_row_is_what_the_caller_says(tmp_path):
    assert rows_of(read(tmp_path, "0,1\n" + ROWS, header=True)) == 100
    assert rows_of(read(tmp_path, "0,1\n" + ROWS, header=False)) == 101
    assert rows_of(read(tmp_path, "2019,class\n" + ROWS, header=True)) == 100


def test_classes_without_examples_are_there_if_the_caller_says_so(tmp_path):
    assert read(tmp_path, "5,3\n" + ROWS, n_classes=5).n_classes == 5
    with pytest.raises(
        UserError, match="row 1: the last column must be the class, an integer from 0 to 2"
    ):
        read(tmp_path, "5,3\n" + ROWS, n_classes=3)


def test_path_that_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "link.csv", "folder.csv", "missing.csv", "nul\0.csv"):
        with pytest.raises(UserError, match="cannot be read"):
            data.from_csv(tmp_path / name, KEY)


def test_sensor_that_moved_once_does_not_ruin_the_test_loss(tmp_path):
    draws, sensor = random.normal(random.key(0), (1000,)), np.full(1000, 14.62)
    sensor[7], draws[7] = 20.0, -draws[7]  # a row of the test part, by the key below
    table = np.c_[draws, sensor, draws > 0]
    np.savetxt(tmp_path / "sensor.csv", table, delimiter=",", fmt=["%.6f", "%.2f", "%d"])
    task = data.from_csv(tmp_path / "sensor.csv", random.key(1))
    net, optimizer = MLP(2, [20], 2), optim.sgd(0.1)
    state = init_state(net, optimizer, random.key(0))
    batches = data.batches(task.train, 32, random.key(0))
    state, _ = fit(make_step(grad_fn(net), optimizer), state, batches, steps=20)
    assert np.ptp(task.train[0][:, 1]) == 0
    assert evaluate(metrics_fn(net), state, task.test)["loss"] < 1


def test_a_table_of_a_regression_is_warned_of(tmp_path):
    rows = "".join(f"{i / 7},{i}\n" for i in range(40))
    with pytest.warns(RunWarning, match=r"40 of 40 classes have a single example \(0, 1, 2, ...\)"):
        read(tmp_path, rows)
    with pytest.warns(RunWarning, match=r"1 of 3 classes have a single example \(2\)"):
        read(tmp_path, ROWS + "1,2\n")
    assert read(tmp_path, rows, n_classes=40).n_classes == 40  # without a warning
