"""Rows of results as JSON: one line for each, however much it holds."""

import json

DIGITS = 6  # of a curve's values: more than a figure or a table shows


def rows_text(found: dict) -> str:
    """Return `found` as JSON whose "rows" take a line each, so that curves of many epochs stay
    short and a new row is one new line.

    >>> print(rows_text({"n": 1, "rows": [{"seed": 0, "loss": [3, 2, 1]}]}), end="")
    {
     "n": 1,
     "rows": [
      {"seed": 0, "loss": [3, 2, 1]}
     ]
    }
    """
    head = json.dumps({**found, "rows": []}, indent=1).removesuffix("[]\n}")
    lines = ",\n".join(f"  {json.dumps(row)}" for row in found["rows"])
    return f"{head}[\n{lines}\n ]\n}}\n"


def rounded(rows: list[dict]) -> list[dict]:
    """Return a history, or laps, with DIGITS significant digits of each value.

    >>> rounded([{"step": 12345678, "loss": 0.123456789}])
    [{'step': 12345678, 'loss': 0.123457}]
    """
    return [{name: _short(value) for name, value in row.items()} for row in rows]


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
