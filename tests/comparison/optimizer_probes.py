"""The vmap checks of optimizers and schedules: three members, each with its own learning rate.

Each probe makes two updates of every member, or takes 8 values of a schedule.
"""

from collections.abc import Callable

from tests.comparison.members import run_in_jax

RATES, SHIFTS = (0.1, 0.2, 0.3), (0.1, 0.2, 0.15)


def map_in_torch(run: Callable, over: str) -> None:
    """Compare `run(lr, w)` under vmap, over rates and params or over params, with the members
    alone.
    """
    import torch

    rates = torch.tensor(RATES, dtype=torch.float64) if over == "rates" else [RATES[0]] * 3
    first = torch.arange(12, dtype=torch.float64).reshape(2, 6) % 5 / 5
    w = torch.stack([first + shift for shift in SHIFTS])
    together = (
        torch.func.vmap(run)(rates, w)
        if over == "rates"
        else torch.func.vmap(lambda w: run(RATES[0], w))(w)
    )
    for rate, start, member in zip(rates, w, together, strict=True):
        assert torch.allclose(member, run(rate, start), atol=1e-6)


def probe_purenets(make: str, over: str) -> None:
    import torch

    import purenets
    from purenets.core.optim.internals.extra_args import with_extra_args

    def value_and_grad(params):
        return sum(p.cos().sum() + 9 for p in params.values()), {
            n: -p.sin() for n, p in params.items()
        }

    def run(lr, w):
        optimizer = eval(make, {"lr": lr, "purenets": purenets})
        if not hasattr(optimizer, "update"):
            return torch.stack([optimizer(count) for count in torch.arange(8.0)])
        params = {"w": w, "b": w[0]}
        state, update = optimizer.init(params), with_extra_args(optimizer.update)
        for _ in range(2):
            value, grads = value_and_grad(params)
            extra = {"value": value, "value_and_grad_fn": value_and_grad}
            updates, state = update(grads, state, params, **extra)
            params = purenets.optim.apply_updates(params, updates)
        return params["w"]

    map_in_torch(run, over)


def probe_optax(make: str, over: str) -> None:
    import jax
    import optax
    import optax.contrib

    def f(params):
        return sum(jax.numpy.cos(p).sum() + 9 for p in params.values())

    def run(lr, w):
        optimizer = eval(make, {"lr": lr, "optax": optax})
        if not hasattr(optimizer, "update"):
            return jax.numpy.stack([optimizer(count) for count in jax.numpy.arange(8)])
        optimizer = optax.with_extra_args_support(optimizer)
        params = {"w": w, "b": w[0]}
        state = optimizer.init(params)
        for _ in range(2):
            value, grads = jax.value_and_grad(f)(params)
            extra = {"value": value, "grad": grads, "value_fn": f}
            extra |= {"obj_fn": f} if "sophia" in make else {}
            updates, state = optimizer.update(grads, state, params, **extra)
            params = optax.apply_updates(params, updates)
        return params["w"]

    w = jax.numpy.stack([jax.numpy.arange(12.0).reshape(2, 6) % 5 / 5 + shift for shift in SHIFTS])
    if over == "rates":
        run_in_jax((run, jax.numpy.array(RATES), w), over)
    else:
        run_in_jax((lambda w: run(RATES[0], w), w), over)


def probe_torchopt(make: str, over: str) -> None:
    import torch
    import torchopt

    def run(lr, w):
        optimizer = eval(make, {"lr": lr, "torchopt": torchopt})
        if not hasattr(optimizer, "update"):
            return torch.stack([optimizer(count) for count in torch.arange(8.0)])
        params = {"w": w, "b": w[0].clone()}
        state = optimizer.init(params)
        for _ in range(2):
            grads = {name: -p.sin() for name, p in params.items()}
            updates, state = optimizer.update(grads, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return params["w"]

    map_in_torch(run, over)
