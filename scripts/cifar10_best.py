"""Part I, task 3: CIFAR-10 as high as it goes: a fast convolutional net, and a deeper one for accuracy.

python scripts/cifar10_best.py --preset cpu-8min --out runs/fast
python scripts/cifar10_best.py --preset cpu-8min --data folder --data_dir DIR --out runs/fast
python scripts/cifar10_best.py --preset digits                     # in small, on data that is always there
"""

from dataclasses import dataclass

from core import optim, schedule
from core.base import Model, Optimizer
from core.config import fraction, not_negative, one_of, option, positive, widths
from core.config import run as run_script
from scripts import cifar10_recipe
from scripts.cifar10_recipe import Recipe
from scripts.image_task import Result, report


@dataclass(frozen=True)
class Config(Recipe):
    """Train a fast convolutional net on CIFAR-10."""

    channels: str = option("64,256,256", "of the three groups", widths)
    depth: int = option(
        2, "convolutions of a group: 2, or 3 of which two are a residual branch", one_of((2, 3))
    )
    whiten: bool = option(True, "the first layer's filters are fixed and whiten its patches")
    dirac: bool = option(True, "convolutions begin as the identity, as far as they can")
    logit_scale: float = option(1.0, "factor of the logits, beside 1 / features", positive)
    optimizer: str = option("muon", "of the filters: muon or nesterov", choices=["muon", "nesterov"])
    learning_rate: float = option(0.24, "of the filters, at the start; it falls in a straight line", positive)
    momentum: float = option(0.6, "of the filters", fraction)
    bias_rate: float = option(0.053, "of the biases, for each image of a batch", positive)
    head_rate: float = option(0.67, "of the last layer, for each image of a batch", positive)
    decay: float = option(2e-6, "of biases and last layer, for each image of a batch", not_negative)
    whiten_epochs: float = option(3.0, "the first layer's bias is trained for so long", positive)


PRESETS = {
    "cpu-8min": Config(preset="cpu-8min"),
}


def make_net(config: Config, task) -> Model:
    """The fast net; its first filters whiten the patches of the first training images."""
    from torch_nets.fast_cnn import FastCNN, whitening_filters

    filters = whitening_filters(task.normalise(task.train[0][:5000]).cpu())
    channels = [int(part) for part in config.channels.split(",")]
    return FastCNN(
        filters,
        len(task.classes),
        widths=channels,
        depth=config.depth,
        dirac=config.dirac,
        logit_scale=config.logit_scale,
    )


def make_optimizer(config: Config, steps: int, steps_per_epoch: float) -> Optimizer:
    """Muon on filters of a fixed length; Nesterov's momentum on the last layer and the biases."""
    batch = config.batch_size

    def falling(rate: float, end: float = steps):
        return schedule.linear(rate, 0.0, end)

    def sgd(rate: float, end: float = steps) -> Optimizer:
        return optim.nesterov(falling(rate * batch, end), momentum=0.85, weight_decay=config.decay / rate)

    parts = {
        "whiten": sgd(config.bias_rate, config.whiten_epochs * steps_per_epoch),
        "biases": sgd(config.bias_rate),
        "head": sgd(config.head_rate),
        "filters": optim.on_sphere(
            optim.chain(
                optim.scale_by_muon(config.momentum, ns_steps=3, precision="bfloat16"),
                optim.scale_by_learning_rate(falling(config.learning_rate)),
            )
        ),
    }

    def label(name: str, leaf) -> str:
        if name.startswith("whiten."):
            return "whiten"
        return {1: "biases", 2: "head", 4: "filters"}[leaf.ndim]

    return optim.partition(parts, label)


def main(config: Config) -> Result:
    result = cifar10_recipe.train(config, make_net, make_optimizer, "fast CNN")
    report("fast CNN", result)
    return result


if __name__ == "__main__":
    run_script(Config, main, PRESETS)
