"""Part I: train the NumPy MLP, whose backward pass is written by hand.

python scripts/train_mlp_numpy.py --optimizer adam --out runs/numpy

The initial weights are normal and the biases zero. scripts/pytorch_train_mlp.py draws its own, so
the same seed begins differently there; scripts/compare_mlps.py starts both from the same params.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Params
from purenets.core.metrics import accuracy  # noqa: F401 (the assignment expects it here)
from purenets.core.runs.command import command
from purenets.numpy_nets import MLP, grad_fn, metrics_fn
from scripts.shared import mlp as mlp_task
from scripts.shared.result import Result

BACKEND = mlp_task.Backend("NumPy MLP", MLP, grad_fn, metrics_fn)


@dataclass(frozen=True)
class Config(mlp_task.MLPConfig):
    """Train an MLP on a toy set or on a CSV file, with NumPy alone."""


def train(config: Config | None = None, params: Params | None = None) -> Result:
    """Train the MLP that the options describe; `train()` uses the defaults.

    Args:
        config: the options.
        params: the initial params, instead of those that the model draws.
    """
    return mlp_task.train(Config.given(config), BACKEND, params)


def main(config: Config | None = None) -> None:
    """Train and print loss and accuracy on the training and the test set."""
    config = Config.given(config)
    mlp_task.report(train(config), config, BACKEND)


if __name__ == "__main__":
    command(Config, main)
