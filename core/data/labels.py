"""Labels as class numbers: names of classes, or integers that do not count from 0."""

import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from purenets.core.base import UserError
from purenets.core.runs.notes import warn

MEANT = "classes=[...] says that this is meant"
LONGEST = 30  # digits of a number of a class; more are a text
MISSING = ("na", "n/a", "#n/a", "nan", "none", "null", "?", "-")  # in lower case


def number_labels(
    labels: Sequence[str | int], classes: Sequence[str | int] | None, place: Callable[[int], str]
) -> tuple[np.ndarray, tuple]:
    """Return the class number of each label, and the classes in order.

    Args:
        labels: names, or integers.
        classes: all labels in the order of their numbers; None for the names that there are, in
            alphabetical order.
        place: from the index of a label to the words that begin a message about it.

    Returns:
        Class numbers (n,) int64, and the tuple of the classes.

    Raises:
        UserError: a label is none of the classes. Names that look alike are warned of, unless
            `classes` lists them.

    Example:
        >>> from purenets.core.data.labels import number_labels
        >>> number_labels(["dog", "cat", "dog"], None, str)
        (array([1, 0, 1]), ('cat', 'dog'))
    """
    given = classes is not None
    classes = tuple(classes) if given else tuple(sorted(set(labels)))
    if not given:
        _warn_of_doubtful_names(classes, labels, place)
    number = {_same(label): i for i, label in enumerate(classes)}
    found = [number.get(_same(label)) for label in labels]
    if None in found:
        i = found.index(None)
        raise UserError(f"{place(i)}: {labels[i]!r} is none of the classes {shown(classes)}")
    return np.array(found, np.int64), classes


def _same(label: str | int) -> str | int:
    """Return what labels have in common that mean the same class: 1, "1" and "1.0"."""
    if not isinstance(label, str):
        return int(label) if isinstance(label, int | np.integer) else label
    if "_" in label or not label.isascii():  # Python would read "1_0" as 10
        return label
    try:
        value = Decimal(label)  # exactly: a float has 53 bits
    except InvalidOperation:
        return label
    whole = value.is_finite() and value.adjusted() < LONGEST and value == value.to_integral_value()
    return int(value) if whole else label


def _warn_of_doubtful_names(names: tuple, labels: Sequence, place: Callable[[int], str]) -> None:
    """Warn of names that look alike, and of a name that usually marks a missing one."""
    by_look: dict[str, str] = {}
    first = list(labels).index
    for name in names:
        if not isinstance(name, str):
            continue
        look = _look(name)
        if look in MISSING:
            warn(f"{place(first(name))}: {name!r} counts as a class of its own", MEANT)
        if look in by_look:
            other = by_look[look]
            where = place(max(first(other), first(name)))  # where the second spelling comes up
            warn(f"{where}: {other!a} and {name!a} count as two classes", MEANT)
        by_look[look] = name


def _look(name: str) -> str:
    """Return what names have in common that differ only in case, spaces, or how Unicode spells
    them: as a letter and its accent, or with characters of no width.
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def expect_classes(function: str, classes: Any, n_classes: int | None = None) -> None:
    """Raise a UserError for an argument that is no list of different names or integers."""
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    right = "a list of the labels in the order of their numbers, as ['cat', 'dog'] or [1, 2, 3]"
    good = isinstance(classes, list | tuple) and len(classes) > 0
    if not good or not all(
        isinstance(label, str | int | np.integer) and not isinstance(label, bool)
        for label in classes
    ):
        raise UserError(f"{function}: classes is {shown(classes)}, needs {right}")
    same = [_same(label) for label in classes]
    twice = next((label for label in same if same.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"{function}: classes has {twice!r} twice, needs each label once")
    if n_classes is not None and n_classes != len(classes):
        raise UserError(
            f"{function}: n_classes is {n_classes}, but there are {len(classes)} labels; leave "
            "n_classes out, or list all labels in classes"
        )


def expect_names(labels: Sequence, name: str) -> list[str]:
    """Return the targets of an array of names as texts; a UserError names one that is none."""
    for i, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise UserError(f"{name}: target {i} is {label!r}, needs the name of a class")
    return [str(label) for label in labels]


def shown(classes: Any, most: int = 10) -> str:
    """Return labels as a message shows them, the first few of many."""
    if not isinstance(classes, list | tuple):
        return f"a {type(classes).__name__}" if len(repr(classes)) > 40 else repr(classes)
    texts = [repr(label.item() if hasattr(label, "item") else label) for label in classes[:most]]
    return f"[{', '.join(texts)}{', ...' if len(classes) > most else ''}]"
