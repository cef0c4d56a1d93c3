"""Pages of docs: their code runs from top to bottom, a table is what it prints, links lead on."""

import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch

from purenets import optim, schedules, tree

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {"several_processes"}  # test_several_processes_docs.py: two processes, a folder
ALL = sorted(DOCS.rglob("*.md"))
PAGES = [page for page in ALL if "```python\n" in page.read_text() and page.stem not in ELSEWHERE]
HOW_TO = {"own_data", "own_layer", "own_optimizer", "resume", "from_jax", "from_module"}


def code_of(page: Path) -> str:
    """Return the Python code of a page, from top to bottom."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


def run(code: str) -> str:
    """Return what the code prints, with warnings as errors."""
    warn = (
        "-W",
        "error",
        "-W",
        "ignore::FutureWarning",
        "-W",
        "ignore::DeprecationWarning",
    )  # torch has its own
    command = [sys.executable, *warn, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_runs_and_what_it_prints_is_on_the_page(page):
    tables = re.split(r"\n(?=\| layer )", run(code_of(page)))  # one after the other
    assert all(table.strip() in page.read_text() for table in tables)


def test_own_transforms_of_the_page_serve_arrays_and_tensors():
    """The same updates, from the very text of the page; twice, so that the count counts."""
    blocks = re.findall(
        r"```python\n(.*?)```", (DOCS / "how_to/own_optimizer.md").read_text(), re.S
    )
    names: dict = {"optim": optim}
    for block in blocks:
        if "def scale_by_" in block:
            exec(re.split(r"\n\n\n(?=\w+.* = )", block)[0], names)
    params = {"w": np.array([[1.0, -2.0], [3.0, 0.5]]), "b": np.array([-4.0])}
    found = []
    for convert in (np.array, torch.tensor):
        optimizer = optim.chain(names["scale_by_sign"](), names["scale_by_mean"]())
        leaves = {name: convert(leaf) for name, leaf in params.items()}
        state = optimizer.init(leaves)
        for sign in (1, -2):
            grads = {name: sign * leaf for name, leaf in leaves.items()}
            updates, state = optimizer.update(grads, state, leaves)
        found.append({name: np.asarray(leaf) for name, leaf in updates.items()})
        assert int(state["1"]["count"]) == 2
    for name, first in found[0].items():
        np.testing.assert_allclose(first, found[1][name], rtol=1e-12)
        assert abs(first).min() > 0.1


def test_the_script_with_an_own_optimizer_runs_on_the_command_line(tmp_path):
    (code,) = re.findall(
        r"```\n(# my_train.py\n.*?)```", (DOCS / "how_to/own_optimizer.md").read_text(), re.S
    )
    path = tmp_path / "my_train.py"
    path.write_text(code)
    flags = ["--optimizer", "my_lion", "--dataset", "iris", "--max_steps", "2"]
    done = subprocess.run(
        [sys.executable, path, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 steps" in done.stdout


def test_the_toolbox_prints_its_table_and_no_page_is_left_out():
    assert {"toolbox", "meta_learning", *HOW_TO} <= {page.stem for page in PAGES}
    assert "print(" in code_of(DOCS / "toolbox.md")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert "://" in link or target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def numbers_of_optax() -> list[tuple[str, str, str, str]]:
    """Return (function, argument, here, in optax) of the table "Same name, different default"."""
    text = (DOCS / "how_to" / "from_jax.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)`: `(\w+)`.*? \| ([\d.e-]+) \| ([\d.e-]+) \|$", text, re.MULTILINE
    )
    assert len(rows) >= 6
    return rows


@pytest.mark.parametrize(("name", "argument", "here", "there"), numbers_of_optax())
def test_the_numbers_beside_those_of_optax_are_the_defaults(name, argument, here, there):
    default = signature(getattr(optim, name)).parameters[argument].default
    assert str(default) == here
    assert float(here) != float(there)


def test_the_numbers_of_optax_are_those_of_optax():
    optax = pytest.importorskip("optax")
    for name, argument, _, there in numbers_of_optax():
        make = getattr(optax, name, None) or getattr(optax.contrib, name)
        argument = {"alpha": "decay"}.get(argument, argument)
        assert float(signature(make).parameters[argument].default) == float(there)


W = np.array([[1, -2, 0.5], [0.3, 4, -1]], np.float32)
GRADS = [[[0.1, -0.2, 0.3], [1, 2, -3]], [[-0.1, 0.4, 0.1], [0.5, -2, 1]]]
GRADS += [[[0.2, 0.2, -0.3], [0.1, 1, 1]]]
PROBES = {  # by the first name of a row: the optimizer here, and what makes that of optax
    "adam": (optim.adam(0.1, amsgrad=True), lambda optax: optax.amsgrad(0.1)),
    "nadam": (optim.nadam(0.1), lambda optax: optax.nadam(0.1)),
    "adafactor": (optim.adafactor(0.1), lambda optax: optax.adafactor(0.1)),
    "adan": (optim.adan(0.1), lambda optax: optax.adan(0.1)),
    "rprop": (optim.rprop(0.1), lambda optax: optax.rprop(0.1)),
    "adaptive_grad_clip": (
        optim.chain(optim.adaptive_grad_clip(0.01), optim.sgd(0.1)),
        lambda optax: optax.chain(optax.adaptive_grad_clip(0.01), optax.sgd(0.1)),
    ),
}


def third_update(optimizer, w, update_params) -> str:
    params, state = {"w": w}, optimizer.init({"w": w})
    for grad in GRADS:
        grads = {"w": np.array(grad, np.float32)}
        updates, state = optimizer.update(grads, state, params)
        params = update_params(params, updates)
    return f"{float(updates['w'][1, 2]) + 0.0:.5f}"


def third_updates() -> list[tuple[str, str, str]]:
    """Return (function, here, in optax) of the table of third updates."""
    text = (DOCS / "how_to" / "from_jax.md").read_text()
    number = r"(-?\d\.\d{5})"
    rows = re.findall(rf"^\| `(\w+)\(.* \| {number} \| {number} \|", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(PROBES)
    return rows


@pytest.mark.parametrize(("name", "here", "there"), third_updates())
def test_the_third_updates_are_those_of_the_table(name, here, there):
    assert third_update(PROBES[name][0], W, optim.apply_updates) == here
    assert abs(float(here) - float(there)) > 1e-3


def test_the_third_updates_of_optax_are_those_of_the_table():
    optax = pytest.importorskip("optax")
    for name, _, there in third_updates():
        assert third_update(PROBES[name][1](optax), W, optax.apply_updates) == there
    one_cycle = optax.cosine_onecycle_schedule(100, 1.0)
    assert f"{float(one_cycle(10)):.3f}" == "0.280"
    assert one_cycle(100) < one_cycle(99)


def test_one_cycle_has_the_value_that_the_page_names():
    one_cycle = schedules.one_cycle(1.0, 100)
    assert f"{one_cycle(10):.3f}" == "0.295"
    assert one_cycle(98) > one_cycle(99) == one_cycle(100)


def test_the_average_of_the_params_without_the_first_is_what_the_page_says():
    d, optimizer, first = 0.9, optim.chain(optim.sgd(1.0), optim.ema(0.9)), {"w": np.ones(2)}
    params, state, seen = first, optimizer.init(first), []
    for t in range(1, 6):
        updates, state = optimizer.update({"w": np.array([t, -2.0 * t])}, state, params)
        params = optim.apply_updates(params, updates)
        seen.append(params["w"])
        ema = optim.get_state(state, "ema")
        found = tree.map(lambda e, p, t=t: (e - d**t * p) / (1 - d**t), ema, first)
        weights = d ** np.arange(t)[::-1]
        np.testing.assert_allclose(found["w"], np.average(seen, axis=0, weights=weights))


def test_a_warm_up_and_its_cosine_end_where_those_of_optax_do():
    schedule = schedules.warmup(schedules.cosine(1e-2, 300 - 30), 30)
    assert [schedule(count) for count in (0, 30, 300)] == [0.0, 1e-2, 0.0]
