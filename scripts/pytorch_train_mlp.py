"""Part I: train the PyTorch MLP, pure functions differentiated by torch.func.

python scripts/pytorch_train_mlp.py --optimizer adam --out runs/torch
torchrun --nproc-per-node 2 scripts/pytorch_train_mlp.py --shards 4 --out runs/shards

The initial params are uniform, as those of nn.Linear. scripts/train_mlp_numpy.py draws its own, so
the same seed begins differently there; scripts/compare_mlps.py starts both from the same params.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import Params
from purenets.core.metrics import accuracy  # noqa: F401 (the assignment expects it here)
from purenets.core.runs.command import command
from purenets.core.runs.options import SHARDS, option, shard_count, thread_count
from scripts.shared import mlp as mlp_task
from scripts.shared.result import Result


@dataclass(frozen=True)
class Config(mlp_task.MLPConfig):
    """Train an MLP on a toy set or on a CSV file, with torch.func."""

    device: str = option("cpu", "cpu, cuda, cuda:1, ... or auto")
    compile: bool = option(
        True,
        "compile the whole step (faster after some seconds); with --shards or several processes, "
        "the gradient alone",
    )
    threads: int = option(1, "CPU threads; tiny nets are fastest on one", thread_count)
    shards: int = option(0, SHARDS, shard_count)


def backend_of(config: Config, group=None) -> mlp_task.Backend:
    """Return the torch backend on the device of the options, for the processes of a group.

    Several processes, or shards, exchange gradients outside of the compiled code. With them only
    the gradient function is compiled, otherwise the whole step.
    """
    import torch  # imported late, here and below, so that --help is fast

    from purenets.torch_nets import MLP, grad_fn, jit, metrics_fn
    from purenets.torch_nets.convert import device_from_name
    from purenets.torch_nets.distributed import (
        Group,
        barrier,
        check_share,
        data_parallel,
        parallel_metrics,
    )

    torch.set_num_threads(config.threads)
    device, group = device_from_name(config.device), group or Group()
    compiler = jit if config.compile else lambda f: f
    backend = mlp_task.Backend(
        "PyTorch MLP",
        MLP,
        grad_fn,
        metrics_fn,
        lambda x: torch.as_tensor(x, device=device),
        compiler,
    )
    if group.size == 1 and not group.shards:
        return backend
    return backend._replace(
        grad_fn=lambda model: data_parallel(compiler(grad_fn(model)), group),
        metrics_fn=lambda model: parallel_metrics(metrics_fn(model), group),
        compile=lambda step: step,
        check_batch=lambda size: check_share(size, group),
        barrier=lambda: barrier(group),
        writes=group.writes,
        processes=group.size,
    )


def train(config: Config | None = None, params: Params | None = None) -> Result:
    """Train the MLP that the options describe; `train()` uses the defaults.

    Args:
        config: the options.
        params: the initial params, instead of those that the model draws.
    """
    from purenets.torch_nets.convert import device_from_name
    from purenets.torch_nets.distributed import processes

    config = Config.given(config)
    with processes(device_from_name(config.device), config.shards) as group:
        return mlp_task.train(config, backend_of(config, group), params)


def main(config: Config | None = None) -> None:
    """Train and print loss and accuracy on the training and the test set."""
    config = Config.given(config)
    mlp_task.report(train(config), config, backend_of(config))


if __name__ == "__main__":
    command(Config, main)
