"""The report as a reader sees it: in a browser, on paper, and against results/."""

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from purenets import random
from purenets.core.report.document import (
    SMALLEST,
    TEXT_WIDTH,
    Document,
    Formula,
    Interactive,
    Picture,
    Section,
    to_print,
)
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table
from purenets.core.report.tabulate import tabulate
from purenets.core.report.typst import laid_out
from scripts import (
    cifar10_cnn,
    cifar10_mlp,
    cifar10_sweep,
    cnn_sweep,
    cnn_train,
    make_report,
    palindrome_states,
    palindrome_sweep,
)
from scripts.report import (
    layer_formulas,
    one_step,
    part1,
    part3,
    part3_memory,
    settings,
    structure,
    words,
)
from tests.result_tables import RESULTS

LINE = 100  # letters of a caption on one line of a page


@pytest.fixture(scope="module")
def report() -> Document:
    return make_report.make(
        make_report.Config(pdf=False, name="Ada <Lovelace>", student_number="12345678")
    )


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> Path:
    """Return the report as a file; its figures are as in print from here on."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(report))
    return path


def every_block(document: Document) -> list:
    def inside(sections):
        for section in sections:
            yield from section.blocks
            yield from inside(section.parts)

    return [*inside(document.sections), *inside(document.appendix)]


def found(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def points(a: list[float], b: list[float]) -> str:
    """Return a paired difference in points with its standard error, by another way."""
    differences = [100 * (x - y) for x, y in zip(a, b, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_fits_and_loads_nothing(page, visit, width, scheme):
    tab = visit(page, width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    colors = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    paper, ink = ([int(n) for n in re.findall(r"\d+", color)[:3]] for color in colors)
    assert (sum(paper) < sum(ink)) == (scheme == "dark")
    # no text of a diagram is too small to read
    sizes = tab.evaluate(
        "[...document.querySelectorAll('.diagram span, .diagram b, figcaption')]"
        ".map(element => parseFloat(getComputedStyle(element).fontSize))"
    )
    assert min(sizes) >= 11


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> tuple[Path, one_step.Kept]:
    """Return a page with the interactive figure alone, and what is kept of its training."""
    kept = one_step.trained(0)
    figure = Interactive(one_step.page(kept), one_step.strip(kept), "A figure.", "step")
    path = tmp_path_factory.mktemp("moving") / "page.html"
    path.write_text(to_html(Document("t", [Section("s", [figure])])))
    return path, kept


def shown_arrays(tab) -> dict[str, list[list[float]]]:
    read = """box => [...box.querySelectorAll('tr')].map(
        row => [...row.cells].map(cell => Number(cell.textContent.replace('\\u2212', '-'))))"""
    boxes = tab.query_selector_all(".array")
    return {box.get_attribute("data-name"): box.evaluate(read) for box in boxes}


def slide(tab, place: int) -> None:
    tab.evaluate(
        "place => { const slider = document.getElementById('one-step-slider');"
        " slider.value = place; slider.dispatchEvent(new Event('input')); }",
        place,
    )


@pytest.mark.parametrize("place", [0, 8, len(one_step.STEPS) - 1])
def test_each_layer_shows_the_arrays_of_the_step(moving, visit, place):
    path, kept = moving
    tab = visit(path)
    slide(tab, place)
    assert tab.inner_text("#one-step-readout").startswith(f"step {one_step.STEPS[place]}:")
    for i, layer in enumerate(one_step.LAYERS):
        tab.click(f"#one-step-layers button:nth-child({i + 1})")
        arrays = shown_arrays(tab)
        assert list(arrays) == [matrix.name for way in layer.shown for matrix in way]
        for name, values in arrays.items():
            expected = np.atleast_2d(kept.arrays[place][name])
            assert np.shape(values) == expected.shape
            largest = np.abs(expected).max()
            np.testing.assert_allclose(values, expected, atol=0.006 * max(largest, 1e-3))


def test_the_slider_redraws_both_boundaries(moving, visit):
    path, kept = moving
    tab = visit(path)
    drawn = []
    for place in (0, len(one_step.STEPS) - 1):
        slide(tab, place)
        canvases = tab.query_selector_all(".boundaries canvas")
        drawn.append([canvas.evaluate("canvas => canvas.toDataURL()") for canvas in canvases])
        titles = tab.inner_text(".boundaries")
        for name in one_step.NETS:
            assert f"test {kept.accuracy[name][place]:.1%}" in titles
    assert len(drawn[0]) == 2
    assert all(a != b for a, b in zip(*drawn, strict=True))


def test_the_regions_are_those_of_the_network(moving, visit):
    """A pixel away from points and edges has the color of the class that the package predicts."""
    from purenets.numpy_nets import MLP

    path, kept = moving
    tab, place = visit(path), 8
    slide(tab, place)
    model = MLP(2, [one_step.HIDDEN], 2)
    points = np.concatenate([kept.task.train[0], kept.task.test[0]])
    low, high = points.min(axis=0) - 0.4, points.max(axis=0) + 0.4
    shares = random.uniform(random.key(5), (200, 2), low=0.02, high=0.98)
    where = (low + shares * (high - low)).astype(np.float32)
    logits = model.apply(kept.params["numpy"][place], {}, where)[0]
    far = np.abs(logits[:, 0] - logits[:, 1]) > 0.3
    alone = np.array([np.linalg.norm(points - at, axis=1).min() > 0.35 for at in where])
    read = """([x, y]) => { const canvas = document.querySelector('.boundaries canvas');
        return [...canvas.getContext('2d').getImageData(
            Math.floor(x * canvas.width), Math.floor((1 - y) * canvas.height), 1, 1).data]; }"""
    chosen = np.flatnonzero(far & alone)
    assert len(chosen) > 30
    for i in chosen:
        red, _, blue, _ = tab.evaluate(read, shares[i].tolist())
        assert (red > blue) == (logits[i].argmax() == 1)


def test_play_moves_on_and_stops(moving, visit):
    tab = visit(moving[0])
    slide(tab, 0)
    tab.click("#one-step-play")
    tab.wait_for_function("Number(document.getElementById('one-step-slider').value) > 0")
    assert tab.inner_text("#one-step-play") == "Stop"
    tab.click("#one-step-play")
    assert tab.inner_text("#one-step-play") == "Play"


def test_without_scripts_the_strip_is_shown(moving, visit):
    tab = visit(moving[0], java_script_enabled=False)
    assert tab.is_visible("figure.interactive img")


# --- what the figure shows ------------------------------------------------------------------------


def test_the_arrays_are_those_of_both_networks(moving):
    import torch

    from purenets import torch_nets

    _, kept = moving
    model = torch_nets.MLP(2, [one_step.HIDDEN], 2)
    x, y = map(torch.as_tensor, kept.batch)
    for place in (0, 8, len(one_step.STEPS) - 1):
        params = torch_nets.to_torch(kept.params["torch"][place])
        grads, (_, metrics) = torch_nets.grad_fn(model)(params, {}, (x, y), None)
        arrays = kept.arrays[place]
        names = {"fc1.weight": "dW1", "fc1.bias": "db1", "fc2.weight": "dW2", "fc2.bias": "db2"}
        for name, short in names.items():
            np.testing.assert_allclose(arrays[short], grads[name].numpy(), atol=1e-5)
        assert float(metrics["loss"]) == pytest.approx(kept.loss[place], abs=1e-5)
        assert kept.difference[place] < 1e-5


def test_the_figure_is_cheap(moving):
    assert len(moving[0].read_text()) < 1_000_000


# --- on paper -------------------------------------------------------------------------------------


def test_no_letter_of_a_figure_is_too_small_in_print(report):
    for block in every_block(report):
        if isinstance(block, Picture | Interactive):
            figure = to_print(block.figure)
            assert figure.get_figwidth() <= TEXT_WIDTH + 1e-6
            figure.canvas.draw()
            texts = [
                text
                for axis in figure.axes
                for text in axis.findobj(lambda a: hasattr(a, "get_fontsize"))
            ]
            sizes = [
                text.get_fontsize() for text in texts if text.get_text() and text.get_visible()
            ]
            assert min(sizes) >= SMALLEST - 0.01 >= 7, block.key


def test_captions_have_one_or_two_lines_and_no_command(report):
    for block in every_block(report):
        if not isinstance(block, str | Formula) and block.caption:
            shown = re.sub(r"[$`@]", "", block.caption)
            assert len(f"Figure 10. {shown}") <= 2 * LINE, shown
            assert "python " not in shown


@pytest.mark.slow
def test_no_page_is_half_empty(report, tmp_path):
    """The last ink of every page is in its lower half, but for the contents and the last page."""
    typst = pytest.importorskip("typst", reason="needs the extra report")
    image = pytest.importorskip("PIL.Image")
    source = laid_out(report, tmp_path)
    out = str(tmp_path / "page-{0p}.png")
    typst.compile(str(source), output=out, format="png", ppi=24, ignore_system_fonts=True)
    pages = sorted(tmp_path.glob("page-*.png"))
    assert len(pages) > 10
    for path in pages[:-1]:
        pixels = np.asarray(image.open(path).convert("L"))
        text = pixels[: int(0.91 * len(pixels))]  # without the page's number
        last = np.flatnonzero(text.min(axis=1) < 160).max()
        assert last > 0.55 * len(pixels), path.name


# --- what it says ---------------------------------------------------------------------------------


def test_the_title_page_names_the_student(report, page):
    assert list(report.byline) == ["Ada <Lovelace>", "Student number 12345678"]
    text = page.read_text()
    assert "Student number 12345678" in text
    assert "Ada &lt;Lovelace&gt;" in text


def test_every_preset_and_setting_is_explained(report):
    text = " ".join(
        " ".join(cell for row in block.rows for cell in row) if isinstance(block, Table) else block
        for section in report.appendix
        for block in every_block(Document("", [section]))
        if isinstance(block, str | Table)
    )
    names = [*cifar10_cnn.PRESETS, *cifar10_mlp.PRESETS, *cnn_train.PRESETS]
    names += [*cnn_sweep.SETTINGS, *palindrome_sweep.SETTINGS]
    names += [name for _, _, _, own in cifar10_sweep.CHANGES.values() for name in own]
    for name in names:
        assert name in text, name


def test_every_seed_of_a_training_on_cifar10_is_named(report):
    tables = {b.key: b.rows for b in every_block(report) if isinstance(b, Table)}
    rows = {row[0]: row[1:] for row in tables["seeds"]}
    assert rows["fast CNN, preset 94"] == ["100 to 104, 200 to 204", "", "10"]
    assert rows["MLP"] == ["100", "101, 102", "3"]
    runs = [*found("part1_cifar10")["rows"], *found("part2_settings")["rows"]]
    assert sum(int(row[-1]) for row in tables["seeds"][1:]) == len(runs)


def test_a_preset_is_explained_by_what_it_changes():
    table = settings.presets(cnn_train.PRESETS)
    rows = {row[0].strip("`"): dict(zip(table.rows[0], row, strict=True)) for row in table.rows[1:]}
    default, best = cnn_train.Config().to_dict(), cnn_train.PRESETS["vgg"].to_dict()
    presets = [preset.to_dict() for preset in cnn_train.PRESETS.values()]
    changed = {name for own in presets for name, value in own.items() if value != default[name]}
    assert set(rows) == changed - set(settings.PLACES)
    assert rows["label_smoothing"]["vgg"] == f"{best['label_smoothing']:g}"


def test_the_list_of_optimizers_is_shown_once(report):
    cells = [
        cell
        for block in every_block(report)
        if isinstance(block, Table)
        for row in block.rows
        for cell in row
    ]
    assert sum("rmsprop, adagrad" in cell for cell in cells) == 1
    assert "as in @mlp-presets; also filter_muon" in cells


def test_every_kind_of_layer_has_its_formulas():
    from purenets.numpy_nets import CNN

    rows = tabulate(CNN(3, 10, width=1 / 16), np.zeros((2, 3, 32, 32), np.float32))
    table = layer_formulas.formulas(rows)
    assert len({row.operation.split()[0] for row in rows}) + 1 == sum(
        row[1] == "forward" for row in table.rows[1:]
    )
    products = [row for row in rows if ", dW = " in row.backward]
    for row in (products[0], products[-1]):
        for name, product in layer_formulas.backward_products(row).items():
            first, last, result = re.findall(r"\(([^)]+)\)", product)
            assert first.split(" x ")[1] == last.split(" x ")[0], name
            assert result == f"{first.split(' x ')[0]} x {last.split(' x ')[1]}"


@pytest.mark.parametrize(
    "expected", [(3, 1, 1), (3, 2, 1), (2, 1, 0), (2, 2, 0), (3, 3, 0), (5, 1, 2), (5, 2, 2)]
)
def test_the_window_of_a_layer_is_that_of_its_arguments(expected):
    from purenets.torch_nets import layers

    size, stride, padding = expected
    options = {"stride": stride, "padding": padding}
    for layer in (layers.MaxPool(size, **options), layers.Conv(3, 4, size, **options)):
        assert structure.window(layer) == expected


def test_the_windows_of_the_tables_give_the_sizes_of_their_outputs(report):
    tables = {b.key: b.rows for b in every_block(report) if isinstance(b, Table)}
    for key, n in {"vgg-layers": 13, "best-cnn-layers": 14}.items():
        head, *rows = tables[key]
        rows = [dict(zip(head, row, strict=True)) for row in rows]
        windows = [row for row in rows if row["kernel"]]
        assert len(windows) == n
        assert {r["operation"] for r in rows if "pool" in r["layer"] or "conv" in r["layer"]} == {
            row["operation"] for row in windows if row["operation"] != "FixedConv"
        }
        for row in windows:
            kernel, stride, padding = (
                int(row[name][0]) for name in ("kernel", "stride", "padding")
            )
            before, after = (int(row[name].split(" \u00d7 ")[-1]) for name in ("input", "output"))
            assert after == (before + 2 * padding - kernel) // stride + 1


def text_of(report: Document) -> str:
    return " ".join(block for block in every_block(report) if isinstance(block, str))


def test_shuffled_pixels_are_those_of_the_results(report):
    rows = found("part1_shuffled")["rows"]
    text = text_of(report)
    for net in ("MLP", "CNN"):
        by_order = [
            [r["test_accuracy"] for r in rows if (r["net"], r["pixels"]) == (net, order)]
            for order in ("shuffled", "in order")
        ]
        assert points(*by_order) in text


def test_memorizing_and_generalizing_are_those_of_the_results(report):
    cells = found("rnn_holdout")["cells"]
    tables = {block.key: block.rows for block in every_block(report) if isinstance(block, Table)}
    for cell, row in zip(cells, tables["held-out-table"][1:], strict=True):
        means = [f"{100 * statistics.mean(cell[name]):.1f}" for name in ("train", "held_out")]
        assert [row[2].split(" ± ")[0], row[3].split(" ± ")[0]] == means
        assert row[4] == points(cell["train"], cell["held_out"])
    longest = [cell for cell in cells if cell["T"] == max(c["T"] for c in cells)]
    text = text_of(report)
    for cell in (min(longest, key=lambda c: c["halves"]), max(longest, key=lambda c: c["halves"])):
        assert points(cell["train"], cell["held_out"]) in text


@pytest.mark.parametrize(("T", "share"), [(10, "100.00%"), (12, "72.20%"), (15, "1.27%")])
def test_what_training_has_seen(report, T, share):
    tables = {block.key: block.rows for block in every_block(report) if isinstance(block, Table)}
    (row,) = (row for row in tables["accuracies"] if row[0] == str(T))
    assert row[-1] == share
    draws, halves = 10_000 * 128, 10 ** ((T + 1) // 2)
    assert part3.seen_share(T, draws) == pytest.approx(1 - (1 - 1 / halves) ** draws, rel=1e-6)


def test_gradients_and_hidden_states_are_those_of_the_results(report):
    cells = found("rnn_states")["cells"]
    longest = max((c for c in cells if c["setting"] == "default"), key=lambda cell: cell["T"])
    factors = [(g[0] / g[-1]) ** (1 / (longest["T"] - 2)) for g in longest["before"]["gradients"]]
    text = text_of(report)
    assert f"gradient by {statistics.mean(factors):.3f} ± {statistics.stdev(factors):.3f}" in text
    (latches,) = (c for c in cells if c["setting"] == "latches")
    told = [100 * values[18] for values in latches["before"]["readable"]]
    assert f"{statistics.mean(told):.1f} ± {statistics.stdev(told):.1f}% before" in text


def test_clipping_is_that_of_the_results(report):
    """The least and the most of all settings, each seed against itself, in the right direction."""
    cells = {(c["setting"], c["T"]): c["accuracy"] for c in found("rnn_settings")["cells"]}
    gains = []
    for setting in ("default", "onehot", "scalar-orthogonal", "onehot-orthogonal"):
        other = "scalar-unclipped" if setting == "default" else f"{setting}-unclipped"
        both = (cells[name, 20]["20"]["by_seed"] for name in (other, setting))
        differences = [100 * (x - y) for x, y in zip(*both, strict=True)]
        gains.append(statistics.mean(differences))
        error = statistics.stdev(differences) / len(differences) ** 0.5
        assert abs(gains[-1]) < stats.t.ppf(0.975, len(differences) - 1) * error
    text = text_of(report)
    means = f"{min(gains):.1f} to {max(gains):.1f} points"
    higher = f"Without clipping the means are {means} higher in all four settings"
    unclear = f"Without clipping the means change by {means} in the four settings"
    assert (higher if min(gains) > 0 else unclear) in text
    assert "The 95% interval of each difference (seed by seed) contains 0" in text


@pytest.mark.parametrize(
    ("unclipped", "which"),
    [
        ([0.95, 0.80, 0.78], "higher"),
        ([0.80, 0.80, 0.70], "unclear"),
        ([0.45, 0.40, 0.30], "otherwise"),
        ([0.95, 0.90, 0.80], "otherwise"),
    ],
)
def test_clipping_is_said_to_matter_where_it_does(unclipped, which):
    seeds = {"default": np.array([0.85, 0.80, 0.70]), "scalar-unclipped": np.array(unclipped)}
    found = part3_memory.of_clipping(seeds | {"onehot": seeds["default"]})
    assert found["unclipped_settings"] == "one"
    branches = ("higher", "unclear", "otherwise")
    assert [name for name in branches if found[f"unclipped_{name}"]] == [which]


def test_the_best_classifier_of_overlap_reaches_the_limit(report):
    """By many points of the set's own centers and deviation; the text compares with that."""
    from purenets.core.data.toy import CORNER_SD, CORNERS, DATASETS

    x, y = DATASETS["overlap"](200_000, None, 0)
    distances = ((x[:, None] - np.array(CORNERS)) ** 2).sum(axis=2)
    nearest = float((distances.argmin(axis=1) == y).mean())
    assert part1.overlap_limit() == pytest.approx(nearest, abs=0.004)
    assert x[y == 0].std() == pytest.approx(CORNER_SD, rel=0.02)
    text = text_of(report)
    assert f"contains the {part1.overlap_limit():.1%} that the best possible" in text
    assert "a sign of overfitting" in text
    rows = [
        r
        for r in found("part1_sets")["rows"]
        if (r["backend"], r["case"]["dataset"]) == ("numpy", "overlap")
    ]
    gap = points([r["train_accuracy"] for r in rows], [r["test_accuracy"] for r in rows])
    assert f"{gap.lstrip('+')}" in text


def test_the_gradient_of_a_network_is_a_geometric_mean():
    """A single seed with a large gradient does not stand for all."""
    cell = next(
        c for c in found("rnn_states")["cells"] if (c["setting"], c["T"]) == ("default", 20)
    )
    shares = [g[0] / g[-1] for g in cell["after"]["gradients"]]
    shown = float(palindrome_states.row(cell, "after")[3])
    assert shown == pytest.approx(statistics.geometric_mean(shares), rel=0.05)
    assert shown < statistics.mean(shares) / 100
    assert palindrome_states.geometric_mean(np.array([0.0, 1.0])) == 0


def test_perfect_seeds_are_counted_at_the_last_step(report):
    cells = found("rnn_lengths")["cells"]
    at_the_end = {c["T"]: c["accuracy"][str(c["T"])]["by_seed"].count(1.0) for c in cells}
    told = part3.perfect_at_the_end(cells)
    assert told.startswith("ten at T = 6 and 10, nine at T = 5")
    for group in told.split(", "):
        word, lengths = group.split(" at T = ")
        for T in lengths.split(" and "):
            assert words.in_words(at_the_end[int(T)]) == word
    assert told in text_of(report)
    rows = {block.key: block.rows for block in every_block(report) if isinstance(block, Table)}
    for row in rows["accuracies"][1:]:
        values = next(c for c in cells if str(c["T"]) == row[0])["accuracy"][row[0]]["by_seed"]
        assert int(row[5]) == sum(value > 0.99 for value in values)


def test_formulas_are_those_of_layers_without_bias_and_scale(report):
    """The fast CNN's convolutions have no bias, its BatchNorm no scale, its targets are soft."""
    rows = {block.key: block.rows for block in every_block(report) if isinstance(block, Table)}
    fast, passes = {}, ""
    for layer, _, formula, dimensions in rows["best-cnn-formulas"][1:]:
        passes = layer or passes
        fast.setdefault(passes, []).append((formula, dimensions))
    assert fast["first"][-1][1] == "(24)"
    assert all("db" not in formula for formula, _ in [*fast["group1.conv1"], *fast["fc"]])
    assert all("+ b" not in formula for formula, _ in [*fast["group1.conv1"], *fast["fc"]])
    assert all("gamma" not in formula for formula, _ in fast["group1.norm1"])
    assert "Q" in fast["loss"][0][0]
    vgg = {row[2]: row[3] for row in rows["vgg-formulas"][1:7]}
    assert any("db" in formula and shape == "(64)" for formula, shape in vgg.items())
    assert any("32 \u00d7 3 \u00d7 32 \u00d7 32" in s for f, s in vgg.items() if "dX" in f)
    assert "fc2" in {row[0] for row in rows["mlp-formulas"]}


def test_of_one_seed_nothing_is_concluded(report):
    """A claim about two settings has its standard error; a row of one seed is only listed."""
    from scripts.report import part2

    row = found("part2_settings")["rows"][0]
    one = {"adam 1e-3": [row], "best": [row]}
    assert part2.of_gain(one) == {"gain": None}
    assert set(part2.of_ladder(one).values()) == {None}
    several = part2.of_optimizers({"adam 1e-3": [row], "adam 1e-4": [row]})
    assert several["chosen"] is None
    assert several["optimizers_lines"] == "one seed each"
    both = {name: [row, row] for name in ("adam 1e-3", "adam 1e-4")}
    assert part2.of_optimizers(both)["optimizers_lines"] == "mean of the seeds, and their range"


def test_more_rows_are_compared():
    from scripts.report import part2

    rows = found("part2_settings")["rows"]
    better = [
        {**row, "test": {**row["test"], "accuracy": row["test"]["accuracy"] + 0.1}}
        for row in rows[:3]
    ]
    by_setting = {"adam 1e-3": rows[:3], "40 epochs plain": better, "best": better}
    gain = part2.of_gain(by_setting)
    assert gain["gain"].startswith("+10.00 ± ") and gain["gain_n"] == "3 and 3"
    table = part2.of_ladder(by_setting)["ladder"]
    assert [row[0] for row in table.rows[1:]] == list(by_setting)
    error = 100 * (statistics.variance(row["test"]["accuracy"] for row in better) * 2 / 3) ** 0.5
    assert [row[4] for row in table.rows[1:]] == [
        "",
        f"+10.00 ± {error:.2f}",
        f"+0.00 ± {error:.2f}",
    ]


def test_precision_is_compared_and_is_no_optimizer():
    from scripts.report import part2

    row = found("part2_settings")["rows"][0]
    assert part2.of_precision({"adam 1e-3": [row, row]})["precision"] is None
    in_float32 = {**row, "test": {**row["test"], "accuracy": row["test"]["accuracy"] - 0.02}}
    both = {"adam 1e-3": [row, row], "adam 1e-3 in float32": [in_float32, in_float32]}
    assert part2.of_precision(both)["precision"] == "+2.00 ± 0.00"
    assert part2.of_optimizers(both)["optimizers"] is None
