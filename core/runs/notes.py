"""Warnings about a run, which a script prints in one line each."""

import sys
import warnings

INSIDE = ("purenets", "contextlib")  # the modules whose lines say nothing to the caller


class RunWarning(UserWarning):
    """Something that a user should know about a run, which goes on all the same.

    Args:
        fact: what a script prints.
        advice: what an argument of a function can do about it, and no flag of a script.
    """

    def __init__(self, fact: str = "", advice: str = ""):
        super().__init__(f"{fact}; {advice}" if advice else fact)
        self.fact = fact


def warn(fact: str, advice: str = "") -> None:
    """Warn in one line, at the line of the caller of this package.

    Args:
        fact: what is to be known; characters that cannot be printed are escaped.
        advice: an argument that answers it. A script, which has no such flag, leaves it out.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in fact)
    warnings.warn(RunWarning(text, advice), stacklevel=_caller())


def _caller() -> int:
    """Return the `stacklevel` of the first frame outside of this package, for `warn`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and _root(frame.f_globals.get("__name__")) in INSIDE:
        frame, level = frame.f_back, level + 1
    return level


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]
