"""Which kernel computes a float32 matrix product on a CPU: a rule by processor and shape.

oneDNN and torch's own library (MKL) differ in the last bits of a product, and which of them is
faster depends on the processor. Nothing is measured when a program runs: the rule of a processor is
in the table here. It is recorded in a run's `config.json` and obeyed when the run is resumed, on
whatever processor.
"""

from typing import NamedTuple

from purenets.core.base import UserError
from purenets.core.processor import cpu_info


class ProductRule(NamedTuple):
    """From how many multiplications on oneDNN computes a product.

    Args:
        min_multiplies: where calling it costs no more than calling torch.
        min_multiplies_operation: where it is called through an operation written in Python.
    """

    min_multiplies: int
    min_multiplies_operation: int


NEVER = 1 << 62
PRODUCT_RULES = {
    "oneDNN": ProductRule(1 << 20, 1 << 24),
    "oneDNN if large": ProductRule(1 << 24, 1 << 24),
    "torch": ProductRule(NEVER, NEVER),
}
# By vendor and family of the processor, as measured by `python -m benchmarks.products`; others
# leave all products to torch. Zen 5 computes 470 GFLOP/s by oneDNN and 190 by MKL; on Zen 4 MKL is
# ahead for products of 128 x 128 (82 to 62).
BY_PROCESSOR = {("AuthenticAMD", 26): "oneDNN", ("AuthenticAMD", 25): "oneDNN if large"}


def processor() -> tuple[str, int]:
    """Return the vendor and the family of this processor; ("", 0) where the system does not say."""
    return cpu_info().get("vendor_id", ""), int(cpu_info().get("cpu family", 0))


def default_rule_name() -> str:
    """Return the name of the rule of this processor."""
    return BY_PROCESSOR.get(processor(), "torch")


_chosen = [default_rule_name()]


def product_rule_name() -> str:
    """Return the name of the rule in force: the processor's, until `use_product_rule`."""
    return _chosen[-1]


def product_rule() -> ProductRule:
    """Return the rule in force."""
    return PRODUCT_RULES[_chosen[-1]]


def use_product_rule(name: str) -> None:
    """Let this process follow a rule by name: that of the run that is resumed.

    Raises:
        UserError: for a name that is none of PRODUCT_RULES.
    """
    if name not in PRODUCT_RULES:
        raise UserError(f"products: {name!r}, needs one of {', '.join(PRODUCT_RULES)}")
    _chosen[:] = [name]
