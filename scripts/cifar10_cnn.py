"""Part I, task 3: maximize CIFAR-10 accuracy with convolutional nets, a fast and a deeper one.

python scripts/cifar10_cnn.py --preset 94 --out runs/fast
python scripts/cifar10_cnn.py --preset digits  # a small run on data that is always available
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Model, Optimizer, UserError, optim, schedules
from purenets.core.optim.methods.newton_schulz import METHODS
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    fraction,
    not_negative,
    one_of,
    option,
    positive,
    widths,
)
from scripts.shared import training
from scripts.shared.filters import muon_of_filters, nesterov_per_image
from scripts.shared.fixed_params import Fixed
from scripts.shared.images import CIFAR10, ImageOptions, report
from scripts.shared.result import Result

# height and width of an image: three pools of 2, and one of 3 after them that leaves one pixel
SMALLEST, LARGEST = 25, 48


def three_widths(values: tuple) -> str | None:
    """Check that there are three positive channel counts, one for each group."""
    good = widths(values) is None and len(values) == 3
    return None if good else "three positive integers with commas between them"


@dataclass(frozen=True)
class Config(ImageOptions):
    """Train a fast convolutional net on CIFAR-10."""

    preset: str = option("", "the named set of values that all other options begin with")
    channels: tuple[int, ...] = option((64, 256, 256), "of the three groups", three_widths)
    depth: int = option(
        2, "convolutions of a group: 2, or 3 of which two are a residual branch", one_of((2, 3))
    )
    whiten: bool = option(True, "the first layer's filters are fixed and whiten its patches")
    dirac: bool = option(True, "convolutions begin as the identity, as far as they can")
    logit_scale: float = option(1.0, "factor of the logits, beside 1 / features", positive)
    optimizer: str = option(
        "muon", "of the filters: muon or nesterov", choices=["muon", "nesterov"]
    )
    learning_rate: float = option(
        0.12, "of the filters (nesterov: for each image), falling to 0", positive
    )
    momentum: float = option(0.6, "of the filters, of muon", fraction)
    muon_method: str = option(
        "direct", "the order of muon's products; gram takes fewer of them", one_of(METHODS)
    )
    bias_rate: float = option(0.053, "of the biases, for each image of a batch", positive)
    head_rate: float = option(0.67, "of the last layer, for each image of a batch", positive)
    decay: float = option(2e-6, "of biases and last layer, for each image of a batch", not_negative)
    whiten_epochs: float = option(
        3.0, "the first layer's bias is trained for so long; 0 for no such bias", not_negative
    )

    def needs_length(self) -> str:
        return "every rate, which falls to 0,"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from super().unused()
        if self.optimizer != "muon":
            for name in self.own(["momentum", "muon_method"], lambda: PRESETS):
                yield name, f"means nothing with --optimizer {self.optimizer}; leave it out"
        if not (self.whiten or self.whiten_epochs):
            yield "whiten_epochs", "without --whiten the first layer has a bias; needs more than 0"


def preset(name: str, **values) -> Config:
    return Config(**CIFAR10 | {"preset": name} | values)


# Named by the test accuracy, in percent, that they are built for; what they reach is in results/.
SMALL_FIRST = {"small_size": 26, "muon_method": "gram"}
OF_HARDEST = SMALL_FIRST | {
    "batch_size": 1000,
    "hardest": 0.5,
    "learning_rate": 0.17,
    "depth": 3,
    "crop": 4,
    "cutout": 12,
}
PRESETS = {
    "94": preset("94", **SMALL_FIRST, epochs=8.0, views_below=0.6),
    "95": preset("95", **OF_HARDEST, epochs=22.0, channels=(96, 320, 320)),
    "96": preset("96", **OF_HARDEST, epochs=32.0, channels=(128, 384, 512)),
    "digits": preset(
        "digits",
        data="digits",
        image_size=32,
        valid_fraction=0.1,
        epochs=4.0,
        batch_size=100,
        channels=(16, 32, 32),
        flip="none",
        views="none",
        precision="float32",
    ),
}
BEST = "94"  # the preset whose net the report shows where it has no results


def make_net(config: Config, task, norm: Callable[..., Model]) -> Model:
    """Return the fast net; with --whiten its first layer whitens patches of training images."""
    from purenets.torch_nets.fast_cnn import FastCNN, whitening_filters

    height, width = task.train[0].shape[2:]
    if min(height, width) < SMALLEST or max(height, width) > LARGEST:
        raise UserError(
            f"--image_size: images are {height} x {width}, the net takes {SMALLEST} to {LARGEST} "
            "pixels a side"
        )
    if 0 < config.small_size < SMALLEST:
        raise UserError(f"--small_size {config.small_size}: the net needs {SMALLEST} or more")
    x = task.train[0]
    return FastCNN(
        x.shape[1],
        len(task.classes),
        filters=whitening_filters(task.normalize(x[:5000]).cpu()) if config.whiten else None,
        widths=config.channels,
        depth=config.depth,
        dirac=config.dirac,
        logit_scale=config.logit_scale,
        norm=norm,
        first_bias=config.whiten_epochs > 0 or not config.whiten,
    )


def make_optimizer(config: Config, steps: int, steps_per_epoch: float) -> Optimizer:
    """Return Nesterov momentum for biases and the last layer, and --optimizer for the filters.

    Muon keeps the filters at a fixed length. Every rate falls linearly to 0.
    """

    def falling(end: float):
        return lambda rate: schedules.linear(rate, 0.0, end)

    def sgd(rate: float, end: float = steps) -> Optimizer:
        return nesterov_per_image(rate, falling(end), config.decay, config.images_in_step)

    def muon(rate: float) -> Optimizer:
        return muon_of_filters(rate, falling(steps), config.momentum, config.muon_method)

    parts = {
        "first bias": sgd(config.bias_rate, first_bias_steps(config, steps_per_epoch)),
        "biases": sgd(config.bias_rate),
        "head": sgd(config.head_rate),
        "filters": {"muon": muon, "nesterov": sgd}[config.optimizer](config.learning_rate),
    }

    def label(name: str, leaf) -> str:
        if name.endswith("first.bias"):  # of each member
            return "first bias"
        return {1: "biases", 2: "head", 4: "filters"}[leaf.ndim]

    return optim.partition(parts, label)


def first_bias_steps(config: Config, steps_per_epoch: float) -> float:
    """Return the step at which the rate of the first layer's bias reaches 0."""
    return max(config.whiten_epochs * steps_per_epoch, 1)  # with 0 there is no such leaf


def fixed(config: Config, steps_per_epoch: float) -> Fixed | None:
    """Return the first layer's bias, which is fixed once its rate is 0.

    None if the first layer is not whitened or has no bias.
    """
    if not (config.whiten and config.whiten_epochs):
        return None
    return Fixed(("first.bias",), math.ceil(first_bias_steps(config, steps_per_epoch)))


def proxy(config: Config) -> Config:
    """Return the options of the small net for --hardest, with about a tenth of the products."""
    small = tuple(
        max(1, width // part) for width, part in zip(config.channels, (2, 4, 4), strict=True)
    )
    return dataclasses.replace(config, channels=small, depth=2)


RECIPE = training.Recipe("fast CNN", make_net, make_optimizer, proxy=proxy, fixed=fixed)


def train(config: Config) -> Result:
    """Train the net of `config`; the test images are used only once, at the end."""
    return training.train(config, RECIPE)


def main(config: Config) -> Result:
    result = train(config)
    report(RECIPE.title, result)
    return result


if __name__ == "__main__":
    command(Config, main, PRESETS)
