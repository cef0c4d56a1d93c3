"""Models as modules of torch.nn: the same numbers in eager mode, exported and in ONNX."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from purenets import Model, UserError, init_state, make_step, optim, random, train_state, tree
from purenets.core.report.tabulate import tabulate
from purenets.torch_nets import (
    CNN,
    MLP,
    VanillaRNN,
    from_module,
    frozen,
    grad_fn,
    layers,
    to_module,
)
from purenets.torch_nets.cnn_model import CNNModule
from purenets.torch_nets.ensemble import deep_ensemble
from purenets.torch_nets.pytorch_mlp import MLPModule
from purenets.torch_nets.vanilla_rnn import VanillaRNNModule

KEY = torch.as_tensor(random.key(2))


def images(*shape):
    return random.normal(KEY, shape)


def reader():
    return layers.serial(
        embed=layers.Embedding(11, 8), block=layers.TransformerBlock(8, 2, 16, norm_first=True),
        lstm=layers.LSTM(8, 6), last=layers.LastStep(), head=layers.Linear(6, 3),
    )  # fmt: skip


NETS = {
    "mlp": (lambda: MLP(5, [8], 3), lambda n: images(n, 5)),
    "cnn": (lambda: CNN(3, 4, width=0.1), lambda n: images(n, 3, 16, 16)),
    "rnn": (lambda: VanillaRNN(7, 1, 9, 3), lambda n: images(n, 7, 1)),
    "reader": (reader, lambda n: random.randint(KEY, (n, 6), 0, 11)),
}
every_net = pytest.mark.parametrize("name", NETS)


def setting(name, n=4):
    make, inputs = NETS[name]
    model = make()
    return model, *model.init(KEY), inputs(n)


@every_net
def test_outputs_and_names_are_the_models(name):
    model, params, buffers, x = setting(name)
    module = to_module(model, params, buffers).eval()
    assert module.state_dict().keys() == {**params, **buffers}.keys()
    assert dict(module.named_parameters()).keys() == params.keys()
    torch.testing.assert_close(module(x), model.apply(params, buffers, x)[0])
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    assert all(torch.equal(p, model.init(KEY)[0][leaf]) for leaf, p in params.items())


def test_the_state_is_that_of_the_twin():
    block = layers.TransformerBlock(8, 2, 16)
    module = to_module(block, *block.init(KEY)).eval()
    twin = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).eval()
    twin.load_state_dict(module.state_dict())
    x = images(3, 5, 8)
    torch.testing.assert_close(module(x), twin(x))
    nn.init.ones_(twin.linear1.weight)
    module.load_state_dict(twin.state_dict())
    torch.testing.assert_close(module(x), twin(x))


def test_a_training_by_torch_is_ours():
    model = CNN(3, 4, width=0.1)
    params, buffers = (tree.cast(part, "float64") for part in model.init(KEY))
    state = train_state(params, buffers, optim.sgd(0.1), KEY)
    module = to_module(model, params, buffers).train()
    theirs = torch.optim.SGD(module.parameters(), 0.1)
    batch = images(6, 3, 16, 16).double(), torch.arange(6) % 4
    step = make_step(grad_fn(model), optim.sgd(0.1))
    for _ in range(3):
        state, metrics = step(state, batch)
        theirs.zero_grad()
        loss = F.cross_entropy(module(batch[0]), batch[1])
        loss.backward()
        theirs.step()
    torch.testing.assert_close(loss.detach(), metrics["loss"])
    for leaf, value in {**state.params, **state.buffers}.items():
        torch.testing.assert_close(module.state_dict()[leaf], value, rtol=1e-9, atol=1e-12)


@every_net
def test_there_and_back(name):
    model, params, buffers, x = setting(name)
    again = from_module(to_module(model, params, buffers))
    values = again.init(None)
    assert all(map(torch.equal, tree.leaves(values[0]), tree.leaves(params)))
    y, new = again.apply(*values, x, train=True, key=KEY)
    expected, expected_buffers = model.apply(params, buffers, x, train=True)
    torch.testing.assert_close(y, expected)
    for leaf, value in expected_buffers.items():
        torch.testing.assert_close(new[leaf], value)


def test_a_module_draws_from_torchs_generator_in_training():
    model = MLP(5, [64], 3, dropout=0.5)
    module, x = to_module(model, *model.init(KEY)), images(4, 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = module(x), module(x)
        torch.manual_seed(0)
        assert torch.equal(module(x), first) and not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(x), module(x))


def test_several_inputs_and_keyword_inputs():
    init = lambda key: ({"scale": torch.ones(3), "deep.er.weight": torch.ones(3)}, {})
    pairs = Model(init, lambda p, b, x, *, train=False, key=None: (p["scale"] * x[0] + x[1], b))
    named = Model(init, lambda p, b, x, *, train=False, key=None: (p["scale"] * x["a"] + x["b"], b))
    a, b = images(2, 3), images(2, 3) ** 2
    assert torch.equal(to_module(pairs, *init(None)).eval()(a, b), a + b)
    module = to_module(named, *init(None)).eval()
    assert torch.equal(module(a=a, b=b), a + b)
    assert module.deep.er.weight.shape == (3,)


@pytest.mark.parametrize("name", ["forward", "training", "apply"])
def test_a_name_that_modules_have_already_is_refused(name):
    model = layers.serial(**{name: layers.Linear(2, 3)})
    with pytest.raises(UserError, match=f"{name}: no name for a part of a torch.nn.Module"):
        to_module(model, *model.init(KEY))


def test_a_leaf_that_is_a_layer_too_is_refused():
    leaves = {"a": torch.ones(1), "a.b": torch.ones(1)}
    with pytest.raises(UserError, match=r"a: no name .*: is a leaf and a layer"):
        to_module(Model(None, None), leaves)


# --- printed and saved ----------------------------------------------------------------------------


def test_print_shows_every_layer_with_the_shapes_of_its_leaves():
    block = layers.serial(norm=layers.BatchNorm(4), apply=layers.ReLU(), fc=layers.Linear(4, 3))
    model = layers.serial(conv=layers.Conv(3, 4, 3), pool=layers.GlobalAvgPool(), block=block)
    module = to_module(model, *model.init(KEY))
    assert (
        str(module)
        == """Serial(
  (conv): Conv(weight: (4, 3, 3, 3), bias: (4,))
  (pool): GlobalAvgPool()
  (block): Serial(
    (norm): BatchNorm(weight: (4,), bias: (4,), running_mean: (4,), running_var: (4,))
    (fc): Linear(weight: (3, 4), bias: (3,))
  )
)"""
    )  # a module has a method `apply` already, so the ReLU of that name is left out
    x = images(2, 3, 8, 8)
    torch.testing.assert_close(module.eval()(x), model.apply(*model.init(KEY), x)[0])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: MLPModule(5, [8, 6], 3), (4, 5)),
        (lambda: CNNModule(3, 4), (2, 3, 8, 8)),
        (lambda: VanillaRNNModule(7, 1, 9, 3), (4, 7, 1)),
    ],
    ids=["mlp", "cnn", "rnn"],
)
def test_a_module_of_the_skeletons_is_saved_as_a_whole(make, shape, tmp_path):
    module, x = make().double().eval(), images(*shape).double()
    module.requires_grad_(False)
    torch.save(module, tmp_path / "module.pt")
    before = torch.get_rng_state()
    for again in (torch.load(tmp_path / "module.pt", weights_only=False), copy.deepcopy(module)):
        assert type(again) is type(module) and not again.training
        assert not any(param.requires_grad for param in again.parameters())
        assert torch.equal(again(x), module(x))
        next(again.parameters()).add_(1.0)
        assert not torch.equal(again(x), module(x))
    assert torch.equal(before, torch.get_rng_state())


def test_lists_that_a_module_was_made_with_may_change_later():
    hidden = [8]
    module = MLPModule(5, hidden, 3)
    hidden.append(1)
    assert torch.equal(pickle.loads(pickle.dumps(module))(images(4, 5)), module(images(4, 5)))


# --- out of Python --------------------------------------------------------------------------------


@every_net
def test_an_exported_program_is_the_same(name):
    """For any size of the batch, in plain operations of torch."""
    model, params, buffers, x = setting(name)
    module = to_module(model, params, buffers).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=((({0: batch}),),))
    assert set(program.state_dict) == {*params, *buffers}
    assert "purenets" not in str(program.graph)
    other = NETS[name][1](7)
    torch.testing.assert_close(program.module()(other), module(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "rnn", "reader"])
def test_onnx_gives_the_same_logits(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    model, params, buffers, x = setting(name)
    module, path = to_module(model, params, buffers).eval(), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(module, (x,), str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.allclose(logits, module(x).detach(), rtol=1e-4, atol=1e-5)


# --- a frozen backbone ----------------------------------------------------------------------------


def test_a_frozen_backbone_stays_as_it_is_under_a_trained_head():
    body = layers.serial(
        conv=layers.Conv(3, 4, 3), norm=layers.BatchNorm(4), relu=layers.ReLU(),
        pool=layers.GlobalAvgPool(),
    )  # fmt: skip
    params, buffers = body.init(KEY)
    net = layers.serial(body=frozen(body, params, buffers), head=layers.Linear(4, 2))
    state = init_state(net, optim.adam(0.1), KEY)
    assert state.params.keys() == {"head.weight", "head.bias"}
    batch = images(6, 3, 8, 8), torch.arange(6) % 2
    trained, _ = make_step(grad_fn(net), optim.adam(0.1))(state, batch)
    assert all(
        map(torch.equal, tree.leaves(trained.buffers), [*params.values(), *buffers.values()])
    )
    head, features = layers.Linear(4, 2), body.apply(params, buffers, batch[0])[0]
    alone = tree.select(state.params, "head.")
    grads, _ = grad_fn(head)(alone, {}, (features, batch[1]), None)
    mine, _ = grad_fn(net)(state.params, state.buffers, batch, None)
    for leaf, grad in grads.items():
        torch.testing.assert_close(mine[f"head.{leaf}"], grad)
    by_input = torch.func.grad(lambda x: net.apply(state.params, state.buffers, x)[0].sum())
    assert by_input(batch[0]).any()


def test_a_module_of_torchvision_as_a_backbone():
    resnet18 = pytest.importorskip("torchvision.models").resnet18
    module = resnet18(weights=None)
    module.fc = nn.Identity()
    body = from_module(module)
    net = layers.serial(body=frozen(body, *body.init(None)), head=layers.Linear(512, 2))
    state = init_state(net, optim.sgd(0.1), KEY)
    batch = images(2, 3, 32, 32), torch.tensor([0, 1])
    trained, _ = make_step(grad_fn(net), optim.sgd(0.1))(state, batch)
    assert trained.params.keys() == {"head.weight", "head.bias"}
    again = to_module(net, trained.params, trained.buffers).eval()
    features = module.eval()(batch[0])
    expected = F.linear(features, trained.params["head.weight"], trained.params["head.bias"])
    torch.testing.assert_close(again(batch[0]), expected, rtol=1e-4, atol=1e-5)
    assert {f"body.{leaf}" for leaf in module.state_dict()} < again.state_dict().keys()


def test_what_is_frozen_is_a_copy_without_a_graph():
    body = layers.Linear(2, 3)
    params = {name: nn.Parameter(leaf) for name, leaf in body.init(KEY)[0].items()}
    net, before = frozen(body, params), params["weight"].detach().clone()
    with torch.no_grad():
        params["weight"].add_(1.0)
    _, values = net.init(KEY)
    assert torch.equal(values["weight"], before)
    assert not values["weight"].requires_grad
    assert not net.apply({}, values, torch.ones(1, 2))[0].requires_grad


def test_what_is_frozen_has_no_params():
    body = layers.Linear(2, 3)
    net = frozen(body, *body.init(KEY))
    with pytest.raises(UserError, match=r"weight: unknown in params; the layer has none"):
        net.apply({"weight": torch.ones(3, 2)}, {}, torch.ones(1, 2))
    with pytest.raises(UserError, match=r"frozen: w in params and in buffers"):
        frozen(body, {"w": torch.ones(1)}, {"w": torch.ones(1)})


@every_net
def test_a_leaf_that_is_missing_or_unknown_is_named(name):
    model, params, buffers, _ = setting(name)
    first, more = next(iter(params)), torch.zeros(2)
    with pytest.raises(UserError, match=f"to_module: .*{first}.*: missing in params"):
        to_module(model, {leaf: x for leaf, x in params.items() if leaf != first}, buffers)
    with pytest.raises(UserError, match=r"to_module: more\.weight: unknown in params; the model"):
        to_module(model, params | {"more.weight": more}, buffers)
    with pytest.raises(UserError, match="to_module: more: unknown in buffers"):
        to_module(model, params, buffers | {"more": more})
    if buffers:
        with pytest.raises(UserError, match="missing in buffers"):
            to_module(model, params)


# --- modules with values of their own, there and back ---------------------------------------------


def loaded():
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    module.load_state_dict(copy.deepcopy(module).state_dict())
    return module


def normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 3))


def transformer():
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(30, 3))


INSTANCES = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=3), (3, 32, 32)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=3), (3, 32, 32)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=3), (3, 64, 64)),
    "transformer": (transformer, (5, 6)),
    "weight_norm": (normed, (6,)),
    "loaded": (loaded, (6,)),
}
every_instance = pytest.mark.parametrize("name", INSTANCES)


def outputs_and_grads(module, x):
    y = module.eval()(x)
    module.zero_grad()
    y.square().sum().backward()
    return y.detach(), {name: p.grad for name, p in module.named_parameters()}


@every_instance
def test_an_instance_comes_back_with_its_outputs_and_gradients(name):
    make, shape = INSTANCES[name]
    module, x = make(), images(2, *shape)
    model = from_module(module)
    back = to_module(model, *model.init(None))
    assert back.state_dict().keys() == module.state_dict().keys()
    (y, grads), (z, same) = (outputs_and_grads(net, x) for net in (module, back))
    torch.testing.assert_close(z, y)
    torch.testing.assert_close(same, grads)


@every_instance
def test_a_pretrained_part_of_a_net_has_its_own_values_whatever_the_key(name):
    make, shape = INSTANCES[name]
    module = make()
    body = from_module(module)
    with pytest.raises(UserError, match=r"init\(None\) to keep its values"):
        init_state(body, optim.sgd(0.1), KEY)  # alone, the key would say nothing
    with pytest.raises(UserError, match=r"init\(None\) to keep its values"):
        deep_ensemble(body, 2).init(KEY)  # members that are all the same
    head = layers.Linear(3, 2)
    net = layers.serial(trunk=layers.serial(body=body), head=head)
    draws = [net.init(random.fold_in(KEY, i)) for i in range(2)]
    for params, buffers in draws:
        params, buffers = (tree.select(part, "trunk.body.") for part in (params, buffers))
        torch.testing.assert_close((params, buffers), body.init(None), rtol=0, atol=0)
    assert not torch.equal(*(params["head.weight"] for params, _ in draws))
    step = make_step(grad_fn(net), optim.sgd(0.1))
    state = init_state(net, optim.sgd(0.1), KEY)
    after, _ = step(state, (images(2, *shape), torch.tensor([0, 1])))
    assert not torch.equal(after.params["head.weight"], state.params["head.weight"])
    assert len(tabulate(net, images(2, *shape))) > 1


def test_a_part_that_a_key_can_draw_is_drawn():
    net = layers.serial(body=from_module(nn.Linear(4, 3)), head=layers.Linear(3, 2))
    one, other = (net.init(random.fold_in(KEY, i))[0] for i in range(2))
    assert not torch.equal(one["body.weight"], other["body.weight"])
    again = to_module(net, one)
    assert again.state_dict().keys() == one.keys()


def test_complex_leaves_are_trained():
    params = {"w": torch.ones(2, dtype=torch.complex64)}
    model = Model(lambda key: (params, {}), lambda p, b, x, train=False, key=None: (x * p["w"], b))
    module = to_module(model, params)
    assert [leaf.requires_grad for leaf in module.parameters()] == [True]
