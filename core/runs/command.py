"""The last line of a script: parse the options, run, exit with the right code."""

import atexit
import contextlib
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from purenets.core.base import UserError
from purenets.core.runs import malloc, output
from purenets.core.runs.notes import RunWarning
from purenets.core.runs.options import Options
from purenets.core.train import Diverged, Interrupted, PeerLost

INTERRUPTED = 130  # as a shell has it of a command that SIGINT ended
BROKEN_PIPE = 141  # and of one that SIGPIPE ended


def command(
    config_class: type[Options], main: Callable[[Any], object], presets: dict | None = None
) -> NoReturn:
    """Parse the options, run the script and exit: the last line of a script.

    The exit code is 0, or after one line of explanation: 2 for wrong input or too little memory, 1
    for divergence or a lost process, 130 for an interruption. Output that nobody takes changes only
    the exit code: 141 for a closed pipe, 1 for a full disk.

    Args:
        config_class: the script's Config.
        main: a function of the Config.
        presets: Configs by name, for `--preset NAME`.
    """
    malloc.keep_freed_memory()
    output.tolerate()
    with _notes_in_one_line():
        try:
            code = _run(config_class, main, presets) or _code_of_output()
        except KeyboardInterrupt:  # a second one, while the script says how it ended
            code = INTERRUPTED
        atexit.register(_ignore_interrupts)
        sys.exit(code)


def _run(config_class: type[Options], main: Callable[[Any], object], presets: dict | None) -> int:
    try:
        main(config_class.parse(presets=presets))
    except UserError as error:
        return _complain(error, 2)
    except (Diverged, PeerLost) as error:
        return _complain(error, 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more to be had"])[0]
        return _complain(f"not enough memory for this net or batch ({reason})", 2)
    except Interrupted as error:
        return _complain(error, INTERRUPTED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    return 0


def _ignore_interrupts() -> None:
    """Let the process end: what ends with it, as the compiler's own, answers Ctrl-C by a traceback.

    Registered last, so called first of what is called at the end.
    """
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def out_of_memory(error: Exception) -> bool:
    """Return True if an error says that there is no memory left, in the words of NumPy or torch."""
    return isinstance(error, MemoryError) or any(
        w in str(error) for w in ("can't allocate", "out of memory")
    )


def _complain(message, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def _code_of_output() -> int:
    failed = output.failure()
    if failed is None:
        return 0
    if isinstance(failed, BrokenPipeError):
        return BROKEN_PIPE
    return _complain(f"standard output: cannot be written ({failed.strerror})", 1)


@contextlib.contextmanager
def _notes_in_one_line():
    """Print warnings about a run as `warning: ...`, without the line of the source."""
    before = warnings.formatwarning

    def formatted(message, category, *place):
        if issubclass(category, RunWarning):
            return f"warning: {getattr(message, 'fact', message)}\n"
        return before(message, category, *place)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before
