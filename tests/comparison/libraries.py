"""The columns of the tables, and what is looked up in the installed libraries."""

import importlib
import importlib.util
import re
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from tests.comparison.members import run_in_jax, run_in_torch
from tests.comparison.optimizer_probes import probe_optax, probe_purenets, probe_torchopt
from tests.comparison.table import Cell


class Library(NamedTuple):
    """A column.

    Args:
        head: what stands above it.
        package: the module to import.
        modules: those of the package whose names are looked through; "" for the package itself.
        distribution: its name on PyPI, for the version; "" for ours.
        probe: runs an expression of `lr` under vmap of "rates" or "params", or raises; None where
            nothing is mapped.
        run: runs `Cell.members` under vmap and alone, or raises.
    """

    head: str
    package: str
    modules: tuple[str, ...]
    distribution: str
    probe: Callable[[str, str], None] | None = None
    run: Callable[[tuple, str], None] = run_in_torch


LIBRARIES = {
    "purenets": Library(
        "purenets",
        "purenets",
        ("optim", "schedules", "core.sam", "torch_nets", "torch_nets.analysis.kfac"),
        "",
        probe_purenets,
    ),
    "torch": Library("torch.optim", "torch.optim", ("", "lr_scheduler", "swa_utils"), "torch"),
    "nn": Library("torch.nn", "torch.nn", ("", "functional"), "torch"),
    "func": Library(
        "torch",
        "torch",
        ("func", "autograd.functional", "linalg", "utils.data", "distributed.fsdp", "nn.utils"),
        "torch",
    ),
    "torchvision": Library("torchvision", "torchvision", ("ops",), "torchvision"),
    "optax": Library("optax", "optax", ("", "contrib", "losses"), "optax", probe_optax, run_in_jax),
    "torchopt": Library(
        "TorchOpt", "torchopt", ("", "schedule", "clip", "diff"), "torchopt", probe_torchopt
    ),
    "opacus": Library(
        "Opacus",
        "opacus",
        ("", "layers", "accountants", "accountants.utils", "optimizers", "utils.uniform_sampler"),
        "opacus",
    ),
    "curvlinops": Library("curvlinops", "curvlinops", ("",), "curvlinops-for-pytorch"),
    "laplace": Library("laplace-torch", "laplace", ("", "curvature"), "laplace-torch"),
    "posteriors": Library(
        "posteriors", "posteriors", ("", "laplace", "sgmcmc", "torchopt"), "posteriors"
    ),
}


def is_installed(library: str) -> bool:
    """Return True if the library of a column can be imported."""
    return importlib.util.find_spec(LIBRARIES[library].package.split(".")[0]) is not None


def load(name: str) -> ModuleType:
    """Return a module of a library, which may warn of its own ways while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def found(library: str, name: str) -> bool:
    """Return True if the library has what a cell names."""
    value = load(LIBRARIES[library].package)
    parts = name.split(".")
    for i, part in enumerate(parts):
        if not hasattr(value, part):
            try:
                load(".".join([LIBRARIES[library].package, *parts[: i + 1]]))
            except ImportError:
                return False
        value = getattr(value, part)
    return True


def names_of(library: str) -> list[str]:
    """Return the public names of a library, as `Row.words` are written."""
    _, package, modules, *_ = LIBRARIES[library]
    names = []
    for module in modules:
        here = load(f"{package}.{module}" if module else package)
        names += [name for name in dir(here) if not name.startswith("_")]
    return [name.lower().replace("_", "") for name in names]


def is_named(name: str, words: tuple[str, ...]) -> bool:
    """Return True if a name is one of the words, but for what libraries put around them."""
    return any(re.fullmatch(f"(scaleby)?{word}(w|lr|schedule)?", name) for word in words)


def expression(library: str, cell: Cell) -> str:
    """Return the expression of `lr` that makes what a cell names."""
    return cell.make or f"{LIBRARIES[library].package}.{cell.name}(lr)"


def run_mapped(library: str, cell: Cell) -> None:
    """Run what a cell names under its library's vmap and compare; raise where it does not run."""
    if cell.members:
        LIBRARIES[library].run(cell.members(), cell.vmap)
    else:
        LIBRARIES[library].probe(expression(library, cell), cell.vmap or "rates")
