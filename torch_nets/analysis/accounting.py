"""Privacy accounting by Renyi differential privacy, for Poisson samples and normal noise.

After Mironov, Talwar, Zhang 2019, "Renyi differential privacy of the sampled Gaussian mechanism":
A(alpha), section 3.3, is computed for whole and for fractional orders alpha; the orders compose by
addition over the steps. The conversion to (epsilon, delta) is that of Balle et al. 2020,
"Hypothesis testing interpretations and Renyi differential privacy", theorem 21. The numbers are
those of Opacus' accountant "rdp".
"""

import functools
import itertools
import math

from purenets.core.base import UserError

ORDERS = (*(1 + i / 10 for i in range(1, 100)), *range(12, 64), 128, 256, 512)
MAX_NOISE = 1e6  # of `noise_for`; with so much no gradient is seen


def rdp_epsilon(steps: int, sample_rate: float, noise_multiplier: float, delta: float) -> float:
    """Return the smallest epsilon over all Renyi orders after some steps, 0 at least.

    Args:
        steps: how many Poisson-sampled steps.
        sample_rate: the probability that an example is in a batch.
        noise_multiplier: standard deviation of the noise in units of the clip.
        delta: of (epsilon, delta)-differential privacy.

    Returns:
        epsilon.

    Example:
        >>> from purenets.torch_nets.analysis.accounting import rdp_epsilon
        >>> round(rdp_epsilon(1000, 0.01, 1.0, 1e-5), 2)
        2.1

    Source:
        Mironov et al. 2019, arXiv 1908.10530; Balle et al. 2020, arXiv 1905.09982, theorem 21.
    """
    if steps == 0:
        return 0.0
    found = []
    for alpha in ORDERS:
        divergence = steps * renyi_divergence(alpha, sample_rate, noise_multiplier)
        gap = math.log((alpha - 1) / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)
        found.append(divergence + gap)
    return max(0.0, min(found))


@functools.lru_cache(maxsize=4096)
def renyi_divergence(alpha: float, q: float, sigma: float) -> float:
    """Return the Renyi divergence of one step.

    Args:
        alpha: the order, above 1.
        q: the probability that an example is in the batch, in (0, 1].
        sigma: standard deviation of the noise in units of the clip.

    Returns:
        The divergence; those of several steps add up.

    Example:
        >>> from purenets.torch_nets.analysis.accounting import renyi_divergence
        >>> renyi_divergence(2.0, 1.0, 1.0)  # alpha / (2 sigma^2) without sampling
        1.0

    Source:
        Mironov et al. 2019, arXiv 1908.10530, section 3.3.
    """
    if q == 1:
        return alpha / (2 * sigma**2)
    log_moment = _whole if float(alpha).is_integer() else _fractional
    return log_moment(alpha, q, sigma) / (alpha - 1)


def _whole(alpha: int, q: float, sigma: float) -> float:
    """Return log A(alpha) for a whole order.

    A(alpha) = sum_k C(alpha, k) (1-q)^(alpha-k) q^k exp((k^2-k) / (2 sigma^2)).
    """
    alpha = int(alpha)
    terms = [
        math.lgamma(alpha + 1) - math.lgamma(k + 1) - math.lgamma(alpha - k + 1)
        + k * math.log(q) + (alpha - k) * math.log1p(-q) + (k * k - k) / (2 * sigma**2)
        for k in range(alpha + 1)
    ]  # fmt: skip
    return log_sum(terms)


def _fractional(alpha: float, q: float, sigma: float) -> float:
    """Return log A(alpha) for a fractional order: two series, of the two sides of z0."""
    z0 = sigma**2 * math.log(1 / q - 1) + 0.5
    plus, minus, coefficient = [], [], 1.0
    for i in itertools.count():
        j = alpha - i
        size = math.log(abs(coefficient))
        below = size + i * math.log(q) + j * math.log1p(-q) + (i * i - i) / (2 * sigma**2)
        above = size + j * math.log(q) + i * math.log1p(-q) + (j * j - j) / (2 * sigma**2)
        below += log_erfc((i - z0) / (math.sqrt(2) * sigma)) - math.log(2)
        above += log_erfc((z0 - j) / (math.sqrt(2) * sigma)) - math.log(2)
        (plus if coefficient > 0 else minus).extend((below, above))
        if i > alpha and max(below, above) < -30:
            break
        coefficient *= j / (i + 1)
    total = log_sum(plus)
    return total + math.log1p(-math.exp(log_sum(minus) - total)) if minus else total


def log_sum(logs: list[float]) -> float:
    """Return log sum_i exp(x_i), without overflow.

    Args:
        logs: the numbers x_i.

    Returns:
        A float.

    Example:
        >>> from purenets.torch_nets.analysis.accounting import log_sum
        >>> round(log_sum([1000.0, 1000.0]), 4)  # 1000 + log 2
        1000.6931
    """
    largest = max(logs)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in logs))


def log_erfc(x: float) -> float:
    """Return log erfc(x), beyond 20 by its asymptotic series, where erfc underflows.

    Args:
        x: a number.

    Returns:
        A float.

    Example:
        >>> from purenets.torch_nets.analysis.accounting import log_erfc
        >>> log_erfc(0.0), round(log_erfc(100.0), 2)
        (0.0, -10005.18)
    """
    if x < 20:
        return math.log(math.erfc(x))
    y = 1 / (2 * x * x)
    series = math.log1p(-y + 3 * y**2 - 15 * y**3 + 105 * y**4)
    return -x * x - math.log(x * math.sqrt(math.pi)) + series


def smallest_noise(epsilon_of, target: float) -> float:
    """Return the smallest noise, to 4 digits, with epsilon_of(noise) <= target.

    Args:
        epsilon_of: a function that falls with the noise.
        target: the budget.

    Returns:
        The noise.

    Raises:
        UserError: no noise is enough.

    Example:
        >>> from purenets.torch_nets.analysis.accounting import smallest_noise
        >>> round(smallest_noise(lambda noise: 1 / noise, 0.5), 3)
        2.0
    """
    high = 1.0
    while epsilon_of(high) > target:
        high *= 2
        if high > MAX_NOISE:
            raise UserError(f"noise_for: no noise gives an epsilon of {target}; the least is more")
    low = high / 2 if high > 1 else 0.0
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon_of(middle) <= target else (middle, high)
    return high
