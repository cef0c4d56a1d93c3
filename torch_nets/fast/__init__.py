"""Compiled and hand-written operations: the only place that may use private names of torch.

With the environment variable PURENETS_PLAIN=1 none of it is used, and everything gives the same
results within rounding, more slowly.
"""

import os

_ENABLED = os.environ.get("PURENETS_PLAIN") != "1"


def enabled() -> bool:
    """Return False if PURENETS_PLAIN=1 was set when torch_nets was imported."""
    return _ENABLED
