"""Part II: train the reduced VGG on CIFAR-10, on any folder of images, or on scikit-learn's digits.

python scripts/cnn_train.py --learning_rate 1e-3 --out runs/cnn         # Adam's default rate
python scripts/cnn_train.py --preset vgg --out runs/vgg                # the same net at its best
python scripts/cnn_train.py --data folder --data_dir DIR --out runs/cnn # DIR/{train,test}/CLASS/*
python scripts/cnn_train.py --data digits --max_steps 300 --eval_freq 50
python scripts/cnn_train.py --flip random --crop 4 --cutout 8 --views mirror
torchrun --nproc-per-node 2 scripts/cnn_train.py --data digits --out runs/two
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Model, Optimizer, UserError, optim
from purenets.core.metrics import accuracy  # noqa: F401 (the assignment expects it here)
from purenets.core.optim.methods.newton_schulz import METHODS
from purenets.core.runs.command import command
from purenets.core.runs.options import fraction, not_negative, one_of, option, positive
from purenets.optim import OPTIMIZERS
from purenets.schedules import SCHEDULES
from scripts.shared import training
from scripts.shared.filters import muon_of_filters, nesterov_per_image
from scripts.shared.images import CIFAR10, ImageOptions, report
from scripts.shared.result import Result

FILTER_MUON = "filter_muon"
OF_FILTER_MUON = ("momentum", "muon_method", "bias_rate", "head_rate", "decay")
NAMES = (*OPTIMIZERS, FILTER_MUON)


@dataclass(frozen=True)
class Config(ImageOptions):
    """Train the reduced VGG of the assignment on images."""

    preset: str = option("", "the named set of values that all other options begin with")
    learning_rate: float = option(1e-4, "the optimizer's (peak) rate", positive)
    optimizer: str = option("adam", f"one of {', '.join(NAMES)}", one_of(NAMES))
    schedule: str = option("constant", f"of the rate: {', '.join(SCHEDULES)}", one_of(SCHEDULES))
    weight_decay: float = option(
        0.0, "as the optimizer takes it; not of biases and norms", not_negative
    )
    width: float = option(1.0, "factor of the channels; 1 is the assignment's net", positive)
    dirac: bool = option(False, "convolutions begin as the identity, as far as they can")
    # options of filter_muon, which applies Muon to filters of a fixed length
    momentum: float = option(0.6, "filter_muon: momentum of the filters", fraction)
    muon_method: str = option(
        "direct",
        "filter_muon: the order of Muon's products; gram takes fewer of them",
        one_of(METHODS),
    )
    bias_rate: float = option(
        0.01, "filter_muon: rate of biases and scales, for each image of a batch", positive
    )
    head_rate: float = option(
        1e-3, "filter_muon: rate of the last layer, for each image of a batch", positive
    )
    decay: float = option(
        2e-6,
        "filter_muon: decay of biases, scales and the last layer, for each image of a batch",
        not_negative,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.optimizer == FILTER_MUON:
            if self.weight_decay:
                raise UserError(
                    f"--weight_decay {self.weight_decay}: means nothing with --optimizer "
                    f"{FILTER_MUON}, which keeps filters at a fixed length; leave it out"
                )
            return
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in OF_FILTER_MUON and value != field.default:
                raise UserError(f"--{field.name} {value}: needs --optimizer {FILTER_MUON}")


def preset(name: str, **values) -> Config:
    return Config(**CIFAR10 | {"preset": name} | values)


VGG = {
    "optimizer": FILTER_MUON,
    "learning_rate": 0.12,
    "schedule": "linear",
    "muon_method": "gram",
    "dirac": True,
    "small_size": 24,
    "crop": 4,
}
PRESETS = {
    "assignment": Config(preset="assignment"),
    "vgg": preset("vgg", **VGG, epochs=36.0),
    "vgg-long": preset("vgg-long", **VGG, epochs=50.0, mixup=True, mixup_alpha=0.2),
}


def make_net(config: Config, task, norm: Callable[..., Model]) -> Model:
    """Return the reduced VGG for the images of `task`."""
    from purenets.torch_nets import CNN

    n_channels, n_classes = task.train[0].shape[1], len(task.classes)
    return CNN(n_channels, n_classes, width=config.width, norm=norm, dirac=config.dirac)


def make_optimizer(config: Config, steps: int, steps_per_epoch: float) -> Optimizer:
    """Return the optimizer with its schedule."""
    if config.optimizer != FILTER_MUON:
        return training.scheduled(OPTIMIZERS[config.optimizer], config, steps)

    def schedule(rate: float):
        return SCHEDULES[config.schedule](rate, steps)

    def sgd(rate: float) -> Optimizer:
        return nesterov_per_image(rate, schedule, config.decay, config.images_in_step)

    parts = {
        "vectors": sgd(config.bias_rate),
        "head": sgd(config.head_rate),
        "filters": muon_of_filters(
            config.learning_rate, schedule, config.momentum, config.muon_method
        ),
    }
    names = {1: "vectors", 2: "head", 4: "filters"}
    return optim.partition(parts, lambda name, leaf: names[leaf.ndim])


def proxy(config: Config) -> Config:
    """Return the options of the small net for --hardest, with a ninth of the multiplications."""
    return dataclasses.replace(config, width=config.width / 3)


RECIPE = training.Recipe("reduced VGG", make_net, make_optimizer, chain_moves=True, proxy=proxy)


def train(config: Config | None = None) -> Result:
    """Train the CNN that the options describe; `train()` uses the defaults.

    The test images are used only once, at the end.
    """
    return training.train(Config.given(config), RECIPE)


def main(config: Config | None = None) -> Result:
    """Train; print loss and accuracy on the validation and the test images."""
    result = train(config)
    report(RECIPE.title, result)
    return result


if __name__ == "__main__":
    command(Config, main, PRESETS)
