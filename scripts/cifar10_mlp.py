"""Part I, task 3: CIFAR-10 as high as it goes without any convolution or patch.

python scripts/cifar10_mlp.py --preset cpu-6min --out runs/mlp
python scripts/cifar10_mlp.py --preset cpu-6min --data folder --data_dir DIR --out runs/mlp
python scripts/cifar10_mlp.py --preset digits                      # in small, on data that is always there
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Model, Optimizer, optim
from purenets.core.runs.command import command
from purenets.core.runs.options import fraction, not_negative, one_of, option, positive, widths
from purenets.optim import beta_lasso
from scripts.shared import cifar10 as cifar10_recipe
from scripts.shared.cifar10 import Recipe
from scripts.shared.images import SCHEDULES, Result, report, scheduled

# as quick as it can be, and with a rate that means what AdamW's does
MUON = functools.partial(optim.muon, adjust_lr_fn="match_rms_adamw", ns_steps=3, precision="bfloat16")
OPTIMIZERS = optim.OPTIMIZERS | {"muon": MUON}
NETS = ("plain", "batch_norm", "residual", "s_fc")


@dataclass(frozen=True)
class Config(Recipe):
    """Train a net without convolutions on CIFAR-10."""

    net: str = option("residual", f"one of {', '.join(NETS)}", one_of(NETS))
    hidden: str = option("1024,1024", "units of the hidden layers of plain and batch_norm", widths)
    width: int = option(512, "of the residual net; alpha of s_fc", positive)
    depth: int = option(4, "blocks of the residual net", positive)
    expansion: int = option(4, "how much wider a block of the residual net is inside", positive)
    dropout: float = option(0.0, "the part of units set to 0", fraction)
    optimizer: str = option("adamw", f"one of {', '.join(OPTIMIZERS)}", one_of(list(OPTIMIZERS)))
    learning_rate: float = option(1e-3, "the optimizer's peak rate", positive)
    schedule: str = option("one_cycle", f"of the rate: {', '.join(SCHEDULES)}", one_of(list(SCHEDULES)))
    weight_decay: float = option(0.0, "as the optimizer takes it; not of biases and norms", not_negative)
    lasso: float = option(0.0, "lambda of beta-lasso; 0 for none", not_negative)
    beta: float = option(50.0, "beta of beta-lasso", positive)


# By where and how long they train. Those for a GPU are for all training images and compile the step.
PRESETS = {
    "cpu-6min": Config(
        preset="cpu-6min",
        optimizer="muon",
        learning_rate=2e-3,
        weight_decay=0.05,
        epochs=30.0,
        batch_size=1000,
        crop=4,
        dropout=0.1,
        evaluations=10,
    ),
    "gpu-9min": Config(
        preset="gpu-9min",
        width=1024,
        depth=6,
        optimizer="muon",
        learning_rate=2e-3,
        epochs=300.0,
        batch_size=1000,
        crop=4,
        mixup=True,
        compile=True,
        evaluations=10,
    ),
    "gpu-s-fc": Config(
        preset="gpu-s-fc",
        net="s_fc",
        width=32,
        optimizer="sgd",
        learning_rate=0.1,
        schedule="cosine",
        lasso=2e-5,
        epochs=400.0,
        batch_size=512,
        crop=4,
        compile=True,
        evaluations=20,
    ),
    "digits": Config(
        preset="digits",
        data="digits",
        valid_fraction=0.1,
        epochs=10.0,
        batch_size=100,
        width=64,
        depth=2,
        crop=1,
        flip="none",
        views="none",
        learning_rate=3e-3,
        weight_decay=0.05,
    ),
}


def make_net(config: Config, task) -> Model:
    """The net of `config` for the images of `task`."""
    from purenets.torch_nets import image_mlps

    n_inputs, n_classes = task.train[0][0].numel(), len(task.classes)
    hidden = [int(part) for part in config.hidden.split(",")]
    if config.net == "plain":
        return image_mlps.plain_mlp(n_inputs, hidden, n_classes, dropout=config.dropout)
    if config.net == "batch_norm":
        return image_mlps.batch_norm_mlp(n_inputs, hidden, n_classes, dropout=config.dropout)
    if config.net == "s_fc":
        return image_mlps.s_fc(n_inputs, config.width, n_classes)
    return image_mlps.residual_mlp(
        n_inputs, config.width, config.depth, n_classes, expansion=config.expansion, dropout=config.dropout
    )


def make_optimizer(config: Config, steps: int, steps_per_epoch: float) -> Optimizer:
    """The optimizer with its schedule, and beta-lasso around it where `--lasso` asks for it."""
    make = OPTIMIZERS[config.optimizer]
    optimizer = scheduled(make, config.learning_rate, config.schedule, config.weight_decay, steps)
    return beta_lasso(optimizer, config.lasso, config.beta) if config.lasso else optimizer


def train(config: Config) -> Result:
    """Train the net of `config`; the test images are looked at once, at the end."""
    return cifar10_recipe.train(config, make_net, make_optimizer, title(config))


def main(config: Config) -> Result:
    result = train(config)
    report(title(config), result)
    return result


def title(config: Config) -> str:
    return f"{config.net} net without convolution"


if __name__ == "__main__":
    command(Config, main, PRESETS)
