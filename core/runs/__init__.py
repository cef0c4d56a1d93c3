"""A script's options, its run's folder and what is kept there."""

from purenets.core.runs.folder import (
    timer,
    command_line,
    environment,
    fit,
    timings,
    machine,
    open_run,
    restore,
    save,
    training_seconds,
)
from purenets.core.runs.options import Options, option

__all__ = [
    "Options",
    "command_line",
    "environment",
    "fit",
    "machine",
    "open_run",
    "option",
    "restore",
    "save",
    "timer",
    "timings",
    "training_seconds",
]
