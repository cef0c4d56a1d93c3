"""The scripts and nets can be called as the assignment's skeletons call them."""

import argparse

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from purenets import UserError, make_step, optim, random, train_state
from purenets.torch_nets import CNN, MLP, VanillaRNN, grad_fn
from purenets.torch_nets.cnn_model import CNNModule
from purenets.torch_nets.dataset import PalindromeDataset
from purenets.torch_nets.pytorch_mlp import MLPModule
from purenets.torch_nets.vanilla_rnn import VanillaRNNModule
from scripts import cnn_train, pytorch_train_mlp, train, train_mlp_numpy
from scripts.shared import mlp, training

# a script, and the function that does the work behind its `train`
BEHIND = {
    train_mlp_numpy: (mlp, "train"),
    pytorch_train_mlp: (mlp, "train"),
    cnn_train: (training, "train"),
    train: (train, "train_as"),
}


@pytest.fixture
def seen(monkeypatch):
    """The options that reach the work behind any `train`, which is not done."""
    found = []
    for module, name in BEHIND.values():
        monkeypatch.setattr(module, name, lambda config, *rest: found.append(config))
    return found


@pytest.mark.parametrize("script", BEHIND, ids=lambda script: script.__name__)
def test_train_takes_nothing_a_config_or_a_namespace(script, seen):
    script.train()
    script.train(script.Config(seed=3))
    script.train(argparse.Namespace(seed=4))
    assert seen == [script.Config(), script.Config(seed=3), script.Config(seed=4)]


@pytest.mark.parametrize("script", BEHIND, ids=lambda script: script.__name__)
def test_train_takes_the_skeletons_spelling_of_an_optimizer(script, seen):
    script.train(argparse.Namespace(optimizer="ADAM"))
    assert seen == [script.Config(optimizer="adam")]


@pytest.mark.parametrize("script", BEHIND, ids=lambda script: script.__name__)
def test_main_takes_nothing(script, monkeypatch):
    configs = []

    def trained(config=None, *rest):
        configs.append(script.Config.given(config))
        raise InterruptedError

    monkeypatch.setattr(script, "train", trained)
    with pytest.raises(InterruptedError):
        script.main()
    assert configs == [script.Config()]


@pytest.mark.parametrize("script", [train_mlp_numpy, pytorch_train_mlp, cnn_train])
def test_the_scripts_have_the_accuracy_of_the_skeletons(script):
    predictions, targets = [[0.1, 0.9], [0.8, 0.2]], [[0, 1], [0, 1]]
    assert script.accuracy(np.array(predictions), np.array(targets)) == 0.5


def test_an_own_parser_trains(capsys):
    """The skeletons parse their flags themselves and hand over what comes out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dnn_hidden_units", type=str, default="20")
    parser.add_argument("--learning_rate", type=float, default=1e-2)
    parser.add_argument("--max_steps", type=int, default=2)
    parser.add_argument("--eval_freq", type=int, default=1)
    train_mlp_numpy.main(parser.parse_args([]))
    assert "102 parameters, 50 steps" in capsys.readouterr().out


def by_autograd(model, optimizer, batches, max_norm: float = 0.0) -> list[float]:
    """The training loop of the skeletons; the losses of its steps."""
    criterion, losses = torch.nn.CrossEntropyLoss(), []
    for x, y in batches:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def by_functions(net, module, optimizer, batches) -> list[float]:
    """Our loop, from the same params; the losses of its steps."""
    step, losses = make_step(grad_fn(net), optimizer), []
    params = {name: leaf.detach().clone() for name, leaf in module.named_parameters()}
    buffers = {name: leaf.clone() for name, leaf in module.named_buffers()}
    state = train_state(params, buffers, optimizer, random.key(0))
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.parametrize(
    ("module", "net", "shape"),
    [
        (lambda: MLPModule(2, [20], 2), lambda: MLP(2, [20], 2), (16, 2)),
        (lambda: CNNModule(1, 2), lambda: CNN(1, 2), (4, 1, 8, 8)),
    ],
    ids=["MLP", "CNN"],
)
def test_modules_train_as_the_skeletons_do_and_as_the_functions_do(module, net, shape):
    torch.manual_seed(1)
    model = module().double()
    labels = torch.randint(0, 2, shape[:1])
    batches = [(torch.randn(shape, dtype=torch.float64), labels) for _ in range(4)]
    ours = by_functions(net(), model, optim.sgd(0.01), batches)
    theirs = by_autograd(model, torch.optim.SGD(model.parameters(), lr=0.01), batches)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert model.eval()(batches[0][0]).shape == (shape[0], 2)


def test_the_rnn_trains_as_the_skeleton_trains_it():
    """By keyword, over a DataLoader with a worker, by torch's RMSProp."""
    config = argparse.Namespace(
        input_length=4, input_dim=1, num_hidden=32, num_classes=10, batch_size=64, max_norm=10.0
    )
    torch.manual_seed(0)
    model = VanillaRNNModule(
        seq_length=config.input_length,
        input_dim=config.input_dim,
        hidden_dim=config.num_hidden,
        output_dim=config.num_classes,
        batch_size=config.batch_size,
    )
    dataset = PalindromeDataset(config.input_length + 1)
    loaded = iter(DataLoader(dataset, config.batch_size, num_workers=1))
    batches = [next(loaded) for _ in range(20)]
    rmsprop = optim.chain(optim.clip_by_global_norm(config.max_norm), optim.rmsprop(1e-3))
    ours = by_functions(VanillaRNN(4, 1, 32, 10), model, rmsprop, batches)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    theirs = by_autograd(model, optimizer, batches, config.max_norm)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert theirs[-1] < theirs[0]


def test_the_rnn_reads_the_skeletons_digits_without_an_axis_of_one():
    model, x = VanillaRNNModule(4, 1, 8, 10), torch.randint(0, 10, (5, 6))
    for digits in (x, x[:, :4], x.float()):
        assert torch.equal(model(digits), model(digits[..., None]))
    for other, wrong in (
        (model, x[:4, :1]),
        (model, x[0]),
        (VanillaRNNModule(4, 10, 8, 10), x),
    ):
        with pytest.raises(UserError, match=r"x: \(.*\), expected \(batch, T-1, "):
            other(wrong)
    with pytest.raises(UserError, match="x: a list"):
        model([[1, 2, 3, 4]])


def test_modules_are_drawn_from_the_generator_of_torch():
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return MLPModule(2, [3], 2).state_dict()["fc1.weight"]

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    model = MLPModule(2, [3], 2)
    model.load_state_dict(MLPModule(2, [3], 2).state_dict())
    assert isinstance(model, torch.nn.Module)
