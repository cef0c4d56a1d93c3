"""A whole training step under one torch.compile."""

import logging
import os
import shutil
import warnings
from collections.abc import Callable

import torch


def jit(step: Callable, **options) -> Callable:
    """`step` compiled, as the outermost wrapper; where no compiler is found, `step` itself and a warning.

    options: those of torch.compile.
    """
    if not can_compile("jit"):
        return step
    return torch.compile(step, **{"fullgraph": True, "dynamic": False, **options})


def can_compile(caller: str) -> bool:
    """Whether torch.compile can work here; a warning says why not."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) or shutil.which("clang++"):
        # says at each start, where there is no GPU, that there is none
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        return True
    warnings.warn(
        f"{caller}: no C++ compiler found ({compiler}), install g++ or set CXX; it runs eagerly, with the same "
        "results",
        stacklevel=3,
    )
    return False
