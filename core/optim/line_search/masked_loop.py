"""A loop that ends when it is done, where that can be seen, and that idles to its end elsewhere."""

from collections.abc import Callable

from purenets.core.optim.internals.arithmetic import choose
from purenets.core.optim.internals.hyper import is_readable
from purenets.core.scan import scan


def masked_loop(
    body: Callable[[dict], dict], carry: dict, n: int, masks_itself: bool = False
) -> dict:
    """Return `carry = body(carry)`, repeated while carry["running"] and at most `n` times.

    Under torch.compile and vmap there are always `n` iterations, whose results are not used once
    the loop is done: there each member of a batch ends at its own time. The numbers are the same.

    Args:
        body: returns a dict with the names, shapes and dtypes of its argument.
        carry: a nested dict of arrays; "running" is a truth value, a scalar array.
        n: the most iterations.
        masks_itself: `body` changes nothing that is used where "running" does not hold.
    """

    def step(carry, _):
        new = body(carry)
        return new if masks_itself else choose(carry["running"], new, carry), None

    if not is_readable(carry["running"]):
        return scan(step, carry, length=n)[0]
    for _ in range(n):
        if not carry["running"]:
            break
        carry = body(carry)
    return carry
