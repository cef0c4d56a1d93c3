"""Rows of results as JSON: one line for each, however much it holds."""

import json

PLACE = "@rows@"  # where the rows come
DIGITS = 6  # of a curve's values: more than a figure or a table shows


def rows_text(found: dict) -> str:
    """Return `found` as JSON in which each of its "rows" takes a line, so that curves of many
    epochs stay short and a new row is one new line.

    >>> print(rows_text({"rows": [{"seed": 0, "loss": [3, 2, 1]}], "n": 1}))
    {
     "rows": [
      {"seed": 0, "loss": [3, 2, 1]}
     ],
     "n": 1
    }
    """
    if not isinstance(found.get("rows"), list):
        return json.dumps(found, indent=1)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in found["rows"])
    text = json.dumps({**found, "rows": PLACE}, indent=1)
    return text.replace(f'"rows": "{PLACE}"', f'"rows": [\n{lines}\n ]', 1)


def rounded(rows: list[dict]) -> list[dict]:
    """Return a history, or laps, with DIGITS significant digits of each value.

    >>> rounded([{"step": 12345678, "loss": 0.123456789}])
    [{'step': 12345678, 'loss': 0.123457}]
    """
    return [{name: _short(value) for name, value in row.items()} for row in rows]


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
