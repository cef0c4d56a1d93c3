"""The small net and batches that the probes of gradients and curvature share."""

from tests.comparison.members import N_MEMBERS, numbers


def net() -> tuple:
    """Return an MLP of ours, 2 -> 3 -> 2, and its params."""
    import torch

    from purenets import random
    from purenets.torch_nets import MLP

    model = MLP(2, [3], 2)
    return model, dict(model.init(torch.as_tensor(random.key(0)))[0])


def batches() -> tuple:
    """Return a batch for each member: x (3, 5, 2), classes (3, 5)."""
    import torch

    return numbers(5, 2), torch.arange(N_MEMBERS * 5).reshape(N_MEMBERS, 5) % 2


def vectors() -> dict:
    """Return a direction for each member, a dict like the params."""
    return {name: numbers(*p.shape) for name, p in net()[1].items()}
