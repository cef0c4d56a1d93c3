"""Warnings about a run, which a script prints in one line each."""

import warnings


class RunWarning(UserWarning):
    """What a user should know of a run that goes on all the same."""


def warn(message: str) -> None:
    """Warn in one line; characters that cannot be printed are escaped."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    warnings.warn(text, RunWarning, stacklevel=3)
