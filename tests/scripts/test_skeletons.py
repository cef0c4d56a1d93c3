"""The scripts and nets can be called as the assignment's skeletons call them."""

import argparse

import numpy as np
import pytest

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
