"""Who else has what: the rows of docs/comparison.md, and how each of them is checked.

    python -m tests.comparison    # write docs/comparison.md anew

A section is a table; a column is a library. To add a row, say in `Row` what there is and give a
cell for each library that has it; a library without a cell has nothing whose name holds the row's
words. To add a library, give a section another column and, for what can be run under vmap, a probe.
`tests/test_comparison.py` checks every cell against the installed version of the library, and skips
those that are not installed (`pip install 'purenets[bench]'`).
"""

import importlib
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from purenets.core.runs.files import write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
VMAP = {"rates": " · vmap", "params": " · vmap of params", "": ""}


class Cell(NamedTuple):
    """What a library has.

    Args:
        name: where it is in the library, a dotted name.
        make: an expression of `lr` that makes it, for the probe of the library; "" for `name(lr)`.
        vmap: what the library's vmap maps over: "rates" (each member has its own learning rate),
            "params" (all have one rate) or "" for nothing.
    """

    name: str
    make: str = ""
    vmap: str = "rates"


class Row(NamedTuple):
    """One line of a table.

    Args:
        what: its first column.
        words: no name of a library without a cell is one of these (without case and "_").
        cells: by library.
    """

    what: str
    words: tuple[str, ...]
    cells: dict[str, Cell]


class Library(NamedTuple):
    """A column.

    Args:
        package: the module to import, and the packages whose names are looked through.
        distribution: its name on PyPI, for the version.
        probe: runs an expression of `lr` under vmap of "rates" or "params", or raises; None where
            nothing is mapped.
    """

    package: str
    modules: tuple[str, ...]
    distribution: str
    probe: Callable[[str, str], None] | None


class Section(NamedTuple):
    title: str
    text: str
    libraries: tuple[str, ...]
    rows: list[Row]


def row(what: str, words: str, **cells: Cell | str) -> Row:
    """Return a row; a cell that is a text is a name alone."""
    named = {key: Cell(cell) if isinstance(cell, str) else cell for key, cell in cells.items()}
    return Row(what, tuple(words.split()), named)


def torchs(name: str) -> Cell:
    """Return the cell of a class of torch, which changes params in place."""
    return Cell(name, vmap="")


# --- probes: three members, each with its own rate: two updates, or 8 values of a schedule --------


RATES, SHIFTS = (0.1, 0.2, 0.3), (0.1, 0.2, 0.15)


def map_in_torch(run: Callable, over: str) -> None:
    """Compare `run(lr, w)` under vmap, over rates and params or over params, with the members
    alone.
    """
    import torch

    rates = torch.tensor(RATES, dtype=torch.float64) if over == "rates" else [RATES[0]] * 3
    first = torch.arange(12, dtype=torch.float64).reshape(2, 6) % 5 / 5
    w = torch.stack([first + shift for shift in SHIFTS])
    together = (
        torch.func.vmap(run)(rates, w)
        if over == "rates"
        else torch.func.vmap(lambda w: run(RATES[0], w))(w)
    )
    for rate, start, member in zip(rates, w, together, strict=True):
        assert torch.allclose(member, run(rate, start), atol=1e-6)


def probe_purenets(make: str, over: str) -> None:
    import torch

    import purenets
    from purenets.core.optim.internals.extra_args import with_extra_args

    def value_and_grad(params):
        return sum(p.cos().sum() + 9 for p in params.values()), {
            n: -p.sin() for n, p in params.items()
        }

    def run(lr, w):
        optimizer = eval(make, {"lr": lr, "purenets": purenets})
        if not hasattr(optimizer, "update"):
            return torch.stack([optimizer(count) for count in torch.arange(8.0)])
        params = {"w": w, "b": w[0]}
        state, update = optimizer.init(params), with_extra_args(optimizer.update)
        for _ in range(2):
            value, grads = value_and_grad(params)
            extra = {"value": value, "value_and_grad_fn": value_and_grad}
            updates, state = update(grads, state, params, **extra)
            params = purenets.optim.apply_updates(params, updates)
        return params["w"]

    map_in_torch(run, over)


def probe_optax(make: str, over: str) -> None:
    import jax
    import optax
    import optax.contrib

    def f(params):
        return sum(jax.numpy.cos(p).sum() + 9 for p in params.values())

    def run(lr, w):
        optimizer = eval(make, {"lr": lr, "optax": optax})
        if not hasattr(optimizer, "update"):
            return jax.numpy.stack([optimizer(count) for count in jax.numpy.arange(8)])
        optimizer = optax.with_extra_args_support(optimizer)
        params = {"w": w, "b": w[0]}
        state = optimizer.init(params)
        for _ in range(2):
            value, grads = jax.value_and_grad(f)(params)
            extra = {"value": value, "grad": grads, "value_fn": f}
            extra |= {"obj_fn": f} if "sophia" in make else {}
            updates, state = optimizer.update(grads, state, params, **extra)
            params = optax.apply_updates(params, updates)
        return params["w"]

    w = jax.numpy.stack([jax.numpy.arange(12.0).reshape(2, 6) % 5 / 5 + shift for shift in SHIFTS])
    if over == "rates":
        rates = jax.numpy.array(RATES)
        assert jax.numpy.isfinite(jax.vmap(run)(rates, w)).all()
    else:
        assert jax.numpy.isfinite(jax.vmap(lambda w: run(RATES[0], w))(w)).all()


def probe_torchopt(make: str, over: str) -> None:
    import torch
    import torchopt

    def run(lr, w):
        optimizer = eval(make, {"lr": lr, "torchopt": torchopt})
        if not hasattr(optimizer, "update"):
            return torch.stack([optimizer(count) for count in torch.arange(8.0)])
        params = {"w": w, "b": w[0].clone()}
        state = optimizer.init(params)
        for _ in range(2):
            grads = {name: -p.sin() for name, p in params.items()}
            updates, state = optimizer.update(grads, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return params["w"]

    map_in_torch(run, over)


LIBRARIES = {
    "purenets": Library("purenets", ("optim", "schedules", "core.sam"), "", probe_purenets),
    "torch": Library("torch.optim", ("", "lr_scheduler", "swa_utils"), "torch", None),
    "optax": Library("optax", ("", "contrib"), "optax", probe_optax),
    "torchopt": Library("torchopt", ("", "schedule", "clip"), "torchopt", probe_torchopt),
}
HEADS = {"purenets": "purenets", "torch": "torch.optim", "optax": "optax", "torchopt": "TorchOpt"}
ALL = tuple(LIBRARIES)

# --- the tables -----------------------------------------------------------------------------------

# of the values of a step, since what it updates are pairs of params
OPTAX_LOOKAHEAD = (
    "lambda count: (lambda optimizer, params: optimizer.update({'w': count * 1.0}, "
    "optimizer.init(params), params)[0].fast['w'])(optax.lookahead(optax.sgd(lr), 2, 0.5), "
    "optax.LookaheadParams.init_synced({'w': lr}))"
)
OPTIMIZERS = [
    row(
        "SGD",
        "sgd",
        purenets="optim.sgd",
        torch=torchs("SGD"),
        optax="sgd",
        torchopt=Cell("sgd", vmap="params"),
    ),
    row(
        "Nesterov's momentum",
        "sgd",
        purenets="optim.nesterov",
        torch=torchs("SGD"),
        optax=Cell("sgd", "optax.sgd(lr, 0.9, nesterov=True)"),
        torchopt=Cell("sgd", "torchopt.sgd(lr, 0.9, nesterov=True)", "params"),
    ),
    row(
        "RMSProp",
        "rmsprop",
        purenets="optim.rmsprop",
        torch=torchs("RMSprop"),
        optax="rmsprop",
        torchopt=Cell("rmsprop", vmap="params"),
    ),
    row(
        "Adagrad",
        "adagrad",
        purenets="optim.adagrad",
        torch=torchs("Adagrad"),
        optax="adagrad",
        torchopt=Cell("adagrad", vmap="params"),
    ),
    row(
        "Adadelta",
        "adadelta",
        purenets="optim.adadelta",
        torch=torchs("Adadelta"),
        optax="adadelta",
        torchopt=Cell("adadelta", vmap="params"),
    ),
    row(
        "Adam",
        "adam",
        purenets="optim.adam",
        torch=torchs("Adam"),
        optax="adam",
        torchopt=Cell("adam", vmap="params"),
    ),
    row(
        "AdamW",
        "adamw",
        purenets="optim.adamw",
        torch=torchs("AdamW"),
        optax="adamw",
        torchopt=Cell("adamw", vmap="params"),
    ),
    row(
        "Adamax",
        "adamax",
        purenets="optim.adamax",
        torch=torchs("Adamax"),
        optax="adamax",
        torchopt=Cell("adamax", vmap="params"),
    ),
    row("NAdam", "nadam", purenets="optim.nadam", torch=torchs("NAdam"), optax="nadam"),
    row(
        "RAdam",
        "radam",
        purenets="optim.radam",
        torch=torchs("RAdam"),
        optax="radam",
        torchopt=Cell("radam", vmap="params"),
    ),
    row(
        "Adafactor",
        "adafactor",
        purenets="optim.adafactor",
        torch=torchs("Adafactor"),
        optax="adafactor",
    ),
    row("ASGD", "asgd", purenets="optim.asgd", torch=torchs("ASGD")),
    row("Rprop", "rprop", purenets="optim.rprop", torch=torchs("Rprop"), optax="rprop"),
    row(
        "Muon",
        "muon",
        purenets="optim.muon",
        torch=torchs("Muon"),
        optax="contrib.muon",
    ),
    row(
        "L-BFGS, with line search",
        "lbfgs",
        purenets=Cell(
            "optim.lbfgs",
            "purenets.optim.lbfgs(lr, 3, history_size=3, line_search_fn='strong_wolfe')",
        ),
        torch=torchs("LBFGS"),
        optax=Cell("lbfgs", "optax.lbfgs(memory_size=3)"),
    ),
    row("Lion", "lion", purenets="optim.lion", optax="lion"),
    row("LAMB", "lamb", purenets="optim.lamb", optax="lamb"),
    row("LARS", "lars", purenets="optim.lars", optax="lars"),
    row(
        "Schedule-free AdamW",
        "schedulefree schedulefreeadamw",
        purenets="optim.schedule_free_adamw",
        optax="contrib.schedule_free_adamw",
    ),
    row("Adan", "adan", purenets="optim.adan", optax="adan"),
    row("ADOPT", "adopt", purenets="optim.adopt", optax="contrib.adopt"),
    row("AdEMAMix", "ademamix", purenets="optim.ademamix", optax="contrib.ademamix"),
    row("Sophia", "sophia", purenets="optim.sophia", optax="contrib.sophia"),
    row(
        "D-Adaptation",
        "dadapt dadaptadam",
        purenets="optim.dadapt_adam",
        optax="contrib.dadapt_adamw",
    ),
    row("Prodigy", "prodigy", purenets="optim.prodigy", optax="contrib.prodigy"),
    row("DoG", "dog", purenets="optim.dog", optax="contrib.dog"),
    row("Shampoo", "shampoo", purenets="optim.shampoo"),
    row(  # with a larger eps: rotated gradients may be 0 but for rounding, which a root enlarges
        "SOAP", "soap", purenets=Cell("optim.soap", "purenets.optim.soap(lr, eps=1e-3)")
    ),
    row("MoMo", "momo", purenets="optim.momo", optax="contrib.momo"),
    row("MoMo-Adam", "momo", purenets="optim.momo_adam", optax="contrib.momo_adam"),
    row("Polyak's step size", "polyak polyaksgd", purenets="optim.polyak", optax="polyak_sgd"),
    row(
        "Backtracking line search",
        "backtracking backtrackinglinesearch",
        purenets="optim.backtracking",
        optax=Cell(
            "scale_by_backtracking_linesearch",
            "optax.chain(optax.sgd(lr), optax.scale_by_backtracking_linesearch(9))",
        ),
    ),
    row(
        "Strong-Wolfe line search",
        "wolfe strongwolfe zoomlinesearch",
        purenets="optim.strong_wolfe",
        optax=Cell(
            "scale_by_zoom_linesearch",
            "optax.chain(optax.sgd(lr), optax.scale_by_zoom_linesearch(9))",
        ),
    ),
    row(
        "Sparse weights (β-lasso)",
        "lasso betalasso",
        purenets=Cell("optim.beta_lasso", "purenets.optim.beta_lasso(purenets.optim.sgd(lr), 0.1)"),
    ),
]
WRAPPERS = [
    row(
        "Parts of the params",
        "partition multitransform",
        purenets=Cell(
            "optim.partition",
            "purenets.optim.partition({'1': purenets.optim.sgd(lr), '2': purenets.optim.adam(lr)}, "
            "lambda name, leaf: str(leaf.ndim))",
        ),
        torch=Cell("SGD", vmap=""),
        optax=Cell(
            "partition",
            "optax.partition({'w': optax.sgd(lr), 'b': optax.adam(lr)}, {'w': 'w', 'b': 'b'})",
        ),
    ),
    row(
        "Some leaves only",
        "masked",
        purenets=Cell(
            "optim.masked",
            "purenets.optim.masked(purenets.optim.sgd(lr), purenets.optim.is_matrix)",
        ),
        optax=Cell("masked", "optax.masked(optax.sgd(lr), {'w': True, 'b': False})"),
    ),
    row(
        "Accumulated gradients",
        "accumulate multisteps applyevery",
        purenets=Cell("optim.accumulate", "purenets.optim.accumulate(purenets.optim.sgd(lr), 2)"),
        optax=Cell("MultiSteps", "optax.MultiSteps(optax.sgd(lr), 2).gradient_transformation()"),
    ),
    row(
        "No update by what is not finite",
        "applyiffinite skipnotfinite",
        purenets=Cell(
            "optim.apply_if_finite", "purenets.optim.apply_if_finite(purenets.optim.sgd(lr))"
        ),
        optax=Cell("apply_if_finite", "optax.apply_if_finite(optax.sgd(lr), 3)"),
    ),
    row(
        "Hyper-parameters in the state",
        "injecthyperparams",
        purenets=Cell(
            "optim.inject_hyperparams",
            "purenets.optim.inject_hyperparams(purenets.optim.sgd, lr=lr)",
        ),
        torch=Cell("SGD", vmap=""),
        optax=Cell("inject_hyperparams", "optax.inject_hyperparams(optax.sgd)(learning_rate=lr)"),
    ),
    row(
        "Lookahead",
        "lookahead",
        purenets=Cell("optim.lookahead", "purenets.optim.lookahead(purenets.optim.sgd(lr))"),
        optax=Cell("lookahead", OPTAX_LOOKAHEAD),
    ),
    row(
        "Running mean of the params",
        "averagedmodel ema incrementalupdate",
        purenets=Cell(
            "optim.ema", "purenets.optim.chain(purenets.optim.sgd(lr), purenets.optim.ema())"
        ),
        torch=Cell("swa_utils.AveragedModel", vmap=""),
        optax=Cell(
            "incremental_update", "lambda count: optax.incremental_update(lr, count * 1.0, 0.1)"
        ),
    ),
    row(
        "Stochastic weight averaging",
        "swa averagedmodel",
        purenets=Cell(
            "optim.swa", "purenets.optim.chain(purenets.optim.sgd(lr), purenets.optim.swa())"
        ),
        torch=Cell("swa_utils.AveragedModel", vmap=""),
    ),
    row(
        "Reduce on plateau",
        "plateau reduceonplateau",
        purenets=Cell(
            "optim.reduce_on_plateau",
            "purenets.optim.chain(purenets.optim.sgd(lr), purenets.optim.reduce_on_plateau())",
        ),
        torch=Cell("lr_scheduler.ReduceLROnPlateau", vmap=""),
        optax=Cell(
            "contrib.reduce_on_plateau",
            "optax.chain(optax.sgd(lr), optax.contrib.reduce_on_plateau())",
        ),
    ),
    row(
        "Clipping by the norm of all leaves",
        "clipbyglobalnorm clipgradnorm",
        purenets=Cell("optim.clip_by_global_norm", "purenets.optim.clip_by_global_norm(lr)"),
        optax=Cell("clip_by_global_norm", "optax.clip_by_global_norm(lr)"),
        torchopt=Cell(
            "clip_grad_norm", "torchopt.chain(torchopt.clip_grad_norm(lr), torchopt.sgd(0.1))", ""
        ),
    ),
    row(
        "Adaptive gradient clipping",
        "adaptivegradclip agc",
        purenets=Cell("optim.adaptive_grad_clip", "purenets.optim.adaptive_grad_clip(lr)"),
        optax=Cell("adaptive_grad_clip", "optax.adaptive_grad_clip(lr)"),
    ),
]
SCHEDULES = [
    row(
        "Constant",
        "constant",
        purenets="schedules.constant",
        torch=torchs("lr_scheduler.ConstantLR"),
        optax=Cell("constant_schedule", "optax.constant_schedule(lr)"),
    ),
    row(
        "Step",
        "step",
        purenets=Cell("schedules.step", "purenets.schedules.step(lr, 3)"),
        torch=torchs("lr_scheduler.StepLR"),
        optax=Cell("exponential_decay", "optax.exponential_decay(lr, 3, 0.1, staircase=True)"),
    ),
    row(
        "Multi-step",
        "multistep",
        purenets=Cell("schedules.multi_step", "purenets.schedules.multi_step(lr, [2, 5])"),
        torch=torchs("lr_scheduler.MultiStepLR"),
        optax=Cell(
            "piecewise_constant_schedule", "optax.piecewise_constant_schedule(lr, {2: 0.1, 5: 0.1})"
        ),
    ),
    row(
        "Exponential",
        "exponential",
        purenets=Cell("schedules.exponential", "purenets.schedules.exponential(lr, 0.9)"),
        torch=torchs("lr_scheduler.ExponentialLR"),
        optax=Cell("exponential_decay", "optax.exponential_decay(lr, 1, 0.9)"),
        torchopt=Cell(
            "schedule.exponential_decay",
            "torchopt.schedule.exponential_decay(lr, 1, 0.9)",
        ),
    ),
    row(
        "Polynomial",
        "polynomial",
        purenets=Cell("schedules.polynomial", "purenets.schedules.polynomial(lr, 0.0, 9, 2.0)"),
        torch=torchs("lr_scheduler.PolynomialLR"),
        optax=Cell("polynomial_schedule", "optax.polynomial_schedule(lr, 0.0, 2.0, 9)"),
        torchopt=Cell(
            "schedule.polynomial_schedule",
            "torchopt.schedule.polynomial_schedule(lr, 0.0, 2.0, 9)",
        ),
    ),
    row(
        "Linear",
        "linear",
        purenets=Cell("schedules.linear", "purenets.schedules.linear(lr, 0.0, 9)"),
        torch=torchs("lr_scheduler.LinearLR"),
        optax=Cell("linear_schedule", "optax.linear_schedule(lr, 0.0, 9)"),
        torchopt=Cell(
            "schedule.linear_schedule",
            "torchopt.schedule.linear_schedule(lr, 0.0, 9, 0)",
        ),
    ),
    row(
        "Cosine",
        "cosine",
        purenets=Cell("schedules.cosine", "purenets.schedules.cosine(lr, 9)"),
        torch=torchs("lr_scheduler.CosineAnnealingLR"),
        optax=Cell("cosine_decay_schedule", "optax.cosine_decay_schedule(lr, 9)"),
    ),
    row(
        "Cosine with warm restarts",
        "cosineannealingwarmrestarts sgdr",
        purenets=Cell("schedules.cosine_restarts", "purenets.schedules.cosine_restarts(lr, 4, 2)"),
        torch=torchs("lr_scheduler.CosineAnnealingWarmRestarts"),
        optax=Cell(
            "sgdr_schedule",
            "optax.sgdr_schedule([{'init_value': 0.0, 'peak_value': lr, 'decay_steps': 4, "
            "'warmup_steps': 1}] * 2)",
            "",
        ),
    ),
    row(
        "Cyclic",
        "cyclic",
        purenets=Cell("schedules.cyclic", "purenets.schedules.cyclic(0.0, lr, 3)"),
        torch=torchs("lr_scheduler.CyclicLR"),
    ),
    row(
        "One cycle",
        "onecycle cosineonecycle linearonecycle",
        purenets=Cell("schedules.one_cycle", "purenets.schedules.one_cycle(lr, 20)"),
        torch=torchs("lr_scheduler.OneCycleLR"),
        optax=Cell("cosine_onecycle_schedule", "optax.cosine_onecycle_schedule(20, lr)"),
    ),
    row(
        "One after the other",
        "sequential join joinschedules",
        purenets=Cell(
            "schedules.join",
            "purenets.schedules.join([purenets.schedules.constant(lr), "
            "purenets.schedules.cosine(lr, 5)], [3])",
        ),
        torch=torchs("lr_scheduler.SequentialLR"),
        optax=Cell(
            "join_schedules",
            "optax.join_schedules([optax.constant_schedule(lr), "
            "optax.cosine_decay_schedule(lr, 5)], [3])",
        ),
    ),
    row(
        "Warm-up of any schedule",
        "warmup warmupcosinedecay",
        purenets=Cell(
            "schedules.warmup", "purenets.schedules.warmup(purenets.schedules.cosine(lr, 5), 3)"
        ),
        torch=torchs("lr_scheduler.SequentialLR"),
        optax=Cell(
            "warmup_cosine_decay_schedule", "optax.warmup_cosine_decay_schedule(0.0, lr, 3, 8)", ""
        ),
    ),
    row(
        "Rate of weight averaging",
        "swalr",
        purenets=Cell("schedules.swa", "purenets.schedules.swa(lr, 3, lr / 2)"),
        torch=torchs("swa_utils.SWALR"),
    ),
]
SECTIONS = [
    Section(
        "Optimizers",
        "Names, defaults and numbers are those of torch.optim where it has the optimizer, else "
        "those of the authors.",
        ALL,
        OPTIMIZERS,
    ),
    Section(
        "Around an optimizer", "What wraps an optimizer, or stands in its chain.", ALL, WRAPPERS
    ),
    Section("Schedules", "Functions of the count of updates; objects in torch.", ALL, SCHEDULES),
]


# --- checks ---------------------------------------------------------------------------------------


def found(library: str, name: str) -> bool:
    """Return True if the library has what a cell names."""
    value = importlib.import_module(LIBRARIES[library].package)
    parts = name.split(".")
    for i, part in enumerate(parts):
        if not hasattr(value, part):
            try:
                importlib.import_module(".".join([LIBRARIES[library].package, *parts[: i + 1]]))
            except ImportError:
                return False
        value = getattr(value, part)
    return True


def names_of(library: str) -> list[str]:
    """Return the public names of a library, as `Row.words` are written."""
    package, modules, *_ = LIBRARIES[library]
    names = []
    for module in modules:
        here = importlib.import_module(f"{package}.{module}" if module else package)
        names += [name for name in dir(here) if not name.startswith("_")]
    return [name.lower().replace("_", "") for name in names]


def is_named(name: str, words: tuple[str, ...]) -> bool:
    """Return True if a name is one of the words, but for what libraries put around them."""
    return any(re.fullmatch(f"(scaleby)?{word}(w|lr|schedule)?", name) for word in words)


def expression(library: str, cell: Cell) -> str:
    return cell.make or f"{LIBRARIES[library].package}.{cell.name}(lr)"


# --- the page -------------------------------------------------------------------------------------

HEAD = """# Who else has it

Written by `python -m tests.comparison`; do not edit. `tests/test_comparison.py` checks each cell
against the installed library: that the name is there, that a library with an empty cell has no such
name, and by running it what "vmap" says: two updates of three members in one vmapped call
(`torch.func.vmap`, `jax.vmap`), each member with its own params and learning rate ("vmap of
params": all with one rate); of a schedule, its values at 8 counts for three rates. Versions:
{versions}.

purenets' optimizers run on NumPy arrays and torch tensors, eagerly, under `jit` and `scan`, as an
ensemble, and all end at the same params (`tests/test_optimizers_on_every_path.py`). Those of
torch.optim change params in place: there is nothing to map.
"""


def page() -> str:
    versions = ", ".join(
        f"{library.distribution} {metadata.version(library.distribution)}"
        for library in LIBRARIES.values()
        if library.distribution
    )
    parts = [HEAD.format(versions=versions), *map(section_text, SECTIONS)]
    return "\n".join(parts)


def section_text(section: Section) -> str:
    heads = ["", *(HEADS[library] for library in section.libraries)]
    lines = [heads, ["---"] * len(heads), *(cells(row, section.libraries) for row in section.rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {section.title}\n\n{section.text}\n\n{table}\n"


def cells(row: Row, libraries: tuple[str, ...]) -> list[str]:
    texts = [row.what]
    for library in libraries:
        cell = row.cells.get(library)
        texts.append(f"`{cell.name}`{VMAP[cell.vmap]}" if cell else "")
    return texts


if __name__ == "__main__":
    write_atomically(PAGE, page().encode())
