"""Part I, task 3: maximize CIFAR-10 accuracy without convolutions or patches.

python scripts/cifar10_mlp.py --preset mlp --out runs/mlp
python scripts/cifar10_mlp.py --preset digits  # a small run on data that is always available
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Model, Optimizer, UserError, optim
from purenets.core.optim.methods.newton_schulz import METHODS
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    fraction,
    not_negative,
    one_of,
    option,
    positive,
    up_to,
    widths,
)
from purenets.optim import beta_lasso
from purenets.schedules import SCHEDULES
from scripts.shared import training
from scripts.shared.images import CIFAR10, ImageOptions, report
from scripts.shared.result import Result

# fast orthogonalization, and a learning rate on the scale of AdamW's
MUON = functools.partial(
    optim.muon, adjust_lr_fn="match_rms_adamw", ns_steps=3, precision="bfloat16"
)
OPTIMIZERS = optim.OPTIMIZERS | {"muon": MUON}
NETS = ("plain", "batch_norm", "bottleneck", "residual", "s_fc")
NORMS = ("layer", "batch")
HIDDEN = ("plain", "batch_norm", "bottleneck")
OF_NETS = {  # options that only some of the nets have
    "hidden": HIDDEN,
    "bottleneck": ("bottleneck",),
    "norm": ("residual",),
    "width": ("residual", "s_fc"),
    "depth": ("residual",),
    "expansion": ("residual",),
}


@dataclass(frozen=True)
class Config(ImageOptions):
    """Train a net without convolutions on CIFAR-10."""

    preset: str = option("", "the named set of values that all other options begin with")
    net: str = option("residual", f"one of {', '.join(NETS)}", one_of(NETS))
    hidden: tuple[int, ...] = option(
        (1024, 1024), "hidden units of plain, batch_norm and bottleneck", widths
    )
    bottleneck: int = option(256, "linear units between the hidden layers of bottleneck", positive)
    norm: str = option("layer", "the residual net's normalization: layer or batch", one_of(NORMS))
    pca: int = option(
        0,
        "take this many principal components of the pixels, of variance 1; 0 for the pixels",
        not_negative,
    )
    width: int = option(
        512,
        "of the residual net; s_fc (arXiv 2007.13657) has hidden layers of 256 and 24 times this",
        positive,
    )
    depth: int = option(4, "blocks of the residual net", up_to(1000))
    expansion: int = option(4, "how much wider a block of the residual net is inside", positive)
    dropout: float = option(0.0, "the part of units set to 0", fraction)
    optimizer: str = option("adamw", f"one of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    muon_method: str = option(
        "direct", "the order of muon's products; gram takes fewer of them", one_of(METHODS)
    )
    learning_rate: float = option(1e-3, "the optimizer's peak rate", positive)
    schedule: str = option("one_cycle", f"of the rate: {', '.join(SCHEDULES)}", one_of(SCHEDULES))
    weight_decay: float = option(
        0.0, "as the optimizer takes it; not of biases and norms", not_negative
    )
    lasso: float = option(0.0, "lambda of beta-lasso; 0 for none", not_negative)
    beta: float = option(50.0, "beta of beta-lasso", positive)

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from super().unused()
        others = [name for name, nets in OF_NETS.items() if self.net not in nets]
        for name in self.own(others, lambda: PRESETS):
            yield name, f"means nothing with --net {self.net}; leave it out"
        if self.optimizer != "muon":
            for name in self.own(["muon_method"], lambda: PRESETS):
                yield name, f"means nothing with --optimizer {self.optimizer}; leave it out"
        if self.net == "s_fc" and self.dropout:
            yield "dropout", "the net s_fc has none; needs --dropout 0"
        if not self.lasso:
            yield "beta", "means nothing without --lasso; leave it out"


def preset(name: str, **values) -> Config:
    return Config(**CIFAR10 | {"preset": name} | values)


# Shared by the long trainings: options that cost accuracy in short ones but pay off in these.
LONG = {
    "optimizer": "muon",
    "muon_method": "gram",
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "crop": 4,
    "mixup": True,
    "mixup_alpha": 0.8,
    "label_smoothing": 0.3,
}
PRESETS = {
    "mlp": preset("mlp", **LONG, epochs=250.0, batch_size=1000),
    "mlp-long": preset(
        "mlp-long", **LONG, width=1024, depth=6, epochs=600.0, batch_size=2000, ema=0.999
    ),
    "digits": preset(
        "digits",
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
        precision="float32",
    ),
}


def make_net(config: Config, task, norm: Callable[..., Model]) -> Model:
    """Return the net of `config` for the images of `task`."""
    from purenets.torch_nets import image_mlps

    if config.small_size:
        raise UserError("--small_size: a net without convolutions takes images of one size")
    n_inputs, n_classes = task.train[0][0].numel(), len(task.classes)
    if not config.pca:
        return net_of(config, n_inputs, n_classes, norm)
    if config.pca > n_inputs:
        raise UserError(f"--pca {config.pca}: an image has {n_inputs} numbers only")
    parts = (task.normalize(part).cpu() for part in task.train[0].split(1000))
    weight, bias = image_mlps.whitening_map(parts, config.pca)
    return image_mlps.whitened(net_of(config, config.pca, n_classes, norm), weight, bias)


def net_of(config: Config, n_inputs: int, n_classes: int, norm: Callable[..., Model]) -> Model:
    """Return the net of `config` for inputs of `n_inputs` features."""
    from purenets.torch_nets import image_mlps, layers

    hidden, dropout = config.hidden, config.dropout
    if config.net == "plain":
        return image_mlps.plain_mlp(n_inputs, hidden, n_classes, dropout=dropout)
    if config.net == "batch_norm":
        return image_mlps.batch_norm_mlp(n_inputs, hidden, n_classes, dropout=dropout, norm=norm)
    if config.net == "bottleneck":
        return image_mlps.bottleneck_mlp(
            n_inputs, hidden, config.bottleneck, n_classes, dropout=dropout, norm=norm
        )
    if config.net == "s_fc":
        return image_mlps.s_fc(n_inputs, config.width, n_classes, norm=norm)
    return image_mlps.residual_mlp(
        n_inputs,
        config.width,
        config.depth,
        n_classes,
        expansion=config.expansion,
        dropout=dropout,
        norm=norm if config.norm == "batch" else layers.LayerNorm,
    )


def make_optimizer(config: Config, steps: int, steps_per_epoch: float) -> Optimizer:
    """Return the optimizer with its schedule, wrapped in beta-lasso if `--lasso` is given."""
    make = OPTIMIZERS[config.optimizer]
    if config.optimizer == "muon":
        make = functools.partial(make, method=config.muon_method)
    optimizer = training.scheduled(make, config, steps)
    return beta_lasso(optimizer, config.lasso, config.beta) if config.lasso else optimizer


RECIPE = training.Recipe("net without convolution", make_net, make_optimizer)


def train(config: Config) -> Result:
    """Train the net of `config`; the test images are used only once, at the end."""
    return training.train(config, RECIPE)


def main(config: Config) -> Result:
    result = train(config)
    report(RECIPE.title, result)
    return result


if __name__ == "__main__":
    command(Config, main, PRESETS)
