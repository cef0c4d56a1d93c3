"""Part III of the report: the vanilla RNN on palindromes."""

from collections.abc import Sequence

from purenets import random
from purenets.core.report.document import Section
from purenets.core.report.tables import Table, table_of
from purenets.core.report.tabulate import as_table, tabulate
from scripts import run_quick
from scripts import train as rnn
from scripts.figures import rnn as figures
from scripts.report.prose import sections
from scripts.report.results import in_small, source
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.sweeps import deviation

LENGTH = 5  # of the palindromes whose dimensions are shown
USES = {
    "W_hx": "(1), every step",
    "W_hh": "(1), every step",
    "b_h": "(1), every step",
    "W_ph": "(2), last step",
    "b_o": "(2), last step",
}


def section(found: dict, quick: run_quick.Config) -> Section:
    """Return Part III; from a quick run where the results over lengths are not in `found`."""
    values = structure()
    if "rnn_lengths" in found:
        values |= {"quick": None} | of_lengths(found["rnn_lengths"])
        values |= of_figure("ingredients", figures.heatmap, found.get("rnn_settings"))
        values |= of_figure("memory", figures.memory, found.get("rnn_memory_why"))
    else:
        missing = dict.fromkeys(("lengths", "longest", "ingredients", "memory"))
        values |= {"quick": in_small(run_quick.part3, quick)} | missing
    (part,) = sections("part3", values)
    return part


def structure() -> dict:
    """Return the values of the network and its training."""
    import torch

    from purenets.torch_nets import VanillaRNN

    config = rnn.Config(input_length=LENGTH - 1)
    sizes = (config.input_dim, config.num_hidden, config.num_classes)
    model = VanillaRNN(config.input_length, *sizes)
    x = torch.zeros(config.batch_size, config.input_length, config.input_dim)
    names = ("learning_rate", "train_steps", "batch_size", "max_norm")
    return {name: getattr(config, name) for name in names} | {
        "hidden": config.num_hidden,
        "batch": config.batch_size,
        "length": LENGTH,
        "rnn-parameters": parameters(model),
        "rnn-layers": as_table(tabulate(model, x)),
        "rnn-dimensions": figures.unrolled(config.batch_size, *sizes, config.input_length),
    }


def parameters(model) -> Table:
    """Return a row for each parameter array: its shape, its elements, and where it is used."""
    params, _ = model.init(random.key(0))
    rows = [
        (name, " x ".join(map(str, leaf.shape)), f"{leaf.numel():,}", USES[name])
        for name, leaf in params.items()
    ]
    total = ("total", "", f"{sum(leaf.numel() for leaf in params.values()):,}", "")
    return table_of(("parameter", "shape", "elements", "used in"), [*rows, total])


def of_lengths(found: dict) -> dict:
    """Return the values of the accuracy over the length."""
    return {
        "n": found["n"],
        "shortest": min(cell["T"] for cell in found["cells"]),
        "longest": longest_perfect(found["cells"]),
        "lengths": figures.accuracy_over_length(found["cells"]),
        "accuracies": accuracies(found["cells"]),
        "lengths_source": source(found),
    }


def longest_perfect(cells: Sequence[dict]) -> int | None:
    """Return the largest T up to which all seeds make no mistake; None if there is none."""
    perfect = None
    for cell in sorted(cells, key=lambda cell: cell["T"]):
        if figures.at_own_length(cell).min() < 1:
            break
        perfect = cell["T"]
    return perfect


def accuracies(cells: Sequence[dict]) -> Table:
    """Return a row for each length: the accuracy over the seeds."""
    rows = []
    for cell in cells:
        values = figures.at_own_length(cell)
        found = (values.mean(), deviation(values), values.min(), values.max())
        texts = ("" if value is None else f"{value:.1%}" for value in found)
        rows.append((cell["T"], *texts, len(values), *origin_cells([cell])))
    header = ("T", "mean accuracy", "SD (n - 1)", "worst seed", "best seed", "n", *ORIGIN)
    return table_of(header, rows)


def of_figure(name: str, draw, found: dict | None) -> dict:
    """Return a figure of the cells of a sweep and its source; None if the sweep is missing."""
    if found is None:
        return {name: None}
    return {name: draw(found["cells"]), f"{name}_source": source(found)}
