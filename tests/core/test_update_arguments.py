"""An update without params, or with the state of nothing: one line that says what is right."""

import inspect

import numpy as np
import pytest
import torch

from purenets import UserError, optim, random
from purenets.core.optim.internals.extra_args import takes_extra_args

TRANSFORMS = [
    "adaptive_grad_clip",
    "clip_by_block_rms",
    "ema",
    "freeze",
    "proximal_step",
    "reduce_on_plateau",
    "swa",
    "trace",
    *[name for name in optim.__all__ if name.startswith("scale_by_")],
]
NEEDED = {
    "lr": 0.1,
    "weight_decay": 0.1,
    "decay": 0.9,
    "key": random.key(0),
    "limit": 1.0,
    "max_norm": 1.0,
    "beta": 0.9,
    "momentum": 0.9,
}


def made(make):
    """Return an optimizer with its defaults, and a value for each argument that has none."""
    parameters = inspect.signature(make).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    return make(**{name: NEEDED[name] for name in needed})


def everything() -> dict:
    makers = {**optim.OPTIMIZERS, **optim.SAMPLERS}
    makers |= {name: getattr(optim, name) for name in TRANSFORMS}
    found = {name: made(make) for name, make in makers.items()}
    sgd, adam = optim.sgd(0.1, momentum=0.9), optim.adam(0.1)
    return found | {
        "sgd without a state": optim.sgd(0.1),
        "chain": optim.chain(optim.clip_by_global_norm(1.0), adam),
        "chain of no elementwise": optim.chain(optim.scale_by_trust_ratio(), sgd),
        "chain of one that takes the loss": optim.chain(sgd, optim.reduce_on_plateau()),
        "masked": optim.masked(adam, optim.is_matrix),
        "partition": optim.partition({"a": sgd, "b": adam}, lambda name, leaf: "a"),
        "partition with a loss": optim.partition({"a": optim.polyak()}, lambda name, leaf: "a"),
        "accumulate": optim.accumulate(adam, 2),
        "apply_if_finite": optim.apply_if_finite(adam),
        "lookahead": optim.lookahead(sgd),
        "normalize_weights": optim.normalize_weights(sgd),
        "schedule_free": optim.schedule_free(optim.sgd(0.1), 0.1),
        "skip_first": optim.skip_first(sgd),
        "inject_hyperparams": optim.inject_hyperparams(optim.adam, lr=0.1),
        "stateless": optim.stateless(lambda grads, params: grads),
        "elementwise": optim.elementwise(optim.stateless(lambda grads, params: grads)),
    }


EVERYTHING = everything()
TAKE_NONE = {"scale_by_trust_ratio"}  # it only adds its kind, to states from before there was one


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_an_update_without_params_says_how_it_is_called(name, convert):
    params = {"w": convert([[1.0, -2.0], [0.5, 3.0]]), "b": convert([0.5])}
    optimizer = EVERYTHING[name]
    with pytest.raises(UserError, match=r"needs the params too, as update\(grads, state, params\)"):
        optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", sorted(EVERYTHING.keys() - TAKE_NONE))
def test_an_update_with_an_empty_state_names_what_is_missing(name, convert):
    params = {"w": convert([[1.0, -2.0], [0.5, 3.0]]), "b": convert([0.5])}
    optimizer = EVERYTHING[name]
    extra = {"value": 1.0} if takes_extra_args(optimizer.update) else {}
    if optimizer.init(params) == {}:
        assert optimizer.update(params, {}, params, **extra)[1] == {}
        return
    with pytest.raises(
        UserError, match=r"opt_state: of another optimizer or other params: .*missing"
    ):
        optimizer.update(params, {}, params, **extra)


def foreign(leaf):
    """Return a leaf in the other library."""
    return torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf.numpy()


WRONG_GRADS = {  # of {"w": (2, 2), "b": (1,)}: each would broadcast, or be cast
    "one axis less": (lambda w, b: {"w": w[0], "b": b}, r"w has shape \(2,\), its param \(2, 2\)"),
    "one axis more": (lambda w, b: {"w": w, "b": b[None]}, r"b has shape \(1, 1\)"),
    "not summed over the batch": (lambda w, b: {"w": w, "b": w}, r"b has shape \(2, 2\)"),
    "a scalar": (lambda w, b: {"w": w, "b": b[0]}, r"b"),
    "missing": (lambda w, b: {"w": w}, "missing b"),
    "unknown": (lambda w, b: {"w": w, "b": b, "c": b}, "unknown c"),
    "integers": (lambda w, b: {"w": w, "b": 0 * b == 0}, "b is bool, needs a floating-point"),
    "complex": (lambda w, b: {"w": w, "b": 1j * b}, "b is complex128, its param float64"),
    "of the other library": (lambda w, b: {"w": w, "b": foreign(b)}, "b is a .*, its param a"),
}


@pytest.mark.parametrize("wrong", WRONG_GRADS)
@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_gradients_that_do_not_fit_the_params_are_named(wrong, convert):
    w, b = (
        convert(x).astype("f8") if convert is np.array else convert(x).double()
        for x in ([[1.0, -2.0], [0.5, 3.0]], [0.5])
    )
    params, (spoil, text) = {"w": w, "b": b}, WRONG_GRADS[wrong]
    for name, optimizer in EVERYTHING.items():
        extra = {"value": w.sum()} if takes_extra_args(optimizer.update) else {}
        if extra:
            extra["value_and_grad_fn"] = lambda p: (p["w"].sum(), params)
        with pytest.raises(UserError, match=f"grads.*{text}"):
            optimizer.update(spoil(w, b), optimizer.init(params), params, **extra)
            pytest.fail(name)


def test_complex_updates_of_real_params_are_named():
    with pytest.raises(UserError, match="updates: w is complex128, its param float64"):
        optim.apply_updates({"w": np.ones(1)}, {"w": np.array([1j])})


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_updates_whose_fraction_would_be_dropped_are_named(convert):
    for param in (convert(3), convert([True])):
        with pytest.raises(UserError, match=r"updates: i is float\d\d, its param (int64|bool)"):
            optim.apply_updates({"i": param}, {"i": convert([0.7]).reshape(param.shape)})
    assert optim.apply_updates({"i": convert(3)}, {"i": convert(1)})["i"] == 4
