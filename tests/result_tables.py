"""The tables of every file in results/, made of its JSON.

    python -m tests.result_tables    # write results/*.md anew, where the look of a table changed

No number is computed here but those of a table: the JSON files stay as they are.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks import cifar10 as cifar10_benchmark
from benchmarks import (
    cifar10_gpu,
    floors,
    growth,
    imports,
    loops,
    mlp,
    private,
    products,
    profile,
    summary,
    toolbox,
)
from benchmarks import cnn as cnn_benchmark
from purenets.core.report.tables import Table
from purenets.core.runs.files import write_atomically
from scripts import (
    cifar10_sweep,
    cnn_sweep,
    compare_mlps,
    palindrome_holdout,
    palindrome_states,
    palindrome_sweep,
    shuffled_pixels,
)
from scripts.shared import result_files
from tests.faults import record
from tests.mutants import run as mutants

RESULTS = Path(__file__).parents[1] / "results"


def of_rows(table: Callable[[list], Table]) -> Callable[[dict], list[Table]]:
    return lambda found: [table(found["rows"])]


TABLES: dict[str, Callable[[dict], list[Table]]] = {
    "part1_sets": of_rows(compare_mlps.table),
    "part1_strategies": of_rows(compare_mlps.table),
    "part1_noise": of_rows(compare_mlps.table),
    "part1_shuffled": of_rows(shuffled_pixels.table),
    "part1_cifar10": of_rows(cifar10_sweep.table),
    "part1_cifar10_ablation": of_rows(cifar10_sweep.table),
    "part2_settings": of_rows(cnn_sweep.table),
    **{
        f"rnn_{name}": lambda found: [palindrome_sweep.table(found)]
        for name in ("lengths", "settings", "memory", "memory_why", "memory_T500", "memory_T1000")
    },
    "rnn_holdout": lambda found: [palindrome_holdout.table(found["cells"])],
    "rnn_states": lambda found: [palindrome_states.table(found["cells"])],
    "benchmarks": of_rows(summary.table),
    "benchmarks_cifar10": cifar10_benchmark.tables,
    "benchmarks_cifar10_xeon": cifar10_benchmark.tables,
    "benchmarks_cifar10_gpu": lambda found: [cifar10_gpu.table(found)],
    "benchmarks_cnn": lambda found: [cnn_benchmark.table(found)],
    "benchmarks_floors": of_rows(floors.table),
    "benchmarks_growth": lambda found: [growth.table(found["curves"], found["n"])],
    "benchmarks_imports": lambda found: [imports.table(found)],
    "benchmarks_loops": loops.tables,
    "benchmarks_mlp": mlp.tables,
    "benchmarks_optimizers": lambda found: [toolbox.table(found)],
    "benchmarks_private": lambda found: [private.table(found)],
    "benchmarks_products": lambda found: [products.table(found)],
    "benchmarks_profile": lambda found: [profile.table(found)],
    "benchmarks_toolbox": lambda found: [toolbox.table(found)],
    "faults": lambda found: [record.table(found)],
    "mutants": lambda found: [mutants.table(found)],
}


def markdown_of(name: str) -> str:
    """Return the tables of a file in results/ as Markdown."""
    found = result_files.read(RESULTS / f"{name}.json", drafts=True)
    return result_files.markdown(found, *TABLES[name](found))


if __name__ == "__main__":
    for name in TABLES:
        write_atomically(RESULTS / f"{name}.md", markdown_of(name).encode())
