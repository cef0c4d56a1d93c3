"""Deep learning as pure functions over plain dicts, on NumPy and on torch.

    from purenets import data, fit, init_state, make_step, optim, random
    from purenets.torch_nets import MLP, grad_fn, jit  # or: from purenets.numpy_nets import ...

This is the front door: what both backends share. Importing it imports neither torch, scikit-learn
nor matplotlib.
"""

import sys
from pathlib import Path
from typing import NoReturn

# In a checkout the subpackages core/, numpy_nets/ and torch_nets/ lie beside this folder; in a
# wheel, inside it.
if not (Path(__file__).parent / "core").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

from purenets.core import data, optim, random, runs, tree
from purenets.core.base import (
    Array,
    Batch,
    Buffers,
    GradFn,
    History,
    Metrics,
    Model,
    Optimizer,
    Params,
    Schedule,
    Step,
    TrainState,
    UserError,
)
from purenets.core.metrics import accuracy
from purenets.core.optim import apply_updates, schedules
from purenets.core.other_names import refuse_name
from purenets.core.scan import scan
from purenets.core.train import (
    Diverged,
    Interrupted,
    PeerLost,
    evaluate,
    fit,
    init_state,
    make_step,
    train_state,
)

__version__ = "0.2.0"
__all__ = [
    "Array",
    "Batch",
    "Buffers",
    "Diverged",
    "GradFn",
    "History",
    "Interrupted",
    "Metrics",
    "Model",
    "Optimizer",
    "Params",
    "PeerLost",
    "Schedule",
    "Step",
    "TrainState",
    "UserError",
    "accuracy",
    "apply_updates",
    "data",
    "evaluate",
    "fit",
    "init_state",
    "make_step",
    "optim",
    "random",
    "runs",
    "scan",
    "schedules",
    "train_state",
    "tree",
]

# `import purenets.optim` finds the same module as `from purenets import optim`.
for _module in (data, optim, random, runs, schedules, tree):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of JAX is here."""
    refuse_name("purenets", name)
