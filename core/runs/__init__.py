"""A script's options, its run's folder and what is kept there."""

from purenets.core.runs.folder import (
    fit_and_save,
    open_run,
    restore,
    save,
    timer,
    timings,
    training_seconds,
)
from purenets.core.runs.options import Options, option
from purenets.core.runs.provenance import command_line, environment, machine

__all__ = [
    "Options",
    "command_line",
    "environment",
    "fit_and_save",
    "machine",
    "open_run",
    "option",
    "restore",
    "save",
    "timer",
    "timings",
    "training_seconds",
]
