"""A nested dict that `tree.flatten` made flat goes wherever params go."""

import numpy as np
import pytest
import torch

from purenets import make_step, optim, random, runs, train_state, tree
from purenets.numpy_nets import ensemble as numpy_ensemble
from purenets.numpy_nets import stack_states
from purenets.torch_nets import ensemble as torch_ensemble

NAMES = ["layers/0/w", "layers/0/b", "layers/1/w"]


def flat_params(convert) -> dict:
    first = {"w": np.array([1.0, -2.0]), "b": np.array([3.0])}
    nested = {"layers": {"0": first, "1": {"w": np.array([0.5, 4.0])}}}
    return tree.flatten(tree.map(convert, nested))


def grad_fn(params, buffers, batch, key):
    """Return the gradient of the sum of (p - x)^2 / 2."""
    grads = {name: p - batch[0] for name, p in params.items()}
    return grads, (buffers, {"loss": sum((g * g).sum() for g in grads.values()) / 2})


def trained(convert, scale: float = 1.0, steps: int = 3):
    params = {name: scale * leaf for name, leaf in flat_params(convert).items()}
    state = train_state(params, {}, OPTIMIZER, random.key(0))
    for _ in range(steps):
        state, _ = STEP(state, BATCH)
    return state


OPTIMIZER = optim.adam(0.1)
STEP, BATCH = make_step(grad_fn, OPTIMIZER), (1.0, None)
BOTH = pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


@BOTH
def test_a_vector_of_them_and_back(convert):
    params = flat_params(convert)
    vector, unravel = tree.ravel(params)
    assert list(params) == NAMES
    assert vector.tolist() == [1.0, -2.0, 3.0, 0.5, 4.0]
    assert {name: leaf.tolist() for name, leaf in unravel(2 * vector).items()} == {
        "layers/0/w": [2.0, -4.0],
        "layers/0/b": [6.0],
        "layers/1/w": [1.0, 8.0],
    }


@BOTH
def test_a_run_of_them_is_saved_and_restored(convert, tmp_path):
    state = trained(convert)
    runs.save(tmp_path, state, [{"step": 3, "loss": 1.0}])
    again, _, _ = runs.restore(tmp_path, trained(convert, steps=0))
    assert list(again.params) == NAMES
    for part, other in zip(state[:3], again[:3], strict=True):
        pairs = tree.map(lambda a, b: bool((a == b).all()), part, other)
        assert all(tree.leaves(pairs))
    assert int(again.step) == 3


@pytest.mark.parametrize(
    ("convert", "ensemble"),
    [(np.asarray, numpy_ensemble), (torch.as_tensor, torch_ensemble)],
    ids=["numpy", "torch"],
)
def test_an_ensemble_of_them_is_trained_as_each_alone(convert, ensemble):
    states = stack_states([trained(convert, scale, steps=0) for scale in (1.0, -2.0)])
    step = ensemble(STEP, same_batch=True)
    for _ in range(3):
        states, metrics = step(states, BATCH)
    assert metrics["loss"].shape == (2,)
    for i, scale in enumerate((1.0, -2.0)):
        alone = trained(convert, scale).params
        for name in NAMES:
            np.testing.assert_allclose(states.params[name][i], alone[name], rtol=1e-12)
