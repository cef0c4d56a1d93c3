"""The last line of a script: parse the options, run, exit with the right code."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from purenets.core.base import UserError
from purenets.core.runs import malloc
from purenets.core.runs.options import Options
from purenets.core.train import Diverged, Interrupted, PeerLost


def command(
    config_class: type[Options], main: Callable[[Any], object], presets: dict | None = None
) -> NoReturn:
    """A script's last line: parse, run, exit. Wrong input ends in one line and exit code 2,
    divergence and lost processes in 1, an interruption in 130, too little memory in 2."""
    malloc.keep_freed_memory()
    code = 0
    try:
        main(config_class.parse(presets=presets))
    except UserError as error:
        code = _complain(error, 2)
    except (Diverged, PeerLost) as error:
        code = _complain(error, 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        code = _complain(
            f"not enough memory for this net or batch ({str(error).splitlines()[0]})", 2
        )
    except Interrupted as error:
        code = _complain(error, 130)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    sys.exit(code)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is no room, in NumPy's words or in torch's."""
    return isinstance(error, MemoryError) or any(
        w in str(error) for w in ("can't allocate", "out of memory")
    )


def _complain(message, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
