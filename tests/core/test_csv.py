"""Tables: what is read from a CSV file, and what is named as wrong in it."""

import codecs
import os
import warnings

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
    "spaces before quotes": "".join(f' "{i}", "{i % 2}"\n' for i in range(100)),
    "signs": "".join(f"+{i},{i % 2}\n" for i in range(100)),
}


@pytest.mark.parametrize("form", FORMS)
def test_common_forms_of_a_table_give_the_same_set(tmp_path, form):
    task, right = read(tmp_path, FORMS[form]), read(tmp_path, ROWS)
    assert rows_of(task) == 100
    for found, expected in zip((*task.train, *task.test), (*right.train, *right.test), strict=True):
        assert np.array_equal(found, expected)


WRONG = {
    "a name among numbers": (
        "x,y,kind\n0.0,0.0,dog\n1.0,0.0,1\n1.0,0.0,cat\n",
        r"line 3, column 3 \(kind\): '1' is a label beside 'dog': needs names in all rows or",
    ),
    "a number among names": (
        "1,2,0\n2,3,1\n4,5,one\n",
        "line 3, column 3: 'one' is a label beside '0'",
    ),
    "one class": ("1,2,0\n2,3,0\n4,5,0\n", "all rows are of class 0, needs two classes or more"),
    "one name": ("1,2,a\n2,3,a\n4,5,a\n", "all rows are of class a, needs two classes or more"),
    "a word": ("1,2,0\n1,x,1\n", "line 2, column 2: 'x' is not a number"),
    "a short row": ("1,2,0\n1,1\n", "line 2 has 2 columns, needs 3: 1,1"),
    "a long row": ("1,2,0\n1,1,1,1\n", "line 2 has 4 columns, needs 3: 1,1,1,1"),
    "the row after names and an empty line": (
        "a,b\n\n1,0\nx,1\n",
        r"line 4, column 1 \(a\): 'x' is not a number",
    ),
    "a missing value": ("1,,0\n1,2,1\n", "line 1, column 2: empty; fill it in"),
    "a missing value under a name": (
        "a,b,c\n1,2,0\n3,,1\n",
        r"line 3, column 2 \(b\): empty; fill it in, or remove the line",
    ),
    "a mark of a missing value": ("1,2,0\n1,?,1\n", "line 2, column 2: '\\?' is a missing value"),
    "a missing label": ("a,b\n1,x\n2,y\n3,\n", r"line 4, column 2 \(b\): empty, needs a label"),
    "a trailing comma": ("1,2,0,\n1,2,1,\n", "line 1, column 4: empty, needs a label"),
    "trailing commas after names": ("a,b,c,\n1,2,0,\n1,2,1,\n", "line 1 names no column 4"),
    "an index without a name": (",a,c\n0,1,0\n1,2,1\n", "line 1 names no column 1"),
    "an index that pandas names": ("Unnamed: 0,a,c\n0,1,0\n1,2,1\n", "line 1 names no column 1"),
    "missing values above names of classes": (
        "NA,?,dog\n1,2,cat\n3,4,dog\n",
        "line 1, column 1: 'NA' is a missing value",
    ),
    "decimal commas and names of classes": (
        "1,5;2;cat\n0,5;3;dog\n2,5;4;cat\n",
        "line 1, column 2: '5;2;cat' is no class.*delimiter=';'.* with a point",
    ),
    "a name twice": ("a,a,c\n0,1,0\n1,2,1\n", "line 1 names two columns 'a'"),
    "names for fewer columns": ("a,c\n0,1,0\n1,2,1\n", "line 1 names 2 columns, line 2 has 3"),
    "column numbers in another order": (
        "3,0,1,2\n1,5,2,2\n0,1,1,2\n",
        "line 1 is 3,0,1,2: an example, or the numbers",
    ),
    "column numbers with gaps": (
        "0,2,5\n0.5,1.5,1\n2.5,0.5,0\n",
        "line 1 is 0,2,5: an example, or the numbers",
    ),
    "names that are column numbers": ("0,1\n" + ROWS, "line 1 is 0,1: an example, or the numbers"),
    "names and years": (
        "2019,2020,class\n1,2,0\n1,2,1\n",
        "line 1, column 3: 'class' is a label beside '0'.* say header=True",
    ),
    "names and years above names of classes": (
        "2019,2020,class\n1,2,dog\n1,2,cat\n3,4,dog\n",
        "line 1, column 3: no other row has the label 'class'; if this line names .* header=True",
    ),
    "names with a number among them": (
        "a,2020,class\n1,2,0\n1,2,1\n",
        "line 1, column 1: 'a' is not a number; if this line names the columns, say header=True",
    ),
    "semicolons": ("1.5;2.5;0\n1;2;1\n", "line 1 has 1 column.*say delimiter=';', or save"),
    "semicolons after names": ("a;b;c\n1;2;0\n1;2;1\n", "line 1 has 1 column.*delimiter=';'"),
    "semicolons and names of classes": ("1;2;x\n1;2;y\n", "line 1 has 1 column.*delimiter=';'"),
    "decimal commas": ("1,5;2,5;0\n1,5;2,5;1\n", "line 1, column 2: '5;2' is not.*delimiter=';'"),
    "tabs": ("1\t2\t0\n1\t2\t1\n", r"line 1 has 1 column.*delimiter='\\t'"),
    "an underscore": ("1_000,1\n" + ROWS, "line 1, column 1: '1_000' is not a number"),
    "a row of underscores": ("1_0,1_0\n" + ROWS, "line 1, column 1: '1_0' is not a number"),
    "an underscore in a class": (ROWS + "1,1_0\n", "line 101, column 2: '1_0' is neither a number"),
    "a comma in a class": (ROWS + '1,"1,5"\n', "line 101, column 2: '1,5' is neither a number"),
    "a percentage as class": ("1,20%\n2,30%\n", "line 1, column 2: '20%' is neither a number"),
    "thousands": ('"1,000",1\n' + ROWS, "line 1, column 1: '1,000' is not a number"),
    "digits of another script": ("\u0661,1\n" + ROWS, "line 1, column 1: '\u0661' is not a number"),
    "single quotes": (
        "'1','0'\n'2','1'\n'3','0'\n",
        "line 2, column 1 .*: \"'2'\" is not a number",
    ),
    "an open quote": ('"1,0\n' + ROWS, "line 101 cannot be read"),
    "nan": ("1,nan,0\n1,2,1\n", "line 1, column 2: not finite: nan"),
    "a row of nan": ("nan,nan\n" + ROWS, "line 1, column 1: not finite: nan"),
    "inf": (ROWS + "-inf,1\n", "line 101, column 1: not finite: -inf"),
    "an overflow": (ROWS + "1e999,1\n", "line 101, column 1: not finite: 1e999"),
    "a nan as class": (ROWS + "1,nan\n", "line 101, column 2: not finite: nan"),
    "a fraction as class": (
        "1,2,0.5\n1,2,1\n",
        "line 1, column 3: the label must be a class, an integer from 0 on or a name, not 0.5",
    ),
    "a negative class": ("1,2,0\n1,2,-1\n", "line 2, column 3: the label must be a class.* not -1"),
    "a huge class": (
        ROWS + "1,1e300\n",
        r"line 101, column 2: the label must be a class.* not 1e\+300",
    ),
    "a gap in the classes": ("5,1000000\n" + ROWS, "class 1000000, but no row has class 2"),
    "classes from 1": (
        "5,1\n6,2\n",
        r"line 1, column 2: class 1, but no row has class 0.* or classes=\[1, 2\]",
    ),
    "one column": ("1\n2\n", "line 1 has 1 column, needs features and a label"),
    "nothing": ("", "at least two rows"),
    "names only": ("a,b,c\n", "at least two rows"),
    "a NUL": (ROWS + "1\0,1\n", "line 101 holds a NUL"),
    "a NUL in a name": ("a\0,b\n" + ROWS, "line 1 holds a NUL"),
    "Latin-1": (ROWS.encode() + b"\xe9,1\n", "line 101 is no UTF-8 text"),
    "UTF-16": (ROWS.encode("utf-16"), "UTF-16 text.; save it as UTF-8"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_table_is_named_with_its_line(tmp_path, wrong):
    content, message = WRONG[wrong]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, content)
    assert "table.csv: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_first_row_is_what_the_caller_says(tmp_path):
    assert rows_of(read(tmp_path, "0,1\n" + ROWS, header=True)) == 100
    assert rows_of(read(tmp_path, "0,1\n" + ROWS, header=False)) == 101
    assert rows_of(read(tmp_path, "0,1\n" + ROWS, header=np.False_)) == 101
    assert rows_of(read(tmp_path, "2019,class\n" + ROWS, header=True)) == 100


def test_classes_without_examples_are_there_if_the_caller_says_so(tmp_path):
    assert read(tmp_path, "5,3\n" + ROWS, n_classes=5).n_classes == 5
    with pytest.raises(
        UserError, match="line 1, column 2: the label must be a class, an integer from 0 to 2"
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
    some = r"\(0 in line 1, 1 in line 2, 2 in line 3, ...\)"
    with pytest.warns(RunWarning, match=rf"40 of 40 classes have a single example {some}"):
        read(tmp_path, rows)
    line = ROWS.count("\n") + 1
    with pytest.warns(RunWarning, match=rf"1 of 3 classes have a single .* \(2 in line {line}\)"):
        read(tmp_path, ROWS + "1,2\n")
    assert read(tmp_path, rows, n_classes=40).n_classes == 40  # without a warning


# --- names, labels of any kind, files of a test set -----------------------------------------------

PETS = "kind,length,weight\n" + "".join(
    f"{('dog', 'cat', 'ape')[i % 3]},{i},{i * i}\n" for i in range(30)
)


def test_names_are_numbered_in_alphabetical_order(tmp_path):
    task = read(tmp_path, PETS, label="kind")
    assert task.classes == ("ape", "cat", "dog")
    assert (task.n_features, task.n_classes) == (2, 3)
    x, y = task.train
    length = np.rint(x[:, 0] * task.std[0] + task.mean[0]).astype(int)
    assert np.array_equal(y, np.array([2, 1, 0])[length % 3])
    assert [*task] == [task.train, task.test, 2, 3]


@pytest.mark.parametrize("label", [0, -3, "kind"])
def test_any_column_may_be_the_label(tmp_path, label):
    found, right = read(tmp_path, PETS, label=label), read(tmp_path, PETS, label="kind")
    assert np.array_equal(found.train[0], right.train[0])
    assert np.array_equal(found.train[1], right.train[1])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_columns_may_be_separated_by_another_character(tmp_path, delimiter):
    found = read(tmp_path, ROWS.replace(",", delimiter), delimiter=delimiter)
    assert np.array_equal(found.train[0], read(tmp_path, ROWS).train[0])


def test_integers_that_do_not_count_from_0_are_listed(tmp_path):
    rows = "".join(f"{i + 5},{(1, 2, 9)[i % 3]}\n" for i in range(30))
    task = read(tmp_path, rows, classes=[1, 2, 9])
    assert (task.n_classes, task.classes) == (3, (1, 2, 9))
    assert np.array_equal(np.unique(task.train[1]), [0, 1, 2])
    assert read(tmp_path, rows.replace(",9", ",9.0"), classes=[9, 1, 2]).classes == (9, 1, 2)
    with pytest.raises(UserError, match=r"line 3, column 2: '9' is none of the classes \[1, 2\]"):
        read(tmp_path, rows, classes=[1, 2])


def test_two_files_are_standardized_by_the_first(tmp_path):
    (tmp_path / "test.csv").write_text("kind,length,weight\ncat,100,7\nbee,0,0\n")
    single = r"test.csv: 1 of 4 classes have a single example \(bee in line 3\)"
    with pytest.warns(RunWarning, match=single):
        task = read(tmp_path, PETS, label="kind", test=tmp_path / "test.csv")
    assert task.classes == ("ape", "bee", "cat", "dog")
    assert (len(task.train[1]), len(task.test[1])) == (30, 2)
    assert np.allclose(task.mean, [14.5, np.square(np.arange(30)).mean()])
    assert np.allclose(task.test[0][0], (np.array([100, 7]) - task.mean) / task.std)
    assert task.test[1].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("length,kind,weight\n1,cat,2\n", "the columns are length,kind,weight, but kind,length"),
        ("kind,length\ncat,2\n", "the columns are kind,length, but kind,length,weight in"),
        ("kind,length,weight\ncat,2\n", "line 1 names 3 columns, line 2 has 2"),
        ("kind,length,weight\ncat,2,x\n", r"line 2, column 3 \(weight\): 'x' is not a number"),
        ("kind,length,weight\n1,2,3\n", r"test.csv: line 2, column 1 \(kind\): '1' is a label"),
        ("", "test.csv: needs at least one row"),
    ],
)
def test_wrong_test_file_is_named(tmp_path, content, message):
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path, PETS, label="kind", test=tmp_path / "test.csv")


LINES = "".join(f"{i * i},{i},{('dog', 'cat')[i % 2]}\n" for i in range(20))


@pytest.mark.parametrize("names", ["0,1,kind\n", "2019,2020,kind\n"])
@pytest.mark.parametrize(
    ("of_train", "of_test", "where"),
    [(1, 1, "table.csv"), (0, 1, "test.csv"), (1, 0, "table.csv")],
)
def test_names_that_are_numbers_are_asked_about_in_either_file(
    tmp_path, names, of_train, of_test, where
):
    (tmp_path / "test.csv").write_text(of_test * names + LINES)
    with pytest.raises(UserError, match=f"{where}: line 1, column 3: no other row has the label"):
        read(tmp_path, of_train * names + LINES, test=tmp_path / "test.csv")


@pytest.mark.filterwarnings("ignore:.*are in the training file too")
def test_names_that_are_numbers_are_read_where_that_is_said(tmp_path):
    (tmp_path / "test.csv").write_text("0,1,kind\n" + LINES)
    for said in ({"header": True}, {"label": "kind"}):
        task = read(tmp_path, "0,1,kind\n" + LINES, test=tmp_path / "test.csv", **said)
        assert task.classes == ("cat", "dog")
        assert (len(task.train[1]), len(task.test[1])) == (20, 20)


@pytest.mark.filterwarnings("ignore:.*are in the training file too")
def test_rows_without_names_may_have_a_test_file(tmp_path):
    (tmp_path / "test.csv").write_text(LINES[: LINES.index("\n") + 1])
    assert len(read(tmp_path, LINES, test=tmp_path / "test.csv").test[1]) == 1
    (tmp_path / "test.csv").write_text("1,2,bee\n" + LINES)  # asked about, unless it is listed
    task = read(tmp_path, LINES, test=tmp_path / "test.csv", classes=["bee", "cat", "dog"])
    assert len(task.test[1]) == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "sort"}, "no column is named 'sort'; the columns are kind,length,weight"),
        ({"label": 3}, "label is column 3, but there are 3 columns"),
        ({"label": "kind", "header": False}, "is a name, but header=False"),
        ({"label": 0, "classes": ["cat", "cat"]}, "classes has 'cat' twice"),
        ({"label": 0, "classes": "cat"}, "classes is 'cat', needs a list of the labels"),
        ({"label": 0, "classes": []}, r"classes is \[\], needs a list of the labels"),
        ({"label": 0, "n_classes": 4}, "n_classes is 4, but there are 3 labels"),
        ({"delimiter": ",;"}, "delimiter is ',;', needs one character"),
        ({"test": "test.csv", "test_fraction": 0.5}, "test and test_fraction are given"),
    ],
)
def test_wrong_options_of_a_table_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, PETS, **options)


def test_a_split_needs_a_key(tmp_path):
    (tmp_path / "pets.csv").write_text(PETS)
    with pytest.raises(UserError, match="a split needs a key"):
        data.from_csv(tmp_path / "pets.csv", label="kind")


def test_integers_that_float64_cannot_hold_are_warned_of(tmp_path):
    rows = [f"{i % 2},{2**60 + 1001 * i},{i}" for i in range(20)]
    with pytest.warns(RunWarning, match=r"line 3, column 2 \(id\): 115.*: integers above 2\*\*53"):
        read(tmp_path, "\n".join(["class,id,x", *rows]), label="class")
    exact = [f"{i % 2},{2**60},{-(2.0**70)!r},{i}" for i in range(20)]  # nothing is rounded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, "\n".join(exact), label=0)


def test_names_that_may_be_a_mistake_are_warned_of(tmp_path):
    rows = "".join(f"{i},{('yes', 'no', 'No')[i % 3]}\n" for i in range(30))
    with pytest.warns(RunWarning, match="'No' and 'no' count as two classes"):
        read(tmp_path, rows)
    assert read(tmp_path, rows, classes=["no", "No", "yes"]).n_classes == 3  # without a warning
    with pytest.warns(RunWarning, match="'NA' counts as a class of its own"):
        read(tmp_path, rows.replace("No", "NA"))


@pytest.mark.parametrize("other", ["New  York", "new\xa0york", "new yo\u0308rk", "new york\u200b"])
def test_names_that_look_alike_are_warned_of(tmp_path, other):
    name = "new y\xf6rk" if "\u0308" in other else "new york"
    rows = "".join(f"{i},{(name, other, 'rome')[i % 3]}\n" for i in range(30))
    with pytest.warns(RunWarning, match="line 2, column 2: .* and .* count as two classes"):
        read(tmp_path, rows)


def test_first_column_that_counts_the_rows_is_warned_of(tmp_path):
    rows = [f"{i * i % 7},{i % 2}\n" for i in range(30)]
    indexed = "Id,a,c\n" + "".join(f"{i + 1},{row}" for i, row in enumerate(rows))
    with pytest.warns(RunWarning, match=r"line 2, column 1 \(Id\): this column counts the rows"):
        read(tmp_path, indexed)
    assert read(tmp_path, indexed, label=0, n_classes=31).n_features == 2  # without a warning


def test_a_warning_names_the_file_that_it_is_about(tmp_path):
    """The test file, where the doubtful label is only there; and both, where both have one."""
    other = tmp_path / "other.csv"
    other.write_text("kind,length,weight\n" + "Dog,1,1\nDog,2,4\n")
    with pytest.warns(RunWarning) as found:
        read(tmp_path, PETS, label="kind", test=other)
    where = f"{other}: line 2, column 1 (kind)"
    assert str(found[0].message).startswith(f"{where}: 'Dog' and 'dog' count as two classes")
    only = f"{other}: 1 of 4 classes have no example in the training part (Dog)"
    assert str(found[1].message).startswith(only)
    other.write_text("kind,length,weight\nbee,1,1\ncat,2,4\n")
    with pytest.warns(RunWarning) as found:
        read(tmp_path, PETS + "elk,1,1\n", label="kind", test=other)
    lone = [str(warning.message).split(":")[0] for warning in found]
    assert lone == [str(tmp_path / "table.csv"), str(other)]


def test_a_warning_points_to_the_line_of_the_caller(tmp_path):
    with pytest.warns(RunWarning) as found:
        read(tmp_path, PETS.replace("ape", "DOG"), label="kind")
    assert found[0].filename == __file__  # of `read`, which calls from_csv
    assert "classes=[...]" in str(found[0].message)
    assert "classes=" not in found[0].message.fact  # what a script prints: it has no such flag


@pytest.mark.parametrize(("shared", "warned"), [(10, True), (5, True), (4, False), (0, False)])
def test_a_test_file_of_training_rows_is_told(shared, warned, tmp_path):
    lines = [f"{i}.5,{i % 7}.25,{i % 2}" for i in range(30)]
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("\n".join(lines[:20]))
    test.write_text("\n".join([*lines[:shared], *lines[20 : 30 - shared]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.from_csv(train, test=test)
    told = [str(warning.message) for warning in caught]
    assert told == [f"{test}: {shared} of its 10 rows are in the training file too"] * warned
