"""The report: structure, training and analysis of every network, as one HTML page and as a PDF.

    python scripts/make_report.py --out runs/report        # or: make report

Its numbers are read from results/, each with the command that wrote it. Where a file is missing there, the part is
trained in small here and now, and the text says so. Only the decision boundaries are always drawn from a run
of this command.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

import numpy as np

from purenets.core.report import plots
from purenets.core.report.diagrams import network
from purenets.core.report.document import Document, Picture, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table
from purenets.core.report.tabulate import as_table, tabulate
from purenets.core.report.typst import write_pdf
from purenets.core.runs.command import command
from purenets.core.runs.files import folder_at, write_atomically
from purenets.core.runs.options import Options, not_negative, option
from scripts import cnn_sweep, compare_mlps, run_quick
from scripts.figures import cifar10 as cifar10_figures
from scripts.figures import cnn as cnn_figures
from scripts.figures import rnn as rnn_figures
from scripts.report import cifar10 as report_cifar10
from scripts.shared.mlp import CURVES, MLPConfig
from scripts.shared.sweeps import grouped, spread

ROOT = Path(__file__).parents[1]
MIRROR = "CIFAR-10 (JPEG q75 mirror)"
REFERENCES = [
    "D. E. Rumelhart, G. E. Hinton, R. J. Williams. Learning representations by back-propagating errors. "
    "Nature, 1986.",
    "K. Simonyan, A. Zisserman. Very deep convolutional networks for large-scale image recognition. ICLR, 2015.",
    "S. Ioffe, C. Szegedy. Batch normalization. ICML, 2015.",
    "D. P. Kingma, J. Ba. Adam: a method for stochastic optimization. ICLR, 2015.",
    "T. Tieleman, G. Hinton. Lecture 6.5, RMSProp. Coursera, 2012.",
    "L. N. Smith, N. Topin. Super-convergence. arXiv:1708.07120, 2018.",
    "T. DeVries, G. W. Taylor. Improved regularization of convolutional neural networks with cutout. "
    "arXiv:1708.04552, 2017.",
    "Y. Bengio, P. Simard, P. Frasconi. Learning long-term dependencies with gradient descent is difficult. IEEE "
    "Transactions on Neural Networks, 1994.",
    "Q. V. Le, N. Jaitly, G. E. Hinton. A simple way to initialize recurrent networks of rectified linear units. "
    "arXiv:1504.00941, 2015.",
    "G. Bachmann, S. Anagnostidis, T. Hofmann. Scaling MLPs: a tale of inductive bias. NeurIPS, 2023.",
    "K. Jordan et al. Muon: an optimizer for hidden layers in neural networks. 2024.",
    "K. Jordan. 94% on CIFAR-10 in 3.29 seconds on a single GPU. arXiv:2404.00498, 2024.",
]


@dataclass(frozen=True)
class Config(Options):
    """Write the report as HTML and PDF."""

    out: str = option("runs/report", "folder for report.html and report.pdf")
    results: str = option(str(ROOT / "results"), "folder with what the experiments found")
    seed: int = option(0, "of what is trained here", not_negative)
    pdf: bool = option(True, "write report.pdf too (needs the package typst)")


def main(config: Config) -> Document:
    """Write the report; returns it."""
    folder = folder_at(config.out)
    document = make(config)
    write_atomically(folder / "report.html", to_html(document).encode())
    print(f"{folder / 'report.html'}")
    if config.pdf:
        write_pdf(document, folder / "report.pdf")
        print(f"{folder / 'report.pdf'}")
    return document


def make(config: Config) -> Document:
    """The report as a document."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(Path(config.results).glob("*.json"))}
    sections = [part(config, found) for part in PARTS]
    abstract = [
        "Networks written as pure functions over plain dicts of parameters: a multi-layer perceptron, in NumPy "
        "with "
        "its backward pass by hand and in PyTorch; two nets that take CIFAR-10 as high as they can, without and "
        "with "
        "convolutions; the reduced VGG; and a vanilla RNN. "
        "For each: its structure with parameters, inputs and outputs; how it is trained, with the dimensions "
        "of all "
        "matrices forward and backward; and what came out.",
        *headlines(found),
    ]
    return Document("Deep Learning, Assignment 2", sections, abstract, REFERENCES, contents=True)


def headlines(found: dict) -> list[str]:
    """One sentence for each part whose results are there."""
    lines = []
    if "part1_sets" in found:
        rows = {
            r["backend"]: r
            for r in compare_mlps.summary(found["part1_sets"]["rows"])
            if r["dataset"] == "moons"
        }
        texts = (f"{100 * rows[w]['test_accuracy']:.2f}%" for w in ("numpy", "torch"))
        lines.append("On moons both perceptrons reach {} and {} test accuracy.".format(*texts))
    if "part1_cifar10" in found:
        for kind, what in (("mlp", "without convolutions"), ("cnn", "with convolutions")):
            by_setting = grouped(
                [r for r in found["part1_cifar10"]["rows"] if r["setting"].split()[0] == kind]
            )
            if not by_setting:
                continue
            rows = by_setting[report_cifar10.headline(by_setting)]
            accuracy = spread([cifar10_figures.final(row) for row in rows])
            minutes = np.mean([row["training_seconds"] for row in rows]) / 60
            lines.append(
                f"On {MIRROR} a net {what} reaches {accuracy}% in {minutes:.0f} minutes (n = {len(rows)})."
            )
    if "part2_settings" in found:
        rows = grouped(found["part2_settings"]["rows"])
        for name, what in (("adam 1e-3", "in the assignment's setting"), ("best", "with all that was tried")):
            if name in rows:
                accuracy = spread([row["test"]["accuracy"] for row in rows[name]])
                lines.append(
                    f"The reduced VGG reaches {accuracy}% on {MIRROR} {what} (n = {len(rows[name])})."
                )
    if "rnn_lengths" in found:
        cells = found["rnn_lengths"]["cells"]
        perfect = [c["T"] for c in cells if rnn_figures.at_own_length(c).min() == 1]
        lines.append(
            f"The RNN tells the last digit of every palindrome up to T = {max(perfect)} with all seeds, "
            f"and loses it beyond."
        )
    return [" ".join(lines)] if lines else []


def source(found: dict) -> str:
    """Where a result comes from, for a caption."""
    return f"`{short(found['command'])}`, n = {found['n']}, {found['machine']}."


def short(command: str) -> str:
    """A command without the flags that only name files."""
    words = command.split()
    kept = [w for i, w in enumerate(words) if w not in FILES and (i == 0 or words[i - 1] not in FILES)]
    return " ".join(kept)


FILES = ("--out", "--results")


def of_network(title: str, structure: list, training: list, analysis: list) -> Section:
    """The three required parts of the report, of one network."""
    parts = {"Structure": structure, "Training and dimensions": training, "Analysis": analysis}
    return Section(title, parts=[Section(*part) for part in parts.items()])


# --- Part I -----------------------------------------------------------------------------------------------


def part1(config: Config, found: dict) -> Section:
    from purenets.numpy_nets import MLP

    rows = tabulate(MLP(2, [20], 2), np.zeros((32, 2), np.float32))
    structure = [
        "Two inputs, 20 hidden units with ReLU, two classes: 102 parameters. The network exists twice. "
        "`numpy_nets/mlp_numpy.py` has every layer's backward pass written out; `torch_nets/pytorch_mlp.py` is "
        "the same "
        "function of the same dict of parameters, differentiated by `torch.func`. @mlp-layers has both, since "
        "they are "
        "the same.",
        Table(as_table(rows), "The MLP layer by layer, for a batch of 32.", "mlp-layers"),
    ]
    training = [
        "A batch of rows x goes forward through y = x W^T + b, ReLU, and again y = x W^T + b; softmax and "
        "cross-entropy give the "
        "loss. Backward, the gradient of the logits is (p - onehot) / batch, and each linear layer hands on dx "
        "= dy W and "
        "adds up dW = dy^T x and db = the sum of dy's rows: where the forward product sums over the inputs, the "
        "products of the backward pass sum over the outputs and over the batch. @mlp-dimensions has every "
        "shape. Stochastic "
        "gradient descent with batches of 32 and rate 0.01 moves the parameters; the data are split 80 to 20 "
        "and standardized "
        "by the training part.",
        Picture(
            network(rows, "MLP 2-20-2, batch of 32"),
            "What goes forward (blue) and comes back (orange) between the layers of the MLP.",
            "mlp-dimensions",
        ),
    ]
    return of_network("Part I: an MLP in NumPy and in PyTorch", structure, training, analysis1(config, found))


def analysis1(config: Config, found: dict) -> list:
    pairs = {}
    for name in ("moons", "circles", "blobs"):
        case = MLPConfig(dataset=name, max_steps=100, eval_freq=2, optimizer="adam", seed=config.seed)
        pairs[name] = compare_mlps.train_both(case)
    boundaries = Picture(
        compare_mlps.boundaries(pairs),
        "Decision boundaries of both networks after 100 epochs of Adam, from the same parameters over the same "
        "batches; trained "
        f"by this command, seed {config.seed}. Class by color and shape; train filled, test hollow.",
        "boundaries",
    )
    if "part1_sets" not in found:
        return [SMALL, *small(config, run_quick.part1), boundaries]
    sets = found["part1_sets"]
    rows = compare_mlps.summary(sets["rows"])
    by_set = {
        name: [row for row in rows if row["dataset"] == name]
        for name in dict.fromkeys(r["dataset"] for r in rows)
    }
    gaps = {name: abs(a["test_accuracy"] - b["test_accuracy"]) for name, (a, b) in by_set.items()}
    hardest = min(rows, key=lambda row: row["test_accuracy"])
    first = {
        row["backend"]: row
        for row in sets["rows"]
        if row["case"]["dataset"] == "circles" and row.get("history")
    }
    curves = {compare_mlps.BACKENDS[backend]: row["history"] for backend, row in first.items()}
    blocks = [
        f"@sets has both networks on {len(by_set)} sets, with identical parameters at the start, batches and "
        "optimizer. The largest "
        f"difference between their mean test accuracies is {100 * max(gaps.values()):.2f} points: the same "
        "network, so the same "
        "result, up to the rounding of float32, which the last column shows in the parameters themselves. "
        f"Lowest is {hardest['dataset']} ({100 * hardest['test_accuracy']:.1f}%): its classes overlap, and no "
        "boundary can part them.",
        Table(
            cells_of(compare_mlps.markdown(sets["rows"])),
            f"Accuracy of both networks. {source(sets)}",
            "sets",
        ),
        boundaries,
        "In @boundaries the regions of both networks are the same to the eye. Twenty ReLU units draw a "
        "boundary of straight pieces, one for "
        "each unit that switches there.",
    ]
    if curves:
        blocks += [
            "@curves shows one of them on the way: the loss falls fast at first and slowly later, and that of "
            "the test "
            "set stays above that of the training set, which the network has seen.",
            Picture(
                plots.curves(curves, CURVES, "circles, first seed"),
                f"Loss and accuracy on train and test; both networks lie on each other. {source(sets)}",
                "curves",
            ),
        ]
    for name, what in (
        (
            "part1_strategies",
            "Full-batch, mini-batch and single-example descent for the same number of epochs: the more steps, "
            "the further.",
        ),
        (
            "part1_noise",
            "Moons with growing noise, by SGD and by Adam: where the moons overlap, accuracy on both parts "
            "falls together.",
        ),
    ):
        if name in found:
            table = cells_of(compare_mlps.markdown(found[name]["rows"]))
            blocks.append(Table(table, f"{what} {source(found[name])}"))
    return blocks


def best_mlp(config: Config, found: dict) -> Section:
    return of_best(
        "Part I: CIFAR-10 without convolutions", "mlp", report_cifar10.mlp_structure(), config, found
    )


def best_cnn(config: Config, found: dict) -> Section:
    return of_best(
        "Part I: CIFAR-10 as high as it goes", "cnn", report_cifar10.cnn_structure(), config, found
    )


def of_best(title: str, kind: str, parts: tuple[list, list], config: Config, found: dict) -> Section:
    rows = found.get("part1_cifar10", {}).get("rows", [])
    there = any(row["setting"].split()[0] == kind for row in rows)
    quick = {"mlp": run_quick.part1_mlp, "cnn": run_quick.part1_cnn}[kind]
    analysis = report_cifar10.analysis(found, kind, MIRROR) if there else [SMALL, *small(config, quick)]
    return of_network(title, *parts, analysis)


# --- Part II ----------------------------------------------------------------------------------------------


def part2(config: Config, found: dict) -> Section:
    import torch

    from purenets.torch_nets import CNN

    rows = tabulate(CNN(3, 10), torch.zeros(32, 3, 32, 32))
    parameters = f"{sum(row.params for row in rows):,}"
    structure = [
        "Eight convolutions of 3 x 3 with BatchNorm [3] and ReLU, five maximum pools and one linear layer: "
        f"{parameters} "
        "parameters (@vgg-layers), a reduced VGG [2]. The image shrinks from 32 x 32 to 1 x 1 while the "
        "channels grow from 3 to 512. A pool stands "
        "before the ReLU that belongs in front of it: the maximum of what a ReLU leaves is what the ReLU "
        "leaves of the "
        "maximum, in value and in gradient.",
        Table(as_table(rows), "The reduced VGG layer by layer, for a batch of 32.", "vgg-layers"),
    ]
    training = [
        "A convolution is a matrix product of patches: each of the N = batch x height x width output pixels is "
        "a row of 9 C numbers, its "
        "neighborhood in C channels, times the weights as a (9 C, out) matrix. @vgg-dimensions has these "
        "products forward and "
        "backward. A pool hands each gradient to the pixel that won its window; BatchNorm takes from it what a "
        "shift or a "
        "scaling of its input would do. The setting of the assignment: Adam [4] with its default rate 0.001, "
        "PyTorch's default "
        "initialization, batches of 32, 5,000 steps, a tenth of the training images held out for validation.",
        Picture(
            network(rows, "Reduced VGG, batch of 32"),
            "What goes forward (blue) and comes back (orange) between the layers of the reduced VGG.",
            "vgg-dimensions",
        ),
    ]
    analysis = (
        analysis2(found["part2_settings"])
        if "part2_settings" in found
        else [SMALL, *small(config, run_quick.part2)]
    )
    return of_network("Part II: the reduced VGG on CIFAR-10", structure, training, analysis)


def analysis2(found: dict) -> list:
    by_setting = grouped(found["rows"])
    adam, best = by_setting.get("adam 1e-3", []), by_setting.get("best", [])
    compared = [row for name, rows in by_setting.items() for row in rows if name != "best"]
    mean = {name: np.mean([row["test"]["accuracy"] for row in rows]) for name, rows in by_setting.items()}
    about = f"{MIRROR}; `python scripts/cnn_sweep.py`, {found['machine']}."
    blocks = [
        f"All images are {MIRROR}: the 60,000 images compressed once more, which costs accuracy against the "
        "exact pixels. The test images are "
        "looked at once, at the end of each run. @settings has all settings.",
        Table(
            cells_of(cnn_sweep.markdown(found["rows"])),
            f"Accuracy in percent, mean and deviation over n seeds. {about}",
            "settings",
        ),
    ]
    if adam:
        last = [row["history"][-1] for row in adam]
        gap = 100 * np.mean([row["accuracy"] - row["valid_accuracy"] for row in last])
        blocks += [
            Picture(
                cnn_figures.parts_curves(adam, "Adam 1e-3"),
                "Loss and accuracy of the assignment's setting on train, validation and, at the end, test; "
                f"thin lines are seeds. {about}",
                "adam",
            ),
            f"In @adam training accuracy ends {gap:.1f} points above validation: after 3.6 passes the network "
            "already knows what it has seen better "
            "than what it has not. Validation swings between evaluations, since a constant rate keeps the "
            "parameters moving.",
        ]
    if len(by_setting) > 2:
        order = sorted((name for name in mean if name != "best"), key=mean.get, reverse=True)
        blocks += [
            Picture(
                cnn_figures.settings_curves(compared, "Validation"),
                f"Optimizers and rates, everything else the same: mean of the seeds and their range. {about}",
                "optimizers",
            ),
            f"@optimizers compares: test accuracy is highest with {order[0]} ({mean[order[0]]:.1%}) and lowest "
            f"with {order[-1]} "
            f"({mean[order[-1]]:.1%}). In so few passes what counts is how fast a setting learns.",
        ]
    if best:
        gain = 100 * (mean["best"] - mean["adam 1e-3"]) if adam else 0
        minutes = (best[0]["training_seconds"] or 0) / 60
        blocks += [
            Picture(
                cnn_figures.parts_curves(best, "The best setting"),
                "SGD with Nesterov's momentum, one cycle of the rate [6], weight decay, label smoothing, and "
                "flips, crops and cutout [7]: loss and "
                f"accuracy. {minutes:.0f} minutes. {about}",
                "best",
            ),
            f"The same architecture gains {gain:.1f} points by its training alone (@best). No image is seen "
            "twice the same way, so training accuracy "
            "stays near validation accuracy until the rate falls; most of the last points come when it does.",
            Picture(
                cnn_figures.per_class(best, "Test accuracy of each class, the best setting"),
                f"Bars are means over the seeds, dots are seeds. {about}",
                "classes",
            ),
            *mistakes_between(best[0]),
        ]
    return blocks


def mistakes_between(row: dict) -> list:
    """The confusion matrix of a run, and which pairs of classes it is about."""
    counts, names = np.array(row["test"]["confusion"]), row["test"]["classes"]
    figure, axes = plots.panels(1, 1, 6.2, 5.4)
    plots.confusion(axes[0, 0], counts, names, "")
    both = counts + counts.T
    pairs = sorted(
        ((int(both[i, j]), names[i], names[j]) for i in range(len(names)) for j in range(i)), reverse=True
    )
    wrong = int(counts.sum() - np.trace(counts))
    return [
        Picture(
            figure,
            f"Confusion matrix of the best setting, seed {row['seed']}: rows are the true classes.",
            "confusion",
        ),
        f"Of {wrong:,} mistakes in @confusion {pairs[0][0]} are between {pairs[0][1]} and {pairs[0][2]} and "
        f"{pairs[1][0]} between "
        f"{pairs[1][1]} and {pairs[1][2]}; @classes shows the same by "
        "class.",
    ]


# --- Part III ---------------------------------------------------------------------------------------------


def part3(config: Config, found: dict) -> Section:
    import torch

    from purenets import random
    from purenets.torch_nets import VanillaRNN

    model = VanillaRNN(4, 1, 128, 10)
    params, _ = model.init(random.key(0))
    rows = [["parameter", "shape", "elements", "used in"]]
    uses = {
        "W_hx": "(1), every step",
        "W_hh": "(1), every step",
        "b_h": "(1), every step",
        "W_ph": "(2), last step",
        "b_o": "(2), last step",
    }
    rows += [
        [name, " x ".join(map(str, p.shape)), f"{p.numel():,}", uses[name]] for name, p in params.items()
    ]
    rows.append(["total", "", f"{sum(p.numel() for p in params.values()):,}", ""])
    structure = [
        "h(t) = tanh(W_hx x(t) + W_hh h(t-1) + b_h) (1), o = W_ph h + b_o (2), softmax (3), and the "
        "cross-entropy of the last step only (4). "
        "T is the length of the palindrome: the network reads its first T - 1 digits, one a step, from h(0) = "
        "0, and tells the last. No module "
        "of PyTorch's recurrent ones is used; a `for` loop steps through time. @rnn-layers has the parameters.",
        Table(rows, "The parameters of the RNN with 128 units and digits as numbers.", "rnn-layers"),
        Table(
            as_table(tabulate(model, torch.zeros(128, 4, 1))),
            "Its matrix products, for a batch of 128 palindromes of length 5.",
        ),
    ]
    training = [
        "Backward, the gradient enters at the last step and goes back through time: da(t) = dh(t) (1 - "
        "h(t)^2), dh(t-1) = da(t) W_hh. The matrices "
        "are used at every step, so their gradients are sums over time (@rnn-dimensions). RMSProp [5] with "
        "rate 0.001, batches of 128 fresh "
        "palindromes, gradients clipped at a norm of 10, 10,000 steps. Palindromes for evaluation come from "
        "another key, and are all of "
        "that length where these can be listed.",
        Picture(
            rnn_figures.unrolled(128, 1, 128, 10, 4),
            "The RNN through time, for T = 5 and a batch of 128.",
            "rnn-dimensions",
        ),
    ]
    analysis = analysis3(found) if "rnn_lengths" in found else [SMALL, *small(config, run_quick.part3)]
    return of_network("Part III: a vanilla RNN on palindromes", structure, training, analysis)


def analysis3(found: dict) -> list:
    lengths = found["rnn_lengths"]
    cells = lengths["cells"]
    perfect = [c["T"] for c in cells if rnn_figures.at_own_length(c).min() == 1]
    rows = [["T", "mean accuracy", "deviation", "worst seed", "best seed", "n"]]
    for cell in cells:
        values = rnn_figures.at_own_length(cell)
        rows.append(
            [
                str(cell["T"]),
                *(f"{v:.1%}" for v in (values.mean(), values.std(ddof=1), values.min(), values.max())),
                str(len(values)),
            ]
        )
    blocks = [
        f"With the default parameters all {lengths['n']} seeds are perfect up to T = {max(perfect)}, T = 5 "
        "among them (@lengths, @accuracies). Beyond, seeds "
        "differ widely: some still learn, others stay at chance, so that a mean alone describes no network.",
        Picture(
            rnn_figures.accuracy_over_length(cells),
            f"Accuracy over the length of the palindrome. {source(lengths)}",
            "lengths",
        ),
        Table(rows, f"Accuracy over T, trained and evaluated at T. {source(lengths)}", "accuracies"),
        "The network must carry the first digit over T - 2 steps. Its gradient is multiplied by W_hh^T and by "
        "1 - h^2 at every step, and shrinks or "
        "grows with the number of steps [8]; when it is gone, nothing tells the first weights what to keep.",
    ]
    if "rnn_settings" in found:
        settings = found["rnn_settings"]
        blocks += [
            Picture(
                rnn_figures.heatmap(settings["cells"]),
                f"Which ingredient does what: mean and deviation. {source(settings)}",
                "ingredients",
            ),
            "@ingredients: at T = 10 every network that trains its recurrence succeeds. At T = 20 an "
            "orthogonal W_hh, which passes gradients on "
            "undiminished at first, or one-hot digits lift accuracy far; clipping matters little.",
        ]
    if "rnn_memory_why" in found:
        why = found["rnn_memory_why"]
        blocks += [
            Picture(
                rnn_figures.memory(why["cells"]),
                f"Trained at T = 20 only, read at other lengths. {source(why)}",
                "memory",
            ),
            "What lifts it furthest is where training begins (@memory): with one-hot digits and W_hh = 2 I (an "
            "identity as in [9], doubled) each unit is a latch, which the "
            "first digit sets and the later ones cannot turn. Such a network reads palindromes many times as "
            "long as those that it was trained on.",
        ]
    return blocks


# --- shared -----------------------------------------------------------------------------------------------

SMALL = (
    "*The experiment's file is not in results/, so this part was trained in small for this report; its numbers "
    "are no result of "
    "the assignment.*"
)


def small(config: Config, part: Callable[[run_quick.Config], Section]) -> Sequence:
    """A quick run in place of a missing result."""
    folder_at(config.out)
    return part(run_quick.Config(out=config.out, seed=config.seed)).blocks


def cells_of(markdown: str) -> list[list[str]]:
    """The rows of a Markdown table."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


PARTS = [part1, best_mlp, best_cnn, part2, part3]

if __name__ == "__main__":
    command(Config, main)
