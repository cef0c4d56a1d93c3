"""The hyper-parameters of every training are those of the tables in docs/recipes.md."""

import ast
import dataclasses
import functools
import inspect
import math
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from purenets import optim, random, schedules, torch_nets, tree
from purenets.core.optim.internals.extra_args import takes_extra_args
from purenets.torch_nets import fast_cnn, image_mlps, images, layers, selection
from scripts import (
    cifar10_cnn,
    cifar10_mlp,
    cifar10_sweep,
    cnn_sweep,
    cnn_train,
    compare_mlps,
    mlp_sweep,
    palindrome_sweep,
    pytorch_train_mlp,
    train_mlp_numpy,
)
from scripts import train as rnn
from scripts.shared import training
from scripts.shared.training import make_grad_fn

TEXT = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
SCRIPTS = {
    "cnn_train": cnn_train, "cifar10_cnn": cifar10_cnn, "cifar10_mlp": cifar10_mlp,
    "train_mlp_numpy": train_mlp_numpy, "pytorch_train_mlp": pytorch_train_mlp, "train": rnn,
    "compare_mlps": compare_mlps, "mlp_sweep": mlp_sweep, "cnn_sweep": cnn_sweep,
    "cifar10_sweep": cifar10_sweep, "palindrome_sweep": palindrome_sweep,
}  # fmt: skip
# where files are, and on what machine: no hyper-parameters
PLACES = {"out", "resume", "results", "preset", "data_dir", "device", "keep"}


def table(header: str) -> list[list[list[str]]]:
    """Return the rows of the tables with a header: for each cell what stands in it as code."""
    pattern = rf"^\| {re.escape(header)} \|\n\|[-|]+\n((?:\|.*\n)+)"
    lines = "".join(re.findall(pattern, TEXT, re.MULTILINE)).splitlines()
    cells = [line.split("|")[1:-1] for line in lines]
    return [[re.findall(r"`([^`]*)`", cell) for cell in row] for row in cells]


def one_each(header: str) -> dict[str, list[str]]:
    """Return the rows of a table by their first cell, every cell as a text."""
    return {row[0][0]: [cell[0] if cell else "" for cell in row[1:]] for row in table(header)}


FIXED = {name: value for name, (value, *_) in one_each("name | value | what it is").items()}


def as_shown(value) -> str:
    words = {True: "yes", False: "no", None: "none", "": "none"}
    return words[value] if isinstance(value, bool | str | None) and value in words else str(value)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_defaults_are_those_of_the_table(name):
    documented = {}
    for scripts, options in table("script | options"):
        if name in scripts:
            documented |= dict(option.split(" ", 1) for option in options)
    config = SCRIPTS[name].Config().to_dict()
    assert documented == {k: as_shown(v) for k, v in config.items() if k not in PLACES}


@pytest.mark.parametrize("name", ["cifar10_cnn", "cifar10_mlp", "cnn_train"])
def test_presets_are_those_of_the_table(name):
    rows = {
        preset[0]: flags[0] if flags else ""
        for (script_name, *_), preset, flags in table("script | preset | options")
        if script_name == name
    }
    script = SCRIPTS[name]
    assert list(rows) == list(script.PRESETS)
    for preset, flags in rows.items():
        documented = script.Config.parse([*shlex.split(flags), "--preset", preset])
        assert documented == script.PRESETS[preset]


def changed(script, values: dict, flags: str) -> tuple:
    """Return the options that a setting changes, as the scripts and as the table have them."""
    Config = getattr(script, "Config", script)
    names = {word[2:].removeprefix("no-") for word in shlex.split(flags) if word.startswith("--")}
    documented = Config.parse(shlex.split(flags))
    return set(values) == names, Config(**values) == documented


def test_settings_of_the_reduced_vgg_are_those_of_the_table():
    rows = one_each("setting | options")
    settings = cnn_sweep.SETTINGS | palindrome_sweep.SETTINGS
    assert list(rows) == list(settings)
    for name, (flags,) in rows.items():
        script = cnn_train if name in cnn_sweep.SETTINGS else rnn
        assert changed(script, settings[name], flags) == (True, True), name


def test_variants_of_cifar10_are_those_of_the_table():
    rows = one_each("variant | script | preset | options")
    assert list(rows) == list(cifar10_sweep.VARIANTS)
    for name, (kind, preset, flags) in rows.items():
        assert cifar10_sweep.VARIANTS[name][:2] == (kind, preset)
        script, changes = cifar10_sweep.SCRIPTS[kind], cifar10_sweep.VARIANTS[name][2]
        # with a length in epochs, --max_steps stays at its default
        assert changed(script, changes, flags) == (True, True), name


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_defaults_of_optimizers_are_those_of_the_table(name):
    rows = {row[0][0]: row[1] for row in table("optimizer | hyper-parameters")}
    assert list(rows) == list(optim.OPTIMIZERS)
    texts = dict(text.split(" ", 1) for text in rows[name])
    documented = {k: math.inf if v == "inf" else ast.literal_eval(v) for k, v in texts.items()}
    parameters = inspect.signature(optim.OPTIMIZERS[name]).parameters.values()
    defaults = {p.name: p.default for p in parameters}
    assert documented == {k: defaults.get(k) for k in documented}
    others = {k: v for k, v in defaults.items() if k not in documented}
    assert not [k for k, v in others.items() if v and not callable(v)]  # what is left out is off


# --- what the scripts do with them ----------------------------------------------------------------

PARAMS = {
    "first.bias": (24,),
    "group1.conv1.weight": (8, 24, 3, 3),
    "group1.norm1.bias": (8,),
    "group2.conv1.weight": (16, 8, 3, 3),
    "fc.weight": (10, 16),
}


def drawn(seed: int, shapes: dict = PARAMS) -> dict:
    keys = random.split(torch.as_tensor(random.key(seed)), len(shapes))
    return {
        name: random.normal(key, shape, "float64")
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def after(optimizer, steps: int = 4, shapes: dict = PARAMS) -> dict:
    """Return the params after so many steps along drawn gradients."""
    params = drawn(0, shapes)
    state = optimizer.init(params)
    for i in range(steps):
        updates, state = optimizer.update(drawn(1 + i, shapes), state, params)
        params = optim.apply_updates(params, updates)
    return params


def after_in_torch(make, rate_at, steps: int = 4, shapes: dict = PARAMS) -> dict:
    """Return the same by an optimizer of torch.optim, its rate set before each step."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in drawn(0, shapes).items()}
    optimizer = make(leaves)
    for i in range(steps):
        for name, grad in drawn(1 + i, shapes).items():
            leaves[name].grad = grad
        for group in optimizer.param_groups:
            group["lr"] = rate_at(group, i)
        optimizer.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


def assert_close(a: dict, b: dict, names=None) -> None:
    for name in names or a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12)


CNN_PRESETS = [
    dataclasses.replace(preset, optimizer=optimizer)
    for preset in cifar10_cnn.PRESETS.values()
    for optimizer in ("muon", "nesterov")
]


@pytest.mark.parametrize("config", CNN_PRESETS, ids=lambda c: f"{c.preset} {c.optimizer}")
def test_momentum_decay_and_rates_of_the_fast_cnn_are_those_of_the_table(config):
    """The last layer and the biases against torch.optim.SGD."""
    steps, per_epoch = 100, 0.7
    batch = round(config.hardest * config.batch_size)
    rates = {"first.bias": config.bias_rate, "group1.norm1.bias": config.bias_rate}
    rates |= {"fc.weight": config.head_rate}
    if config.optimizer == "nesterov":
        filters = [name for name in PARAMS if "conv" in name]
        rates |= dict.fromkeys(filters, config.learning_rate)
    ends = {"first.bias": config.whiten_epochs * per_epoch}

    def sgd(leaves):
        groups = [
            {"params": [leaves[name]], "name": name, "weight_decay": config.decay / rate}
            for name, rate in rates.items()
        ]
        return torch.optim.SGD(groups, momentum=float(FIXED["cnn sgd_momentum"]), nesterov=True)

    def rate_at(group, i):
        return rates[group["name"]] * batch * max(0, 1 - i / ends.get(group["name"], steps))

    ours = after(cifar10_cnn.make_optimizer(config, steps, per_epoch))
    assert_close(ours, after_in_torch(sgd, rate_at), rates)


@pytest.mark.parametrize("config", cifar10_cnn.PRESETS.values(), ids=lambda c: c.preset)
def test_filters_of_the_fast_cnn_follow_muon_as_in_the_table(config):
    direction = optim.scale_by_muon(
        config.momentum,
        ns_steps=int(FIXED["cnn ns_steps"]),
        precision=FIXED["cnn ns_precision"],
        method=config.muon_method,
    )
    falling = schedules.linear(config.learning_rate, 0.0, 100)
    expected = optim.normalize_weights(
        optim.chain(direction, optim.scale_by_learning_rate(falling))
    )
    shapes = {name: shape for name, shape in PARAMS.items() if "conv" in name}
    ours = after(cifar10_cnn.make_optimizer(config, 100, 10.0), shapes=shapes)
    assert_close(ours, after(expected, shapes=shapes))


@pytest.mark.parametrize("script", [cnn_train, cifar10_mlp], ids=["cnn_train", "cifar10_mlp"])
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_only_matrices_and_filters_decay(script, schedule):
    config = script.Config(
        optimizer="adamw", learning_rate=1e-2, schedule=schedule, weight_decay=0.1
    )
    rate = schedules.SCHEDULES[schedule](1e-2, 100)

    def adamw(leaves):
        groups = [
            {"params": [leaf], "weight_decay": 0.1 if leaf.ndim > 1 else 0.0}
            for leaf in leaves.values()
        ]
        return torch.optim.AdamW(groups)

    def rate_at(group, i):
        return float(rate(i)) if callable(rate) else rate

    ours = after(script.make_optimizer(config, 100, 10.0))
    assert_close(ours, after_in_torch(adamw, rate_at))


@pytest.mark.parametrize("name", cifar10_mlp.OPTIMIZERS)
def test_without_weight_decay_nothing_decays(name):
    """AdamW and Muon have a decay of their own, which an option of 0 turns off.

    What ASGD calls `lambd` is a part of its method.
    """
    config = cifar10_mlp.Config(optimizer=name, learning_rate=0.1, schedule="constant")
    optimizer, params = cifar10_mlp.make_optimizer(config, 100, 10.0), drawn(0)
    zeros, flat = tree.zeros_like(params), lambda params: (torch.tensor(0.0), zeros)
    extra = {"value": torch.tensor(0.0), "value_and_grad_fn": flat}
    extra = extra if takes_extra_args(optimizer.update) else {}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params, **extra)
    largest = 0.1 * 1e-4 if name == "asgd" else 0.0
    for leaf, update in zip(tree.leaves(params), tree.leaves(updates), strict=True):
        assert float(update.abs().max()) <= largest * float(leaf.abs().max()) + 1e-12


@pytest.mark.parametrize("preset", ["mlp", "mlp-long"])
def test_muon_of_the_mlp_is_that_of_the_table(preset):
    config = cifar10_mlp.PRESETS[preset]
    muon = functools.partial(
        optim.muon,
        schedules.SCHEDULES[config.schedule](config.learning_rate, 100),
        adjust_lr_fn=FIXED["mlp adjust_lr_fn"],
        ns_steps=int(FIXED["mlp ns_steps"]),
        precision=FIXED["mlp ns_precision"],
        method=config.muon_method,
    )
    parts = {"yes": muon(weight_decay=config.weight_decay), "no": muon(weight_decay=0.0)}
    expected = optim.partition(parts, lambda name, leaf: "yes" if leaf.ndim > 1 else "no")
    ours = after(cifar10_mlp.make_optimizer(config, 100, 10.0))
    assert_close(ours, after(expected))


def test_beta_lasso_has_the_options_of_the_recipe():
    config = cifar10_mlp.Config(optimizer="sgd", learning_rate=0.5, schedule="cosine", lasso=0.01)
    ours = after(cifar10_mlp.make_optimizer(config, 100, 10.0))
    plain = optim.sgd(schedules.SCHEDULES["cosine"](0.5, 100), weight_decay=0)
    assert_close(ours, after(optim.beta_lasso(plain, 0.01, config.beta)))


def test_filters_whiten_the_training_images_of_the_table(monkeypatch):
    draw, seen = np.random.default_rng(0), []
    parts = [draw.integers(0, 256, (n, 1, 25, 25), np.uint8) for n in (6500, 1500)]
    labels = [np.arange(len(x)) % 2 for x in parts]
    found = images.ImageDataset(*zip(parts, labels, strict=True), ("a", "b"))
    task = images.prepare(found, random.key(0), 0.1)
    make = fast_cnn.whitening_filters
    monkeypatch.setattr(
        fast_cnn, "whitening_filters", lambda x, *a, **o: seen.append((x, a, o)) or make(x, *a, **o)
    )
    config = dataclasses.replace(cifar10_cnn.PRESETS["94"], channels=(4, 4, 4))
    net = cifar10_cnn.make_net(config, task, layers.BatchNorm)
    ((x, arguments, options),) = seen
    assert torch.equal(x, task.normalize(task.train[0][: int(FIXED["cnn whitening_images"])]))
    assert (arguments, options) == ((), {})
    defaults = {name: p.default for name, p in inspect.signature(make).parameters.items()}
    assert defaults["size"] == int(FIXED["cnn whitening_size"])
    assert defaults["eps"] == float(FIXED["cnn whitening_eps"])
    _, buffers = net.init(random.key(0))
    assert any(torch.equal(leaf, make(x)) for leaf in buffers.values())


def test_batch_norm_of_the_fast_cnn_is_that_of_the_table():
    seen = []

    def norm(n, **options):
        seen.append(options)
        return layers.BatchNorm(n, **options)

    task = SimpleNamespace(train=(torch.zeros(2, 3, 32, 32), None), classes=range(10))
    config = cifar10_cnn.Config(whiten=False, channels=(4, 4, 4))
    cifar10_cnn.make_net(config, task, norm)
    expected = {"momentum": float(FIXED["cnn norm_momentum"]), "eps": float(FIXED["cnn norm_eps"])}
    assert seen == [{"scale": False, **expected}] * 6


def test_what_no_option_changes_is_that_of_the_table():
    assert int(FIXED["small net trained"]) == selection.TRAINED
    assert int(FIXED["averaged statistics"]) == training.STATISTICS
    defaults = inspect.signature(image_mlps.whitening_map).parameters
    assert float(FIXED["pca eps"]) == defaults["eps"].default


def test_the_rnn_clips_and_steps_as_in_the_table():
    shapes = {"W_hx": (6, 3), "W_hh": (6, 6), "b_h": (6,)}
    config = rnn.Config(max_norm=0.5, schedule="cosine", train_steps=50)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in drawn(0, shapes).items()}
    optimizer = torch.optim.RMSprop(leaves.values(), lr=1.0)
    for i in range(4):
        grads = drawn(1 + i, shapes)
        norm = sum(float((grad**2).sum()) for grad in grads.values()) ** 0.5
        assert norm > 0.5
        for name, grad in grads.items():
            leaves[name].grad = grad * (0.5 / norm)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + np.cos(np.pi * i / 50)) / 2
        optimizer.step()
    ours = after(rnn.make_optimizer(config), shapes=shapes)
    assert_close(ours, {name: leaf.detach() for name, leaf in leaves.items()})


# --- no option is ignored -------------------------------------------------------------------------

BASE = {
    "data": "digits", "image_size": 32, "train_images": 120, "epochs": 2.0, "batch_size": 40,
    "precision": "float32", "threads": 1, "flip": "none", "crop": 0, "evaluations": 1,
}  # fmt: skip
SHARED = {
    "train_images": 80,
    "valid_fraction": 0.3,
    "epochs": 3.0,
    "batch_size": 30,
    "flip": ["random", "alternating"],
    "crop": 2,
    "cutout": 6,
    "mixup": True,
    "mixup_alpha": 0.5,
    "brightness": 0.3,
    "contrast": 0.3,
    "label_smoothing": 0.2,
    "ema": 0.9,
    "lookahead": 2,
    "members": 2,
    "views": ["mirror", "shift"],
    "views_below": 0.5,
    "test": False,
    "precision": "bfloat16",
    "shards": 5,
    "seed": 1,
    "learning_rate": 0.03,
}
FEWER = {"small_size": 26, "small_fraction": 0.2, "hardest": 0.5, "muon_method": "gram"}
# options that mean something beside another one only, and how that one is set for both runs
BESIDE = {
    "mixup_alpha": {"mixup": True},
    "views_below": {"views": "shift"},
    "small_fraction": {"small_size": 26},
    "bottleneck": {"net": "bottleneck", "hidden": (6, 6)},
}
BESIDE_OF = {
    "cnn_train": BESIDE
    | {name: {"optimizer": cnn_train.FILTER_MUON} for name in cnn_train.OF_FILTER_MUON},
    "cifar10_cnn": BESIDE,
    "cifar10_mlp": BESIDE | {"muon_method": {"optimizer": "muon"}},
}
CHANGES = {
    "cnn_train": (
        {"width": 0.03, "optimizer": "adamw"},
        SHARED
        | {"optimizer": "lion", "schedule": "one_cycle", "weight_decay": 0.5, "width": 0.04}
        | {"dirac": True, "momentum": 0.9, "bias_rate": 0.1, "head_rate": 0.1, "decay": 0.1}
        | FEWER,
    ),
    "cifar10_cnn": (
        {"channels": (4, 4, 4)},
        SHARED
        | {"channels": (4, 4, 5), "depth": 3, "whiten": False, "dirac": False, "logit_scale": 2.0}
        | {"optimizer": "nesterov", "momentum": 0.9, "bias_rate": 0.1, "head_rate": 0.1}
        | {"decay": 0.1, "whiten_epochs": 1.0}
        | FEWER,
    ),
    "cifar10_mlp": (
        {"width": 8, "depth": 1},
        SHARED
        | {"net": ["plain", "batch_norm", "bottleneck", "s_fc"], "width": 9, "depth": 2}
        | {"expansion": 2, "norm": "batch", "pca": 20, "bottleneck": 5, "muon_method": "gram"}
        | {"dropout": 0.5, "optimizer": "muon", "schedule": "cosine", "weight_decay": 0.5}
        | {"lasso": 1e-3},
    ),
}
NETS = cifar10_mlp.OF_NETS  # those that have an option; an option of others is refused
CASES = [
    (name, option, value)
    for name, (_, changes) in CHANGES.items()
    for option, values in changes.items()
    for value in (values if isinstance(values, list) else [values])
]


@functools.cache
def trained(name: str, *changes: tuple) -> tuple[bytes, str]:
    """Return the params that a short training of a script ends with, and what it says of the
    test.
    """
    net = dict(changes).get("net", "residual")
    small = {option: v for option, v in CHANGES[name][0].items() if net in NETS.get(option, [net])}
    values = BASE | small | dict(changes)
    result = SCRIPTS[name].train(SCRIPTS[name].Config(**values))
    leaves = sorted(tree.flatten(result.state.params).items())
    return b"".join(leaf.numpy().tobytes() for _, leaf in leaves), str(result.test)


@pytest.mark.parametrize(("name", "option", "value"), CASES, ids=lambda value: str(value))
def test_no_option_of_a_recipe_is_ignored(name, option, value):
    beside = tuple(BESIDE_OF[name].get(option, {}).items())
    plain, other = trained(name, *beside), trained(name, *beside, (option, value))
    of_the_test = option in ("views", "views_below", "test")
    assert other[1 if of_the_test else 0] != plain[1 if of_the_test else 0]


def test_every_hyper_parameter_of_an_image_recipe_is_tried():
    untried = {"data", "image_size", "max_steps", "eval_freq", "evaluations", "compile", "threads"}
    untried |= {"beta", "hidden"}  # of another net or optimizer than the plain one
    refused = {"cifar10_mlp": {"small_size", "small_fraction", "hardest"}}
    for name, (_, changes) in CHANGES.items():
        fields = {field.name for field in dataclasses.fields(SCRIPTS[name].Config)}
        assert fields - PLACES - untried - refused.get(name, set()) == set(changes)


def test_holes_are_of_the_mean_color():
    """--cutout sets pixels to 0 where the net sees them: after the normalization."""
    seen, x = [], torch.full((6, 1, 9, 9), 200, dtype=torch.uint8)
    model = layers.serial(flatten=layers.Flatten(), fc=layers.Linear(81, 3))
    watched = model._replace(
        apply=lambda params, buffers, x, **options: (
            seen.append(x.detach().clone()) or model.apply(params, buffers, x, **options)
        )
    )
    task = SimpleNamespace(classes="abc", normalize=lambda x: x.float() / 100 - 1)
    config = cnn_train.Config(data="digits", cutout=3)
    grad = make_grad_fn(
        config, training.Recipe("", None, None), watched, task, torch_nets.distributed.Group()
    )
    params, buffers = model.init(torch.as_tensor(random.key(0)))
    grad(params, buffers, (x, torch.arange(6) % 3), torch.as_tensor(random.key(1)))
    (images_seen,) = seen
    assert set(images_seen.unique().tolist()) == {0.0, 1.0}
    assert 6 * 4 <= int((images_seen == 0).sum()) <= 6 * 9  # a hole may be cut off at the border


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_smoothed_by_as_much_as_the_option_says(smoothing):
    """The gradient of the training against that of torch's smoothed cross-entropy."""
    config = cnn_train.Config(data="digits", label_smoothing=smoothing)
    x = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    model = layers.serial(flatten=layers.Flatten(), fc=layers.Linear(16, 3))
    params, buffers = model.init(torch.as_tensor(random.key(0)))
    task = SimpleNamespace(classes="abc", normalize=lambda x: x.float() / 100 - 1)
    group = torch_nets.distributed.Group()
    grads, _ = make_grad_fn(config, training.Recipe("", None, None), model, task, group)(
        params, buffers, (x, y), random.key(1)
    )
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    logits, _ = model.apply(leaves, buffers, x.float() / 100 - 1)
    torch.nn.functional.cross_entropy(logits, y, label_smoothing=smoothing).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(grads[name], leaf.grad)
