"""Part I, task 3: several settings and seeds of scripts/cifar10_best.py and scripts/cifar10_mlp.py.

    python scripts/cifar10_sweep.py --settings cpu-8min --data_dir DIR --results results/part1_cifar10.json
    python scripts/cifar10_sweep.py --settings ablation --results results/part1_cifar10_ablation.json

A setting is a preset of one of the two scripts, or a preset with one ingredient changed. Runs and rows are kept
as in scripts/cnn_sweep.py.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from core.config import Options, not_negative, option, positive
from core.config import run as run_script
from scripts import cifar10_best, cifar10_mlp
from scripts.sweeps import folder_of, grouped, spread, sweep, trained

SCRIPTS = (cifar10_best, cifar10_mlp)

# what is changed in a preset of the first or the second script, to see what an ingredient gives
WITHOUT = {}
SETTINGS = {}
