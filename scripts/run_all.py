"""The whole assignment in small, on data that is always there: a table and an HTML report.

make run
python scripts/run_all.py --out runs/quick
"""

import time
from dataclasses import dataclass
from pathlib import Path

from core import html, plots, run
from core.base import UserError
from core.config import Options, not_negative, option
from core.config import run as run_script
from core.files import write_atomically
from core.html import Section
from scripts import compare_mlps
from scripts.mlp_task import CURVES, MLPConfig

MLP_SETS = {"moons": 100, "circles": 60, "blobs": 30, "digits": 30}  # epochs


@dataclass(frozen=True)
class Config(Options):
    """The whole assignment in small: a table and an HTML report."""

    out: str = option("runs/quick", "folder for the report")
    seed: int = option(0, "all randomness", not_negative)


def main(config: Config) -> Path:
    """All parts; prints the tables and returns the path of the report."""
    folder = Path(config.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror})") from error
    begin = time.monotonic()
    sections = [part(config) for part in PARTS]
    for section in sections:
        print(f"\n{section.title}\n\n{html.text_table(section.table)}")
    about = run.environment() | run.machine()
    note = f"Made by `python scripts/run_all.py` on {about['machine']}, commit {about['git_commit']}."
    path = folder / "report.html"
    page = html.page("The assignment in small", [Section("About this page", [note]), *sections])
    write_atomically(path, page.encode())
    print(f"\n{time.monotonic() - begin:.0f} s; the report is {path}")
    return path


def part1(config: Config) -> Section:
    """Both MLPs on toy sets and digits, by Adam: same data, same params, same batches."""
    pairs = {}
    for name, epochs in MLP_SETS.items():
        case = MLPConfig(dataset=name, max_steps=epochs, eval_freq=2, optimizer="adam", seed=config.seed)
        pairs[name] = compare_mlps.train_both(case)
    table = [["set", "net", "train accuracy", "test accuracy", "test loss"]]
    for name, results in pairs.items():
        for world, result in results.items():
            row = result.history[-1]
            accuracies = (f"{row[f'{part}_accuracy']:.2%}" for part in ("train", "test"))
            table.append([name, compare_mlps.WORLDS[world], *accuracies, f"{row['test_loss']:.4f}"])
    plane = {name: results for name, results in pairs.items() if name != "digits"}
    boundaries = compare_mlps.boundaries(plane)
    plots.save(boundaries, Path(config.out) / "boundaries.png")
    digits = {compare_mlps.WORLDS[world]: result.history for world, result in pairs["digits"].items()}
    return Section(
        "Part I: the NumPy and the PyTorch MLP",
        [
            "The same network twice, 20 hidden units with ReLU: once with the backward pass written by hand, "
            "once differentiated by torch.func. Data, first params, batches and optimiser (Adam, 1e-2, "
            "batches of 32) are the same, and so are the results: the curves lie on each other."
        ],
        table,
        [
            (
                boundaries,
                "Decision boundaries. Class by colour and shape; train filled, test hollow.",
            ),
            (plots.curves(digits, CURVES), "Digits (8 x 8 pixels, 10 classes): loss and accuracy."),
        ],
    )


PARTS = [part1]

if __name__ == "__main__":
    run_script(Config, main)
