"""How private a training is: Renyi differential privacy of Poisson-sampled steps with normal noise.

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
    """Return the smallest epsilon over all orders after `steps` steps; 0 if that is below 0."""
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
    """Return the Renyi divergence of order alpha > 1 of one step.

    Args:
        alpha: the order.
        q: the probability of each example to be in the batch, in (0, 1].
        sigma: the deviation of the noise, in units of the clip.
    """
    if q == 1:
        return alpha / (2 * sigma**2)
    log_moment = _whole if float(alpha).is_integer() else _fractional
    return log_moment(alpha, q, sigma) / (alpha - 1)


def _whole(alpha: int, q: float, sigma: float) -> float:
    """Return log A(alpha) for a whole order: sum_k C(alpha, k) (1-q)^(alpha-k) q^k e^((k^2-k)/2
    sigma^2)."""
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
    """Return log sum exp."""
    largest = max(logs)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in logs))


def log_erfc(x: float) -> float:
    """Return log erfc(x), beyond 20 by its asymptotic series."""
    if x < 20:
        return math.log(math.erfc(x))
    y = 1 / (2 * x * x)
    series = math.log1p(-y + 3 * y**2 - 15 * y**3 + 105 * y**4)
    return -x * x - math.log(x * math.sqrt(math.pi)) + series


def smallest_noise(epsilon_of, target: float) -> float:
    """Return the least noise, to 4 digits, with epsilon_of(noise) <= target.

    epsilon_of: falls with the noise.
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
