"""The benchmarks' own parts: the table of all, the peers, and the public recipe moved to a CPU."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import cifar10, growth, jax_peers, summary
from purenets.core.report.tables import to_markdown

ROOT = Path(__file__).parents[1]

RECIPE = """
import sys, os
with open(sys.argv[0]) as f:
    code = f.read()
import torch


class CifarNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3072, 10)
        self.half()

    def forward(self, x):
        return self.fc(x.flatten(1))


def print_training_details(variables, is_final_entry):
    raise RuntimeError("to be replaced")


def main(run, model):
    data = torch.load(os.path.join("cifar10", "train.pt"), map_location=torch.device("cuda"))
    images = (data["images"].half() / 255).permute(0, 3, 1, 2)
    starter, ender = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    starter.record()
    val_acc = (model(images).argmax(1) == data["labels"]).float().mean().item()
    ender.record()
    torch.cuda.synchronize()
    time_seconds = 1e-3 * starter.elapsed_time(ender)
    print_training_details(locals(), is_final_entry=False)
    tta_val_acc = val_acc
    print_training_details(locals(), is_final_entry=True)
    return tta_val_acc


if __name__ == "__main__":
    raise RuntimeError("as a script it is not run")
"""


def test_the_public_recipe_runs_on_a_cpu_by_its_words_alone(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("on a GPU the recipe runs as it stands")
    for part in ("train", "test"):
        for i, name in enumerate(("cat", "dog")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            from PIL import Image

            Image.fromarray(np.full((32, 32, 3), 200 * i, np.uint8)).save(folder / "0.png")
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    monkeypatch.setattr("sys.argv", ["pytest"])
    threads = torch.get_num_threads()
    found = cifar10.public(
        cifar10.Config(
            recipe=str(recipe), data="folder", data_dir=str(tmp_path / "data"), threads=1
        ),
        seed=0,
    )
    torch.set_num_threads(threads)
    assert found["views_accuracy"] == found["accuracy"] == found["epochs"][0]["accuracy"]
    assert 0 < found["seconds"] < 60
    assert len(found["epochs"]) == 1


def test_the_summary_is_that_of_the_files():
    path = ROOT / "results" / "benchmarks.json"
    assert json.loads(path.read_text())["rows"] == summary.found(ROOT / "results")
    assert path.with_suffix(".md").read_text() == to_markdown(
        summary.table(summary.found(ROOT / "results"))
    )


def test_the_summary_turns_a_speed_up_around_and_says_what_is_missed(tmp_path):
    fast = {"median": 4.0, "quartiles": [2.0, 5.0]}
    content = {
        "command": "c",
        "n": 3,
        "machine": "m",
        "git_commit": "g",
        "ensemble of 64": {"times as fast": fast},
    }
    (tmp_path / "benchmarks_toolbox.json").write_text(json.dumps(content))
    (row,) = summary.found(tmp_path)
    assert (row["median"], row["quartiles"], row["n"]) == (0.25, [0.2, 0.5], 3)
    assert "| 0.25 (0.20 to 0.50) | 0.05 (missed) | 3 |" in to_markdown(summary.table([row]))


def test_every_axis_of_growth_spans_a_factor_of_100():
    for axis, values in growth.AXES.items():
        assert values[-1] / values[0] == 100, axis
        for backend in (growth.ours, growth.peer):
            backend(axis, values[0])()  # a step at its smallest


@pytest.mark.skipif(not jax_peers.installed(), reason="jax and optax are not installed")
def test_the_step_in_jax_is_torchs():
    from benchmarks import mlp

    peer, torch_ = mlp.in_jax(mlp.TINY, 5), mlp.Torch(mlp.TINY)
    peer()
    for _ in range(5):
        torch_()
    for name, value in torch_.params().items():
        np.testing.assert_allclose(peer.params()[name], value, atol=1e-5)


@pytest.mark.skipif(not importlib.util.find_spec("torchopt"), reason="torchopt is not installed")
def test_the_step_with_torchopt_is_torchs():
    from benchmarks import mlp

    mlp.assert_same_work(
        {"TorchOpt": mlp.TorchOpt(mlp.TINY), "torch.nn": mlp.Torch(mlp.TINY)}, 1e-3
    )
