"""The benchmarks' own parts: the table of all, the peers, and the public recipe moved to a CPU."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import (
    cifar10,
    cifar10_gpu,
    cifar10_parts,
    growth,
    jax_peers,
    products,
    summary,
    timing,
)
from benchmarks import recipe as public
from purenets import UserError
from purenets.core.data import images
from purenets.core.report.tables import to_markdown
from scripts import cifar10_cnn
from scripts.shared import result_files

ROOT = Path(__file__).parents[1]

RECIPE = """
import sys, os
with open(sys.argv[0]) as f:
    code = f.read()
import torch


class CifarNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(64, 10)
        self.half()

    def init_whiten(self, images):
        pass

    def forward(self, x):
        return self.fc(x.flatten(1)[:, :64])


class CifarLoader:
    def __init__(self, path, train=True, batch_size=500):
        data = torch.load(os.path.join(path, "train.pt" if train else "test.pt"))
        self.images = (data["images"].half() / 255).permute(0, 3, 1, 2)
        self.labels, self.shuffle = data["labels"], train
        self.batch_size, self.epoch = batch_size, 0

    def __iter__(self):
        self.epoch += 1
        for _ in range(1000):
            yield self.images[: self.batch_size], self.labels[: self.batch_size]


def infer(model, loader, tta_level=0):
    model.eval()
    return model(loader.images)


def print_training_details(variables, is_final_entry):
    raise RuntimeError("to be replaced")


def evaluate(model, loader, tta_level=0):
    return (infer(model, loader, tta_level).argmax(1) == loader.labels).float().mean().item()


def main(run, model):
    loader = CifarLoader("cifar10", batch_size=20)
    test = CifarLoader("cifar10", train=False)
    model.init_whiten(loader.images)
    starter, ender = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    starter.record()
    for epoch in range(3):
        model.train()
        for steps, (inputs, labels) in enumerate(loader):
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            if steps == 5:
                break
        val_acc = evaluate(model, test)
        ender.record()
        torch.cuda.synchronize()
        time_seconds = 1e-3 * starter.elapsed_time(ender)
        print_training_details(locals(), is_final_entry=False)
    tta_val_acc = evaluate(model, test, tta_level=2)
    print_training_details(locals(), is_final_entry=True)
    return tta_val_acc


if __name__ == "__main__":
    raise RuntimeError("as a script it is not run")
"""


@pytest.fixture
def recipe_file(tmp_path, monkeypatch) -> str:
    if torch.cuda.is_available():
        pytest.skip("on a GPU the recipe runs as it stands")
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    monkeypatch.setattr("sys.argv", ["pytest"])
    return str(path)


@pytest.fixture
def in_this_process(monkeypatch):
    """Contestants do not wait for a process of their own, which imports torch; ours is narrow."""

    def here(*call, memory_reused):
        build, *arguments = pickle.loads(pickle.dumps(call))  # as on the way to the process
        return build(*arguments)

    monkeypatch.setattr(timing, "apart", here)
    narrow = dataclasses.replace(cifar10_cnn.PRESETS["digits"], channels=(8, 8, 8))
    monkeypatch.setitem(cifar10_cnn.PRESETS, "digits", narrow)


def test_a_contestant_has_a_process_of_its_own():
    with_threads = timing.apart(functools.partial, torch.get_num_threads, memory_reused=True)
    failing = timing.apart(functools.partial, divmod, 1, 0, memory_reused=False)
    elsewhere = timing.apart(functools.partial, os.getpid, memory_reused=False)
    assert elsewhere() == elsewhere() != os.getpid()
    assert with_threads() == torch.get_num_threads()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        failing()


def test_the_public_recipe_runs_on_a_cpu_by_its_words_alone(recipe_file):
    threads = torch.get_num_threads()
    config = cifar10.Config(recipe=recipe_file, data="digits", threads=1)
    found = cifar10.public(config, seed=0)
    torch.set_num_threads(threads)
    assert found["views_accuracy"] == found["accuracy"] == found["epochs"][0]["accuracy"]
    assert 0 < found["seconds"] < 60
    assert len(found["epochs"]) == 3
    assert found["precision"] == "bfloat16"


def test_whole_trainings_take_turns(recipe_file, tmp_path, in_this_process):
    path = str(tmp_path / "gpu.json")
    config = cifar10_gpu.Config(recipe_file, "cnn digits", "digits", rounds=2, results=path)
    found = cifar10_gpu.main(config)
    assert list(found["trainings"]) == ["purenets cnn digits", "recipe"]
    for rows in found["trainings"].values():
        assert [row["seed"] for row in rows] == [200, 201]
        assert all(row["seconds"] > 0 and 0 < row["accuracy"] <= 1 for row in rows)
    rows = cifar10_gpu.table(found).rows
    assert rows[-1][0] == "recipe, not compiled"  # on a CPU
    assert rows[-1][4].startswith("1.00 (1.00 to 1.00)")
    assert found["command"].startswith("python -m benchmarks.cifar10_gpu --preset 'cnn digits' ")
    alone = found | {"trainings": {"purenets": found["trainings"]["purenets cnn digits"]}}
    assert cifar10_gpu.table(alone).rows[-1][4] == ""  # no unit without the recipe


def test_the_recipe_goes_on_by_a_step_for_each_call(recipe_file, tmp_path):
    public.write_images(images.digits(), tmp_path)
    recipe = public.loaded(recipe_file, tmp_path)
    paced = public.Paced(recipe, public.net_of(recipe, compiled=False), 1, 7)
    plain = contextlib.nullcontext()
    names = [set(paced.ask("step", plain)) for _ in range(8)]
    first, begins, others = (
        {f"draw{text}", "step"} for text in (", first of all", ", first of an epoch", "")
    )
    assert names == [first, others, begins, others, begins, others, first, others]  # and again
    (seconds,) = paced.ask("views", plain).values()
    assert seconds > 0
    assert len(paced.test.images) == 7
    assert paced.net.training  # as the training left it
    paced.recipe["main"] = None


def test_what_goes_wrong_in_the_recipe_is_raised_here(recipe_file, tmp_path):
    public.write_images(images.digits(), tmp_path)
    recipe = public.loaded(recipe_file, tmp_path)
    recipe["main"] = lambda run, net: 1 / 0
    paced = public.Paced(recipe, public.net_of(recipe, compiled=False), 1, 7)
    with pytest.raises(ZeroDivisionError):
        paced.ask("step", contextlib.nullcontext())


def test_the_time_of_a_training_is_the_sum_of_its_parts(
    recipe_file, tmp_path, monkeypatch, in_this_process
):
    config = cifar10.Config(
        recipe=recipe_file,
        presets="cnn digits,mlp digits",
        data="digits",
        image_size=32,
        rounds=2,
        threads=1,
        results=str(tmp_path / "found.json"),
    )
    monkeypatch.setattr("benchmarks.products.peak_gigaflops", lambda dtype: 100.0)
    threads = torch.get_num_threads()
    found = cifar10.main(config)["time"]
    torch.set_num_threads(threads)
    assert [list(pair) for pair in found["pairs"].values()] == [
        ["recipe", "purenets cnn digits"],
        ["recipe", "purenets mlp digits"],
    ]
    pair = found["pairs"]["cnn digits"]
    ours = pair["purenets cnn digits"]
    assert ours["steps"] == 58  # 4 epochs of 1,438 images in batches of 100
    first, step = ours["parts"]["step, first bias trained"], ours["parts"]["step"]
    assert (first["count"], step["count"]) == (44, 14)
    assert step["n"] == 2
    taken = 44 * first["seconds"] + 14 * step["seconds"]
    assert ours["seconds"] == pytest.approx(ours["once_seconds"] + taken)
    assert ours["teraflop"] == pytest.approx((44 * first["flops"] + 14 * step["flops"]) / 1e12)
    assert step["flops"] < first["flops"]  # no backward pass of the first layer
    text = (tmp_path / "found.md").read_text()
    ratio = ours["seconds"] / pair["recipe"]["seconds"]
    assert f"| {ratio:.2f} |" in text
    with pytest.raises(UserError, match="holds rows of other images"):
        rows = [{"contestant": "purenets cnn 94", "seed": 0, "images": "elsewhere"}]
        (tmp_path / "found.json").write_text(json.dumps({"rows": rows}))
        cifar10.main(config)


def test_a_preset_has_a_part_for_each_kind_of_its_steps():
    source = cifar10_parts.Source("digits", "data", 32, 1)
    threads = torch.get_num_threads()
    about = cifar10_parts.ours(source, "cnn digits", 0.25)()
    torch.set_num_threads(threads)
    assert about["parts"].keys() == {"step", "step, first bias trained"}


def test_as_many_views_are_timed_as_the_trainings_took(tmp_path):
    trained = str(ROOT / "results" / "part1_cifar10.json")
    rows = json.loads(Path(trained).read_text())["rows"]
    parts = [row["test"]["views_part"] for row in rows if row["setting"] == "cnn 94"]
    assert cifar10.part_of_views(trained, "cnn 94") == pytest.approx(sum(parts) / len(parts))
    assert cifar10.part_of_views(trained, "cnn 96") == 1.0
    assert cifar10.part_of_views(str(tmp_path / "none.json"), "cnn 94") == 1.0


def test_kinds_of_steps_are_apart():
    def kinds(**changes):
        config = dataclasses.replace(cifar10_cnn.PRESETS["94"], **changes)
        plan = SimpleNamespace(config=config, recipe=cifar10_cnn.RECIPE, steps=100, per_epoch=20)
        return cifar10_parts.kinds_of_steps(plan)

    assert kinds(small_size=26, small_fraction=0.25, whiten_epochs=3.0) == {
        "step, small images, first bias trained": (0, 25),
        "step, first bias trained": (25, 35),
        "step": (60, 40),
    }
    assert kinds(small_size=26, small_fraction=0.75, whiten_epochs=3.0) == {
        "step, small images, first bias trained": (0, 60),
        "step, small images": (60, 15),
        "step": (75, 25),
    }
    assert kinds(small_size=0, small_fraction=0.5, whiten_epochs=0.0) == {"step": (0, 100)}


def test_the_small_net_and_the_views_are_parts_too(monkeypatch):
    small = {"channels": (8, 8, 8), "views": "shift", "views_below": 0.5, "hardest": 0.5}
    small |= {"small_size": 26, "muon_method": "gram"}
    preset = dataclasses.replace(cifar10_cnn.PRESETS["digits"], **small)
    monkeypatch.setitem(cifar10_cnn.PRESETS, "digits", preset)
    threads = torch.get_num_threads()
    call = cifar10_parts.ours(cifar10_parts.Source("digits", "data", 32, 1), "cnn digits", 0.25)
    about, seconds = call(), call()
    torch.set_num_threads(threads)
    counts = {name: part["count"] for name, part in about["parts"].items()}
    assert seconds.keys() == counts.keys()
    assert counts == {
        "step, first bias trained": 15,
        "step": 14,
        "step, small images, first bias trained": 29,
        "small net's look before a step": 29,
        "small net's look before a step, small images": 29,
        "small net's step": 29 * 15 / 58,
        "small net's step, small images": 29 * 15 / 58,
        "views": 0.25 * 10_000 / 500,
        "plain pass": 10_000 / 500,
    }
    flops = {name: part["flops"] for name, part in about["parts"].items()}
    assert flops["step, small images, first bias trained"] < flops["step, first bias trained"]
    assert flops["views"] == 6 * flops["plain pass"]


def test_the_peak_is_what_a_large_product_reaches():
    assert products.peak_gigaflops("float32", size=256, rounds=2) > 1


def test_the_summary_is_that_of_the_files():
    path = ROOT / "results" / "benchmarks.json"
    assert json.loads(path.read_text())["rows"] == summary.found(ROOT / "results")
    assert path.with_suffix(".md").read_text() == to_markdown(
        summary.table(summary.found(ROOT / "results"))
    )


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

    nets = {"TorchOpt": mlp.TorchOpt(mlp.TINY), "torch.nn": mlp.Torch(mlp.TINY)}
    mlp.assert_same_work(nets, mlp.TINY)


def test_a_time_that_is_measured_again_is_of_the_current_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "measured", lambda config: {"n": 2, "unit": None, "pairs": {}})
    path = tmp_path / "found.json"
    config = cifar10.Config(data="digits", results=str(path))
    cifar10.main(config)
    written = result_files.read(path, drafts=True)
    result_files.write(path, written | {"git_commit": "0" * 40, "machine": "another"})
    cifar10.main(config)
    assert result_files.read(path, drafts=True) == written
