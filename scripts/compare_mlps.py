"""Part I: compare the NumPy and the PyTorch MLP on the same data, initial params and batches.

    python scripts/compare_mlps.py --datasets moons,circles,blobs --seeds 5 --out runs/compare

Every combination of set, noise, optimizer and batch size is trained in both backends for each seed.
`table.json` in --out has a row for each run, with the history of the first seed and its params on
sets of two features; `table.md` has the means and deviations, `curves.png` and `boundaries.png`
show the first seed.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np
from matplotlib.figure import Figure

from purenets import (
    Interrupted,
    Params,
    UserError,
    data,
    make_step,
    optim,
    random,
    runs,
    train_state,
    tree,
)
from purenets.core.data.toy import REAL
from purenets.core.report import plots
from purenets.core.report.tables import Table, table_of, to_text
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    Options,
    each,
    file_path,
    not_negative,
    one_of,
    option,
    positive,
    seed_count,
    widths,
)
from purenets.data import DATASETS
from purenets.optim import OPTIMIZERS
from scripts import pytorch_train_mlp, train_mlp_numpy
from scripts.shared import mlp as mlp_task
from scripts.shared import result_files
from scripts.shared.result import Result
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.schemas import COMPARISON
from scripts.shared.sweeps import MEAN_SD, deviation, place_in, spread

BACKENDS = {"numpy": "NumPy by hand", "torch": "torch.func"}
SETS = ("moons", "circles", "blobs", "overlap", "digits")
KEYS = ("dataset", "noise", "optimizer", "batch_size")
ACCURACIES = ("train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Config(Options):
    """Train both MLPs on the same data, params and batches; several sets and seeds."""

    datasets: tuple[str, ...] = option(SETS, "sets, with commas", each(one_of(DATASETS)))
    noises: tuple[float, ...] = option((), "of the sets, with commas; empty for each set's own")
    optimizers: tuple[str, ...] = option(
        ("sgd",), "optimizers, with commas", each(one_of(OPTIMIZERS))
    )
    batch_sizes: tuple[int, ...] = option((32,), "batch sizes, with commas; 0 is full-batch")
    dnn_hidden_units: tuple[int, ...] = option(
        (20,), "units of each hidden layer, with commas between", widths
    )
    learning_rate: float = option(1e-2, "the optimizer's rate", positive)
    max_steps: int = option(1500, "epochs to train for", positive)
    eval_freq: int = option(10, "epochs between evaluations", positive)
    seeds: int = option(5, "number of seeds of each combination", seed_count)
    first_seed: int = option(0, "the first of them", not_negative)
    dtype: str = option("float32", "float32 or float64", one_of(["float32", "float64"]))
    compile: bool = option(True, "compile the torch step")
    out: str = option("runs/compare_mlps", "folder for table and figures", file_path)
    results: str = option(
        None, "JSON file for a copy of the table; as Markdown beside it", file_path
    )
    resume: bool = option(False, "keep the rows that --out has already")

    def needs_length(self) -> str:
        return "each row of its table"

    def __post_init__(self):
        super().__post_init__()
        real = [name for name in self.datasets if name in REAL]
        if self.noises and real:
            raise UserError(
                f"--noises {','.join(map(str, self.noises))}: means nothing with --datasets "
                f"{','.join(real)}, which is not generated; leave one of them out"
            )


def main(config: Config) -> list[dict]:
    """Train every combination in both backends; return the rows of the table."""
    with runs.open_run(config) as folder, result_files.exclusive(config.results) as copy:
        rows = compared(config, folder, copy)
    print(to_text(table(rows)))
    return rows


def compared(config: Config, folder: Path, copy: Path | None) -> list[dict]:
    """Train the missing runs, write table and curves to the folder; return all rows.

    The table is also written to `copy`, if one is named.
    """
    path = folder / "table.json"
    rows = result_files.read(path, COMPARISON, drafts=True)["rows"] if path.exists() else []
    about = {
        "command": runs.command_line(config),
        "n": config.seeds,
        **runs.environment(),
        **runs.machine(),
    }
    for case in cases(config):
        if not any(same_case(row["case"], case.to_dict()) for row in rows):
            try:
                new = compare(case, config.compile, keep=case.seed == config.first_seed)
            except Interrupted as error:
                raise Interrupted(
                    f"stopped; {path} has {len(rows)} rows; go on with the same options and "
                    f"--out {folder} --resume"
                ) from error
            rows += [{**row, **runs.origin_of(folder)} for row in new]
            result_files.write(path, {**about, "rows": rows}, table(rows))
    draw(rows, folder)
    if copy:
        result_files.write(copy, {**about, "rows": rows}, table(rows))
    return rows


def same_case(a: dict, b: dict) -> bool:
    """Return whether two cases describe the same training."""
    kept = ("out", "resume", "keep")  # these only say what is kept of a run
    return all(a.get(name) == b.get(name) for name in {**a, **b} if name not in kept)


def cases(config: Config) -> Iterator[mlp_task.MLPConfig]:
    """Yield the options of every run; the seed varies fastest."""
    noises = config.noises or (None,)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    names = ("dnn_hidden_units", "learning_rate", "max_steps", "eval_freq", "dtype")
    shared = {name: getattr(config, name) for name in names}
    grid = itertools.product(config.datasets, noises, config.optimizers, config.batch_sizes, seeds)
    for *case, seed in grid:
        yield mlp_task.MLPConfig(**dict(zip(KEYS, case, strict=True)), seed=seed, **shared)


def same_params(case: mlp_task.MLPConfig) -> Params:
    """Return the initial params of both backends, as NumPy arrays.

    The PyTorch MLP draws them.
    """
    from purenets.torch_nets import to_numpy  # imported late, so that --help is fast

    key = random.key(case.seed)
    task = mlp_task.load_data(case, random.split(key, 4)[0])
    model = mlp_task.make_model(
        pytorch_train_mlp.backend_of(pytorch_train_mlp.Config()), case, task
    )
    return to_numpy(model.init(random.fold_in(key, 0))[0])


def train_both(case: mlp_task.MLPConfig, compile: bool = False) -> dict[str, Result]:
    """Train the case in both backends from the same params; return both results."""
    params = same_params(case)
    torch_case = pytorch_train_mlp.Config(**case.to_dict(), compile=compile)
    return {
        "numpy": train_mlp_numpy.train(train_mlp_numpy.Config(**case.to_dict()), params),
        "torch": pytorch_train_mlp.train(torch_case, params),
    }


def compare(case: mlp_task.MLPConfig, compile: bool, keep: bool = False) -> list[dict]:
    """Return one row for each backend, with the largest difference between their final params.

    Args:
        case: what is trained.
        compile: the torch step.
        keep: add the history, and the params of a net whose boundary can be drawn.
    """
    from purenets.torch_nets import to_numpy

    results = train_both(case, compile)
    finals = {name: to_numpy(result.state.params) for name, result in results.items()}
    drawn = {
        name: to_numpy(optim.with_averaged_params(result.state).params)
        for name, result in results.items()
    }
    difference = largest_difference(*finals.values())
    return [
        {
            "backend": name,
            "case": case.to_dict(),
            **result.history[-1],
            "largest_difference": difference,
            **({"history": result.history} if keep else {}),
            **({"params": lists(drawn[name])} if keep and result.task.n_features == 2 else {}),
        }
        for name, result in results.items()
    ]


def lists(params: Params) -> dict[str, list]:
    """Return params as lists, which JSON can hold."""
    return {name: leaf.tolist() for name, leaf in params.items()}


def largest_difference(a: Params, b: Params) -> float:
    """Return the largest absolute difference between two dicts of NumPy arrays."""
    return max(tree.leaves(tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def differences(case: mlp_task.MLPConfig, steps: int) -> list[float]:
    """Return the largest difference between the params of both backends after each of the steps."""
    from purenets.torch_nets import to_numpy

    params = same_params(case)
    data_key, batch_key, step_key = random.split(random.key(case.seed), 3)
    task = mlp_task.load_data(case, data_key)
    backends = []
    for backend in (
        train_mlp_numpy.BACKEND,
        pytorch_train_mlp.backend_of(pytorch_train_mlp.Config()),
    ):
        optimizer = OPTIMIZERS[case.optimizer](lr=case.learning_rate)
        start = tree.map(backend.array, tree.cast(params, case.dtype))
        batch_at = data.batches(tuple(map(backend.array, task.train)), case.batch_size, batch_key)
        step = make_step(backend.grad_fn(mlp_task.make_model(backend, case, task)), optimizer)
        backends.append((step, train_state(start, {}, optimizer, step_key), batch_at))
    found = []
    for i in range(steps):
        backends = [
            (step, step(state, batch_at(i))[0], batch_at) for step, state, batch_at in backends
        ]
        found.append(largest_difference(*(to_numpy(state.params) for _, state, _ in backends)))
    return found


def in_order(rows: Iterable[dict]) -> list[dict]:
    """Return the rows with their sets in the order of DATASETS, otherwise in their given order."""
    place = place_in(DATASETS)
    return sorted(rows, key=lambda row: place(row["case"]["dataset"]))


def summary(rows: Iterable[dict]) -> list[dict]:
    """Return mean and standard deviation (n - 1) over the seeds, by combination and backend."""
    groups: dict[tuple, list[dict]] = {}
    for row in in_order(rows):
        groups.setdefault((*(row["case"][key] for key in KEYS), row["backend"]), []).append(row)
    entries = []
    for group, members in groups.items():
        entry = dict(zip((*KEYS, "backend"), group, strict=True)) | {"n": len(members)}
        for name in ACCURACIES:
            values = [member[name] for member in members]
            entry[name] = float(np.mean(values))
            entry[f"{name}_deviation"] = deviation(values)
            entry[f"{name}_spread"] = spread(values, unit="%")
        entry["largest_difference"] = max(member["largest_difference"] for member in members)
        entry["origin"] = origin_cells(members)
        entries.append(entry)
    return entries


def table(rows: list[dict]) -> Table:
    """Return the summary as a Table."""
    header = (
        *("set", "noise", "optimizer", "batch", "net"),
        *(f"{name.replace('_', ' ')} ({MEAN_SD})" for name in ACCURACIES),
        *("n", "largest difference", *ORIGIN),
    )
    return table_of(header, map(cells, summary(rows)))


def cells(entry: dict) -> tuple:
    """Return the row of an entry of the summary."""
    return (
        entry["dataset"],
        "own" if entry["noise"] is None else entry["noise"],
        entry["optimizer"],
        entry["batch_size"] or "full",
        entry["backend"],
        *(entry[f"{name}_spread"] for name in ACCURACIES),
        entry["n"],
        f"{entry['largest_difference']:.1e}",
        *entry["origin"],
    )


def boundaries(pairs: dict[str, dict[str, Result]]) -> Figure:
    """Draw class regions, points and test accuracy for sets with two features.

    Each set has a column, each backend a row.
    """
    figure, axes = plots.panels(2, len(pairs), 4.4, 3.7)
    for column, (name, results) in zip(axes.T, pairs.items(), strict=True):
        for axis, (backend, result) in zip(column, results.items(), strict=True):
            accuracy = result.history[-1]["test_accuracy"]
            title = f"{name}, {BACKENDS[backend]}\ntest {accuracy:.1%}"
            plots.boundary(axis, result.predict, result.task, title)
    return figure


def kept_pairs(rows: Iterable[dict]) -> dict[str, dict[str, Result]]:
    """Return the networks whose params are in the rows, by combination and backend."""
    pairs: dict[str, dict[str, Result]] = {}
    for label, row in labelled([row for row in in_order(rows) if "params" in row]):
        pairs.setdefault(label or row["case"]["dataset"], {})[row["backend"]] = kept_result(row)
    return pairs


def kept_result(row: dict) -> Result:
    """Return the network of a row that has its params, as a NumPy network."""
    known = {field.name for field in fields(mlp_task.MLPConfig)}
    case = mlp_task.MLPConfig(**{name: row["case"][name] for name in known & row["case"].keys()})
    backend, key = train_mlp_numpy.BACKEND, random.key(case.seed)
    task = mlp_task.load_data(case, random.split(key, 4)[0])
    model = mlp_task.make_model(backend, case, task)
    params = {name: np.asarray(leaf, case.dtype) for name, leaf in row["params"].items()}
    if tree.map(np.shape, params) != tree.map(np.shape, model.init(key)[0]):
        raise UserError(f"params of {case.dataset}: not those of the network that was trained")
    optimizer = OPTIMIZERS[case.optimizer](lr=case.learning_rate)
    state = train_state(params, {}, optimizer, key)
    predict = mlp_task.predictor(backend, model, state)
    return Result(state, row["history"], model, task, predict=predict)


def labelled(rows: Sequence[dict]) -> list[tuple[str, dict]]:
    """Return the rows with what distinguishes their combinations, such as "moons sgd"."""
    varying = [key for key in KEYS if len({row["case"][key] for row in rows}) > 1]
    return [(" ".join(str(row["case"][key]) for key in varying), row) for row in rows]


def draw(rows: list[dict], folder: Path) -> None:
    """Draw the curves of the first seed of each combination, and its decision boundaries."""
    kept = labelled([row for row in rows if "history" in row])
    histories = {f"{label} {row['backend']}".strip(): row["history"] for label, row in kept}
    plots.save(plots.curves(histories, mlp_task.CURVES), folder / "curves.png")
    if pairs := kept_pairs(rows):
        plots.save(boundaries(pairs), folder / "boundaries.png")


if __name__ == "__main__":
    command(Config, main)
