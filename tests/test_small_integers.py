"""Integers of NumPy, also those of 8 bits, give what Python's integers give: nothing overflows."""

import numpy as np
import pytest
import torch

from purenets import data, numpy_nets, optim, random, schedules, torch_nets, tree
from purenets.core.data.images import digits
from purenets.core.data.palindromes import evaluation_batches
from purenets.core.metrics import confusion, expected_calibration_error, top_k_accuracy
from purenets.core.optim.internals.extra_args import takes_extra_args
from purenets.numpy_nets import image_modules, modules
from purenets.torch_nets import augment, fast_cnn, image_mlps, layers

KEY, COUNTS = random.key(0), range(0, 900, 7)
TORCH_KEY = torch.as_tensor(KEY)
DRAWN = np.random.default_rng(0)
SEQUENCES = torch.from_numpy(DRAWN.normal(size=(2, 3, 100)).astype(np.float32))
IMAGES = torch.from_numpy(DRAWN.normal(size=(2, 100, 20, 20)).astype(np.float32))
SCORES, CLASSES = DRAWN.normal(size=(300, 120)), DRAWN.integers(0, 120, 300)
SET = np.arange(200.0)[:, None], np.arange(200) % 3


def values(make, **integers):
    schedule = make(**integers)
    return [schedule(count) for count in COUNTS]


def trained(make, **integers):
    """Return the params after some steps on a quadratic loss."""
    optimizer = make(**integers)
    params = {"w": np.linspace(-1, 1, 12).reshape(4, 3)}
    state = optimizer.init(params)
    for i in range(230):
        grads = {"w": params["w"] + 0.1 * np.sin(i + np.arange(12.0)).reshape(4, 3)}
        extra = {"value": (params["w"] ** 2).sum()} if takes_extra_args(optimizer.update) else {}
        updates, state = optimizer.update(grads, state, params, **extra)
        params = {"w": params["w"] + updates["w"]}
    return params


def applied(layer, x):
    """Return the outputs of a layer of torch, and its params."""
    params, buffers = layer.init(TORCH_KEY)
    return layer.apply(params, buffers, x)[0].detach(), params


def drawn(module, key=TORCH_KEY):
    return module.init(key)


CASES = {
    "cosine": lambda n: values(schedules.cosine, begin=1.0, steps=n(120)),
    "cosine_restarts": lambda n: values(
        schedules.cosine_restarts, begin=1.0, steps=n(100), multiply=n(2)
    ),
    "cyclic": lambda n: values(schedules.cyclic, low=0.0, high=1.0, steps_up=n(100)),
    "cyclic, two sides": lambda n: values(
        schedules.cyclic, low=0.0, high=1.0, steps_up=n(100), steps_down=n(120)
    ),
    "linear": lambda n: values(schedules.linear, begin=1.0, end=0.0, steps=n(120)),
    "one_cycle": lambda n: values(
        schedules.one_cycle, peak=1.0, steps=n(120), three_phase=True
    ),
    "step": lambda n: values(schedules.step, value=1.0, every=n(100)),
    "swa schedule": lambda n: values(
        schedules.swa, schedule=1.0, start=n(100), rate=0.1, steps=n(100)
    ),
    "multi_step": lambda n: values(schedules.multi_step, value=1.0, milestones=[n(100), n(120)]),
    "a rate of 1": lambda n: trained(optim.adam, lr=n(1)),
    "accumulate": lambda n: trained(lambda k: optim.accumulate(optim.adam(1e-2), k), k=n(100)),
    "lookahead": lambda n: trained(lambda k: optim.lookahead(optim.adam(1e-2), k), k=n(100)),
    "reduce_on_plateau": lambda n: trained(
        lambda **of: optim.chain(optim.adam(1e-2), optim.reduce_on_plateau(factor=0.5, **of)),
        patience=n(100), cooldown=n(100), every=n(1),
    ),
    "swa": lambda n: trained(
        lambda **of: optim.chain(optim.adam(1e-2), optim.swa(**of)), start=n(100), every=n(3)
    ),
    "schedule_free_adamw": lambda n: trained(
        optim.schedule_free_adamw, lr=1e-2, warmup_steps=n(100)
    ),
    "shampoo": lambda n: trained(optim.shampoo, lr=1e-2, every=n(100)),
    "soap": lambda n: trained(optim.soap, lr=1e-2, precondition_frequency=n(100)),
    "batches": lambda n: [data.batches(SET, n(100), KEY)(n(i)) for i in range(20)],
    "part_of": lambda n: data.part_of(data.batches(SET, n(120), KEY), n(2), n(3))(n(100)),
    "steps_per_epoch": lambda n: data.steps_per_epoch(SET, n(100)),
    "palindromes": lambda n: list(evaluation_batches(KEY, 4, n(120), chunk=n(60))),
    "digits": lambda n: digits(n(16)).test,
    "keys": lambda n: (random.fold_in(KEY, n(120)), random.split(KEY, n(120)), random.key(n(120))),
    "randint": lambda n: random.randint(KEY, (n(5),), n(1), n(120)),
    "uniform": lambda n: random.uniform(KEY, (n(100), n(100)), low=n(100), high=n(120)),
    "confusion": lambda n: confusion(SCORES.argmax(1), CLASSES, n(120)),
    "expected_calibration_error": lambda n: expected_calibration_error(SCORES, CLASSES, n(100)),
    "top_k_accuracy": lambda n: top_k_accuracy(n(100))(SCORES, CLASSES),
    "Linear, NumPy": lambda n: drawn(modules.Linear(n(120), n(100)), KEY),
    "Conv, NumPy": lambda n: drawn(image_modules.Conv(n(120), n(100), n(3)), KEY),
    "MLP, NumPy": lambda n: drawn(numpy_nets.MLP(n(120), [n(100)], n(3)), KEY),
    "Linear": lambda n: drawn(layers.Linear(n(120), n(100))),
    "MLP": lambda n: drawn(torch_nets.MLP(n(120), [n(100)], n(3))),
    "CNN": lambda n: drawn(torch_nets.CNN(n(3), n(100))),
    "Conv": lambda n: applied(
        layers.Conv(
            n(100), n(100), n(9), stride=n(2), padding=n(4), dilation=n(2), groups=n(100)
        ), IMAGES,
    ),
    "Conv1d": lambda n: applied(layers.Conv1d(n(3), n(100), n(50)), SEQUENCES),
    "ConvTranspose": lambda n: applied(
        layers.ConvTranspose(
            n(100), n(100), n(9), stride=n(20), padding=n(4), output_padding=n(2)
        ), IMAGES,
    ),
    "MaxPool": lambda n: applied(layers.MaxPool(n(3), stride=n(2), padding=n(1)), IMAGES),
    "LSTM": lambda n: applied(layers.LSTM(n(100), n(100), num_layers=n(2)), SEQUENCES),
    "GRU": lambda n: applied(layers.GRU(n(100), n(100)), SEQUENCES),
    "MultiheadAttention": lambda n: applied(layers.MultiheadAttention(n(100), n(4)), SEQUENCES),
    "TransformerBlock": lambda n: applied(layers.TransformerBlock(n(100), n(4), n(120)), SEQUENCES),
    "FastCNN": lambda n: drawn(fast_cnn.FastCNN(n(100), n(10), widths=(n(4), n(4), n(4)))),
    "residual_mlp": lambda n: drawn(
        image_mlps.residual_mlp(n(120), n(100), n(2), n(10), expansion=n(4))
    ),
    "crop": lambda n: augment.crop(n(5))(TORCH_KEY, IMAGES),
    "cutout": lambda n: augment.cutout(n(9))(TORCH_KEY, IMAGES),
}  # fmt: skip


def flat(found) -> list[np.ndarray]:
    if isinstance(found, dict):
        return flat(list(tree.flatten(found).values()))
    if isinstance(found, tuple | list):
        return [array for part in found for array in flat(part)]
    return [np.asarray(found)]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("name", CASES)
def test_integers_of_numpy_are_integers(name, dtype):
    found, expected = (flat(CASES[name](n)) for n in (dtype, int))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
