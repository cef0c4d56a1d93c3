"""The public functions of the three doors, found by themselves, and a good call of each.

A name is public if a door exports it, or if it is a function of an open module of `numpy_nets` or
`torch_nets` whose name has no underscore; of a package that exports names, only those. A new one
gets its good call from its defaults and from VALUES, by the names of its arguments; where that is
not enough, write it into one of the `calls_of` functions.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Collection
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

import purenets
from purenets import init_state, make_step, optim, random, runs, schedules, torch_nets, tree
from purenets.core import ensemble as core_ensemble
from purenets.core import metrics, sam
from purenets.core.data import palindromes
from purenets.core.data.scaling import standardize
from purenets.core.report import tabulate
from purenets.torch_nets import (
    augment,
    batchnorm,
    dataset,
    image_mlps,
    layers,
    losses,
    precision,
    selection,
    torch_optim,
    tta,
)
from purenets.torch_nets.analysis import (
    conjugate_gradients,
    curvature,
    kfac,
    laplace,
    per_example,
    quadrature,
    rnn_states,
)
from scripts import train_mlp_numpy

Call = tuple[Callable, dict[str, Any]]

# Modules of the backends that are of use to other modules only
CLOSED = {
    *("numpy_nets.image_modules", "numpy_nets.modules", "numpy_nets.rnn_numpy", "numpy_nets.grad"),
    *("torch_nets.convert", "torch_nets.default_metrics", "torch_nets.distributed"),
    "torch_nets.foreign_losses",
    *("torch_nets.from_module", "torch_nets.grad", "torch_nets.keys", "torch_nets.module_draws"),
    *("torch_nets.module_init", "torch_nets.remat", "torch_nets.vanilla_rnn"),
    *("torch_nets.module_checks", "torch_nets.module_reach"),
    *("torch_nets.other_draws", "torch_nets.analysis.accounting", "torch_nets.analysis.noise"),
    *("torch_nets.analysis.ghost_pass", "torch_nets.analysis.ghost_rules"),
    *("torch_nets.analysis.ghost_terms", "torch_nets.layer_calls", "torch_nets.shards"),
    "torch_nets.analysis.single_output",
}
# Functions of open modules that only others of purenets call
INTERNAL = {
    *(f"core.tree.{name}" for name in ("check_names", "check_like", "check_flat", "flat_layout")),
    *("core.tree.views_at", "core.tree.map_to_several", "core.random.philox"),
    *("core.metrics.means_classes", "core.metrics.means_one_hot", "core.random.words"),
    *("numpy_nets.losses.alike", "numpy_nets.losses.expect_losses"),
    *("torch_nets.analysis.ghost.backward", "torch_nets.analysis.ghost.clip_factors"),
    *("torch_nets.ensemble.check_members", "torch_nets.ensemble.check_prefixes"),
    *("torch_nets.images.expect_images", "torch_nets.augment.expect_images"),
    "torch_nets.selection.losses",
    *("torch_nets.analysis.trace.check_parts", "torch_nets.image_mlps.float32_suffices"),
    *("torch_nets.precision.autotune", "torch_nets.precision.variants_for"),
    *(f"torch_nets.analysis.per_example.{name}" for name in ("check_chunk", "example_keys")),
    "torch_nets.analysis.privacy.add_noise",
    *(
        f"torch_nets.analysis.diagonal.{name}"
        for name in ("expect_mean_loss", "hessian_sqrt", "loss_hessian_sqrt")
    ),
    *(
        f"torch_nets.analysis.kfac.{name}"
        for name in ("eigen_block", "kfac_eigenvectors_vp", "kfac_function")
    ),
    *(
        f"torch_nets.analysis.operators.{name}"
        for name in ("device_of", "draw_probes", "expect_net", "in_order_of", "matrix_product")
    ),
    "torch_nets.analysis.quadrature.lanczos_tridiagonal",
    *(f"torch_nets.analysis.trace.{name}" for name in ("left_out_directions", "sphere_columns")),
}
ELSEWHERE = {"torch_nets.images.cifar10"}  # needs the archive of CIFAR-10
MORE = (metrics, sam, palindromes, tabulate)  # open modules of core that no door exports


def functions() -> dict[str, Callable]:
    """Return every public function by the names of its module and its own."""
    doors = (purenets, purenets.numpy_nets, torch_nets)
    values = [getattr(door, name) for door in doors for name in door.__all__]
    modules = [value for value in values if isinstance(value, ModuleType)]
    values += [value for module in (*modules, *MORE, *_open_modules()) for value in _own(module)]
    found = {_name(f): f for f in values if isinstance(f, FunctionType)}
    by_hand = ("_forward", "_backward")  # the mathematics of a layer: the layer checks for them
    return {
        name: f
        for name, f in found.items()
        if name not in INTERNAL | ELSEWHERE and not name.endswith(by_hand)
    }


def _name(f: FunctionType) -> str:
    return f"{f.__module__.removeprefix('purenets.')}.{f.__name__}"


def _own(module: ModuleType) -> list:
    """Return what a module exports, or its functions without underscore."""
    if hasattr(module, "__all__"):
        return [getattr(module, name) for name in module.__all__]
    own = [f for f in vars(module).values() if getattr(f, "__module__", None) == module.__name__]
    return [f for f in own if not getattr(f, "__name__", "_").startswith("_")]


def _open_modules() -> list[ModuleType]:
    found = []
    for package in (purenets.numpy_nets, torch_nets):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            short, parent = module.name.removeprefix("purenets."), module.name.rpartition(".")[0]
            exports = hasattr(sys.modules[parent], "__all__") and parent != package.__name__
            if not exports and ".fast." not in f"{short}." and short not in CLOSED:
                found.append(importlib.import_module(module.name))
    return found


def calls(known: Collection[Callable]) -> tuple[dict[str, Call], list[str]]:
    """Return a good call of each public function but those `known`, and what has none, with why."""
    special, good, without = special_calls(), {}, []
    for name, f in functions().items():
        if f in known:
            continue
        call = special.get(f) or _by_names(f)
        try:
            call[0](**call[1])
            good[name] = call
        except Exception as error:  # whatever it is, the call is not a good one
            without.append(f"{name}{inspect.signature(f)}: {error}"[:300])
    return good, without


def _by_names(f: Callable) -> Call:
    """Return the call with VALUES of the arguments' names, and else with their defaults."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [p for p in inspect.signature(f).parameters.values() if p.kind not in several]
    empty = inspect.Parameter.empty
    return f, {p.name: VALUES.get(p.name) if p.default is empty else p.default for p in parameters}


KEY = torch.as_tensor(random.key(0))
NET, SGD = torch_nets.MLP(4, [5], 3), optim.sgd(0.1)
PARAMS = NET.init(KEY)[0]
STATE = init_state(NET, SGD, KEY)
X, Y = random.normal(KEY, (6, 4)), torch.tensor([0, 1, 2] * 2)
GRAD, METRICS = torch_nets.grad_fn(NET), torch_nets.metrics_fn(NET)
ADAM = optim.adam()
IMAGES = torch.zeros(6, 1, 8, 8)

VALUES = {
    "model": NET,
    "grad_fn": GRAD,
    "optimizer": SGD,
    "transform": SGD,
    "f": torch.relu,
    "params": PARAMS,
    "grads": PARAMS,
    "updates": PARAMS,
    "tree": PARAMS,
    "buffers": {},
    "state": STATE,
    "opt_state": ADAM.init(PARAMS),
    "key": KEY,
    "batch": (X, Y),
    "x": X,
    "data": (X, Y),
    "batches": lambda step: (X, Y),
    "step": make_step(GRAD, SGD),
    "logits": X,
    "predictions": X,
    "targets": Y,
    "losses": X[:, 0],
    "seed": 1,
    "n": 2,
    "trees": [PARAMS, PARAMS],
    "steps": 4,
    "value": 0.1,
    "begin": 0.1,
    "end": 0.0,
    "every": 2,
    "gamma": 0.5,
    "peak": 0.1,
    "schedule": schedules.constant(0.1),
    "k": 2,
    "decay": 0.9,
    "limit": 1.0,
    "max_norm": 1.0,
    "max_delta": 1.0,
    "where": optim.is_matrix,
    "lr": 0.1,
    "betas": (0.9, 0.99),
    "momentum": 0.9,
    "alpha": 0.9,
    "rho": 0.9,
    "lam": 0.1,
    "shape": (2,),
    "weight_decay": 0.1,
    "dtype": "float32",
    "prefix": "fc1.",
    "n_in": 2,
    "n_out": 3,
    "size": 2,
    "rate": 0.1,
    "padding": 1,
    "factor": 2.0,
    "n_inputs": 4,
    "n_hidden": [3],
    "n_classes": 3,
    "n_channels": 1,
    "width": 3,
    "depth": 1,
    "bottleneck": 2,
    "eps": 1e-5,
    "amount": 0.1,
    "clip": 1.0,
    "noise_multiplier": 1.0,
    "loss": losses.cross_entropy,
    "make": optim.adam,
    "filters": torch.zeros(2, 1, 2, 2),
    "weight": torch.ones(4, 4),
    "bias": torch.zeros(4),
    "path": "a.csv",
    "folder": ".",
    "name": "moons",
    "smoothing": 0.1,
    "low": 0,
    "high": 3,
    "p": 0.5,
    "T": 4,
    "init": np.array(0.0),
    "rows": [],
    "epoch": 1,
    "heads": 2,
    "dropout": 0.1,
    "n_tokens": 5,
    "n_features": 3,
    "groups": 1,
    "threshold": 0.1,
    "epsilon": 2.0,
    "delta": 1e-5,
    "sample_rate": 0.1,
    "stride": 1,
    "outputs": X,
    "rank": 0,
    "processes": 2,
    "product": lambda v: v,
    "num_matvecs": 6,
    "damping": 0.1,
    "milestones": [3],
    "num_samples": 2,
    "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=2),
}


def theirs(leaf):
    """A function of the caller's: what it raises is the caller's too."""
    return torch.relu(leaf)


def _several(f: Callable, *values) -> Call:
    """Return the call of a function of `*values`."""
    names = [f"value_{i}" for i in range(len(values))]
    return (lambda **given: f(*given.values())), dict(zip(names, values, strict=True))


def special_calls() -> dict[Callable, Call]:
    """Return the calls whose arguments depend on each other, or have no names of their own."""
    plain = [
        *calls_of_core(),
        *calls_of_images(),
        *calls_of_losses(),
        *calls_of_analysis(),
        *calls_of_second_order(),
        *calls_of_torch_optim(),
    ]
    several = {
        optim.chain: _several(optim.chain, optim.clip_by_value(1.0), SGD),
        optim.named: _several(optim.named, "fc1.*"),
        optim.not_named: _several(optim.not_named, "fc1.*"),
        augment.chain: _several(augment.chain, augment.flip, augment.flip),
        standardize: _several(standardize, X, X),
    }
    return {f: (f, arguments) for f, arguments in plain} | several


def calls_of_core() -> list[Call]:
    adam, injected = optim.adam(), optim.inject_hyperparams(optim.adam, lr=0.1)
    constant = schedules.constant(0.1)
    return [
        (metrics.binary_accuracy, {"predictions": X[:, 0], "targets": Y % 2, "threshold": 0.0}),
        (metrics.r2, {"predictions": X[:, 0], "targets": X[:, 1]}),
        (metrics.confusion, {"predicted": Y, "targets": Y, "n_classes": 3}),
        (optim.partition, {"optimizers": {"a": SGD}, "label_fn": lambda name, leaf: "a"}),
        (optim.stateless, {"f": lambda grads, params: grads}),
        (optim.is_matrix, {"name": "a", "leaf": X}),
        (optim.inject_hyperparams, {"make": optim.adam, "lr": 0.1}),
        (optim.get_state, {"opt_state": adam.init(PARAMS), "name": "count"}),
        (optim.set_hyperparams, {"opt_state": injected.init(PARAMS), "lr": 0.2}),
        (
            optim.check_opt_state,
            {"optimizer": adam, "params": PARAMS, "opt_state": adam.init(PARAMS)},
        ),
        (schedules.piecewise, {"boundaries": [3], "values": [0.1, 0.2]}),
        (
            schedules.swa,
            {"schedule": constant, "start": 3, "rate": 0.2, "steps": 2, "anneal": "cosine"},
        ),
        (schedules.join, {"schedules": [constant] * 2, "boundaries": [3]}),
        (random.fold_in, {"key": KEY, "data": 1}),
        (tree.map, {"f": theirs, "tree": PARAMS}),
        (tree.unflatten, {"flat": tree.flatten({"a": PARAMS}), "like": {"a": PARAMS}}),
        (tree.unstack, {"tree": {"a": X}}),
        (tree.ravel, {"tree": PARAMS}),
        (runs.command_line, {"config": train_mlp_numpy.Config()}),
        (runs.origin_of, {"folder": begun("begun")}),
        (runs.settle, {"folder": "empty", "keep": 2}),
        (core_ensemble.ensemble_metrics, {"metrics": METRICS, "same_batch": True}),
        (palindromes.mirror_digits, {"half": Y[None, :2], "T": 4}),
        (palindromes.inputs_and_targets, {"digits": Y[None], "one_hot": True}),
        (dataset.generate_palindrome, {"length": 4, "key": random.key(0)}),
        (dataset.collate, {"items": dataset.Items(X, Y)}),
        (
            dataset.loader_from,
            {"dataset": dataset.PalindromeDataset(4), "batch_size": 2, "step": 1},
        ),
    ]


def begun(folder: str) -> str:
    """Return a folder below the current one in which a run has begun."""
    with runs.open_run(train_mlp_numpy.Config(out=folder)):
        return folder


def calls_of_images() -> list[Call]:
    step = make_step(GRAD, SGD)
    return [
        (layers.serial, {"a": layers.Linear(2, 3), "b": layers.ReLU()}),
        (layers.residual, {"a": layers.Linear(3, 3)}),
        *((make, {"n_in": 2, "n_hidden": 3}) for make in (layers.RNN, layers.LSTM, layers.GRU)),
        (tta.unsure, {"logits": X, "below": 0.5}),
        (tta.where_unsure, {"model": NET, "averaged": NET, "below": 0.5}),
        (
            batchnorm.update_batchnorm,
            {"model": NET, "params": PARAMS, "buffers": {}, "batches": [(X, Y)], "key": KEY},
        ),
        (augment.flip, {"key": KEY, "x": IMAGES}),
        (augment.mirrored, {"x": IMAGES, "which": Y > 0}),
        (augment.resized, {"x": IMAGES, "size": 4}),
        (augment.augmented, {"grad_fn": GRAD, "f": augment.flip}),
        (
            augment.augmented_batches,
            {"batches": lambda step: (IMAGES, Y), "f": augment.flip, "key": KEY},
        ),
        (augment.alternating_flips, {"key": KEY, "n": 3, "epoch": 1}),
        (augment.alternating_flip_batches, {"data": (IMAGES, Y), "batch_size": 2, "key": KEY}),
        (
            selection.hardest_rows,
            {"model": NET, "step": step, "state": STATE}
            | {"batches": lambda step: (X, Y), "steps": 2, "keep": 2},
        ),
        (selection.selected, {"batches": lambda step: (X, Y), "rows": Y}),
        (image_mlps.whitening_map, {"parts": [X], "n": 2, "eps": 1e-2}),
        (precision.cast, {"model": NET, "dtype": torch.bfloat16, "keep": None}),
    ]


def calls_of_losses() -> list[Call]:
    yes, outputs = (Y > 0).float(), X[:, 0]
    return [
        (losses.binary_cross_entropy, {"logits": outputs, "targets": yes}),
        (
            losses.focal_binary_cross_entropy,
            {"logits": outputs, "targets": yes, "gamma": 2.0, "alpha": None},
        ),
        (losses.mse, {"outputs": outputs, "targets": outputs}),
        (losses.huber_loss, {"outputs": outputs, "targets": outputs, "delta": 1.0}),
    ]


def calls_of_analysis() -> list[Call]:
    rnn = torch_nets.VanillaRNN(3, 1, 4, 10)
    rnn_params, digits = rnn.init(KEY)[0], torch.ones(2, 3, 1)
    each = per_example.per_example_grads(NET)(PARAMS, {}, (X, Y))[0]
    f = curvature.eval_loss_fn(NET, {}, (X, Y))
    return [
        (curvature.hvp, {"f": f, "params": PARAMS, "v": PARAMS}),
        (
            curvature.ggn_vp,
            {"outputs": lambda params: NET.apply(params, {}, X)[0]}
            | {"loss": lambda logits: losses.cross_entropy(logits, Y)}
            | {"params": PARAMS, "v": PARAMS},
        ),
        (
            curvature.lanczos,
            {"product": lambda v: v, "params": PARAMS, "key": KEY, "iterations": 2},
        ),
        (curvature.ntk, {"model": NET, "params": PARAMS, "buffers": {}, "x1": X, "x2": X}),
        (
            curvature.landscape,
            {"f": f, "params": PARAMS, "directions": [PARAMS, PARAMS], "steps": [0.0]},
        ),
        (per_example.noise_scale, {"grads": each}),
        (per_example.leaf_grad_norms, {"grads": each}),
        (per_example.example_grad_norms, {"grads": each}),
        (per_example.influence, {"grads": each, "reference": PARAMS}),
        (rnn_states.states, {"params": rnn_params, "x": digits, "h": None, "perturbations": None}),
        (rnn_states.hidden_state_grads, {"params": rnn_params, "x": digits, "y": Y[:2]}),
        (rnn_states.jacobians, {"params": rnn_params, "x": digits[0]}),
        (rnn_states.jacobian_products, {"params": rnn_params, "x": digits[0]}),
        (
            rnn_states.principal_plane,
            {"points": rnn_states.states(rnn_params, digits)[0]},
        ),
    ]


def calls_of_second_order() -> list[Call]:
    blocks = kfac.kfac(NET, PARAMS, {}, (X, Y))
    posterior = laplace.diagonal_laplace(NET, PARAMS, {}, (X, Y))
    mean, covariance = laplace.linearized_predictive(NET, posterior, {}, X)
    measure = quadrature.spectral_measure(lambda v: v, PARAMS, KEY, 2)
    return [
        (
            conjugate_gradients.cg,
            {"A": lambda v: v, "b": PARAMS, "x0": PARAMS, "tol": 1e-5, "atol": 0.0, "maxiter": 2}
            | {"M": lambda r: r},
        ),
        (kfac.kfac_vp, {"blocks": blocks, "v": PARAMS}),
        (kfac.kfac_solve, {"blocks": blocks, "v": PARAMS, "damping": 0.1}),
        (
            kfac.kfac,
            {"model": NET, "params": PARAMS, "buffers": {}, "batch": (X, Y)}
            | {"loss": losses.cross_entropy, "sharing": "expand", "num_samples": 2, "key": KEY}
            | {"chunk_size": 2},
        ),
        (laplace.sample_posterior, {"posterior": posterior, "key": KEY, "num_samples": 2}),
        (
            laplace.linearized_predictive,
            {"model": NET, "posterior": posterior, "buffers": {}, "x": X, "chunk_size": None},
        ),
        (laplace.probit_predictive, {"mean": mean, "covariance": covariance}),
        (
            quadrature.slq_trace,
            {"f": theirs, "product": lambda v: v, "params": PARAMS, "key": KEY, "iterations": 2}
            | {"num_probes": 2, "distribution": "normal"},
        ),
        (
            quadrature.spectral_density,
            {"measure": measure, "grid": torch.linspace(0, 2, 3), "sigma": 0.1},
        ),
    ]


def calls_of_torch_optim() -> list[Call]:
    layer, ours = torch.nn.Linear(4, 3), optim.adam()
    theirs = torch.optim.Adam(layer.parameters())
    layer(X).sum().backward()
    theirs.step()
    params = {name: leaf.detach() for name, leaf in layer.named_parameters()}
    return [
        (
            torch_optim.to_torch_state_dict,
            {"opt_state": ours.init(params), "optimizer_name": "adam", "params": params}
            | {"hyper": None, "step": 0, "order": None},
        ),
        (
            torch_optim.from_torch_state_dict,
            {"state_dict": theirs.state_dict(), "optimizer": ours, "params": params}
            | {"step": None, "order": None},
        ),
    ]
