"""`optim.elementwise` tries out what a user declares, where the state is made."""

import numpy as np
import pytest
import torch

import purenets.torch_nets  # noqa: F401 (says whether something traces)
from purenets import Optimizer, UserError, optim
from purenets.core.optim.internals.elementwise import is_elementwise

WRONG = {
    "mean": lambda name, g, p: g / abs(g).mean(),
    "norm of params": lambda name, g, p: g * (p * p).sum() ** 0.5,
    "size": lambda name, g, p: g / len(g.reshape(-1)),
    "axes": lambda name, g, p: g * p.ndim,
    "share of signs": lambda name, g, p: g * (abs(g) + g).sum() / (2 * abs(g).sum()),
    "order": lambda name, g, p: g + g.reshape(-1)[0],
}


def transform(f):
    return optim.stateless(lambda grads, params: {n: f(n, g, params[n]) for n, g in grads.items()})


def params(array, dtype="float32"):
    shapes = {"w": (5, 4), "b": (4,), "scale": (), "filters": (2, 3, 4, 4)}
    leaves = {name: array(np.zeros(shape, "float32")) for name, shape in shapes.items()}
    cast = lambda a: a.astype(dtype) if array is np.asarray else a.to(getattr(torch, dtype))
    return {name: cast(leaf) for name, leaf in leaves.items()}


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", WRONG)
def test_update_of_more_than_elements_is_refused(name, dtype, array):
    optimizer = optim.chain(optim.clip_by_value(1e9), transform(WRONG[name]), optim.sgd(0.1))
    with pytest.raises(UserError, match=r"^elementwise: the update of \w+ depends on more "):
        optim.elementwise(optimizer).init(params(array, dtype))


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_update_of_names_is_refused(array):
    wrong = transform(lambda name, g, p: 0 * g if name == "b" else g)
    with pytest.raises(UserError, match="the update of b depends"):
        optim.elementwise(wrong).init(params(array))


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_update_of_elements_is_taken(dtype, array):
    cube = transform(lambda name, g, p: g**3 - abs(p) * (g > 0) + g.max() * 0)
    for inner in (cube, optim.chain(cube, optim.adam()), optim.adamw(), optim.chain()):
        declared, leaves = optim.elementwise(inner), params(array, dtype)
        assert is_elementwise(declared)
        state, plain = declared.init(leaves), inner.init(leaves)
        assert state.keys() == plain.keys()


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_any_number_of_leaves_is_tried(array):
    leaves = {str(i): array(np.zeros(4, "float32")) for i in range(100)}
    optim.elementwise(transform(lambda name, g, p: g**3)).init(leaves)
    wrong = transform(lambda name, g, p: 2 * g if name == "99" else g)
    with pytest.raises(UserError, match="the update of 99 depends"):
        optim.elementwise(wrong).init(leaves)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_a_mask_by_the_signs_of_another_update_is_refused(array):
    adam = optim.scale_by_adam()

    def update(grads, state, params):
        moves, state = adam.update(grads, state, params)
        agree = {
            n: (abs(g * moves[n]) + g * moves[n]) / (2 * abs(g * moves[n]))
            for n, g in grads.items()
        }
        return {n: u * agree[n] / agree[n].mean() for n, u in moves.items()}, state

    with pytest.raises(UserError, match=r"^elementwise: the update of \w+ depends on more "):
        optim.elementwise(Optimizer(adam.init, update)).init(params(array))


def test_what_cannot_be_tried_is_left_alone():
    wrong = optim.elementwise(transform(WRONG["mean"]))
    wrong.init({"w": np.ones(3)})  # a leaf alone is the vector
    wrong.init({"w": torch.ones(3, requires_grad=True), "b": torch.ones(2, requires_grad=True)})
    torch.func.vmap(wrong.init)({"w": torch.ones(3, 2), "b": torch.ones(3, 2)})
    picky = transform(lambda name, g, p: g.reshape(5, 4) if name == "w" else g)
    optim.elementwise(picky).init(params(np.asarray))
