"""The same steps in JAX and optax under jit, for where both are installed.

`pip install -e ".[bench]"` installs them.
"""

import importlib.util
from collections.abc import Callable

import numpy as np


def installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("jax", "optax"))


class Step:
    """Steps of `loss(params, x, y)` by an optax optimizer under jit, with donated buffers.

    Args:
        k: steps in a call, by lax.scan over k batches.
        one_vector: keep the params as one vector, which a call takes and returns in less time.
    """

    def __init__(
        self, loss: Callable, optimizer, params: dict, batch: tuple, k: int = 1, one_vector=False
    ):
        import jax
        import jax.flatten_util
        import optax

        def step(carry, batch):
            params, opt_state = carry
            value, grads = jax.value_and_grad(lambda p: loss(self.unravel(p), *batch))(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        def steps(carry, batch):
            return step(carry, batch) if k == 1 else jax.lax.scan(step, carry, batch)

        params = {name: jax.numpy.asarray(leaf) for name, leaf in params.items()}
        self.unravel, self.k = lambda p: p, k
        if one_vector:
            params, self.unravel = jax.flatten_util.ravel_pytree(params)
        batch = batch if k == 1 else [np.stack([part] * k) for part in batch]
        self.batch = tuple(map(jax.numpy.asarray, batch))
        self.call = jax.jit(steps, donate_argnums=0)
        self.carry = (params, optimizer.init(params))

    def __call__(self) -> None:
        self.carry, values = self.call(self.carry, self.batch)
        values.block_until_ready()

    def params(self) -> dict:
        return {name: np.asarray(leaf) for name, leaf in self.unravel(self.carry[0]).items()}


def mlp_loss(layers: int) -> Callable:
    """The mean cross-entropy of an MLP whose params are named as ours: "fc1.weight" (out,
    in), ...
    """
    import jax
    import optax

    def loss(params, x, y):
        for i in range(1, layers + 1):
            x = x @ params[f"fc{i}.weight"].T + params[f"fc{i}.bias"]
            x = jax.nn.relu(x) if i < layers else x
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

    return loss


def rnn_loss() -> Callable:
    """The mean cross-entropy of the vanilla RNN's last step, equations (1) to (4), its loop by
    lax.scan.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def loss(params, x, y):
        def step(h, digit):
            return jnp.tanh(digit @ params["W_hx"].T + h @ params["W_hh"].T + params["b_h"]), None

        h = jnp.zeros((x.shape[0], params["W_hh"].shape[0]), x.dtype)
        h, _ = jax.lax.scan(step, h, x.swapaxes(0, 1))
        logits = h @ params["W_ph"].T + params["b_o"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss
