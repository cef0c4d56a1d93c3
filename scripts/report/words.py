"""Numbers and lists as words."""

from collections.abc import Iterable

from scripts.report.results import SUPERSCRIPTS, in_powers

NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def listed(texts: Iterable[str]) -> str:
    """Return texts with commas and an "and" between them.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def in_words(n: int) -> str:
    """Return a small number as a word.

    >>> in_words(7), in_words(12)
    ('seven', '12')
    """
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def power_of_ten(value: float) -> str:
    """Return a small number as a digit times a power of ten.

    >>> power_of_ten(2.2e-8)
    '2 \u00d7 10\u207b\u2078'
    """
    digit, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", SUPERSCRIPTS))
    return f"{digit} \u00d7 10{raised}"


def in_digits(value: float) -> str:
    """Return a ratio with two significant digits, with a power of ten if it is far from 1.

    >>> in_digits(2.61), in_digits(5.5e-4)
    ('2.6', '5.5 \u00d7 10\u207b\u2074')
    """
    return f"{value:.2g}" if 0.1 <= value < 100 else in_powers(f"{value:.1e}")
