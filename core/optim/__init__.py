"""Optimizers as pairs of functions, with the transforms and wrappers that they are made of.

Where to find what:

    optimizers.py    the classic optimizers, each a chain of transforms, and OPTIMIZERS, all by name
    transforms.py    the parts of chains: moments, clipping, decay, the learning rate; `chain`
    wrappers.py      what takes optimizers and returns one: parts of the params, accumulation, means
    schedules.py     functions from the count of updates to the value of a hyper-parameter
    state.py         reads and changes states: `get_state`, `inject_hyperparams`, averaged params
    methods/         optimizers with an idea of their own, one a file:
                     - less memory, other moments: adafactor, adan, ademamix, adopt, rprop
                     - matrices: muon (newton_schulz), shampoo, soap; sophia (diagonal Hessian)
                     - rates that are found: d_adaptation, prodigy, dog; from the loss: polyak, momo
                     - averages: asgd, schedule_free, swa; samplers: sgld, sghmc
                     - transforms: agc (adaptive clipping), plateau; sparse weights: beta_lasso
    line_search/     steps whose length is searched along a line: lbfgs, wolfe, backtracking
    internals/       what all of them are computed with:
                     - arithmetic on dicts, hyper (numbers, schedules, arrays), precision (dtypes)
                     - extra_args (the loss, for those that ask for it)
                     - order, patterns: chains and names of leaves that cannot be meant
                     - elementwise, blocks, kernels, numpy_kernels: the same updates, faster
                     - declared: `elementwise` for users, with a trial
                     - optax_names: what optax calls otherwise

In formulas, p are the params, g their gradient, and t counts updates from 1. A leaf is one array of
the dict of params, and |p| its Euclidean norm. A hyper-parameter (`Hyper`) is a number, a schedule
or a scalar array. `get_state` finds an entry of a state at any depth.

To add an optimizer: write it as a chain in a file of `methods`, add it to OPTIMIZERS and below. The
tests of every path, of precision and of arguments then include it by themselves.
"""

from typing import NoReturn

import numpy as np

from purenets.core.optim.internals import numpy_kernels
from purenets.core.optim.internals.declared import elementwise
from purenets.core.optim.internals.elementwise import apply_updates
from purenets.core.optim.internals.hyper import Hyper
from purenets.core.optim.internals.kernels import register_kernel
from purenets.core.optim.internals.optax_names import refuse
from purenets.core.optim.line_search.backtracking import backtracking
from purenets.core.optim.line_search.lbfgs import lbfgs
from purenets.core.optim.line_search.wolfe import strong_wolfe
from purenets.core.optim.methods.adafactor import (
    adafactor,
    clip_by_block_rms,
    scale_by_factored_rms,
    scale_by_param_rms,
)
from purenets.core.optim.methods.adan import adan, proximal_step, scale_by_adan
from purenets.core.optim.methods.ademamix import ademamix, scale_by_ademamix
from purenets.core.optim.methods.adopt import adopt, scale_by_adopt
from purenets.core.optim.methods.agc import adaptive_grad_clip
from purenets.core.optim.methods.asgd import asgd
from purenets.core.optim.methods.beta_lasso import beta_lasso
from purenets.core.optim.methods.d_adaptation import dadapt_adam
from purenets.core.optim.methods.dog import dog
from purenets.core.optim.methods.momo import momo, momo_adam
from purenets.core.optim.methods.muon import muon, scale_by_muon
from purenets.core.optim.methods.plateau import reduce_on_plateau
from purenets.core.optim.methods.polyak import polyak
from purenets.core.optim.methods.prodigy import prodigy
from purenets.core.optim.methods.rprop import rprop
from purenets.core.optim.methods.samplers import SAMPLERS, add_langevin_noise, sghmc, sgld
from purenets.core.optim.methods.schedule_free import schedule_free, schedule_free_adamw
from purenets.core.optim.methods.shampoo import scale_by_shampoo, shampoo
from purenets.core.optim.methods.soap import scale_by_soap, soap
from purenets.core.optim.methods.sophia import hutchinson_diagonal, scale_by_sophia, sophia
from purenets.core.optim.methods.swa import swa
from purenets.core.optim.optimizers import (
    OPTIMIZERS,
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    lamb,
    lars,
    lion,
    momentum,
    nadam,
    nesterov,
    radam,
    rmsprop,
    sgd,
)
from purenets.core.optim.state import (
    check_opt_state,
    get_state,
    inject_hyperparams,
    set_hyperparams,
    with_averaged_params,
)
from purenets.core.optim.transforms import (
    add_decayed_weights,
    chain,
    clip_by_global_norm,
    clip_by_value,
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
    stateless,
    trace,
)
from purenets.core.optim.wrappers import (
    accumulate,
    apply_if_finite,
    ema,
    freeze,
    is_matrix,
    lookahead,
    masked,
    named,
    normalize_weights,
    not_named,
    partition,
    skip_first,
)

register_kernel(np.ndarray, numpy_kernels.step)


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of optax is here."""
    refuse("optim", name)


__all__ = [
    "OPTIMIZERS",
    "SAMPLERS",
    "Hyper",
    "accumulate",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_langevin_noise",
    "ademamix",
    "adopt",
    "apply_if_finite",
    "apply_updates",
    "asgd",
    "backtracking",
    "beta_lasso",
    "chain",
    "check_opt_state",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_value",
    "dadapt_adam",
    "dog",
    "elementwise",
    "ema",
    "freeze",
    "get_state",
    "hutchinson_diagonal",
    "inject_hyperparams",
    "is_matrix",
    "lamb",
    "lars",
    "lbfgs",
    "lion",
    "lookahead",
    "masked",
    "momentum",
    "momo",
    "momo_adam",
    "muon",
    "nadam",
    "named",
    "nesterov",
    "normalize_weights",
    "not_named",
    "partition",
    "polyak",
    "prodigy",
    "proximal_step",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "rprop",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_factored_rms",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_muon",
    "scale_by_nadam",
    "scale_by_param_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_shampoo",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_sum_of_squares",
    "scale_by_trust_ratio",
    "schedule_free",
    "schedule_free_adamw",
    "set_hyperparams",
    "sgd",
    "sghmc",
    "sgld",
    "shampoo",
    "skip_first",
    "soap",
    "sophia",
    "stateless",
    "strong_wolfe",
    "swa",
    "trace",
    "with_averaged_params",
]
