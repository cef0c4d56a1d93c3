"""All benchmarks, one after the other, each in a process of its own, and their summary: `make
bench`. Left out are that of a GPU and that of CIFAR-10, whose peer has to be downloaded.
"""

import subprocess
import sys

NAMES = (
    "mlp",
    "loops",
    "imports",
    "profile",
    "products",
    "rnn",
    "cnn",
    "images",
    "toolbox",
    "optimizers",
    "private",
    "floors",
    "growth",
    "cnn_twin",
    "summary",
)

if __name__ == "__main__":
    for name in NAMES:
        print(f"\n{name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
