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
    """Stochastic gradient descent (torch.optim.SGD): buf = momentum buf + g; p = p - lr buf.

    Nesterov's variant steps along g + momentum buf (Sutskever et al. 2013).
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
    return with_rule(optimizer, "sgd", places, lr=lr, weight_decay=weight_decay, **hypers)


def momentum(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0) -> Optimizer:
    """`sgd` with heavy-ball momentum (Polyak 1964)."""
    _expect_sgd("momentum", lr, momentum, weight_decay)
    return sgd(lr, momentum, weight_decay=weight_decay)


def nesterov(lr: Hyper = 1e-3, momentum: Hyper = 0.9, weight_decay: Hyper = 0) -> Optimizer:
    """`sgd` with Nesterov's momentum."""
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
    """RMSProp (torch.optim.RMSprop; Tieleman and Hinton 2012): v = alpha v + (1 - alpha) g^2;
    p = p - lr g / (sqrt(v) + eps). `centered` subtracts the squared mean gradient (Graves 2013)."""
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
    """Adagrad (torch.optim.Adagrad; Duchi et al. 2011): s = s + g^2; p = p - lr g / (sqrt(s) +
    eps), where lr falls as 1 / (1 + count lr_decay)."""
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


def adadelta(
    lr: Hyper = 1.0, rho: Hyper = 0.9, eps: Hyper = 1e-6, weight_decay: Hyper = 0
) -> Optimizer:
    """Adadelta (torch.optim.Adadelta; Zeiler 2012): steps in the units of the params."""
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
    """Adam (torch.optim.Adam; Kingma and Ba 2015).

    `weight_decay` is added to the gradient: see `adamw`.
    """
    _expect_adam("adam", lr, betas, eps, weight_decay, amsgrad=amsgrad)
    optimizer = _decayed(scale_by_adam(betas, eps, amsgrad), lr, weight_decay, decoupled=False)
    places = {"moments": "0", "lr": "1"} if is_zero(weight_decay) else {"moments": "1", "lr": "2"}
    return with_rule(
        optimizer, "adam", places, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
    )


def adamw(
    lr: Hyper = 1e-3,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    amsgrad: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay: p = p - lr weight_decay p (torch.optim.AdamW; Loshchilov
    and Hutter 2019)."""
    _expect_adam("adamw", lr, betas, eps, weight_decay, amsgrad=amsgrad)
    optimizer = _decayed(scale_by_adam(betas, eps, amsgrad), lr, weight_decay, decoupled=True)
    places = {"moments": "0", "lr": "1" if is_zero(weight_decay) else "2"}
    return with_rule(
        optimizer, "adamw", places, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
    )


def adamax(
    lr: Hyper = 2e-3, betas=(0.9, 0.999), eps: Hyper = 1e-8, weight_decay: Hyper = 0
) -> Optimizer:
    """Adam by the largest gradient of late (torch.optim.Adamax; Kingma and Ba 2015, section 7)."""
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
    """Adam with Nesterov's momentum (torch.optim.NAdam; Dozat 2016)."""
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
    """Rectified Adam, which needs no warm-up (torch.optim.RAdam; Liu et al. 2020)."""
    decoupled = {"decoupled_weight_decay": decoupled_weight_decay}
    _expect_adam("radam", lr, betas, eps, weight_decay, **decoupled)
    return _decayed(scale_by_radam(betas, eps), lr, weight_decay, decoupled_weight_decay)


def lion(lr: Hyper = 1e-4, betas=(0.9, 0.99), weight_decay: Hyper = 0) -> Optimizer:
    """Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"): p = p - lr (sign(b1
    m + (1 - b1) g) + weight_decay p). Rates are 3 to 10 times smaller than Adam's, decay as much
    larger."""
    _expect_adam("lion", lr, betas, 0, weight_decay)
    return real_only("lion", _decayed(scale_by_lion(betas), lr, weight_decay, decoupled=True))


def lamb(
    lr: Hyper = 1e-3, betas=(0.9, 0.999), eps: Hyper = 1e-6, weight_decay: Hyper = 0
) -> Optimizer:
    """LAMB (You et al. 2020, "Large batch optimization for deep learning"): AdamW whose step is, in
    each leaf, as long as lr times the leaf."""
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
    """LARS (You et al. 2017, "Large batch training of convolutional networks"): SGD with momentum,
    the gradient of each leaf as long as trust_coefficient times the leaf. The rate is inside of the
    momentum."""
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


def _decayed(transform: Optimizer, lr: Hyper, weight_decay: Hyper, decoupled: bool) -> Optimizer:
    """The transform with the decay added to the gradient before it, or to the step after it
    (decoupled).
    """
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
