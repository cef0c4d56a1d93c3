"""A script's options, its run's folder and what is kept there."""

from purenets.core.runs.folder import (
    clock,
    command_line,
    environment,
    fit,
    laps,
    machine,
    open_run,
    restore,
    save,
    time_taken,
)
from purenets.core.runs.options import Options, option

__all__ = [
    "Options",
    "clock",
    "command_line",
    "environment",
    "fit",
    "laps",
    "machine",
    "open_run",
    "option",
    "restore",
    "save",
    "time_taken",
]
