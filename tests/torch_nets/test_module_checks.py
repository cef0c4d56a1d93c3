"""Modules that from_module cannot convert are refused in one line that names the place."""

import warnings

import pytest
import torch
from torch import nn

from purenets import UserError, random
from purenets.torch_nets import from_module, grad_fn

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))


def mse(y, target):
    return (y - target).square().mean()


def two_layers():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


# --- parts that take no other params ------------------------------------------------------


def made_by_jit(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make(two_layers())


WRAPPED = {
    "data parallel": (lambda: nn.DataParallel(two_layers()), "DataParallel: a DataParallel has"),
    "scripted": (lambda: made_by_jit(torch.jit.script), "RecursiveScriptModule: a scripted"),
    "traced": (
        lambda: made_by_jit(lambda net: torch.jit.trace(net, X)),
        "TopLevelTracedModule: a scripted or traced",
    ),
    "scripted part": (
        lambda: nn.Sequential(made_by_jit(torch.jit.script), nn.Tanh()),
        "^0: a scripted or traced module takes no other params",
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_part_that_takes_no_other_params_is_refused(name):
    make, text = WRAPPED[name]
    with pytest.raises(UserError, match=text):
        from_module(make())


# --- hooks of gradients -------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hook_of_a_gradient_is_refused(hook):
    module = two_layers()
    handle = getattr(module[2].weight, hook)(lambda gradient: None)
    with pytest.raises(UserError, match=r"2\.weight: has a hook of its gradient"):
        from_module(module)
    handle.remove()
    from_module(module)


def test_backward_hook_runs_and_is_named_where_it_cannot():
    module, seen = two_layers(), []
    module[2].register_full_backward_hook(lambda *given: seen.append(given))
    model = from_module(module)
    params, buffers = model.init(None)
    grad_fn(model, mse, metrics={})(params, buffers, (X, X), None)
    assert len(seen) == 1
    loss = lambda params: mse(model.apply(params, buffers, X, train=True, key=KEY)[0], X)
    with pytest.raises(UserError, match="Sequential: has backward hooks"):
        torch.func.grad(loss)(params)
