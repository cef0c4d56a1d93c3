"""Part II: train the reduced VGG on CIFAR-10, on any folder of images, or on scikit-learn's digits.

python scripts/cnn_train.py --learning_rate 1e-3 --out runs/cnn         # Adam's default rate
python scripts/cnn_train.py --data folder --data_dir DIR --out runs/cnn # DIR/{train,test}/CLASS/*
python scripts/cnn_train.py --data digits --max_steps 300 --eval_freq 50
python scripts/cnn_train.py --flip random --crop 4 --cutout 8 --views mirror
torchrun --nproc-per-node 2 scripts/cnn_train.py --data digits --out runs/two
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Model, Optimizer
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    not_negative,
    one_of,
    option,
    positive,
)
from purenets.optim import OPTIMIZERS
from purenets.schedules import SCHEDULES
from scripts.shared import training
from scripts.shared.images import ImageOptions, report
from scripts.shared.result import Result


@dataclass(frozen=True)
class Config(ImageOptions):
    """Train the reduced VGG of the assignment on images."""

    learning_rate: float = option(1e-4, "the optimizer's (peak) rate", positive)
    optimizer: str = option("adam", f"one of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    schedule: str = option("constant", f"of the rate: {', '.join(SCHEDULES)}", one_of(SCHEDULES))
    weight_decay: float = option(
        0.0, "as the optimizer takes it; not of biases and norms", not_negative
    )
    width: float = option(1.0, "factor of the channels; 1 is the assignment's net", positive)


def make_net(config: Config, task, norm: Callable[..., Model]) -> Model:
    """Return the reduced VGG for the images of `task`."""
    from purenets.torch_nets import CNN

    return CNN(task.train[0].shape[1], len(task.classes), width=config.width, norm=norm)


def make_optimizer(config: Config, steps: int, steps_per_epoch: float) -> Optimizer:
    """Return the optimizer with its schedule."""
    return training.scheduled(OPTIMIZERS[config.optimizer], config, steps)


RECIPE = training.Recipe("reduced VGG", make_net, make_optimizer, chain_moves=True)


def train(config: Config) -> Result:
    """Train the network of `config`; the test images are looked at once, at the end."""
    return training.train(config, RECIPE)


def main(config: Config) -> Result:
    result = train(config)
    report(RECIPE.title, result)
    return result


if __name__ == "__main__":
    command(Config, main)
