"""Losses of outputs and targets: scalars, the mean over the batch.

    classes      cross_entropy, label_smoothed(amount), focal(gamma)
    yes or no    binary_cross_entropy, binary_focal(gamma)
    numbers      mse, huber(delta)

Shapes and dtypes are checked here. The values of labels are read on a CPU in eager mode only: on
another device that would make every step wait. A class that does not exist is refused by torch's
kernel (on a CPU with one line, on a GPU by a device assert); no class number is taken as "ignore
this example".
"""

import functools
import math
import re
from collections.abc import Callable
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from purenets.core.arguments import (
    ANY,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    expect_numbers,
    expect_reals,
)
from purenets.core.arrays import widened
from purenets.core.base import UserError
from purenets.core.data.checks import (
    are_class_indices,
    expect_distributions,
    expect_real_outputs,
    expect_yes_or_no,
)
from purenets.core.other_names import refuse_name
from purenets.torch_nets.fast.tracing import is_tracing

__all__ = [
    "binary_cross_entropy",
    "binary_focal",
    "cross_entropy",
    "focal",
    "focal_binary_cross_entropy",
    "focal_cross_entropy",
    "huber",
    "huber_loss",
    "label_smoothed",
    "mse",
    "smoothed_cross_entropy",
]


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of optax is here."""
    refuse_name("losses", name)


IGNORED = -100  # what the losses of torch leave out
LEAVES_OUT = "torch.nn.functional.cross_entropy(z, y), classes on axis 1, leaves it out"
# torch's default, -100, would drop those examples; the least of all is what a NaN becomes
NOTHING_IGNORED = torch.iinfo(torch.int64).min + 12345


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits and classes.

    For a class: log sum_j exp(x_j) - x_class. For labels t: sum_k t_k (log sum_j exp(x_j) - x_k).
    Half-precision logits are computed in float32.

    Args:
        logits: x, (batch, classes), or (batch, classes, ...) with a target for each position.
        targets: class numbers (batch, ...) of any integer dtype, or labels t of the shape of the
            logits and any dtype, one-hot or soft, which sum to 1 over the classes.

    Returns:
        A scalar, the mean over the batch and all positions.

    Raises:
        UserError: an argument is not a tensor, the logits are of one class, the targets are neither
            classes nor labels, or (on a CPU, in eager mode) a class does not exist or labels are no
            probabilities.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import cross_entropy
        >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))  # log 10
        tensor(2.3026)

    Source:
        torch.nn.functional.cross_entropy.
    """
    return smoothed_cross_entropy(logits, targets, 0.0)


def label_smoothed(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `cross_entropy` with a part of each target spread evenly over all classes.

    Args:
        amount: that part, from 0 to 1; 0 is `cross_entropy`.

    Returns:
        A loss `f(logits, targets) -> scalar`, for `grad_fn(model, loss=...)`.

    Raises:
        UserError: `amount` is out of range.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import losses
        >>> logits, targets = torch.tensor([[5.0, 0.0]]), torch.tensor([0])
        >>> losses.cross_entropy(logits, targets), losses.label_smoothed(0.1)(logits, targets)
        (tensor(0.0067), tensor(0.2567))

    Source:
        Szegedy et al. 2016, arXiv 1512.00567; `label_smoothing` of torch.nn.CrossEntropyLoss.
    """
    expect_numbers("label_smoothed", ANY, amount=amount)
    if not 0 <= amount <= 1:
        raise UserError(f"label_smoothed: amount {amount} is not from 0 to 1")
    return functools.partial(smoothed_cross_entropy, smoothing=amount)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy with a part of each target spread evenly over all classes.

    Half-precision logits are computed in float32: in their own dtype the mean of large losses
    overflows.

    Args:
        logits: (batch, classes, ...), as in `cross_entropy`.
        targets: class numbers or labels, as in `cross_entropy`.
        smoothing: the part that is spread, from 0 to 1.

    Returns:
        A scalar, the mean over the batch and all positions.

    Raises:
        UserError: as for `cross_entropy`, and for a smoothing out of range.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import smoothed_cross_entropy
        >>> smoothed_cross_entropy(torch.tensor([[5.0, 0.0]]), torch.tensor([0]), 0.1)
        tensor(0.2567)

    Source:
        Szegedy et al. 2016, arXiv 1512.00567; `label_smoothing` of torch.nn.CrossEntropyLoss.
    """
    expect_reals("smoothed_cross_entropy", FRACTION, smoothing=smoothing)
    _expect_tensors("cross_entropy", logits, targets)
    logits = widened(logits)
    targets = _classes_or_labels(logits, targets)
    if targets.is_floating_point() and not smoothing:
        logits = _finite_where_unlabelled(logits, targets)
    try:
        return F.cross_entropy(
            logits,
            targets,
            ignore_index=NOTHING_IGNORED,
            label_smoothing=smoothing,
        )
    except (IndexError, RuntimeError) as error:
        _name_class(error, logits)
        raise


def _name_class(error: Exception, logits: Tensor) -> None:
    """Raise a UserError if torch's kernel has found a class that does not exist."""
    if "out of bounds" in str(error):
        wrong, last = re.search(r"-?\d+", str(error)).group(), logits.shape[1] - 1
        hint = f"; {LEAVES_OUT}" if wrong == str(IGNORED) else ""
        raise UserError(
            f"cross_entropy: target {wrong} is none of the classes 0 to {last}{hint}"
        ) from error


def _classes_or_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in a dtype that torch takes: int64, or floating point."""
    integers = not (targets.is_floating_point() or targets.is_complex())
    if are_class_indices(logits, targets, integers):
        return _never_from_the_end(targets.long(), logits.shape[1])
    if targets.is_complex():
        raise UserError(f"cross_entropy: labels must be real numbers, got {targets.dtype}")
    if _may_be_read(targets):
        expect_distributions(targets.detach(), integers)
    return targets.to(logits.dtype)


def _finite_where_unlabelled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits whose -inf, where the label is 0, are numbers with a probability of 0 too.

    Else 0 times the logarithm of that probability would be NaN.
    """
    masked = (logits == -math.inf) & (labels == 0)
    return torch.where(masked, torch.finfo(logits.dtype).min / 2, logits)


def _never_from_the_end(classes: Tensor, n: int) -> Tensor:
    """Return class numbers; where they are compiled, with the negative ones moved beyond -n.

    The code that torch 2.11 compiles would count -1, ..., -n from the end instead of refusing them.
    """
    compiling = torch.compiler.is_compiling()
    return torch.where(classes < 0, classes - n, classes) if compiling else classes


def _may_be_read(targets: Tensor) -> bool:
    """Return True where a look at the values costs no waiting, and no transform forbids it."""
    return targets.is_cpu and not is_tracing()


# --- classes that are easy, yes or no -------------------------------------------------------------


def focal(gamma: float = 2.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the focal loss of classes, in which easy examples count less.

    The mean of -(1 - p)^gamma log p, with p the probability of the target.

    Args:
        gamma: how much less easy examples count; 0 is `cross_entropy`.

    Returns:
        A loss `f(logits, targets) -> scalar`, for `grad_fn(model, loss=...)`.

    Raises:
        UserError: `gamma` is negative or not finite.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import losses
        >>> logits, targets = torch.zeros(1, 2), torch.tensor([0])  # p = 1/2: a weight of 1/4
        >>> losses.cross_entropy(logits, targets), losses.focal(2.0)(logits, targets)
        (tensor(0.6931), tensor(0.1733))

    Source:
        Lin et al. 2017, arXiv 1708.02002.
    """
    expect_numbers("focal", NOT_NEGATIVE, gamma=gamma)
    return functools.partial(focal_cross_entropy, gamma=gamma)


def focal_cross_entropy(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return the mean focal loss of logits and classes.

    For a class: -(1 - p)^gamma log p. For labels t: -sum_k t_k (1 - p_k)^gamma log p_k.

    Args:
        logits: (batch, classes, ...), as in `cross_entropy`.
        targets: class numbers or labels, as in `cross_entropy`.
        gamma: how much less easy examples count; 0 is `cross_entropy`.

    Returns:
        A scalar, the mean over the batch and all positions.

    Raises:
        UserError: as for `cross_entropy`, and for a negative gamma.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import focal_cross_entropy
        >>> focal_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), 2.0)
        tensor(0.1733)

    Source:
        Lin et al. 2017, arXiv 1708.02002.
    """
    expect_reals("focal_cross_entropy", NOT_NEGATIVE, gamma=gamma)
    _expect_tensors("focal", logits, targets)
    logits = widened(logits)
    targets = _classes_or_labels(logits, targets)
    if targets.is_floating_point():
        log_p = F.log_softmax(_finite_where_unlabelled(logits, targets), 1)
        return -(targets * _focused(log_p, gamma)).sum(1).mean()
    log_p = F.log_softmax(logits, 1)
    try:  # of the target alone: another class may have a logit of -inf or a probability of 1
        losses = F.nll_loss(log_p, targets, ignore_index=NOTHING_IGNORED, reduction="none")
    except (IndexError, RuntimeError) as error:
        _name_class(error, logits)
        raise
    return -_focused(-losses, gamma).mean()


def _focused(log_p: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)^gamma log p."""
    if not gamma:
        return log_p
    # below -1000 p is 0, also in float64; the clamp keeps 0 times infinity out of the derivative
    return _power(-torch.expm1(log_p.clamp(min=-1000.0)), gamma) * log_p


def _power(x: Tensor, exponent: float) -> Tensor:
    """Return x^exponent for x from 0 on, with a derivative of 0 at 0.

    For an exponent below 1 the slope is infinite there; it is multiplied with a loss that is 0. A
    second `where` keeps it out of the backward pass.
    """
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x) ** exponent)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits, for yes-or-no targets.

    The mean of -t log s - (1 - t) log(1 - s), with s the sigmoid of a logit.

    Args:
        logits: (batch, ...), one for each question.
        targets: t, from 0 (no) to 1 (yes), of the same shape and any dtype. (batch,) and (batch, 1)
            fit together.

    Returns:
        A scalar, the mean over all elements.

    Raises:
        UserError: an argument is not a tensor, the shapes differ, the batch is empty, or (on a CPU,
            in eager mode) a target is not from 0 to 1.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import binary_cross_entropy
        >>> binary_cross_entropy(torch.zeros(3, 1), torch.tensor([0, 1, 1]))  # log 2
        tensor(0.6931)

    Source:
        torch.nn.BCEWithLogitsLoss.
    """
    x, t = _yes_or_no("binary_cross_entropy", logits, targets)
    return F.binary_cross_entropy_with_logits(x, t)


def binary_focal(
    gamma: float = 2.0, alpha: float | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the focal loss of yes-or-no targets, in which easy examples count less.

    The mean of -(1 - p)^gamma log p, with p the probability of the target.

    Args:
        gamma: how much less easy examples count; 0 is `binary_cross_entropy`.
        alpha: the weight of a yes, 1 - alpha being that of a no; None for no weights.

    Returns:
        A loss `f(logits, targets) -> scalar`, for `grad_fn(model, loss=...)`.

    Raises:
        UserError: `gamma` is negative or not finite, or `alpha` is not from 0 to 1.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import losses
        >>> logits, targets = torch.zeros(2), torch.tensor([0, 1])
        >>> losses.binary_focal(2.0)(logits, targets)
        tensor(0.1733)

    Source:
        Lin et al. 2017, arXiv 1708.02002; torchvision.ops.sigmoid_focal_loss.
    """
    expect_numbers("binary_focal", NOT_NEGATIVE, gamma=gamma)
    if alpha is not None:
        expect_numbers("binary_focal", FRACTION, alpha=alpha)
    return functools.partial(focal_binary_cross_entropy, gamma=gamma, alpha=alpha)


def focal_binary_cross_entropy(
    logits: Tensor, targets: Tensor, gamma: float, alpha: float | None = None
) -> Tensor:
    """Return the mean focal loss of logits and yes-or-no targets.

    Args:
        logits: (batch, ...), as in `binary_cross_entropy`.
        targets: from 0 (no) to 1 (yes), as in `binary_cross_entropy`.
        gamma: how much less easy examples count; 0 is `binary_cross_entropy`.
        alpha: the weight of a yes, 1 - alpha being that of a no; None for no weights.

    Returns:
        A scalar, the mean over all elements.

    Raises:
        UserError: as for `binary_cross_entropy`, and for a gamma or alpha out of range.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import focal_binary_cross_entropy
        >>> focal_binary_cross_entropy(torch.zeros(2), torch.tensor([0, 1]), 2.0)
        tensor(0.1733)

    Source:
        Lin et al. 2017, arXiv 1708.02002; torchvision.ops.sigmoid_focal_loss.
    """
    expect_reals("focal_binary_cross_entropy", NOT_NEGATIVE, gamma=gamma)
    expect_reals(
        "focal_binary_cross_entropy", FRACTION, **({} if alpha is None else {"alpha": alpha})
    )
    x, t = _yes_or_no("binary_focal", logits, targets)
    losses = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    miss = torch.sigmoid(x) * (1 - t) + torch.sigmoid(-x) * t  # 1 - p
    losses = _power(miss, gamma) * losses if gamma else losses
    return (losses if alpha is None else (alpha * t + (1 - alpha) * (1 - t)) * losses).mean()


# --- numbers --------------------------------------------------------------------------------------


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error, the mean of (output - target)^2.

    Args:
        outputs: (batch, ...).
        targets: of the same shape and any dtype. (batch,) and (batch, 1) fit together.

    Returns:
        A scalar, the mean over all elements.

    Raises:
        UserError: an argument is not a tensor, the shapes differ, or the batch is empty.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import mse
        >>> mse(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0]))
        tensor(2.)

    Source:
        torch.nn.MSELoss.
    """
    return F.mse_loss(*_alike("mse", outputs, targets))


def huber(delta: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the Huber loss, in which outliers pull no harder than residuals of size delta.

    The mean of r^2 / 2 for residuals |r| <= delta, else of delta (|r| - delta / 2).

    Args:
        delta: the size of a residual from which on the loss is linear.

    Returns:
        A loss `f(outputs, targets) -> scalar`, for `grad_fn(model, loss=...)`.

    Raises:
        UserError: `delta` is not a positive number.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import losses
        >>> outputs, targets = torch.tensor([0.5, 3.0]), torch.zeros(2)
        >>> losses.huber(1.0)(outputs, targets)  # (0.125 + 2.5) / 2
        tensor(1.3125)

    Source:
        Huber 1964, "Robust estimation of a location parameter"; torch.nn.HuberLoss.
    """
    expect_numbers("huber", POSITIVE, delta=delta)
    return functools.partial(huber_loss, delta=delta)


def huber_loss(outputs: Tensor, targets: Tensor, delta: float) -> Tensor:
    """Return the mean Huber loss of outputs and targets.

    Args:
        outputs: (batch, ...).
        targets: of the same shape and any dtype. (batch,) and (batch, 1) fit together.
        delta: the size of a residual from which on the loss is linear.

    Returns:
        A scalar, the mean over all elements.

    Raises:
        UserError: as for `mse`, and for a delta that is not positive.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.losses import huber_loss
        >>> huber_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), delta=1.0)
        tensor(1.3125)

    Source:
        torch.nn.HuberLoss.
    """
    expect_reals("huber_loss", POSITIVE, delta=delta)
    return F.huber_loss(*_alike("huber", outputs, targets), delta=delta)


def _expect_tensors(name: str, outputs: Tensor, targets: Tensor) -> None:
    for what, value in (("outputs", outputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise UserError(f"{name}: the {what} are a {type(value).__name__}, needs tensors")
    if not outputs.is_floating_point():
        expect_real_outputs(name, outputs)


def _yes_or_no(name: str, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return `_alike` of them; a UserError for targets that are not from 0 to 1."""
    logits, targets = _alike(name, logits, targets)
    if _may_be_read(targets):
        expect_yes_or_no(name, targets.detach())
    return logits, targets


def _alike(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in one shape and dtype: broadcasting (batch, 1) with (batch,) would pair all.

    Half precision comes back as float32, as in `smoothed_cross_entropy`.
    """
    _expect_tensors(name, outputs, targets)
    if targets.is_complex():
        raise UserError(f"{name}: targets are complex, needs real numbers; targets.abs() or .real")
    outputs = widened(outputs)
    a, b = tuple(outputs.shape), tuple(targets.shape)
    if a != b and a != (*b, 1) and b != (*a, 1):
        raise UserError(f"{name}: outputs {a} and targets {b}, needs the same shape")
    if 0 in a:
        raise UserError(f"{name}: an empty batch has no mean")
    return outputs, targets.reshape(a).to(outputs.dtype)
