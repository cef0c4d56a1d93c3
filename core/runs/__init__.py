"""A script's options, its run's folder and what is kept there."""

from purenets.core.runs.files import file_digest
from purenets.core.runs.folder import fit_and_save, open_run, restore, save
from purenets.core.runs.laps import timer, timings, training_seconds
from purenets.core.runs.malloc import keep_freed_memory
from purenets.core.runs.notes import RunWarning
from purenets.core.runs.options import Options, option
from purenets.core.runs.provenance import command_line, environment, machine, origin
from purenets.core.runs.record import origin_of, read_config
from purenets.core.runs.rotation import read_history, settle

__all__ = [
    "Options",
    "RunWarning",
    "command_line",
    "environment",
    "file_digest",
    "fit_and_save",
    "keep_freed_memory",
    "machine",
    "open_run",
    "option",
    "origin",
    "origin_of",
    "read_config",
    "read_history",
    "restore",
    "save",
    "settle",
    "timer",
    "timings",
    "training_seconds",
]
