"""Each table in results/ is what its function makes of the JSON beside it."""

import json
from pathlib import Path

import pytest

from benchmarks import cifar10 as cifar10_benchmark
from benchmarks import cnn as cnn_benchmark
from benchmarks import growth, mlp, products, profile, summary, toolbox
from purenets.core.report.tables import to_markdown
from scripts import cifar10_sweep, cnn_sweep, compare_mlps, palindrome_sweep
from tests.faults import record

RESULTS = Path(__file__).parents[1] / "results"


def of_rows(table):
    return lambda found: [table(found["rows"])]


def of_cnn_benchmark(found: dict) -> list:
    peers = list(dict.fromkeys(pair.split(" / ")[1] for pair in found["ratio"]))
    return [cnn_benchmark.table(found, peers)]


TABLES = {
    "part1_sets": of_rows(compare_mlps.table),
    "part1_strategies": of_rows(compare_mlps.table),
    "part1_noise": of_rows(compare_mlps.table),
    "part1_cifar10": of_rows(cifar10_sweep.table),
    "part1_cifar10_ablation": of_rows(cifar10_sweep.table),
    "part2_settings": of_rows(cnn_sweep.table),
    **{
        f"rnn_{name}": lambda found: [palindrome_sweep.table(found)]
        for name in ("lengths", "settings", "memory", "memory_why", "memory_T500", "memory_T1000")
    },
    "benchmarks": of_rows(summary.table),
    "benchmarks_cifar10": cifar10_benchmark.tables,
    "benchmarks_cnn": of_cnn_benchmark,
    "benchmarks_growth": lambda found: [growth.table(found["curves"], found["n"])],
    "benchmarks_mlp": mlp.tables,
    "benchmarks_products": lambda found: [products.table(found)],
    "benchmarks_profile": lambda found: [profile.table(found)],
    "benchmarks_toolbox": lambda found: [toolbox.table(found)],
    "faults": lambda found: [record.table(found["figures"])],
}


def test_every_table_is_known():
    assert {path.stem for path in RESULTS.glob("*.md")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_made_of_its_json(name):
    path = RESULTS / f"{name}.json"
    tables = TABLES[name](json.loads(path.read_text()))
    assert path.with_suffix(".md").read_text() == "\n".join(map(to_markdown, tables))
