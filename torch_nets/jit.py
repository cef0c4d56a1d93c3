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
    reason = why_not()
    if reason:
        warnings.warn(f"jit: {reason}; the step runs eagerly, with the same results", stacklevel=2)
        return step
    # says at each start, where there is no GPU, that there is none
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return torch.compile(step, **{"fullgraph": True, "dynamic": False, **options})


def why_not() -> str | None:
    """Why torch.compile cannot work here, or None if it can."""
    compiler = os.environ.get("CXX", "g++")
    if not (shutil.which(compiler) or shutil.which("clang++")):
        return f"no C++ compiler found ({compiler}); install g++ or set CXX"
    return None
