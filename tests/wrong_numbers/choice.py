"""What several tests accept: the right value, or a refusal of one line."""

from collections.abc import Callable

from purenets import UserError


def or_refused(f: Callable, *args):
    """f(*args), or None where that is refused."""
    try:
        return f(*args)
    except UserError:
        return None
