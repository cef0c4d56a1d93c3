from hypothesis import given
from hypothesis import strategies as st

from purenets.core.runs import history

cells = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False))
rows = st.lists(
    st.dictionaries(st.sampled_from(["step", "loss", "test_loss"]), cells, min_size=1), max_size=6
)


@given(rows)
def test_read_csv_inverts_write_csv(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    history.write_csv(path, rows)
    again = history.read_csv(path)
    assert again == rows
    assert [[type(v) for v in row.values()] for row in again] == [
        [type(row[k]) for k in again[i]] for i, row in enumerate(rows)
    ]


def test_column_leaves_out_rows_without_it():
    rows = [{"step": 0, "test_loss": 1.0}, {"step": 5, "test_loss": 0.5, "loss": 0.7}]
    assert history.column(rows, "loss") == ([5], [0.7])
