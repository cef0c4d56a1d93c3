"""The public functions of the three doors, called with what they cannot mean: text, None, negative
numbers, NaN, 0, lists, dicts. Each call is refused in one line, before anything is computed.

A function joins by its entry in CALLS. Optimizers and schedules are in
`core/test_optim_arguments.py`, options of scripts in `core/test_config.py`.
"""

import inspect
import math
import types

import numpy as np
import pytest
import torch

import purenets
from purenets import (
    UserError,
    data,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    torch_nets,
    tree,
)
from purenets.core import metrics
from purenets.core.data import palindromes
from purenets.numpy_nets import image_modules, modules
from purenets.torch_nets import augment, layers, losses, precision, tta
from purenets.torch_nets.analysis import (
    conjugate_gradients,
    curvature,
    diagonal,
    ghost,
    kfac,
    laplace,
    operators,
    per_example,
    privacy,
    quadrature,
    trace,
)
from purenets.torch_nets.ensemble import deep_ensemble, per_member_grad_fn
from purenets.torch_nets.losses import label_smoothed

WRONG = {
    "text": "x",
    "None": None,
    "True": True,
    "-1": -1,
    "-1.5": -1.5,
    "NaN": math.nan,
    "0": 0,
    "1.5": 1.5,
    "list": [1],
    "dict": {},
    "inf": math.inf,
}
KEY = random.key(0)
SGD = optim.sgd(0.1)
BACKENDS = {"numpy": (numpy_nets, np.asarray), "torch": (torch_nets, torch.as_tensor)}


def calls_of(backend: str) -> dict:
    """Return the functions that both backends have: name -> (function, good arguments, exceptions).

    exceptions: by argument, which of WRONG are taken there.
    """
    nets, convert = BACKENDS[backend]
    key, x, y = convert(KEY), convert(random.normal(KEY, (6, 4))), convert(np.array([0, 1, 2] * 2))
    net = nets.MLP(4, [3], 3)
    params, _ = net.init(key)
    grad, state = nets.grad_fn(net), init_state(net, SGD, key)
    step, batch, adam = make_step(grad, SGD), (x, y), optim.adam()
    rnn = nets.VanillaRNN(3, 1, 4, 10)
    calls = {
        "MLP": (
            nets.MLP,
            {"n_inputs": 2, "n_hidden": [3], "n_classes": 2, "activation": "relu", "dropout": 0.1},
            {"n_hidden": ("list",), "dropout": ("0",)},
        ),
        "CNN": (nets.CNN, {"n_channels": 1, "n_classes": 2, "width": 0.1}, {"width": ("1.5",)}),
        "VanillaRNN": (
            nets.VanillaRNN,
            {"input_length": 3, "input_dim": 1, "num_hidden": 4, "num_classes": 10},
            {},
        ),
        "model.init": (lambda key: net.init(key), {"key": key}, {}),
        "model.apply": (
            lambda params, x: net.apply(params, {}, x),
            {"params": params, "x": x},
            {},
        ),
        "rnn.apply": (lambda x: rnn.apply(rnn.init(key)[0], {}, x), {"x": x[:, :3, None]}, {}),
        "grad_fn": (nets.grad_fn, {"model": net}, {}),
        "grad": (
            lambda params, batch: grad(params, {}, batch, None),
            {"params": params, "batch": batch},
            {},
        ),
        "metrics_fn": (nets.metrics_fn, {"model": net}, {}),
        "metrics": (
            lambda params, batch: nets.metrics_fn(net)(params, {}, batch),
            {"params": params, "batch": batch},
            {},
        ),
        "ensemble": (
            nets.ensemble,
            {"step": step, "same_batch": True},
            {"same_batch": ("True",)},
        ),
        "ensemble_metrics": (
            nets.ensemble_metrics,
            {"metrics": nets.metrics_fn(net), "same_batch": True},
            {"same_batch": ("True",)},
        ),
        "stack_states": (nets.stack_states, {"states": [state, state]}, {}),
        "unstack_states": (nets.unstack_states, {"state": nets.stack_states([state])}, {}),
        "init_state": (
            purenets.init_state,
            {"model": net, "optimizer": SGD, "key": key},
            {},
        ),
        "train_state": (
            purenets.train_state,
            {"params": params, "buffers": {}, "optimizer": SGD, "key": key},
            {"buffers": ("dict",)},
        ),
        "make_step": (purenets.make_step, {"grad_fn": grad, "optimizer": SGD}, {}),
        "step": (step, {"state": state, "batch": batch}, {}),
        "fit": (
            purenets.fit,
            {
                "step": step,
                "state": state,
                "batches": lambda i: batch,
                "steps": 2,
                "every": 1,
                "evaluate": lambda state: {},
                "save": lambda *given: None,
                "history": (),
            },
            {
                "steps": ("0",),
                "every": ("0",),
                "evaluate": ("None",),
                "save": ("None",),
                "history": (),
            },
        ),
        "evaluate": (
            purenets.evaluate,
            {"metrics": nets.metrics_fn(net), "state": state, "data": batch, "batch_size": 2},
            {"batch_size": ("0",)},
        ),
        "apply_updates": (purenets.apply_updates, {"params": params, "updates": params}, {}),
        "optimizer.init": (adam.init, {"params": params}, {"params": ()}),
        "optimizer.update": (
            lambda grads, state, params: adam.update(grads, state, params),
            {"grads": params, "state": adam.init(params), "params": params},
            {"params": ("None",)},  # Adam reads its state only
        ),
        "scan": (
            purenets.scan,
            {
                "f": lambda carry, x: (carry, x),
                "init": convert(np.zeros(2)),
                "xs": convert(np.zeros((3, 2))),
                "length": 3,
                "reverse": False,
                "unroll": 1,
            },
            {
                "init": tuple(WRONG),
                "xs": ("None", "dict"),
                "length": ("None",),
                "reverse": ("True",),
            },
        ),
        "batches": (
            data.batches,
            {"data": batch, "batch_size": 2, "key": key, "repeat": False},
            {"batch_size": ("0",), "repeat": ("True",)},
        ),
        "check": (
            data.check,
            {"batch": batch, "n_classes": 3},
            {"n_classes": ("None",)},
        ),
        "prepare": (
            data.prepare,
            {"batch": batch, "key": key, "test_fraction": 0.5, "dtype": "float64", "n_classes": 3},
            {"n_classes": ("None",)},
        ),
        "split": (data.split, {"batch": batch, "key": key, "fraction": 0.5}, {}),
        "standardize": (data.standardize, {"train": x}, {}),
        "part_of": (
            data.part_of,
            {"batches": lambda step: batch, "rank": 0, "processes": 2},
            {"rank": ("0",)},
        ),
        "steps_per_epoch": (
            data.steps_per_epoch,
            {"data": batch, "batch_size": 2},
            {"batch_size": ("0",)},
        ),
        "random.split": (random.split, {"key": key, "n": 2}, {"n": ("0", "True")}),
        "random.fold_in": (random.fold_in, {"key": key, "data": 1}, {"data": ("0", "True")}),
        "random.bits": (random.bits, {"key": key, "n": 2}, {"n": ("0", "True")}),
        "random.permutation": (random.permutation, {"key": key, "n": 2}, {"n": ("0",)}),
        "random.uniform": (
            random.uniform,
            {"key": key, "shape": (2,), "dtype": "float16", "low": 0.0, "high": 1.0},
            {"shape": ("list",), "low": ("0", "-1", "-1.5"), "high": ("0", "1.5")},
        ),
        "random.normal": (
            random.normal,
            {"key": key, "shape": (2,), "dtype": "float32"},
            {"shape": ("list",)},
        ),
        "random.truncated_normal": (
            random.truncated_normal,
            {"key": key, "shape": (2,), "low": -3.0, "high": 3.0, "dtype": "float32"},
            {"shape": ("list",), **dict.fromkeys(("low", "high"), ("0", "-1", "-1.5", "1.5"))},
        ),
        "random.bernoulli": (
            random.bernoulli,
            {"key": key, "p": 0.5, "shape": (2,)},
            {"shape": ("list",), "p": ("0",)},
        ),
        "random.randint": (
            random.randint,
            {"key": key, "shape": (2,), "low": 0, "high": 3},
            {"shape": ("list",), "low": ("0", "-1")},
        ),
        "accuracy": (purenets.accuracy, {"predictions": x, "targets": y}, {}),
        "top_k_accuracy": (metrics.top_k_accuracy(2), {"predictions": x, "targets": y}, {}),
        "binary_accuracy": (metrics.binary_accuracy, {"predictions": x, "targets": x > 0}, {}),
        "r2": (metrics.r2, {"predictions": x, "targets": x}, {}),
        "get_state": (
            optim.get_state,
            {"opt_state": adam.init(params), "name": "count"},
            {},
        ),
        "check_opt_state": (
            optim.check_opt_state,
            {"optimizer": adam, "params": params, "opt_state": adam.init(params)},
            {},
        ),
        "set_hyperparams": (
            lambda opt_state, lr: optim.set_hyperparams(opt_state, lr=lr),
            {"opt_state": optim.inject_hyperparams(optim.adam, lr=0.1).init(params), "lr": 0.2},
            {"lr": ("0", "1.5")},
        ),
        "with_averaged_params": (optim.with_averaged_params, {"state": state}, {}),
        "tree.zeros_like": (tree.zeros_like, {"tree": params}, {"tree": ("dict",)}),
        "tree.size": (tree.size, {"tree": params}, {"tree": ("dict",)}),
        "tree.norm": (tree.norm, {"tree": params}, {}),
        "tree.ravel": (tree.ravel, {"tree": params}, {}),
        "tree.flatten": (tree.flatten, {"tree": params}, {"tree": ("dict",)}),
        "tree.stack": (tree.stack, {"trees": [params, params]}, {}),
        "tree.unstack": (tree.unstack, {"tree": {"a": x}}, {}),
        "tree.cast": (tree.cast, {"tree": params, "dtype": "float16"}, {"tree": ("dict",)}),
        "tree.map": (
            lambda tree_: tree.map(lambda leaf: leaf, tree_),
            {"tree_": params},
            {"tree_": ("dict",)},
        ),
        "tree.select": (
            tree.select,
            {"tree": params, "prefix": "fc1."},
            {"tree": ("dict",), "prefix": ("text",)},
        ),
        "tree.prefixed": (
            tree.prefixed,
            {"tree": params, "prefix": "fc1."},
            {"tree": ("dict",), "prefix": ("text",)},
        ),
        "palindromes": (
            palindromes.palindromes,
            {"key": key, "batch": 3, "T": 4, "one_hot": False},
            {"one_hot": ("True",)},
        ),
    }
    return {f"{backend} {name}": call for name, call in calls.items()}


def calls_of_one_backend() -> dict:
    """Return the functions that one backend has, or that need none."""
    key = torch.as_tensor(KEY)
    x, y = random.normal(key, (6, 4)), torch.tensor([0, 1, 2] * 2)
    net = torch_nets.MLP(4, [3], 3)
    params, _ = net.init(key)
    grad = torch_nets.grad_fn(net)
    f = curvature.eval_loss_fn(net, {}, (x, y))
    posterior = laplace.diagonal_laplace(net, params, {}, (x, y))
    images = torch.zeros(2, 1, 8, 8)
    size = {"padding": ("0",)}
    flag = ("True",)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 2)
    return {
        "random.key": (random.key, {"seed": 1}, {"seed": ("0", "True")}),
        "data.load": (
            data.load,
            {"name": "moons", "key": KEY, "n": 20, "noise": 0.1, "test_fraction": 0.2},
            {"noise": ("None", "0", "1.5")},
        ),
        "data.from_csv": (lambda path: data.from_csv(path, KEY), {"path": "none.csv"}, {}),
        "evaluation_batches": (
            lambda **given: list(palindromes.evaluation_batches(**given)),
            {"key": KEY, "T": 4, "size": 20, "chunk": 10},
            {},
        ),
        "top_k_accuracy of k": (metrics.top_k_accuracy, {"k": 2}, {}),
        "numpy Linear": (modules.Linear, {"n_in": 2, "n_out": 3}, {}),
        "numpy Dropout": (modules.Dropout, {"rate": 0.1}, {"rate": ("0",)}),
        "numpy serial": (lambda layer: modules.serial(a=layer), {"layer": modules.ReLU()}, {}),
        "numpy Conv": (
            image_modules.Conv,
            {"n_in": 2, "n_out": 3, "size": 3, "stride": 1, "padding": 1},
            size,
        ),
        "numpy MaxPool": (
            image_modules.MaxPool,
            {"size": 2, "stride": 2, "padding": 1},
            {**size, "stride": ("None",)},
        ),
        "numpy BatchNorm": (
            image_modules.BatchNorm,
            {"n": 3, "momentum": 0.1, "eps": 1e-5},
            {"momentum": ("0",), "eps": ("0", "1.5")},
        ),
        "Linear": (
            layers.Linear,
            {"n_in": 2, "n_out": 3, "bias": True, "bound": 0.1},
            {"bias": flag, "bound": ("None", "0", "1.5")},
        ),
        "elementwise": (layers.elementwise, {"f": torch.relu}, {}),
        "Scale": (layers.Scale, {"factor": 0.5}, {"factor": ("0", "-1", "-1.5", "1.5")}),
        "Dropout": (layers.Dropout, {"rate": 0.1}, {"rate": ("0",)}),
        "LayerNorm": (layers.LayerNorm, {"n": 3, "eps": 1e-5}, {"eps": ("0", "1.5")}),
        "BatchNorm": (
            layers.BatchNorm,
            {"n": 3, "momentum": 0.1, "eps": 1e-5, "scale": True},
            {"momentum": ("0",), "eps": ("0", "1.5"), "scale": flag},
        ),
        "Conv": (
            layers.Conv,
            {"n_in": 2, "n_out": 3, "size": 3, "stride": 1, "padding": 1, "bias": True},
            {**size, "bias": flag},
        ),
        "Conv in groups": (
            layers.Conv,
            {"n_in": 2, "n_out": 4, "dilation": 2, "groups": 2},
            {},
        ),
        "Conv1d": (
            layers.Conv1d,
            {"n_in": 2, "n_out": 4, "size": 3, "stride": 1, "padding": 1, "dilation": 1}
            | {"groups": 2, "bias": True},
            {**size, "bias": flag},
        ),
        "ConvTranspose": (
            layers.ConvTranspose,
            {"n_in": 2, "n_out": 3, "size": 3, "stride": 2, "padding": 1, "output_padding": 1}
            | {"bias": True},
            {**size, "output_padding": ("0",), "bias": flag},
        ),
        "Embedding": (
            layers.Embedding,
            {"n_tokens": 4, "n_features": 3, "padding": 1},
            {"padding": ("None", "0")},
        ),
        "GELU": (layers.GELU, {"approximate": "none"}, {}),
        "RMSNorm": (layers.RMSNorm, {"n": 3, "eps": 1e-5}, {"eps": ("None", "0", "1.5")}),
        "GroupNorm": (layers.GroupNorm, {"n": 4, "groups": 2, "eps": 1e-5}, {"eps": ("0", "1.5")}),
        "LSTM": (
            layers.LSTM,
            {"n_in": 2, "n_hidden": 3, "num_layers": 2, "bias": True, "bidirectional": True}
            | {"dropout": 0.1},
            {"bias": flag, "bidirectional": flag, "dropout": ("0",)},
        ),
        "MultiheadAttention": (
            layers.MultiheadAttention,
            {"n": 4, "heads": 2, "bias": True, "causal": True, "dropout": 0.1},
            {"bias": flag, "causal": flag, "dropout": ("0",)},
        ),
        "TransformerBlock": (
            layers.TransformerBlock,
            {"n": 4, "heads": 2, "n_feedforward": 8, "activation": "gelu", "norm_first": True}
            | {"bias": True, "causal": True, "dropout": 0.1},
            {**dict.fromkeys(("norm_first", "bias", "causal"), flag), "dropout": ("0",)},
        ),
        "lazy": (
            layers.lazy,
            {"make": layers.Linear, "axis": -1},
            {"axis": ("None", "-1", "0")},
        ),
        "FixedConv": (layers.FixedConv, {"filters": torch.zeros(2, 1, 2, 2)}, {}),
        "MaxPool": (
            layers.MaxPool,
            {"size": 2, "stride": 2, "padding": 1},
            {**size, "stride": ("None",)},
        ),
        "serial": (lambda layer: layers.serial(a=layer), {"layer": layers.ReLU()}, {}),
        "residual": (lambda layer: layers.residual(a=layer), {"layer": layers.ReLU()}, {}),
        "VanillaRNN of torch": (
            torch_nets.VanillaRNN,
            {"input_length": 3, "input_dim": 1, "num_hidden": 4, "num_classes": 10}
            | {"init": "default", "gain": 1.0, "input_scale": 1.0, "recurrence": "loop"},
            dict.fromkeys(("gain", "input_scale"), ("0", "-1", "-1.5", "1.5")),
        ),
        "grad_fn of torch": (
            torch_nets.grad_fn,
            {"model": net, "loss": torch.nn.functional.cross_entropy, "metrics": {}},
            {"metrics": ("None", "dict")},
        ),
        "cast": (precision.cast, {"model": net, "dtype": torch.bfloat16}, {}),
        "channels_last": (precision.channels_last, {"model": net}, {}),
        "flip_averaged": (tta.flip_averaged, {"model": net}, {}),
        "jit": (torch_nets.jit, {"f": lambda x: x}, {}),
        "cuda_graph": (torch_nets.cuda_graph, {"f": lambda x: x}, {}),
        "checkpoint": (torch_nets.checkpoint, {"f": lambda x: x}, {}),
        "from_module": (torch_nets.from_module, {"module": torch.nn.ReLU()}, {}),
        "to_module": (
            torch_nets.to_module,
            {"model": net, "params": params, "buffers": {}},
            {"buffers": ("None", "dict")},
        ),
        "frozen": (
            torch_nets.frozen,
            {"model": net, "params": params, "buffers": {}},
            {"params": ("dict",), "buffers": ("None", "dict")},
        ),
        "to_torch": (
            torch_nets.to_torch,
            {"arrays": params},
            {"arrays": set(WRONG) - {"text", "None"}},
        ),
        "to_numpy": (
            torch_nets.to_numpy,
            {"tensors": params},
            {"tensors": set(WRONG) - {"text", "None"}},
        ),
        "to_dataset": (
            torch_nets.to_dataset,
            {"batches": lambda step: (x, y), "steps": 2},
            {},
        ),
        "from_loader": (
            torch_nets.from_loader,
            {"loader": loader, "key": key, "steps_per_epoch": 3, "device": None, "to_batch": tuple},
            {"steps_per_epoch": ("None",), "device": ("None",)},
        ),
        "update_batchnorm": (
            torch_nets.update_batchnorm,
            {"model": net, "params": params, "buffers": {}, "batches": [(x, y)]},
            {"buffers": ("dict",)},
        ),
        "label_smoothed": (label_smoothed, {"amount": 0.1}, {"amount": ("0",)}),
        "focal": (losses.focal, {"gamma": 2.0}, {"gamma": ("0", "1.5")}),
        "binary_focal": (
            losses.binary_focal,
            {"gamma": 2.0, "alpha": 0.5},
            {"gamma": ("0", "1.5"), "alpha": ("None", "0")},
        ),
        "huber": (losses.huber, {"delta": 2.0}, {"delta": ("1.5",)}),
        "huber of numpy": (numpy_nets.losses.huber, {"delta": 2.0}, {"delta": ("1.5",)}),
        "grad_fn of numpy": (
            numpy_nets.grad_fn,
            {"model": numpy_nets.MLP(4, [3], 3), "loss": numpy_nets.losses.mse},
            {},
        ),
        "mse": (losses.mse, {"outputs": x, "targets": x}, {}),
        "deep_ensemble": (deep_ensemble, {"model": net, "k": 2}, {}),
        "per_member_grad_fn": (per_member_grad_fn, {"grad_fn": grad, "k": 2}, {}),
        "per_example_grads": (
            per_example.per_example_grads,
            {"model": net, "chunk_size": 2, "train": False, "reduce": tree.norm},
            {"chunk_size": ("None",), "train": flag},
        ),
        "ghost_norms": (
            ghost.ghost_norms,
            {"model": net, "loss": losses.cross_entropy, "train": False, "chunk_size": 2},
            {"train": flag, "chunk_size": ("None",)},
        ),
        "clipped_sum": (
            ghost.clipped_sum,
            {"model": net, "clip": 1.0, "loss": losses.cross_entropy, "train": False}
            | {"chunk_size": 2},
            {"clip": ("1.5", "inf"), "train": flag, "chunk_size": ("None",)},
        ),
        "noise_for": (
            privacy.noise_for,
            {"epsilon": 1.0, "delta": 1e-3, "sample_rate": 0.1, "steps": 3},
            {"epsilon": ("1.5",)},
        ),
        "noise_scale": (per_example.noise_scale, {"grads": {"a": torch.ones(3, 2)}}, {}),
        "top_loss_indices": (
            per_example.top_loss_indices,
            {"losses": torch.arange(5.0), "k": 2},
            {},
        ),
        "dp_grad_fn": (
            privacy.dp_grad_fn,
            {"model": net, "clip": 1.0, "noise_multiplier": 1.0, "batch_size": 4, "chunk_size": 2},
            {
                "clip": ("1.5",),
                "noise_multiplier": ("0", "1.5"),
                "batch_size": ("None", "1.5"),
                "chunk_size": ("None",),
            },
        ),
        "poisson_batches": (
            privacy.poisson_batches,
            {"data": (x, y), "rate": 0.5, "key": key},
            {},
        ),
        "eval_loss_fn": (
            curvature.eval_loss_fn,
            {"model": net, "buffers": {}, "batch": (x, y)},
            {"buffers": tuple(WRONG)},
        ),
        "hvp": (curvature.hvp, {"f": f, "params": params, "v": params}, {}),
        "lanczos": (
            curvature.lanczos,
            {"product": lambda v: v, "params": params, "key": key, "iterations": 2},
            {},
        ),
        "to_dense": (
            operators.to_dense,
            {"product": lambda v: v, "params": params, "chunk_size": 2},
            {"chunk_size": ("None",)},
        ),
        "damped": (
            operators.damped,
            {"product": lambda v: v, "damping": 0.1},
            {"damping": ("0", "1.5")},
        ),
        **{
            f.__name__: (
                f,
                {"product": lambda v: v, "params": params, "key": key, "num_matvecs": 6}
                | {"chunk_size": 2},
                {"chunk_size": ("None",)},
            )
            for f in (
                *(trace.hutchinson_trace, trace.hutchpp_trace, trace.xtrace),
                *(diagonal.hutchinson_diag, diagonal.xdiag),
            )
        },
        "ggn_diagonal": (
            diagonal.ggn_diagonal,
            {"model": net, "params": params, "buffers": {}, "batch": (x, y), "chunk_size": 2},
            {"buffers": ("dict",), "chunk_size": ("None",)},
        ),
        "spectral_measure": (
            quadrature.spectral_measure,
            {"product": lambda v: v, "params": params, "key": key, "iterations": 2}
            | {"num_probes": 2},
            {},
        ),
        "slq_trace": (
            quadrature.slq_trace,
            {"f": torch.exp, "product": lambda v: v, "params": params, "key": key},
            {},
        ),
        "cg": (
            conjugate_gradients.cg,
            {"A": lambda v: v, "b": params, "tol": 0.1, "atol": 0.1, "maxiter": 2, "M": None},
            dict.fromkeys(("tol", "atol"), ("0", "1.5")) | {"maxiter": ("None",), "M": ("None",)},
        ),
        "gauss_newton_grad_fn": (
            conjugate_gradients.gauss_newton_grad_fn,
            {"model": net, "damping": 0.1, "tol": 0.1, "maxiter": 2},
            dict.fromkeys(("damping", "tol"), ("0", "1.5")),
        ),
        "kfac": (
            kfac.kfac,
            {"model": net, "params": params, "buffers": {}, "batch": (x, y), "sharing": "reduce"}
            | {"num_samples": 2, "key": key, "chunk_size": 2},
            {"buffers": ("dict",), **dict.fromkeys(("num_samples", "chunk_size"), ("None",))},
        ),
        **{
            f.__name__: (
                f,
                {"model": net, "params": params, "buffers": {}, "batch": (x, y)}
                | {"prior_precision": 1.0, "n_data": 10},
                {"buffers": ("dict",), "prior_precision": ("1.5",), "n_data": ("None",)},
            )
            for f in (laplace.diagonal_laplace, laplace.kfac_laplace, laplace.last_layer_laplace)
        },
        "sample_posterior": (
            laplace.sample_posterior,
            {"posterior": posterior, "key": key, "num_samples": 2},
            {},
        ),
        "linearized_predictive": (
            laplace.linearized_predictive,
            {"model": net, "posterior": posterior, "buffers": {}, "x": x, "chunk_size": 2},
            {"buffers": ("dict",), "chunk_size": ("None",)},
        ),
        "landscape": (
            curvature.landscape,
            {"f": f, "params": params, "directions": [params, params], "steps": [0.0]},
            {"steps": ("list",)},
        ),
        "augmented": (augment.augmented, {"grad_fn": grad, "f": augment.flip}, {}),
        "chain of augmentations": (augment.chain, {}, {}),
        "crop": (augment.crop, {"padding": 2}, size),
        "cutout": (augment.cutout, {"size": 2}, {}),
        "color_jitter": (
            augment.color_jitter,
            {"brightness": 0.1, "contrast": 0.1},
            dict.fromkeys(("brightness", "contrast"), ("0", "1.5")),
        ),
        "mixup": (augment.mixup, {"grad_fn": grad, "n_classes": 3}, {}),
        "images in a crop": (lambda image: augment.crop(1)(key, images), {"image": images}, {}),
    }


CALLS = {**calls_of("numpy"), **calls_of("torch"), **calls_of_one_backend()}
del CALLS["images in a crop"], CALLS["chain of augmentations"]
CASES = [(name, argument) for name, (_, good, _) in CALLS.items() for argument in good]


@pytest.mark.parametrize("name", [n for n in CALLS if n != "data.from_csv"])
def test_right_arguments_are_taken(name):
    function, good, _ = CALLS[name]
    call(function, good)


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_wrong_argument_is_refused_in_one_line(name, argument):
    function, good, taken = CALLS[name]
    for what, value in WRONG.items():
        if what in taken.get(argument, ()):
            call(function, {**good, argument: value})
            continue
        try:
            call(function, {**good, argument: value})
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            pytest.fail(f"{argument}={what} is taken")


@pytest.mark.parametrize("argument", ["steps", "sample_rate", "noise_multiplier", "delta"])
def test_wrong_budget_is_refused_before_opacus_is_asked(argument):
    good = {"steps": 3, "sample_rate": 0.1, "noise_multiplier": 1.0, "delta": 1e-5}
    taken = {"steps": ("0",), "noise_multiplier": ("1.5", "inf")}
    for what in WRONG.keys() - taken.get(argument, ()):
        with pytest.raises(UserError, match=r"epsilon: (?!needs opacus)"):
            privacy.epsilon(**{**good, argument: WRONG[what]})


def call(function, given: dict):
    return function(**given) if takes_keywords(function, given) else function(*given.values())


def takes_keywords(function, given: dict) -> bool:
    """Return False for functions whose arguments have other names or none, such as a step."""
    parameters = inspect.signature(function).parameters
    return given.keys() <= parameters.keys() or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    )


def test_functions_of_the_doors_are_in_the_table():
    called = {name.split(" ")[-1] for name in CALLS} | {name.split(" ")[0] for name in CALLS}
    doors = {f: f for door in (purenets, numpy_nets, torch_nets) for f in door.__all__}
    doors |= {f"random.{name}": name for name in ("key", "split", "fold_in", "uniform", "normal")}
    doors |= {f"tree.{name}": name for name in ("norm", "cast", "map", "ravel", "stack", "unstack")}
    values = {name: vars(purenets).get(name) or vars(torch_nets).get(name) for name in doors}
    functions = {
        name
        for name, value in values.items()
        if value is None or isinstance(value, types.FunctionType)
    }
    assert functions <= called


@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_of_the_other_library_are_refused(backend):
    nets, convert = BACKENDS[backend]
    other = BACKENDS["torch" if backend == "numpy" else "numpy"][1]
    x, y = random.normal(KEY, (6, 4)), np.array([0, 1, 2] * 2)
    net = nets.MLP(4, [3], 3)
    params, _ = net.init(convert(KEY))
    for call in (
        lambda: net.apply(params, {}, other(x)),
        lambda: nets.grad_fn(net)(params, {}, (other(x), convert(y)), None),
        lambda: nets.metrics_fn(net)(params, {}, (convert(x), other(y))),
    ):
        with pytest.raises(UserError, match=r"needs (a )?(NumPy arrays?|tensors?)"):
            call()


@pytest.mark.parametrize("backend", BACKENDS)
def test_function_that_makes_an_optimizer_or_model_is_told_from_what_it_makes(backend):
    nets, convert = BACKENDS[backend]
    net = nets.MLP(4, [3], 3)
    with pytest.raises(UserError, match=r"optimizer is .*needs an Optimizer.*call it: adam\("):
        init_state(net, optim.adam, convert(KEY))
    with pytest.raises(UserError, match=r"model is .*call it: MLP\("):
        init_state(nets.MLP, SGD, convert(KEY))
    with pytest.raises(UserError, match=r"model is .*call it: MLP\("):
        nets.grad_fn(nets.MLP)


def test_a_loss_of_ones_own_is_no_model():
    def my_loss(params, batch):
        return 0.0

    for door in (numpy_nets, torch_nets):
        with pytest.raises(UserError, match="a loss of your own needs no grad_fn: give make_step"):
            door.grad_fn(my_loss)
