"""What the two MLP scripts share: the options, the training of one network, and its report.

The scripts differ only in the `Backend`, which makes the network and its gradients.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from purenets import (
    Array,
    Model,
    Params,
    Step,
    TrainState,
    UserError,
    data,
    evaluate,
    make_step,
    random,
    runs,
    train_state,
    tree,
)
from purenets.core.arguments import expect_arrays, shown
from purenets.core.arrays import to_host
from purenets.core.data.toy import REAL
from purenets.core.memory import expect_room_for
from purenets.core.optim.state import with_averaged_params
from purenets.core.runs.notes import warn
from purenets.core.runs.options import (
    Options,
    file_path,
    fraction,
    not_negative,
    one_of,
    open_fraction,
    option,
    positive,
    widths,
)
from purenets.core.runs.rotation import KEEP
from purenets.data import DATASETS, Dataset
from purenets.optim import OPTIMIZERS
from scripts.shared.result import Result

CURVES = (("train_loss", "test_loss"), ("train_accuracy", "test_accuracy"))


def is_table(dataset: str) -> bool:
    """Return True if `--dataset` names a CSV file."""
    return dataset.lower().endswith(".csv")


def known_dataset(value: str) -> str | None:
    if value in DATASETS or is_table(value):
        return None
    if os.path.lexists(value):
        return "a CSV file, whose name ends in .csv"
    return f"one of {', '.join(DATASETS)}, or a file.csv with a column of classes"


known_dataset.names = tuple(DATASETS)  # in any case, as those of `one_of`


@dataclass(frozen=True)
class MLPConfig(Options):
    """Train an MLP on a toy set or on a CSV file."""

    dnn_hidden_units: tuple[int, ...] = option(
        (20,), "units of each hidden layer, with commas between", widths
    )
    learning_rate: float = option(1e-2, "the optimizer's rate", positive)
    max_steps: int = option(1500, "epochs to train for (passes over the training set)", positive)
    eval_freq: int = option(10, "epochs between evaluations", positive)
    dataset: str = option("moons", f"{', '.join(DATASETS)}, or a CSV file", known_dataset)
    test_set: str = option(
        None,
        "CSV file of test examples beside a CSV file as --dataset; by default a part of that one",
        file_path,
    )
    label: str = option(
        None, "column of the class in a CSV file, by name or number from 0; by default the last"
    )
    n_samples: int = option(1000, "points to draw of a generated set", positive)
    noise: float = option(
        None,
        "standard deviation of the noise of a generated set; by default its own",
        not_negative,
    )
    test_fraction: float = option(
        0.2, "the part of the points held out for the test", open_fraction
    )
    batch_size: int = option(32, "examples in a step: 1 single-sample, 0 full-batch", not_negative)
    optimizer: str = option("sgd", f"one of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    activation: str = option("relu", "relu, tanh or silu", one_of(["relu", "tanh", "silu"]))
    dropout: float = option(0.0, "probability to drop a hidden unit", fraction)
    seed: int = option(0, "all randomness: data, params, order of batches", not_negative)
    dtype: str = option("float32", "float32 or float64", one_of(["float32", "float64"]))
    out: str = option(None, "folder for config, history, checkpoint and figures", file_path)
    keep: int = option(KEEP, "how many of the newest checkpoints to keep", positive)
    resume: bool = option(False, "go on with the run in --out; begin it if there is none")

    def unused(self) -> Iterator[tuple[str, str]]:
        if self.out is None:
            yield "keep", "means nothing without --out; leave it out"
        has_table = is_table(self.dataset)
        if has_table or self.dataset in REAL:
            reason = f"means nothing with --dataset {self.dataset}, which is not generated"
            for name in ("n_samples", "noise"):
                yield name, f"{reason}; leave it out"
        if has_table and self.test_set is not None:
            reason = f"means nothing with --test_set {self.test_set}, which is the test part"
            yield "test_fraction", f"{reason}; leave it out"


class Backend(NamedTuple):
    """A way to make a network and its gradients: by hand in NumPy, or by torch.func.

    Args:
        name: its name in figures and on the screen.
        MLP, grad_fn, metrics_fn: those of the package.
        array: converts an array to this backend, on its device.
        compile: compiles the step.
        check_batch: refuses a batch size that the processes cannot share.
        barrier: waits until all processes have reached it.
        writes: False in a process whose run another process writes.
        processes: the number of processes of the run.
    """

    name: str
    MLP: Callable[..., Model]
    grad_fn: Callable
    metrics_fn: Callable
    array: Callable[[Array], Array] = np.asarray
    compile: Callable[[Step], Step] = lambda step: step
    check_batch: Callable[[int], None] = lambda size: None
    barrier: Callable[[], None] = lambda: None
    writes: bool = True
    processes: int = 1


def load_data(config: MLPConfig, key) -> Dataset:
    """Return the data set that the options name, after checking the options."""
    config.expect_used(config.changed())
    try:
        return _loaded(config, key)
    except UserError as error:
        raise UserError(_as_flags(str(error))) from error


def _as_flags(message: str) -> str:
    """Return the message of a function of `purenets.data` in the words of a script."""
    if re.search(r"\b(delimiter|header|classes)=|\bsay n_classes", message):
        return f"{message} (from Python, by data.from_csv; the scripts have no such flag)"
    return f"--{message}" if message.startswith("test_fraction:") else message


def _loaded(config: MLPConfig, key) -> Dataset:
    if is_table(config.dataset):
        return load_table(config, key)
    for flag, value in (("test_set", config.test_set), ("label", config.label)):
        if value is not None:
            raise UserError(f"--{flag} {value}: needs a CSV file as --dataset")
    return data.load(
        config.dataset,
        key,
        n=config.n_samples,
        noise=config.noise,
        test_fraction=config.test_fraction,
        dtype=config.dtype,
    )


def load_table(config: MLPConfig, key) -> Dataset:
    """Return the data set of a CSV file; without a file of test examples, hold out a part."""
    label = -1 if config.label is None else config.label
    if isinstance(label, str) and label.removeprefix("-").isdecimal():
        label = int(label)
    test = None if config.test_set is None else Path(config.test_set)
    share = config.test_fraction if test is None else None
    path = Path(config.dataset)
    if test is not None and os.path.realpath(path) == os.path.realpath(test):
        raise UserError(f"--test_set {test}: is the file of --dataset, needs one of its own")
    return data.from_csv(path, key, share, config.dtype, test=test, label=label)


def data_digests(config: MLPConfig) -> dict[str, str]:
    """Return the digests of the files that the options name, for `open_run`.

    Only CSV files need one: generated sets follow from the seed, those of scikit-learn from its
    version.
    """
    if not is_table(config.dataset):
        return {}
    files = {"dataset": config.dataset, "test_set": config.test_set}
    return {f"--{flag} {path}": runs.file_digest(path) for flag, path in files.items() if path}


def make_model(backend: Backend, config: MLPConfig, task: Dataset) -> Model:
    """Return the network that the options describe."""
    return backend.MLP(
        task.n_features,
        config.dnn_hidden_units,
        task.n_classes,
        activation=config.activation,
        dropout=config.dropout,
    )


def expect_batch_size(size: int, n: int) -> None:
    """Raise a UserError for a batch of more than the n training examples."""
    if size > n:
        raise UserError(f"--batch_size {size}: more than the {n} training examples; 0 is all")


def train(config: MLPConfig, backend: Backend, params: Params | None = None) -> Result:
    """Train the network of `config` in `backend`, from `params` or from its own initialization."""
    data_key, init_key, batch_key, step_key = random.split(random.key(config.seed), 4)
    task = load_data(config, data_key)
    train_set, test_set = (tuple(map(backend.array, part)) for part in (task.train, task.test))
    n = len(train_set[1])
    expect_batch_size(config.batch_size, n)
    backend.check_batch(config.batch_size or n)
    model = make_model(backend, config, task)
    expect_room_for(model, "take fewer or smaller --dnn_hidden_units")
    optimizer = OPTIMIZERS[config.optimizer](lr=config.learning_rate)
    drawn, buffers = model.init(init_key)
    params = tree.map(backend.array, tree.cast(params or drawn, config.dtype))
    state = train_state(params, buffers, optimizer, step_key)

    n = len(train_set[1])
    epoch = Fraction(n, config.batch_size or n)  # in steps; a float would be rounded
    digests = data_digests(config) if config.out and backend.writes else None
    with runs.open_run(config, backend.writes, backend.processes, digests) as folder:
        backend.barrier()  # wait until the folder is ready
        state, history = runs.fit_and_save(
            folder,
            backend.compile(make_step(backend.grad_fn(model), optimizer)),
            state,
            data.batches(train_set, config.batch_size, batch_key),
            steps=math.ceil(config.max_steps * epoch),
            every=math.ceil(config.eval_freq * epoch),
            evaluate=evaluation(backend.metrics_fn(model), {"train": train_set, "test": test_set}),
            label=backend.name,
            hint="try a lower --learning_rate",
            writes=backend.writes,
            keep=config.keep,
            steps_flag=f"--max_steps {config.max_steps}",
            epoch=float(epoch),
        )
        result = Result(state, history, model, task, predict=predictor(backend, model, state))
        if folder and backend.writes:
            draw(result, backend, folder)
    return result


def evaluation(metrics: Callable, sets: dict) -> Callable[[TrainState], dict[str, float]]:
    """Return the function for `fit` that evaluates the (averaged) params on each of the sets."""

    def evaluate_all(state: TrainState) -> dict[str, float]:
        state = with_averaged_params(state)
        found = {name: evaluate(metrics, state, part) for name, part in sets.items()}
        return {f"{name}_{key}": value for name, row in found.items() for key, value in row.items()}

    return evaluate_all


def predictor(backend: Backend, model: Model, state: TrainState) -> Callable:
    """Return the function from inputs (n, features) to classes (n,), both on the host.

    It raises a UserError for inputs that the net cannot tell apart, such as a row with NaN.
    """
    params = with_averaged_params(state).params
    dtype = str(next(iter(params.values())).dtype).removeprefix("torch.")

    def predict(x: np.ndarray) -> np.ndarray:
        logits, _ = model.apply(params, state.buffers, backend.array(_inputs(x, dtype)))
        return to_host(logits).argmax(axis=1)

    return predict


def _inputs(x: Array, dtype: str) -> np.ndarray:
    """Return inputs on the host; raise a UserError for what are no finite rows of this dtype."""
    expect_arrays("predict", 2, x=x)
    x = to_host(x)
    if str(x.dtype) != dtype:
        raise UserError(
            f"predict: x is {shown(x)}, but the params are {dtype}; x.astype({dtype!r}), after "
            "result.task.standardize(x) for inputs in the units of the data"
        )
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise UserError(f"predict: row {int(finite.argmin())} of x has a value that is not finite")
    return x


def draw(result: Result, backend: Backend, folder: Path) -> None:
    """Write the curves, and for two features the decision boundary, as PNG."""
    from purenets.core.report import plots  # late, since it imports matplotlib

    plots.save(plots.curves({"": result.history}, CURVES, backend.name), folder / "curves.png")
    if result.task.n_features == 2:
        figure, axes = plots.panels(1, 1, 5, 4.2)
        plots.boundary(axes[0, 0], result.predict, result.task, backend.name)
        plots.save(figure, folder / "boundary.png")


def report(result: Result, config: MLPConfig, backend: Backend) -> None:
    """Print the size and the length of a training, and its final loss and accuracy."""
    row, task = result.history[-1], result.task
    size = f"{backend.name}: {tree.size(result.state.params)} parameters"
    epochs = row["step"] / data.steps_per_epoch(task.train, config.batch_size)
    print(f"{size}, {row['step']} steps ({epochs:.4g} epochs)")
    if task.classes != tuple(range(task.n_classes)):
        print(f"  classes {', '.join(f'{i} {label}' for i, label in enumerate(task.classes))}")
    for part in ("train", "test"):
        print(f"  {part:5}  loss {row[f'{part}_loss']:.4f}  accuracy {row[f'{part}_accuracy']:.2%}")
    if config.test_set is not None:
        warn_of_other_names(result, config.test_set)


def warn_of_other_names(result: Result, test_set: str) -> None:
    """Warn if a net has learned, but is worse than chance on the file of test examples.

    Chance is the accuracy of the net's own predictions in random order. Worse means more than 5
    standard deviations below that: exchanged class names have this effect, a small test set does
    not.
    """
    row, task = result.history[-1], result.task
    (x, y), n_train = task.test, len(task.train[1])
    shares, predicted = (
        np.bincount(classes, minlength=task.n_classes) / len(y)
        for classes in (y, result.predict(x))
    )
    chance = float(shares @ predicted)
    low = chance - 5 * math.sqrt(chance * (1 - chance) / len(y))
    has_learned = row["train_accuracy"] > np.bincount(task.train[1]).max() / n_train
    if has_learned and row["test_accuracy"] < low:
        warn(
            f"--test_set {test_set}: the accuracy {row['test_accuracy']:.2%} is far below chance "
            f"({chance:.2%}); are its classes named as those of --dataset are?"
        )
