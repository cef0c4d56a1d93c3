"""Part I: train the PyTorch MLP, pure functions differentiated by torch.func.

python scripts/pytorch_train_mlp.py --optimizer adam --out runs/torch
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Params
from purenets.core.metrics import accuracy  # noqa: F401 (the assignment expects it here)
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    option,
    thread_count,
)
from scripts.shared import mlp as mlp_task
from scripts.shared.result import Result


@dataclass(frozen=True)
class Config(mlp_task.MLPConfig):
    """Train an MLP on a toy set or on a CSV file, with torch.func."""

    device: str = option("cpu", "cpu, cuda, cuda:1, ... or auto")
    compile: bool = option(True, "the whole step under torch.compile (faster after some seconds)")
    threads: int = option(1, "CPU threads; tiny nets are fastest on one", thread_count)


def backend_of(config: Config) -> mlp_task.Backend:
    """The torch backend on the device of the options."""
    import torch  # when work starts, so that --help is quick

    from purenets.torch_nets import MLP, grad_fn, jit, metrics_fn
    from purenets.torch_nets.convert import device_from_name

    torch.set_num_threads(config.threads)
    device = device_from_name(config.device)
    compiler = jit if config.compile else lambda step: step
    return mlp_task.Backend(
        "PyTorch MLP",
        MLP,
        grad_fn,
        metrics_fn,
        lambda x: torch.as_tensor(x, device=device),
        compiler,
    )


def train(config: Config | None = None, params: Params | None = None) -> Result:
    """Train the MLP that the options describe; `train()` takes all defaults.

    Args:
        config: the options.
        params: to begin with, instead of the model's own draw.
    """
    config = Config.given(config)
    return mlp_task.train(config, backend_of(config), params)


def main(config: Config | None = None) -> None:
    """Train and print loss and accuracy on the training and the test set."""
    config = Config.given(config)
    mlp_task.report(train(config), backend_of(config))


if __name__ == "__main__":
    command(Config, main)
