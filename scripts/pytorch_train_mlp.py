"""Part I: train the PyTorch MLP, pure functions differentiated by torch.func.

python scripts/pytorch_train_mlp.py --optimizer adam --out runs/torch
"""

from dataclasses import dataclass

from core.base import Params
from core.config import option, positive, run
from core.metrics import accuracy  # noqa: F401 (the assignment expects it here)
from scripts import mlp_task


@dataclass(frozen=True)
class Config(mlp_task.MLPConfig):
    """Train an MLP on a toy set or on a CSV file, with torch.func."""

    device: str = option("cpu", "cpu, cuda, cuda:1, ... or auto")
    compile: bool = option(True, "the whole step under torch.compile (faster after some seconds)")
    threads: int = option(1, "CPU threads; tiny nets are fastest on one", positive)


def world_of(config: Config) -> mlp_task.World:
    """The torch world on the device of the options."""
    import torch  # when work starts, so that --help is quick

    from torch_nets import grad_fn, jit, metrics_fn
    from torch_nets.convert import device_of
    from torch_nets.pytorch_mlp import MLP

    torch.set_num_threads(config.threads)
    device = device_of(config.device)
    compiler = jit if config.compile else lambda step: step
    return mlp_task.World(
        "PyTorch MLP", MLP, grad_fn, metrics_fn, lambda x: torch.as_tensor(x, device=device), compiler
    )


def train(config: Config, params: Params | None = None) -> mlp_task.Result:
    """Train; from `params`, if given, instead of the model's own draw."""
    return mlp_task.train(config, world_of(config), params)


def main(config: Config) -> None:
    mlp_task.report(train(config), world_of(config))


if __name__ == "__main__":
    run(Config, main)
