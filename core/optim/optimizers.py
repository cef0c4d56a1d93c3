"""Optimizers as pairs of functions, for NumPy arrays and torch tensors alike.

An `Optimizer` is `init(params) -> opt_state` and `update(grads, opt_state, params) -> (updates,
opt_state)`; `apply_updates` adds. Each is a chain of small transforms (`optim.transforms`),
composed below as in torch.optim, whose names, defaults and numbers they keep where it has them:

    sgd       decayed weights | trace of momentum             | times -lr
    rmsprop   decayed weights | / root of mean square | trace | times -lr
    adagrad   decayed weights | / root of sum of squares      | times -lr
    adadelta  decayed weights | root of mean square of steps / that of g | times -lr
    adam      decayed weights | moments                       | times -lr
    adamax    decayed weights | moments, the second a maximum | times -lr
    nadam     decayed weights | moments, a step ahead         | times -lr
    radam     decayed weights | moments, rectified            | times -lr
    adamw     moments | decayed weights                       | times -lr
    lion      sign of a moment | decayed weights              | times -lr
    lamb      moments | decayed weights | trust ratio         | times -lr
    lars      decayed weights | trust ratio | times -lr       | trace of momentum
    muon      orthogonalized momentum of matrices | by shape | decayed weights | times -lr

Those with an idea of their own are in `optim.methods` and `optim.line_search`.

A hyper-parameter is a number, a schedule (a function of the count of updates, from 0) or a scalar
array, so that it can be vmapped over. There is no branch on a value: all of it runs under vmap and
torch.compile. What combines optimizers (parts of the params, averages, accumulation) is in
`optim.wrappers`, and can be named here too: `optim.partition`, `optim.ema`.
"""

from collections.abc import Callable

from purenets.core.arguments import (
    DECAY,
    FRACTION,
    NOT_NEGATIVE,
    expect_betas,
    expect_flags,
    expect_hypers,
    expect_numbers,
)
from purenets.core.base import Optimizer, UserError
from purenets.core.optim.internals.hyper import Hyper, is_zero, unless_zero
from purenets.core.optim.internals.kernels import with_rule
from purenets.core.optim.internals.precision import real_only
from purenets.core.optim.line_search.backtracking import backtracking
from purenets.core.optim.line_search.lbfgs import lbfgs
from purenets.core.optim.line_search.wolfe import strong_wolfe
from purenets.core.optim.methods.adafactor import adafactor
from purenets.core.optim.methods.adan import adan
from purenets.core.optim.methods.ademamix import ademamix
from purenets.core.optim.methods.adopt import adopt
from purenets.core.optim.methods.asgd import asgd
from purenets.core.optim.methods.d_adaptation import dadapt_adam
from purenets.core.optim.methods.dog import dog
from purenets.core.optim.methods.momo import momo, momo_adam
from purenets.core.optim.methods.muon import muon
from purenets.core.optim.methods.polyak import polyak
from purenets.core.optim.methods.prodigy import prodigy
from purenets.core.optim.methods.rprop import rprop
from purenets.core.optim.methods.schedule_free import schedule_free_adamw
from purenets.core.optim.methods.shampoo import shampoo
from purenets.core.optim.methods.soap import soap
from purenets.core.optim.methods.sophia import sophia
from purenets.core.optim.transforms import (
    add_decayed_weights,
    chain,
    scale_by_adadelta,
    scale_by_adam,
    scale_by_adamax,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_nadam,
    scale_by_radam,
    scale_by_rms,
    scale_by_sum_of_squares,
    scale_by_trust_ratio,
    trace,
)

# --- optimizers -----------------------------------------------------------------------------------


def sgd(
    lr: Hyper = 1e-3,
    momentum: Hyper = 0,
    dampening: Hyper = 0,
    weight_decay: Hyper = 0,
    nesterov=False,
) -> Optimizer:
    """Return stochastic gradient descent, with momentum where one is given.

        buf = momentum * buf + (1 - dampening) * (g + weight_decay * p);  p = p - lr * buf

    The first buffer is not dampened. Nesterov's variant steps along g + momentum * buf.

    Args:
        lr: the learning rate, a number or a schedule.
        momentum: the decay rate of the buffer, from 0 to 1.
        dampening: the fraction of later gradients that is left out, from 0 to 1.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.
        nesterov: use Nesterov's momentum.

    Returns:
        An optimizer; with momentum, its state has the entry "momentum_buffer".

    Raises:
        UserError: lr or weight_decay is negative or not finite, momentum or dampening is not in
            [0, 1], nesterov is not a bool, or is True without momentum or with dampening.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.sgd(lr=0.1, momentum=0.9), {"w": np.array([1.0])}
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     grads = {"w": params["w"]}  # of the loss w^2 / 2
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"]
        array([0.72])

    Source:
        torch.optim.SGD; Sutskever et al. 2013, "On the importance of initialization and momentum
        in deep learning".
    """
    _expect_sgd("sgd", lr, momentum, weight_decay, dampening=dampening)
    expect_flags("sgd", nesterov=nesterov)
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise UserError("sgd: nesterov needs a momentum and no dampening")
    decay = unless_zero(weight_decay, add_decayed_weights)
    if is_zero(momentum):
        return chain(*decay, scale_by_learning_rate(lr))
    places = {"moments": str(len(decay)), "lr": str(len(decay) + 1)}
    optimizer = chain(*decay, trace(momentum, dampening, nesterov), scale_by_learning_rate(lr))
    hypers = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    counts = () if is_zero(dampening) else ("count",)
    moments = (*counts, "momentum_buffer")
    return with_rule(optimizer, "sgd", places, moments, lr=lr, weight_decay=weight_decay, **hypers)


def momentum(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0) -> Optimizer:
    """Return `sgd` with heavy-ball momentum: buf = momentum * buf + g; p = p - lr * buf.

    Args:
        lr: the learning rate, a number or a schedule.
        momentum: the decay rate of the buffer, from 0 to 1.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.

    Returns:
        An optimizer; its state has the entry "momentum_buffer".

    Raises:
        UserError: lr or weight_decay is negative or not finite, or momentum is not in [0, 1].

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.momentum(lr=0.1), {"w": np.array([1.0])}
        >>> state, grads = optimizer.init(params), {"w": np.array([1.0])}
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(grads, state, params)
        >>> updates["w"]  # the second update: -0.1 * (1 + 0.9)
        array([-0.19])

    Source:
        torch.optim.SGD; Polyak 1964, "Some methods of speeding up the convergence of iteration
        methods".
    """
    _expect_sgd("momentum", lr, momentum, weight_decay)
    return sgd(lr, momentum, weight_decay=weight_decay)


def nesterov(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0) -> Optimizer:
    """Return `sgd` with Nesterov's momentum, which looks one step ahead.

        buf = momentum * buf + g;  p = p - lr * (g + momentum * buf)

    Args:
        lr: the learning rate, a number or a schedule.
        momentum: the decay rate of the buffer, above 0 and at most 1.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.

    Returns:
        An optimizer; its state has the entry "momentum_buffer".

    Raises:
        UserError: lr or weight_decay is negative or not finite, or momentum is 0 or not in [0, 1].

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.nesterov(lr=0.1), {"w": np.array([1.0])}
        >>> grads = {"w": np.array([1.0])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"]  # the first update already looks a step ahead: -0.1 * (1 + 0.9)
        array([-0.19])

    Source:
        torch.optim.SGD; Sutskever et al. 2013, "On the importance of initialization and momentum
        in deep learning".
    """
    _expect_sgd("nesterov", lr, momentum, weight_decay)
    return sgd(lr, momentum, weight_decay=weight_decay, nesterov=True)


def rmsprop(
    lr: Hyper = 1e-2,
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    momentum: Hyper = 0,
    centered: bool = False,
) -> Optimizer:
    """Return RMSProp, which divides the gradient by the root of its running mean square.

        v = alpha * v + (1 - alpha) * g^2;  p = p - lr * g / (sqrt(v) + eps)

    Args:
        lr: the learning rate, a number or a schedule.
        alpha: the decay rate of v, in [0, 1).
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.
        momentum: the decay rate of a buffer of the scaled gradients; 0 for none.
        centered: subtract the squared running mean of g from v, so that v is a variance.

    Returns:
        An optimizer; its state has the entry "square_avg" (v), "grad_avg" if centered, and
        "momentum_buffer" with momentum.

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, alpha is not in [0, 1),
            momentum is not in [0, 1], or centered is not a bool.

    Example:
        The first step has the length lr / sqrt(1 - alpha): ten times lr by default.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.rmsprop(lr=0.01), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([100.0, -0.01])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)
        array([-0.1,  0.1])

    Source:
        torch.optim.RMSprop; Tieleman and Hinton 2012, Coursera, lecture 6.5; centered: Graves 2013,
        arXiv 1308.0850.
    """
    expect_hypers("rmsprop", NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    expect_hypers("rmsprop", DECAY, alpha=alpha)
    expect_hypers("rmsprop", FRACTION, momentum=momentum)
    expect_flags("rmsprop", centered=centered)
    return chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_rms(alpha, eps, centered),
        *unless_zero(momentum, trace),
        scale_by_learning_rate(lr),
    )


def adagrad(
    lr: Hyper = 1e-2,
    lr_decay: Hyper = 0,
    weight_decay: Hyper = 0,
    initial_accumulator_value: float = 0,
    eps: Hyper = 1e-10,
) -> Optimizer:
    """Return Adagrad, which divides the gradient by the root of the sum of all its squares.

        s = s + g^2;  p = p - lr / (1 + count * lr_decay) * g / (sqrt(s) + eps)

    Args:
        lr: the learning rate, a number or a schedule.
        lr_decay: how fast lr falls with the count of updates, which begins at 0.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.
        initial_accumulator_value: the value that s begins with.
        eps: added to the root, so that nothing is divided by 0.

    Returns:
        An optimizer; its state has the entry "sum" (s).

    Raises:
        UserError: one of the arguments is negative or not finite.

    Example:
        For a constant gradient the t-th step has the length lr / sqrt(t).

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adagrad(lr=0.1), {"w": np.zeros(2)}
        >>> state, grads = optimizer.init(params), {"w": np.array([3.0, -0.5])}
        >>> for _ in range(4):
        ...     updates, state = optimizer.update(grads, state, params)
        >>> updates["w"].round(3)
        array([-0.05,  0.05])

    Source:
        torch.optim.Adagrad; Duchi et al. 2011, JMLR 12.
    """
    expect_hypers("adagrad", NOT_NEGATIVE, lr=lr, lr_decay=lr_decay)
    expect_hypers("adagrad", NOT_NEGATIVE, weight_decay=weight_decay, eps=eps)
    initial = {"initial_accumulator_value": initial_accumulator_value}
    expect_numbers("adagrad", NOT_NEGATIVE, **initial)

    def decayed(count):
        rate, decay = (value(count) if callable(value) else value for value in (lr, lr_decay))
        return rate / (1 + count * decay)

    return chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_sum_of_squares(initial_accumulator_value, eps),
        scale_by_learning_rate(lr if is_zero(lr_decay) else decayed),
    )


adagrad.only_at_init = ("initial_accumulator_value",)


def adadelta(
    lr: Hyper = 1.0, rho: Hyper = 0.9, eps: Hyper = 1e-6, weight_decay: Hyper = 0
) -> Optimizer:
    """Return Adadelta, whose steps have the units of the params, so that lr stays at 1.

        v = rho * v + (1 - rho) * g^2;  d = g * sqrt(D + eps) / sqrt(v + eps)
        D = rho * D + (1 - rho) * d^2;  p = p - lr * d

    Args:
        lr: a factor of the steps, a number or a schedule.
        rho: the decay rate of the running means v and D, in [0, 1).
        eps: added to both means; it decides the size of the first steps.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.

    Returns:
        An optimizer; its state has the entries "square_avg" (v) and "acc_delta" (D).

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, or rho is not in [0, 1).

    Example:
        The first step has the length sqrt(eps / (1 - rho)).

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adadelta(), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([100.0, -10.0])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(5)
        array([-0.00316,  0.00316])

    Source:
        torch.optim.Adadelta; Zeiler 2012, arXiv 1212.5701.
    """
    expect_hypers("adadelta", NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    expect_hypers("adadelta", DECAY, rho=rho)
    return chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(lr),
    )


def adam(
    lr: Hyper = 1e-3,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    amsgrad: bool = False,
) -> Optimizer:
    """Return Adam, which divides the running mean of g by the root of that of g^2.

        m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g^2
        p = p - lr * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps),  t = 1, 2, ...

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of the running means m and v.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient. For decoupled weight
            decay use `adamw`.
        amsgrad: divide by the largest v so far.

    Returns:
        An optimizer; its state has the entries "exp_avg" (m) and "exp_avg_sq" (v).

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), or amsgrad is not a bool.

    Example:
        The first step is lr long in every element, whatever the size of the gradient.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adam(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([100.0, -0.01])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)
        array([-0.1,  0.1])

    Source:
        torch.optim.Adam; Kingma and Ba 2015, arXiv 1412.6980; Reddi et al. 2018, arXiv 1904.09237.
    """
    _expect_adam("adam", lr, betas, eps, weight_decay, amsgrad=amsgrad)
    optimizer = _decayed(scale_by_adam(betas, eps, amsgrad), lr, weight_decay, decoupled=False)
    places = {"moments": "0", "lr": "1"} if is_zero(weight_decay) else {"moments": "1", "lr": "2"}
    hypers = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
    return with_rule(optimizer, "adam", places, _moments_of_adam(amsgrad), lr=lr, **hypers)


def adamw(
    lr: Hyper = 1e-3,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    amsgrad: bool = False,
) -> Optimizer:
    """Return Adam with decoupled weight decay: each step also subtracts lr * weight_decay * p.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * p.
        amsgrad: divide by the largest running mean of g^2 so far.

    Returns:
        An optimizer; its state has the entries "exp_avg" and "exp_avg_sq".

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), or amsgrad is not a bool.

    Example:
        Without a gradient only the decay acts; `adam` would take a full step of 0.1.

        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adamw(lr=0.1, weight_decay=0.2), {"w": np.array([1.0])}
        >>> updates, _ = optimizer.update({"w": np.zeros(1)}, optimizer.init(params), params)
        >>> updates["w"]
        array([-0.02])

    Source:
        torch.optim.AdamW; Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    _expect_adam("adamw", lr, betas, eps, weight_decay, amsgrad=amsgrad)
    optimizer = _decayed(scale_by_adam(betas, eps, amsgrad), lr, weight_decay, decoupled=True)
    places = {"moments": "0", "lr": "1" if is_zero(weight_decay) else "2"}
    hypers = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
    return with_rule(optimizer, "adamw", places, _moments_of_adam(amsgrad), lr=lr, **hypers)


def adamax(
    lr: Hyper = 2e-3, betas=(0.9, 0.999), eps: Hyper = 1e-8, weight_decay: Hyper = 0
) -> Optimizer:
    """Return AdaMax: Adam that divides by a decaying maximum of |g| in place of the root of v.

        m = b1 * m + (1 - b1) * g;  u = max(b2 * u, |g| + eps);  p = p - lr * m / ((1 - b1^t) * u)

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of m and u.
        eps: added to |g|.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient.

    Returns:
        An optimizer; its state has the entries "exp_avg" (m) and "exp_inf" (u).

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, or betas is not a pair of
            numbers in [0, 1).

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.adamax(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([100.0, -0.01])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)
        array([-0.1,  0.1])

    Source:
        torch.optim.Adamax; Kingma and Ba 2015, arXiv 1412.6980, section 7.
    """
    _expect_adam("adamax", lr, betas, eps, weight_decay)
    return _decayed(scale_by_adamax(betas, eps), lr, weight_decay, decoupled=False)


def nadam(
    lr: Hyper = 2e-3,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    momentum_decay: Hyper = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Return Adam with Nesterov's momentum; `scale_by_nadam` has the formula.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: L2 penalty, added to the gradient; decoupled weight decay if
            decoupled_weight_decay.
        momentum_decay: how fast the momentum rises from about b1 / 2 to b1.
        decoupled_weight_decay: subtract lr * weight_decay * p in the step, as `adamw` does.

    Returns:
        An optimizer; its state has the entries "exp_avg", "exp_avg_sq" and "mu_product".

    Raises:
        UserError: lr, eps, weight_decay or momentum_decay is negative or not finite, betas is not a
            pair of numbers in [0, 1), or decoupled_weight_decay is not a bool.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.nadam(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([2.0, -0.5])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)  # a little longer than Adam's, which is 0.1
        array([-0.106,  0.106])

    Source:
        torch.optim.NAdam; Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """
    decoupled = {"decoupled_weight_decay": decoupled_weight_decay}
    _expect_adam("nadam", lr, betas, eps, weight_decay, **decoupled)
    expect_hypers("nadam", NOT_NEGATIVE, momentum_decay=momentum_decay)
    return _decayed(
        scale_by_nadam(betas, eps, momentum_decay), lr, weight_decay, decoupled_weight_decay
    )


def radam(
    lr: Hyper = 1e-3,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Return rectified Adam, which needs no warm-up: its first steps are plain momentum.

    Steps are divided by the root of v, and scaled by a factor that rises to 1, once enough squared
    gradients are averaged for it; `scale_by_radam` says when.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: L2 penalty, added to the gradient; decoupled weight decay if
            decoupled_weight_decay.
        decoupled_weight_decay: subtract lr * weight_decay * p in the step, as `adamw` does.

    Returns:
        An optimizer; its state has the entries "exp_avg" and "exp_avg_sq".

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), or decoupled_weight_decay is not a bool.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.radam(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([3.0, -0.5])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"].round(3)  # the first step is -lr * g
        array([-0.3 ,  0.05])

    Source:
        torch.optim.RAdam; Liu et al. 2020, arXiv 1908.03265.
    """
    decoupled = {"decoupled_weight_decay": decoupled_weight_decay}
    _expect_adam("radam", lr, betas, eps, weight_decay, **decoupled)
    return _decayed(scale_by_radam(betas, eps), lr, weight_decay, decoupled_weight_decay)


def lion(lr: Hyper = 1e-4, betas=(0.9, 0.99), weight_decay: Hyper = 0) -> Optimizer:
    """Return Lion, whose steps are signs, so that all elements move equally far.

        p = p - lr * (sign(b1 * m + (1 - b1) * g) + weight_decay * p);  m = b2 * m + (1 - b2) * g

    Good rates are 3 to 10 times smaller than Adam's, good weight decays as much larger.

    Args:
        lr: the learning rate, a number or a schedule.
        betas: (b1, b2), the weight of m in a step and the decay rate of m.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * p.

    Returns:
        An optimizer for real params; its state has the entry "exp_avg" (m).

    Raises:
        UserError: lr or weight_decay is negative or not finite, or betas is not a pair of numbers
            in [0, 1); from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.lion(lr=0.1), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([100.0, -0.01])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"]
        array([-0.1,  0.1])

    Source:
        Chen et al. 2023, arXiv 2302.06675.
    """
    _expect_adam("lion", lr, betas, 0, weight_decay)
    return real_only("lion", _decayed(scale_by_lion(betas), lr, weight_decay, decoupled=True))


def lamb(
    lr: Hyper = 1e-3, betas=(0.9, 0.999), eps: Hyper = 1e-6, weight_decay: Hyper = 0
) -> Optimizer:
    """Return LAMB: AdamW whose step in each leaf has the norm lr * |p|, for large batches.

    Args:
        lr: the learning rate: the norm of a step relative to that of the leaf.
        betas: (b1, b2), the decay rates of the running means of g and g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: the factor of p that is added to Adam's step before it is scaled.

    Returns:
        An optimizer for real params; its state has the entries "exp_avg" and "exp_avg_sq".

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, or betas is not a pair of
            numbers in [0, 1); from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.lamb(lr=0.1), {"w": np.array([3.0, 4.0])}
        >>> grads = {"w": np.array([100.0, 100.0])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(np.linalg.norm(updates["w"]).round(3))  # 0.1 * |p|
        0.5

    Source:
        You et al. 2020, arXiv 1904.00962.
    """
    _expect_adam("lamb", lr, betas, eps, weight_decay)
    optimizer = chain(
        scale_by_adam(betas, eps),
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_trust_ratio(),
        scale_by_learning_rate(lr),
    )
    return real_only("lamb", optimizer)


def lars(
    lr: Hyper = 1.0,
    momentum: Hyper = 0.9,
    weight_decay: Hyper = 0,
    trust_coefficient: Hyper = 1e-3,
    eps: float = 0.0,
    nesterov: bool = False,
) -> Optimizer:
    """Return LARS: SGD whose gradient in each leaf is scaled to the norm trust_coefficient * |p|.

    The learning rate multiplies the gradient before the momentum, so that a lower rate acts on new
    gradients only.

    Args:
        lr: the learning rate, a number or a schedule.
        momentum: the decay rate of the buffer, from 0 to 1.
        weight_decay: L2 penalty; weight_decay * p is added to the gradient before it is scaled.
        trust_coefficient: the norm of a scaled gradient relative to that of the leaf.
        eps: added to the norm of the gradient.
        nesterov: use Nesterov's momentum.

    Returns:
        An optimizer for real params; its state has the entry "momentum_buffer".

    Raises:
        UserError: lr, weight_decay, trust_coefficient or eps is negative or not finite, momentum is
            not in [0, 1], or nesterov is not a bool; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.lars(lr=1.0), {"w": np.array([3.0, 4.0])}
        >>> grads = {"w": np.array([0.0, 100.0])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(np.linalg.norm(updates["w"]).round(3))  # 0.001 * |p|
        0.005

    Source:
        You et al. 2017, arXiv 1708.03888.
    """
    _expect_sgd("lars", lr, momentum, weight_decay)
    expect_hypers("lars", NOT_NEGATIVE, trust_coefficient=trust_coefficient)
    expect_numbers("lars", NOT_NEGATIVE, eps=eps)
    expect_flags("lars", nesterov=nesterov)
    optimizer = chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_trust_ratio(trust_coefficient, eps),
        scale_by_learning_rate(lr),
        *unless_zero(momentum, lambda momentum: trace(momentum, nesterov=nesterov)),
    )
    return real_only("lars", optimizer)


def _expect_sgd(name: str, lr, momentum, weight_decay, **fractions) -> None:
    """Raise a UserError for a hyper-parameter that SGD with momentum cannot have."""
    expect_hypers(name, NOT_NEGATIVE, lr=lr, weight_decay=weight_decay)
    expect_hypers(name, FRACTION, momentum=momentum, **fractions)


def _expect_adam(name: str, lr, betas, eps, weight_decay, **flags) -> None:
    """Raise a UserError for a hyper-parameter that an optimizer like Adam cannot have."""
    expect_hypers(name, NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    expect_betas(name, betas)
    expect_flags(name, **flags)


def _moments_of_adam(amsgrad: bool) -> tuple[str, ...]:
    """Return the entries of the state of `scale_by_adam`."""
    return ("count", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if amsgrad else ()))


def _decayed(transform: Optimizer, lr: Hyper, weight_decay: Hyper, decoupled: bool) -> Optimizer:
    """Return the transform with weight decay: of its step if decoupled, else of the gradient."""
    decay = unless_zero(weight_decay, add_decayed_weights)
    parts = (transform, *decay) if decoupled else (*decay, transform)
    return chain(*parts, scale_by_learning_rate(lr))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    f.__name__: f
    for f in (
        *(sgd, momentum, nesterov, rmsprop, adagrad, adadelta, adam, adamw, adamax, nadam, radam),
        *(lion, lamb, lars, muon, schedule_free_adamw, adafactor, asgd, rprop),
        *(adan, adopt, ademamix, sophia, dadapt_adam, prodigy, dog),
        *(shampoo, soap, polyak, backtracking, momo, momo_adam),
        *(strong_wolfe, lbfgs),
    )
}
