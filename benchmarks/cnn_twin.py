"""The reduced VGG as an nn.Module, trained the way scripts/cnn_train.py trains ours: do both learn
the same?

    python -m benchmarks.cnn_twin --seeds 3 --results results/part2_twin.json

torch.nn and torch.optim.Adam in their defaults (float32, contiguous), from the very params, over
the very batches of the seed. The rows of seeds that `--results` has already are kept, so that seeds
can be added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.twins import reduced_vgg
from purenets import random, runs
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, not_negative, option, positive
from purenets.data import batches
from purenets.torch_nets import CNN, images
from scripts.shared import result_files
from scripts.shared.sweeps import spread


@dataclass(frozen=True)
class Config(Options):
    """Train the reduced VGG with torch.nn and torch.optim."""

    data: str = option(
        "cifar10", "cifar10, folder or digits", choices=["cifar10", "folder", "digits"]
    )
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    learning_rate: float = option(1e-3, "Adam's rate", positive)
    max_steps: int = option(5000, "steps to train for", positive)
    batch_size: int = option(32, "images in a step", positive)
    seeds: int = option(3, "how many seeds", positive)
    first_seed: int = option(0, "the first of them", not_negative)
    threads: int = option(0, "CPU threads; 0 for one a core", not_negative)
    results: str = option("results/part2_twin.json", "JSON file for what was found")


def train(config: Config, seed: int) -> dict:
    """The test loss and accuracy of the twin after its training."""
    split_key, init_key, batch_key, _ = random.split(
        random.key(seed), 4
    )  # as in scripts/cnn_train.py
    task = images.prepare(images.load(config.data, config.data_dir), split_key, valid_fraction=0.1)
    n_channels, n_classes = task.train[0].shape[1], len(task.classes)
    params, buffers = CNN(n_channels, n_classes).init(init_key)
    module = reduced_vgg(n_channels=n_channels, n_classes=n_classes)
    module.load_state_dict({**params, **buffers})
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate)
    batch_at = batches(task.train, config.batch_size, batch_key)
    for i in tqdm(range(config.max_steps), f"twin, seed {seed}", disable=None):
        x, y = batch_at(i)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(task.normalize(x)), y).backward()
        optimizer.step()
    module.eval()
    return {"seed": seed, "test": test_of(lambda x: module(task.normalize(x)), *task.test)}


@torch.no_grad()
def test_of(logits_of: Callable, x: torch.Tensor, y: torch.Tensor) -> dict:
    logits = torch.cat([logits_of(part) for part in x.split(1000)])
    accuracy = (logits.argmax(1) == y).float().mean()
    return {"loss": float(nn.functional.cross_entropy(logits, y)), "accuracy": float(accuracy)}


def main(config: Config) -> dict:
    torch.set_num_threads(config.threads or torch.get_num_threads())
    path = Path(config.results)
    rows = result_files.read(path, drafts=True)["rows"] if path.exists() else []
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        if seed not in {row["seed"] for row in rows}:
            rows.append({**train(config, seed), **runs.origin()})
            write(path, config, sorted(rows, key=lambda row: row["seed"]))
    print(
        f"twin: test accuracy {spread([row['test']['accuracy'] for row in rows])} %, n = "
        f"{len(rows)}"
    )
    return {"rows": rows}


def write(path: Path, config: Config, rows: list[dict]) -> None:
    about = {
        "command": "python -m benchmarks.cnn_twin",
        "options": config.to_dict(),
        "n": len(rows),
    }
    found = {**about, **runs.environment(), **runs.machine(), "rows": rows}
    result_files.write(path, found)


if __name__ == "__main__":
    command(Config, main)
