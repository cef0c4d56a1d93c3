"""Any torch.nn.Module as a `Model`, through torch.func.functional_call."""

import copy

import torch
from torch import nn

from purenets.core import random
from purenets.core.base import Model


def from_module(module: nn.Module) -> Model:
    """The module's forward pass as pure functions over dicts; the module itself is left as it is.

    init(None) copies the module's own params and buffers; init(key) draws new ones by the modules'
    `reset_parameters`. Buffers that the module would write, such as BatchNorm's running statistics, come
    back in `buffers`. Modules that draw (Dropout) get their seed from `key`, eagerly only: torch's own
    generator does not run under vmap or torch.compile.
    """
    modes = {train: copy.deepcopy(module).train(train) for train in (True, False)}
    draws = any(isinstance(part, nn.modules.dropout._DropoutNd) for part in module.modules())

    def init(key):
        drawn = copy.deepcopy(module)
        if key is not None:
            with _seeded(key):
                for part in drawn.modules():
                    if hasattr(part, "reset_parameters"):
                        part.reset_parameters()
        return (
            {name: p.detach().clone() for name, p in drawn.named_parameters()},
            {name: b.detach().clone() for name, b in drawn.named_buffers()},
        )

    def apply(params, buffers, x, *, train=False, key=None):
        buffers = {name: b.clone() for name, b in buffers.items()}  # what functional_call may write
        call = modes[bool(train)], (params, buffers), (x,)
        if draws and train and key is not None:
            with _seeded(key):
                return torch.func.functional_call(*call, strict=True), buffers
        return torch.func.functional_call(*call, strict=True), buffers

    return Model(init, apply, draws, type(module).__name__)


class _seeded:
    """torch's global generator, seeded from a key within the block and put back after it."""

    def __init__(self, key):
        self.seed = int(random.bits(torch.as_tensor(key), 1)[0])

    def __enter__(self):
        self.before = torch.random.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *error):
        torch.random.set_rng_state(self.before)
