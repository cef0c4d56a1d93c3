"""Networks on torch: pure functions over dicts of tensors, torch.func, torch.compile."""

from typing import NoReturn

import torch

from purenets.core.arrays import register_full, register_outside, register_tracing
from purenets.core.ensemble import stack_states, unstack_states
from purenets.core.optim.internals.kernels import register_kernel
from purenets.core.other_names import refuse_name
from purenets.core.random import register_philox
from purenets.core.scan import register_loop
from purenets.core.writes import register_mark
from purenets.torch_nets import layers, losses
from purenets.torch_nets.batchnorm import update_batchnorm
from purenets.torch_nets.cnn_model import CNN
from purenets.torch_nets.convert import to_numpy, to_torch
from purenets.torch_nets.ensemble import ensemble, ensemble_metrics
from purenets.torch_nets.fast import fused_optimizers, pytree
from purenets.torch_nets.fast.batched import version_of
from purenets.torch_nets.fast.cuda_graph import cuda_graph
from purenets.torch_nets.fast.jit import jit
from purenets.torch_nets.fast.philox import philox_on_gpu
from purenets.torch_nets.fast.scan import traced_loop
from purenets.torch_nets.fast.tracing import is_torch_compiling, is_tracing, outside_transforms
from purenets.torch_nets.from_module import from_module
from purenets.torch_nets.frozen import frozen
from purenets.torch_nets.grad import grad_fn, metrics_fn
from purenets.torch_nets.loaders import from_loader, to_dataset
from purenets.torch_nets.pytorch_mlp import MLP
from purenets.torch_nets.remat import checkpoint
from purenets.torch_nets.to_module import to_module
from purenets.torch_nets.vanilla_rnn import VanillaRNN

register_full(torch.float32, torch.float64)
register_tracing(is_tracing)
register_outside(outside_transforms)
pytree.register()
register_kernel(torch.Tensor, fused_optimizers.step)
register_loop(traced_loop)
register_philox(philox_on_gpu)
register_mark(torch.Tensor, version_of, is_torch_compiling)


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of JAX is here."""
    refuse_name("torch_nets", name)


__all__ = [
    "CNN",
    "MLP",
    "VanillaRNN",
    "checkpoint",
    "cuda_graph",
    "ensemble",
    "ensemble_metrics",
    "from_loader",
    "from_module",
    "frozen",
    "grad_fn",
    "jit",
    "layers",
    "losses",
    "metrics_fn",
    "stack_states",
    "to_dataset",
    "to_module",
    "to_numpy",
    "to_torch",
    "unstack_states",
    "update_batchnorm",
]
