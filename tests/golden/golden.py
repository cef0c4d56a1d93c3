"""Golden outputs: digests of what a few short runs of the scripts leave behind.

    python tests/golden/golden.py record     # write the digests of this machine into golden.json
    python tests/golden/golden.py check      # compare; exit code 1 names the runs that differ

A digest covers every number of a run: the rows of history.csv and the arrays of the checkpoint.
Bits depend on the processor and on the versions of torch and NumPy, so digests are kept by all
three.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from purenets.core.processor import cpu_info

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNS = {
    "mlp numpy moons": "train_mlp_numpy --max_steps 40",
    "mlp numpy digits dropout": "train_mlp_numpy --dataset digits --max_steps 4 --optimizer "
    "adam --dropout 0.2",
    "mlp torch moons": "pytorch_train_mlp --max_steps 40",
    "mlp torch circles muon": "pytorch_train_mlp --dataset circles --max_steps 20 --optimizer "
    "muon --no-compile",
    "cnn plain": "cnn_train --data digits --width 0.125 --max_steps 12 --eval_freq 4 "
    "--precision float32",
    "cnn regularized": (
        "cnn_train --data digits --width 0.125 --epochs 1 --eval_freq 10 --precision float32 "
        "--optimizer nesterov --learning_rate 0.1 --schedule one_cycle --weight_decay 5e-4 "
        "--flip random --crop 4 --cutout 8 --label_smoothing 0.1 --views mirror "
        "--batch_size 128 --ema 0.9 --image_size 16"
    ),
    "cifar10 cnn": "cifar10_cnn --preset digits --epochs 1 --precision float32 --flip "
    "alternating --views shift",
    "cifar10 mlp": "cifar10_mlp --preset digits --epochs 2 --precision bfloat16 --mixup "
    "--cutout 2 --flip random",
    "rnn eager": "train --recurrence fused --input_length 6 --train_steps 40 --eval_freq 20 "
    "--eval_size 500 --no-compile",
    "rnn loop": "train --input_length 6 --train_steps 40 --eval_freq 20 --eval_size 500 "
    "--no-compile",
    "rnn compiled": "train --recurrence fused --input_length 4 --train_steps 40 --eval_freq 20 "
    "--eval_size 500",
}


def machine() -> str:
    """Return the processor's family and model with the versions that the bits depend on."""
    cpu = "{vendor_id} family {cpu family} model {model}".format_map(cpu_info())
    return f"{cpu}, torch {torch.__version__}, numpy {np.__version__}"


def digest(folder: Path) -> str:
    """Return the SHA-256 of a run's history and of the arrays of its checkpoint, by name."""
    total = hashlib.sha256((folder / "history.csv").read_bytes())
    for name, tensor in sorted(load_file(folder / "checkpoint.safetensors").items()):
        array = tensor.view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
        total.update(
            f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + array.numpy().tobytes()
        )
    return total.hexdigest()


def run(command: str) -> str:
    """Run a script into a temporary folder and return the digest of what it wrote."""
    script, *flags = command.split()
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *flags, "--out", folder]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
        return digest(Path(folder))


def main(action: str) -> int:
    path = HERE / "golden.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    found = {name: run(command) for name, command in RUNS.items()}
    if action == "record":
        path.write_text(json.dumps(known | {machine(): found}, indent=1, sort_keys=True) + "\n")
        return 0
    expected = known.get(machine(), {})
    different = [name for name in RUNS if found[name] != expected.get(name)]
    print("\n".join(different) or "all runs are the same")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
