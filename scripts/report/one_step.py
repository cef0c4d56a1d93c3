"""One training step by hand: an interactive figure, and the same as a strip of pictures.

Both networks are trained from the same params on the same batches, and their params are kept at
some steps. For each of these steps the page redraws the decision boundaries and shows the matrices
of one batch, forward and backward, as `numpy_nets` computes them. The page itself computes only the
class regions, from the params.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from purenets import Batch, Params, data, make_step, optim, random, train_state, tree
from purenets.core.report import plots
from purenets.core.report.document import TEXT_WIDTH, Interactive
from purenets.core.report.formulas import to_mathml
from purenets.data import Dataset

HERE = Path(__file__).parent
HIDDEN, EXAMPLES, POINTS, BATCH = 8, 6, 400, 32  # few units, so that every number can be read
RATE, STEPS = (
    1e-2,
    (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 400, 500),
)
STRIP, MIDDLE = (0, 20, 60, 160, 500), 2  # the steps in print, and which of them shows arrays
SIGNS = LinearSegmentedColormap.from_list("signs", ["#D55E00", "#FFFFFF", "#0072B2"])
NETS = {"numpy": "NumPy, by hand", "torch": "PyTorch, torch.func"}


class Matrix(NamedTuple):
    """An array of a layer: its formula in TeX, and its name among the numbers."""

    tex: str
    name: str


class Layer(NamedTuple):
    """A layer that can be chosen: its formulas forward and backward, and the arrays of both."""

    name: str
    forward: str
    backward: str
    shown: tuple[tuple[Matrix, ...], tuple[Matrix, ...]]


X, W1, B1, A1, H1 = (
    Matrix("X", "X"), Matrix(r"W_1", "W1"), Matrix("b_1", "b1"), Matrix("A", "A"), Matrix("H", "H"),
)  # fmt: skip
W2, B2, O, P, Q = (
    Matrix("W_2", "W2"), Matrix("b_2", "b2"), Matrix("O", "O"), Matrix("P", "P"), Matrix("Q", "Q"),
)  # fmt: skip


def gradient(matrix: Matrix) -> Matrix:
    """Return the gradient of the loss with respect to an array."""
    return Matrix(rf"\partial L / \partial {matrix.tex}", f"d{matrix.name}")


LAYERS = (
    Layer(
        "fc1",
        r"A = X W_1^\top + b_1",
        r"\frac{\partial L}{\partial W_1} = (\frac{\partial L}{\partial A})^\top X, \quad"
        r"\frac{\partial L}{\partial b_1} = \text{sum of the rows of} \;"
        r"\frac{\partial L}{\partial A}, \quad"
        r"\frac{\partial L}{\partial X} = \frac{\partial L}{\partial A} W_1",
        ((X, W1, B1, A1), tuple(map(gradient, (A1, W1, B1, X)))),
    ),
    Layer(
        "relu1",
        r"H = \max(0, A)",
        r"\frac{\partial L}{\partial A} = \frac{\partial L}{\partial H} \odot [A > 0]",
        ((A1, H1), tuple(map(gradient, (H1, A1)))),
    ),
    Layer(
        "fc2",
        r"O = H W_2^\top + b_2",
        r"\frac{\partial L}{\partial W_2} = (\frac{\partial L}{\partial O})^\top H, \quad"
        r"\frac{\partial L}{\partial b_2} = \text{sum of the rows of} \;"
        r"\frac{\partial L}{\partial O}, \quad"
        r"\frac{\partial L}{\partial H} = \frac{\partial L}{\partial O} W_2",
        ((H1, W2, B2, O), tuple(map(gradient, (O, W2, B2, H1)))),
    ),
    Layer(
        "loss",
        r"P = \softmax(O), \quad L = -\frac{1}{N} \sum_{n} \log P_{n, y_n}",
        r"\frac{\partial L}{\partial O} = \frac{1}{N} (P - Q), \quad Q \text{ one-hot}",
        ((O, P, Q), (gradient(O),)),
    ),
)


class Kept(NamedTuple):
    """What is kept of the training: params and test accuracy of both nets at each of STEPS."""

    task: Dataset
    batch: Batch  # the examples whose matrices are shown
    params: dict[str, list[Params]]
    accuracy: dict[str, list[float]]
    arrays: list[dict[str, np.ndarray]]  # of `one_step`, for the NumPy net
    loss: list[float]
    difference: list[float]  # the largest between the gradients of both nets


def interactive(seed: int) -> Interactive:
    """Train both nets; return the figure, whose caption and key come from the text file."""
    kept = trained(seed)
    return Interactive(page(kept), strip(kept), "")


def trained(seed: int) -> Kept:
    """Train both nets from the same params on the same batches; return what is kept of them."""
    import torch

    from purenets import numpy_nets, torch_nets

    data_key, init_key, batch_key = random.split(random.key(seed), 3)
    task = data.load("moons", data_key, n=POINTS)
    shape = (task.n_features, [HIDDEN], task.n_classes)
    start = torch_nets.to_numpy(torch_nets.MLP(*shape).init(init_key)[0])
    batch = tuple(part[:EXAMPLES] for part in task.train)
    params, accuracy, grads = {}, {}, {}
    for name, nets, array in (
        ("numpy", numpy_nets, np.asarray),
        ("torch", torch_nets, torch.as_tensor),
    ):
        model = nets.MLP(*shape)
        params[name], metrics = kept_params(nets, model, start, task, batch_key, array)
        both = [tuple(map(array, part)) for part in (task.test, batch)]
        accuracy[name] = [float(metrics(p, {}, both[0])["accuracy"]) for p in params[name]]
        grads[name] = [
            torch_nets.to_numpy(nets.grad_fn(model)(p, {}, both[1], None)[0]) for p in params[name]
        ]
    arrays, losses = zip(*(one_step(p, batch) for p in params["numpy"]), strict=True)
    difference = list(map(largest_difference, grads["numpy"], grads["torch"]))
    numbers = {name: list(map(torch_nets.to_numpy, kept)) for name, kept in params.items()}
    return Kept(task, batch, numbers, accuracy, list(arrays), list(losses), difference)


def kept_params(nets, model, start: Params, task: Dataset, key, array: Callable):
    """Train a net; return its params at each of STEPS, and its metrics function."""
    optimizer = optim.adam(lr=RATE)
    state = train_state(tree.map(array, start), {}, optimizer, key)
    step = make_step(nets.grad_fn(model), optimizer)
    batches = data.batches(tuple(map(array, task.train)), BATCH, key)
    found = []
    for i in range(STEPS[-1] + 1):
        if i in STEPS:
            found.append(dict(state.params))
        state, _ = step(state, batches(i))
    return found, nets.metrics_fn(model)


def one_step(params: Params, batch: Batch) -> tuple[dict[str, np.ndarray], float]:
    """Return every array of one batch, forward and backward, by name, and the loss.

    The functions of `numpy_nets.modules` are called one after the other.
    """
    from purenets.numpy_nets import modules as m

    (x, y), (w1, b1, w2, b2) = (
        batch,
        (params[f"fc{i}.{n}"] for i in (1, 2) for n in ("weight", "bias")),
    )
    a, cache1 = m.linear_forward(x, w1, b1)
    h, relu_cache = m.relu_forward(a)
    o, cache2 = m.linear_forward(h, w2, b2)
    loss, loss_cache = m.softmax_cross_entropy_forward(o, y)
    d_o = m.softmax_cross_entropy_backward(1.0, loss_cache)
    dh, dw2, db2 = m.linear_backward(d_o, cache2)
    da = m.relu_backward(dh, relu_cache)
    dx, dw1, db1 = m.linear_backward(da, cache1)
    onehot = np.eye(o.shape[1], dtype=x.dtype)[y]
    forward = {"X": x, "W1": w1, "b1": b1, "A": a, "H": h, "W2": w2, "b2": b2}
    forward |= {"O": o, "P": m.softmax_forward(o)[0], "Q": onehot}
    backward = {"dO": d_o, "dW2": dw2, "db2": db2, "dH": dh, "dA": da, "dW1": dw1, "db1": db1}
    return forward | backward | {"dX": dx}, float(loss)


def largest_difference(a: Params, b: Params) -> float:
    """Return the largest absolute difference between two dicts of arrays."""
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


# --- the page -------------------------------------------------------------------------------------


def page(kept: Kept) -> str:
    """Return the figure's HTML, which includes its style, its numbers and its script."""
    numbers = json.dumps(as_numbers(kept), separators=(",", ":")).replace("<", "\\u003c")
    script = (HERE / "one_step.js").read_text()
    fragment = (HERE / "one_step.html").read_text()
    return (
        f"<style>{(HERE / 'one_step.css').read_text()}</style>{fragment}"
        f'<script type="application/json" id="one-step-numbers">{numbers}</script>'
        f"<script>{script}</script>"
    )


def as_numbers(kept: Kept) -> dict:
    """Return all data that the script needs, rounded to four significant digits."""
    (x, y), (test_x, test_y) = kept.task.train, kept.task.test
    return {
        "steps": STEPS,
        "examples": EXAMPLES,
        "points": rounded(np.concatenate([x, test_x])),
        "classes": [*y.tolist(), *test_y.tolist()],
        "training": len(y),
        "nets": [
            {
                "title": title,
                "params": [{k: rounded(v) for k, v in p.items()} for p in kept.params[name]],
                "accuracy": rounded(np.array(kept.accuracy[name])),
            }
            for name, title in NETS.items()
        ],
        "arrays": [{k: rounded(v) for k, v in found.items()} for found in kept.arrays],
        "loss": rounded(np.array(kept.loss)),
        "difference": [f"{value:.0e}" for value in kept.difference],
        "layers": list(map(layer_for_page, LAYERS)),
    }


def layer_for_page(layer: Layer) -> dict:
    """Return a layer with its formulas as MathML."""
    shown = [
        [{"math": to_mathml(matrix.tex), "name": matrix.name} for matrix in way]
        for way in layer.shown
    ]
    both = [to_mathml(tex, display=True) for tex in (layer.forward, layer.backward)]
    return {"name": layer.name, "formulas": both, "shown": shown}


def rounded(values: np.ndarray) -> list:
    """Return an array as nested lists of numbers with four significant digits."""
    if values.ndim > 1:
        return [rounded(row) for row in values]
    return [float(f"{value:.4g}") for value in values.tolist()]


# --- the strip ------------------------------------------------------------------------------------


def strip(kept: Kept) -> Figure:
    """Draw the boundaries of both nets at the steps of STRIP, and the arrays at one of them."""
    figure, axes = plots.panels(4, len(STRIP), TEXT_WIDTH / len(STRIP), 1.45)
    for column, step in zip(axes[:2].T, STRIP, strict=True):
        for axis, name in zip(column, NETS, strict=True):
            draw_regions(axis, kept, name, STEPS.index(step))
        column[0].set_title(f"step {step}", fontsize=8)
    for axis, title in zip(axes[:2, 0], NETS.values(), strict=True):
        axis.set_ylabel(title.replace(", ", "\n"), fontsize=8)
    found = kept.arrays[STEPS.index(STRIP[MIDDLE])]
    names = (("X", "A", "H", "O", "P"), ("dX", "dA", "dH", "dO", "dW1"))
    for row, way in zip(axes[2:], names, strict=True):
        for axis, name in zip(row, way, strict=True):
            draw_array(axis, name, found[name])
    for axis, title in zip(axes[2:, 0], ("forward", "backward"), strict=True):
        axis.set_ylabel(title, fontsize=8)
    return figure


def draw_regions(axis: Axes, kept: Kept, name: str, place: int) -> None:
    """Draw the regions and the points of a net at one of STEPS."""
    from purenets.numpy_nets import MLP

    model = MLP(kept.task.n_features, [HIDDEN], kept.task.n_classes)
    params = kept.params[name][place]
    plots.boundary(axis, lambda x: model.apply(params, {}, x)[0].argmax(axis=1), kept.task)
    for points in axis.collections:
        if hasattr(points, "set_sizes"):
            points.set_sizes([3.0])
    axis.scatter(*kept.batch[0].T, s=26, facecolors="none", edgecolors="black", linewidths=0.9)
    accuracy = f"test {kept.accuracy[name][place]:.1%}"
    axis.set(xticks=[], yticks=[], xlabel=accuracy, ylabel="")
    axis.xaxis.label.set_fontsize(8)


def draw_array(axis: Axes, name: str, values: np.ndarray) -> None:
    """Draw an array as colors, blue above zero and orange below, with its name and shape."""
    largest = float(np.abs(values).max()) or 1.0
    axis.imshow(values, cmap=SIGNS, vmin=-largest, vmax=largest, aspect="equal")
    shape = " \u00d7 ".join(map(str, values.shape))
    text = f"dL/d{name[1:]}" if name.startswith("d") else name
    axis.set_title(f"{text}: {shape}\nlargest {largest:.2g}", fontsize=8)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
