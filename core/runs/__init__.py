"""A script's options, its run's folder and what is kept there."""

from purenets.core.runs.folder import (
    fit_and_save,
    open_run,
    origin_of,
    restore,
    save,
    timer,
    timings,
    training_seconds,
)
from purenets.core.runs.options import Options, option
from purenets.core.runs.provenance import command_line, environment, machine, origin

__all__ = [
    "Options",
    "command_line",
    "environment",
    "fit_and_save",
    "machine",
    "open_run",
    "option",
    "origin",
    "origin_of",
    "restore",
    "save",
    "timer",
    "timings",
    "training_seconds",
]
