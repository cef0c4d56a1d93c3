"""Networks whose backward pass is written out by hand; without tensors it imports no torch."""

from purenets.core.ensemble import ensemble, ensemble_metrics, stack_states, unstack_states
from purenets.numpy_nets import losses
from purenets.numpy_nets.cnn_numpy import CNN
from purenets.numpy_nets.grad import grad_fn, metrics_fn
from purenets.numpy_nets.mlp_numpy import MLP
from purenets.numpy_nets.rnn_numpy import VanillaRNN

__all__ = [
    "CNN",
    "MLP",
    "VanillaRNN",
    "ensemble",
    "ensemble_metrics",
    "grad_fn",
    "losses",
    "metrics_fn",
    "stack_states",
    "unstack_states",
]
