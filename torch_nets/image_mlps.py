"""Nets without convolution or patches for images: every unit of the first layer sees every pixel,
and nothing tells the net which pixels are neighbors. x: (batch, ...) -> logits: (batch,
n_classes)."""

from collections.abc import Callable, Sequence

from purenets.core.base import Model
from purenets.torch_nets import layers
from purenets.torch_nets.pytorch_mlp import MLP


def plain_mlp(
    n_inputs: int, n_hidden: Sequence[int], n_classes: int, *, dropout: float = 0.0
) -> Model:
    """The assignment's MLP on flattened images."""
    return layers.serial(
        flatten=layers.Flatten(), mlp=MLP(n_inputs, n_hidden, n_classes, dropout=dropout)
    )


def batch_norm_mlp(
    n_inputs: int,
    n_hidden: Sequence[int],
    n_classes: int,
    *,
    dropout: float = 0.0,
    norm: Callable[[int], Model] = layers.BatchNorm,
) -> Model:
    """Linear, BatchNorm, ReLU for each hidden layer (Ioffe and Szegedy 2015).

    norm: the constructor of BatchNorm, from the number of units.
    """
    row, width = {"flatten": layers.Flatten()}, n_inputs
    for i, units in enumerate(n_hidden, start=1):
        row[f"fc{i}"] = layers.Linear(width, units, bias=False)
        row[f"norm{i}"] = norm(units)
        row[f"relu{i}"] = layers.ReLU()
        if dropout:
            row[f"dropout{i}"] = layers.Dropout(dropout)
        width = units
    return layers.serial(**row, fc=layers.Linear(width, n_classes))


def residual_mlp(
    n_inputs: int,
    width: int,
    depth: int,
    n_classes: int,
    *,
    expansion: int = 4,
    dropout: float = 0.0,
) -> Model:
    """A linear embedding, then `depth` inverted bottlenecks x + W2 gelu(W1 norm(x)) with LayerNorm
    and `expansion` times `width` units inside (Bachmann et al. 2023, "Scaling MLPs", arXiv
    2306.13575)."""
    row = {"flatten": layers.Flatten(), "embed": layers.Linear(n_inputs, width)}
    for i in range(1, depth + 1):
        block = {
            "norm": layers.LayerNorm(width),
            "fc1": layers.Linear(width, expansion * width),
            "gelu": layers.GELU(),
            "fc2": layers.Linear(expansion * width, width),
        }
        if dropout:
            block["dropout"] = layers.Dropout(dropout)
        row[f"block{i}"] = layers.residual(**block)
    return layers.serial(**row, norm=layers.LayerNorm(width), fc=layers.Linear(width, n_classes))


def s_fc(
    n_inputs: int, alpha: int, n_classes: int, *, norm: Callable[[int], Model] = layers.BatchNorm
) -> Model:
    """The fully connected net of B. Neyshabur 2020, "Towards learning convolutions from scratch"
    (arXiv 2007.13657): hidden layers of 256 alpha and 24 alpha units with BatchNorm and ReLU. It is
    meant to be trained with `optim.beta_lasso`, which leaves few weights of the first layer, and
    those local."""
    return batch_norm_mlp(n_inputs, (256 * alpha, 24 * alpha), n_classes, norm=norm)
