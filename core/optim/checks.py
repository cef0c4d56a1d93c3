"""Checks of arguments at the construction of an optimizer. Arrays and schedules pass unread."""

import math

from purenets.core.base import UserError


def check_hyper(
    name: str, value, least: float = -math.inf, most: float = math.inf, open_ends: bool = False
) -> None:
    """Raise a UserError unless a number lies between `least` and `most`.

    Args:
        name: how the message begins, such as "adafactor: d".
        value: a number; anything else, as an array or a schedule, is not looked at.
        least: the smallest number that is right.
        most: the largest one.
        open_ends: both bounds are wrong themselves.
    """
    if type(value) not in (int, float):
        return
    right = least < value < most if open_ends else least <= value <= most
    if not right:
        raise UserError(f"{name} is {value}, needs {_interval(least, most, open_ends)}")


def check_count(name: str, value, least: int = 1) -> None:
    """Raise a UserError unless `value` is an integer, `least` or larger."""
    if type(value) is not int or value < least:
        raise UserError(f"{name} is {value!r}, needs an integer, {least} or larger")


def _interval(least: float, most: float, open_ends: bool) -> str:
    if most == math.inf:
        return f"a number over {least}" if open_ends else f"a number, {least} or larger"
    if least == -math.inf:
        return f"a number under {most}" if open_ends else f"a number, {most} or smaller"
    words = ("between", "and") if open_ends else ("from", "to")
    return f"a number {words[0]} {least} {words[1]} {most}"
