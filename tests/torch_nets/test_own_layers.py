"""Layers and losses that users write may not write into their arguments; torch's modules may."""

import pytest
import torch

from purenets import Model, UserError, evaluate, init_state, make_step, optim, random
from purenets.torch_nets import from_module, grad_fn, jit, layers, losses, metrics_fn
from purenets.torch_nets.own_layers import checked

BATCH = torch.as_tensor(random.normal(random.key(0), (8, 2))), torch.arange(8) % 3


def own(f, buffers=()):
    """Return a layer that applies `f(buffers, x)`."""

    def apply(params, buffers, x, *, train=False, key=None):
        return f(buffers, x), buffers

    return Model(lambda key: ({}, {name: torch.ones(2) for name in buffers}), apply, uses_key=False)


def counted(buffers, x):
    buffers["mean"].mul_(0.9)
    return x


WRITES = {
    "input": own(lambda b, x: x.mul_(0.5)),
    "input by a function": layers.elementwise(torch.relu_),
    "input by a lambda": layers.elementwise(lambda x: x.clamp_(0)),
    "input by a module": layers.elementwise(torch.nn.ReLU(inplace=True)),
    "buffers": own(counted, ["mean"]),
}


def first(layer):
    return layers.serial(own=layer, fc=layers.Linear(2, 3))


def hidden(layer):
    return layers.serial(fc0=layers.Linear(2, 2), own=layer, fc=layers.Linear(2, 3))


def uses_of(model, loss=losses.cross_entropy):
    """Return a step, a compiled step and an evaluation, as functions of a batch, and the state."""
    optimizer = optim.sgd(0.1)
    state = init_state(model, optimizer, random.key(1))
    step = make_step(grad_fn(model, loss), optimizer)
    return state, [
        lambda batch: step(state, batch),
        lambda batch: jit(step)(state, batch),
        lambda batch: evaluate(metrics_fn(model, loss), state, batch),
    ]


@pytest.mark.parametrize("place", [first, hidden])
@pytest.mark.parametrize("what", WRITES)
def test_a_layer_that_writes_in_place_is_named(place, what):
    for use in uses_of(place(WRITES[what]))[1]:
        with pytest.raises(UserError, match=f"own.apply: writes into its {what.split()[0]} in p"):
            use((BATCH[0].clone(), BATCH[1]))


def test_a_model_alone_is_watched_too():
    def apply(params, buffers, x, *, train=False, key=None):
        return x.add_(1) @ params["w"], buffers

    model = Model(lambda key: ({"w": torch.ones(2, 3)}, {}), apply, uses_key=False)
    for use in uses_of(model)[1]:
        with pytest.raises(UserError, match="apply: writes into its input in place"):
            use((BATCH[0].clone(), BATCH[1]))


@pytest.mark.parametrize(
    "layer",
    [own(lambda b, x: x.mul(0.5)), layers.elementwise(torch.relu), layers.elementwise(torch.sin)],
)
def test_a_layer_that_returns_new_tensors_is_taken(layer):
    x = BATCH[0].clone()
    for use in uses_of(first(layer))[1]:
        use((x, BATCH[1]))
    assert torch.equal(x, BATCH[0])


def test_a_loss_that_writes_into_its_targets_is_named():
    model = layers.serial(fc=layers.Linear(2, 3))
    loss = lambda outputs, targets: (outputs - targets.mul_(2)).square().mean()
    for use in uses_of(model, loss)[1]:
        with pytest.raises(UserError, match="loss: writes into its targets in place"):
            use((BATCH[0], torch.ones(8, 3)))


def test_modules_of_torch_that_write_in_place_get_a_copy():
    module = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(2, 3))
    x = BATCH[0].clone()
    for use in uses_of(from_module(module))[1]:
        use((x, BATCH[1]))
    assert torch.equal(x, BATCH[0])


def test_layers_of_the_package_are_not_wrapped():
    for layer in (
        layers.ReLU(),
        layers.Linear(2, 3),
        layers.MaxPool(2, stride=2),
        first(layers.ReLU()),
    ):
        assert checked(layer) is layer
    with torch.inference_mode():  # whose tensors count no writes
        x = torch.ones(2, 2)
        layer = own(lambda b, x: x + 1)
        assert torch.equal(checked(layer).apply({}, {}, x)[0], x + 1)


def test_a_layer_without_a_name_gets_one_line():
    with pytest.raises(UserError, match=r"serial: a layer without a name, Linear; name each, as"):
        layers.serial(layers.Linear(2, 3), layers.ReLU())
