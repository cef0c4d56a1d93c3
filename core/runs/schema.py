"""What JSON that is read back has to look like, written as an example of types.

    {"rows": [{"setting": str, "seed": int, "accuracy": (float, None)}]}

- a type: int (no boolean), float (a finite number, an integer too), str, bool, dict, list or None;
- [schema]: a list of such values; {str: schema}: an object of any names with such values;
- {"name": schema, "other?": schema, ...}: an object with at least these names; with a question
  mark it may be missing;
- (schema, schema, ...): one of them;
- a function of the value that returns what is wrong, or None.
"""

import math
from typing import Any

OPTIONAL = "?"
LARGEST = 2**64  # what no count, step or seed reaches
WORDS = {
    int: "an integer",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def mismatch(value: Any, schema: Any, place: str = "") -> str | None:
    """Return where and how a value differs from the schema, or None.

    >>> mismatch({"rows": [{"seed": 1}, {"seed": "2"}]}, {"rows": [{"seed": int}]})
    'rows[1].seed: needs an integer, not a text'
    """
    if schema is None or isinstance(schema, type):
        return None if _is_of(value, schema) else _needs(_words(schema), value, place)
    if isinstance(schema, tuple):
        return _of_any(value, schema, place)
    if isinstance(schema, list):
        return _of_list(value, schema[0], place)
    if isinstance(schema, dict):
        return _of_object(value, schema, place)
    wrong = schema(value)
    return wrong and f"{place or 'content'}: {wrong}"


def _is_of(value: Any, kind: type | None) -> bool:
    if kind is None:
        return value is None
    if kind is float and type(value) is float:
        return math.isfinite(value)
    if kind in (int, float):
        return type(value) is int and abs(value) < LARGEST
    return type(value) is kind


def _of_any(value: Any, schemas: tuple, place: str) -> str | None:
    wrongs = [mismatch(value, schema, place) for schema in schemas]
    return None if None in wrongs else wrongs[0]


def _of_list(value: Any, schema: Any, place: str) -> str | None:
    if type(value) is not list:
        return _needs("a list", value, place)
    wrongs = (mismatch(part, schema, f"{place}[{i}]") for i, part in enumerate(value))
    return next(filter(None, wrongs), None)


def _of_object(value: Any, schema: dict, place: str) -> str | None:
    if type(value) is not dict:
        return _needs("an object", value, place)
    inner = dict.fromkeys(value, schema[str]) if str in schema else schema
    wrongs = (_of_entry(value, name, part, place) for name, part in inner.items())
    return next(filter(None, wrongs), None)


def _of_entry(value: dict, name: str, schema: Any, place: str) -> str | None:
    short = name.removesuffix(OPTIONAL)
    found, here = name if name in value else short, f"{place}.{short}" if place else short
    if found not in value:
        return None if name.endswith(OPTIONAL) else f"{here}: is missing"
    return mismatch(value[found], schema, here)


def _needs(words: str, value: Any, place: str) -> str:
    have = WORDS.get(type(value), type(value).__name__)
    if type(value) in (int, float) and words in (WORDS[int], WORDS[float]):
        have = str(value)[:40]  # of the right kind, but not finite or too large
    return f"{place or 'content'}: needs {words}, not {have}"


def _words(kind: type | None) -> str:
    return WORDS[type(None) if kind is None else kind]
