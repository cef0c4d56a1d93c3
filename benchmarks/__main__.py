"""All benchmarks, one after the other, each in a process of its own, and their summary: `make
bench`. Left out are `cifar10`, whose peer has to be downloaded, `cifar10_gpu`, and `cnn_twin`,
which trains for hours.
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
    "summary",
)

if __name__ == "__main__":
    for name in NAMES:
        print(f"\n{name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
