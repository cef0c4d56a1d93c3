"""Who imports whom, and that nothing changes its arguments."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import numpy_nets, optim, random, torch_nets, tree
from purenets.core import ensemble, gradcheck, sam, serial, train, vector_dict
from purenets.core.optim import state, transforms, wrappers
from purenets.core.optim.internals import arithmetic, hyper
from purenets.core.optim.internals.extra_args import with_extra_args
from purenets.core.runs import checkpoint, folder
from purenets.numpy_nets import losses, mlp_numpy, modules
from purenets.torch_nets import convert, grad, pytorch_mlp
from purenets.torch_nets import losses as torch_losses
from purenets.torch_nets.layers import attention, basic, convolutions, norms, recurrent


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        (
            "purenets, purenets.optim, purenets.core.gradcheck, purenets.core.sam, "
            "purenets.core.vector_dict, "
            "purenets.core.report.plots, purenets.core.runs.checkpoint",
            "torch",
        ),
        (
            "purenets.numpy_nets, purenets.numpy_nets.modules, purenets.numpy_nets.mlp_numpy",
            "torch",
        ),
        ("scripts.train_mlp_numpy", "torch"),
        ("purenets, purenets.core.gradcheck, purenets.core.runs.checkpoint", "einops"),
        ("purenets.torch_nets", "purenets.numpy_nets"),
        ("purenets.torch_nets, purenets.torch_nets.pytorch_mlp", "torchvision"),
    ],
)
def test_arrows_point_one_way(imports, absent):
    code = f"import sys, {imports}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_numpy_training_never_imports_torch():
    code = (
        "import sys; from scripts.train_mlp_numpy import Config, train;"
        "train(Config(max_steps=2, optimizer='adam', dropout=0.1)); sys.exit('torch' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_gradient_of_a_numpy_cnn_never_imports_torch():
    code = (
        "import sys, numpy as np;"
        "from purenets import random; from purenets.numpy_nets import CNN, grad_fn;"
        "batch = np.ones((2, 1, 8, 8), np.float32), np.array([0, 1]); model = CNN(1, 2, "
        "width=0.0625);"
        "grad_fn(model)(*model.init(random.key(0)), batch, None); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Frozen(dict):
    """A dict that cannot be changed."""

    def _refuse(self, *args, **kwargs):
        raise AssertionError("an argument was changed")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse


def freeze(value):
    """The same value, where a change raises (dicts, arrays) or is seen later (tensors)."""
    if isinstance(value, dict):
        return Frozen({name: freeze(leaf) for name, leaf in value.items()})
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
    return value


PARAMS = {"fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (2, 4), "fc2.bias": (2,)}
KEY = random.key(0)


def make_params(seed: int) -> dict:
    draw = np.random.default_rng(seed).normal
    return {name: draw(size=shape) for name, shape in PARAMS.items()}


def update_with(make):
    """The update of an optimizer, twice: on its initial state and on a later one."""

    def value_and_grad(params):
        return sum((p * p).sum() for p in params.values()) / 2, params

    def call(params):
        optimizer = make()
        update, loss = with_extra_args(optimizer.update), {"value_and_grad_fn": value_and_grad}
        state = freeze(optimizer.init(params))
        _, state = update(params, state, params, **loss)
        return update(params, freeze(state), params, **loss)

    return call


def apply_with(module, model):
    """A model's apply, in training and in evaluation, and its gradient and its metrics."""

    def call(params):
        x, y = np.ones((5, 3)), np.array([0, 1, 0, 1, 1])
        if module is torch_nets:
            x, y = torch.tensor(x), torch.tensor(y)
        key = random.key(0) if module is numpy_nets else torch.as_tensor(random.key(0))
        net = model(3, [4], 2, dropout=0.3)
        net.apply(params, Frozen(), x, train=True, key=key)
        net.apply(params, Frozen(), x)
        module.metrics_fn(net)(params, Frozen(), (x, y))
        return module.grad_fn(net)(params, Frozen(), (x, y), key)

    return call


# every public function that takes a dict, by its module: how to call it with frozen params
CALLS = {
    "tree.map": lambda p: tree.map(lambda a, b: a + b, p, p),
    "tree.check_names": lambda p: tree.check_names(p, p),
    "tree.check_like": lambda p: tree.check_like(p, p),
    "tree.check_flat": lambda p: tree.check_flat(p, p),
    "tree.leaves": tree.leaves,
    "tree.flatten": tree.flatten,
    "tree.unflatten": lambda p: tree.unflatten(p, p),
    "tree.select": lambda p: tree.select(p, "fc1."),
    "tree.prefixed": lambda p: tree.prefixed(p, "net."),
    "tree.zeros_like": tree.zeros_like,
    "tree.cast": lambda p: tree.cast(p, "float32"),
    "tree.size": tree.size,
    "tree.norm": tree.norm,
    "tree.ravel": lambda p: tree.ravel(p)[1](tree.ravel(p)[0]),
    "tree.map_to_several": lambda p: tree.map_to_several(lambda a, b: (a, b), 2, p, p),
    "vector_dict.from_vector": lambda p: vector_dict.from_vector(
        vector_dict.layout_of(p), vector_dict.vector_of(vector_dict.with_vector(p))
    ),
    "vector_dict.leaves_of": lambda p: vector_dict.leaves_of(
        vector_dict.layout_of(p), vector_dict.vector_of(vector_dict.with_vector(p))
    ),
    "vector_dict.as_dict": vector_dict.as_dict,
    "vector_dict.vector_of": vector_dict.vector_of,
    "vector_dict.are_large": vector_dict.are_large,
    "vector_dict.layout_of": vector_dict.layout_of,
    "vector_dict.with_vector": vector_dict.with_vector,
    "vector_dict.packed": lambda p: vector_dict.packed(vector_dict.layout_of(p), p),
    "serial.by_layer": lambda p: serial.by_layer(Frozen(fc1=None, fc2=None), p, "params"),
    "tree.stack": lambda p: tree.stack([p, p]),
    "tree.unstack": lambda p: tree.unstack(tree.stack([p, p])),
    "elementwise.apply_updates": lambda p: optim.apply_updates(p, p),
    "hyper.first_leaf": hyper.first_leaf,
    "hyper.zero_count": hyper.zero_count,
    "hyper.init_count": lambda p: hyper.init_count(p, lr=lambda count: count),
    "hyper.first_count": lambda p: hyper.first_count(p, lr=lambda count: count),
    "hyper.expect_schedule_values": lambda p: hyper.expect_schedule_values(
        "lr", lambda count: count, p
    ),
    "hyper.next_count": lambda p: hyper.next_count(Frozen(count=hyper.zero_count(p))),
    "hyper.resolve_hyper": lambda p: hyper.resolve_hyper(
        lambda count: count, Frozen(count=hyper.zero_count(p)), p
    ),
    "hyper.count_to_dtype": lambda p: hyper.count_to_dtype(hyper.zero_count(p), p),
    "hyper.count_as_float": lambda p: hyper.count_as_float(hyper.zero_count(p), p),
    "arithmetic.scaled": lambda p: arithmetic.scaled(p, 2.0),
    "arithmetic.divided_by_root": lambda p: arithmetic.divided_by_root(
        p, tree.map(lambda a: a * a, p), 1e-8
    ),
    "arithmetic.running_mean": lambda p: arithmetic.running_mean(0.9, p, p),
    "arithmetic.running_mean_of_squares": lambda p: arithmetic.running_mean_of_squares(0.9, p, p),
    "hyper.stateless_with_hyper": lambda p: hyper.stateless_with_hyper(
        lambda h, g, _: g, lr=0.1
    ).update(p, Frozen(), p),
    "arithmetic.moments": lambda p: arithmetic.moments(
        0.9, 0.99, p, Frozen(exp_avg=p, exp_avg_sq=p)
    ),
    "arithmetic.copies": lambda p: arithmetic.copies(p),
    "arithmetic.in_order_of": lambda p: arithmetic.in_order_of(p, dict(reversed(p.items()))),
    "arithmetic.dot": lambda p: arithmetic.dot(p, p),
    "arithmetic.choose": lambda p: arithmetic.choose(p["fc1.bias"][0] > 0, p, p),
    "transforms.rectification": lambda p: transforms.rectification(
        0.99, hyper.zero_count(p) + 1, p
    ),
    "wrappers.partition": update_with(
        lambda: wrappers.partition(
            {"1": optim.sgd(0.1), "2": optim.adam()}, lambda name, p: str(p.ndim)
        )
    ),
    "wrappers.all_finite": wrappers.all_finite,
    "ensemble.check_stacked": lambda p: ensemble.check_stacked(tree.stack([p, p]), n=2),
    "state.check_opt_state": lambda p: state.check_opt_state(optim.adam(), p, optim.adam().init(p)),
    "state.get_state": lambda p: state.get_state(Frozen(inner=p), "fc1.bias"),
    "state.set_hyperparams": lambda p: state.set_hyperparams(
        Frozen(hyper=p), **{"fc1.bias": p["fc1.bias"][0]}
    ),
    "sam.sam": lambda p: sam.sam(lambda p, b, batch, key: (p, (b, {})))(p, Frozen(), None, None),
    "train.train_state": lambda p: train.train_state(p, {}, optim.adam(), KEY),
    "gradcheck.random_direction": lambda p: gradcheck.random_direction(p, KEY),
    "gradcheck.check_gradient": lambda p: gradcheck.check_gradient(
        lambda p: sum((leaf**2).sum() for leaf in p.values()), p, tree.map(lambda a: 2 * a, p), KEY
    ),
    "tree.flat_layout": tree.flat_layout,
    "grad.can_use_autograd": lambda p: grad.can_use_autograd(convert.to_torch(p)),
    "grad.autograd_grads": lambda p: grad.autograd_grads(
        lambda p, buffers, batch, key: (sum((leaf**2).sum() for leaf in p.values()), (buffers, {})),
        Frozen(convert.to_torch(p)),
        Frozen(),
        None,
        None,
    ),
    "grad.expect_tensors": lambda p: grad.expect_tensors(p, tuple(map(torch.zeros, (3, 2)))),
    "convert.to_torch": convert.to_torch,
    "convert.to_numpy": convert.to_numpy,
    **{f"optim.{name}": update_with(make) for name, make in optim.OPTIMIZERS.items()},
    "optim chain": update_with(
        lambda: optim.chain(
            optim.clip_by_global_norm(1.0),
            optim.clip_by_value(0.5),
            optim.add_decayed_weights(lambda count: 0.1 * count),
            optim.trace(0.9, 0.1, nesterov=False),
            optim.scale_by_rms(centered=True),
            optim.scale_by_sum_of_squares(),
            optim.scale_by_learning_rate(lambda count: 0.1 + count),
        )
    ),
    "optim wrappers": update_with(
        lambda: optim.chain(
            optim.apply_if_finite(
                optim.accumulate(
                    optim.lookahead(optim.inject_hyperparams(optim.adam, lr=0.1), 2), 2
                )
            ),
            optim.masked(optim.trace(0.9), optim.is_matrix),
            optim.ema(0.9),
        )
    ),
}
# these take functions, layers or a folder beside dicts; what they make or call is in CALLS or in
# the models
ELSEWHERE = {
    "train.fit", "serial.serial_uses_key", "serial.serial_init",
    "serial.serial_apply", "serial.expect", "serial.expect_running", "checkpoint.save",
    "checkpoint.load",
    "checkpoint.load_file", "checkpoint.read", "folder.save", "folder.open_run",
    "checkpoint.on_host",
    "checkpoint.encoded", "checkpoint.described",
    "basic.uniform_init",
    "ensemble.ensemble_metrics", "grad.expect_param_tensors", "grad.expect_floating_params",
}  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", CALLS)
@given(seed=st.integers(0, 10**6))
def test_no_function_changes_its_arguments(name, backend, seed):
    params = make_params(seed)
    arguments = freeze(params if backend == "numpy" else tree.map(torch.tensor, params))
    if name == "gradcheck.check_gradient" and backend == "torch":
        arguments = freeze(params)  # central differences are NumPy's
    CALLS[name](arguments)
    assert all(np.array_equal(arguments[leaf], params[leaf]) for leaf in params)


@pytest.mark.parametrize(
    ("module", "model"),
    [(numpy_nets, mlp_numpy.MLP), (torch_nets, pytorch_mlp.MLP)],
    ids=["numpy", "torch"],
)
def test_no_model_changes_its_arguments(module, model):
    params = make_params(0)
    # torch.func takes plain dicts only
    arguments = freeze(params) if module is numpy_nets else tree.map(torch.tensor, params)
    apply_with(module, model)(arguments)
    assert arguments.keys() == params.keys()
    assert all(np.array_equal(arguments[leaf], params[leaf]) for leaf in params)


MODULES = (
    *(
        tree,
        hyper,
        arithmetic,
        transforms,
        state,
        ensemble,
        wrappers,
        sam,
        train,
        gradcheck,
        convert,
        checkpoint,
        folder,
        vector_dict,
    ),
    *(serial, modules, losses, grad, torch_losses),
    *(attention, basic, convolutions, norms, recurrent),
)


def test_every_public_function_that_takes_a_dict_is_called_above():
    for module in MODULES:
        short = module.__name__.split(".")[-1]
        for name, f in vars(module).items():
            if not inspect.isfunction(f) or name.startswith("_") or f.__module__ != module.__name__:
                continue
            kinds = [str(kind) for kind in inspect.signature(f).parameters.values()]
            if any("dict" in kind and "Callable" not in kind for kind in kinds):
                assert f"{short}.{name}" in CALLS.keys() | ELSEWHERE, (
                    f"{short}.{name} is not tested"
                )
