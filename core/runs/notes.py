"""Warnings about a run, which a script prints in one line each."""

import warnings


class RunWarning(UserWarning):
    """Something that a user should know about a run, which goes on all the same."""


def warn(message: str) -> None:
    """Warn in one line; characters that cannot be printed are escaped."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    warnings.warn(text, RunWarning, stacklevel=3)
