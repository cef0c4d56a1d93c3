"""Compiled and hand-written operations: the only place that may use private names of torch."""

import os


def enabled() -> bool:
    """Return False where the environment asks for plain torch (`PURENETS_PLAIN=1`): the same numbers, slower."""
    return os.environ.get("PURENETS_PLAIN") != "1"
