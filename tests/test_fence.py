"""Private names of torch stay in torch_nets/fast, and nothing but speed depends on that folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("purenets", "core", "numpy_nets", "torch_nets", "scripts", "benchmarks", "notebooks")
PRIVATE = re.compile(
    r"\btorch\._[a-zA-Z]|_functorch|_inductor|_dynamo|_C\._|ops\.mkldnn|torch\.utils\._"
)
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".ipynb") and ROOT / "torch_nets" / "fast" not in path.parents
]

# Losses of a few steps of each kind of net, and a digest of the params
CODE = """
import json, torch
from purenets import data, init_state, make_step, optim, random
from purenets.torch_nets import CNN, MLP, VanillaRNN, grad_fn
from purenets.core.data.palindromes import palindromes
torch.set_num_threads(1)

def run(model, batch, optimizer, steps=5):
    step, state = make_step(grad_fn(model), optimizer), init_state(model, optimizer, random.key(0))
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses + [float(sum(p.double().abs().sum() for p in state.params.values()))]

k = torch.as_tensor(random.key(1))
images = random.normal(k, (4, 3, 32, 32)), torch.tensor([0, 1, 2, 3])
wide = random.normal(k, (256, 300)), torch.arange(256) % 10
print(json.dumps({
    "mlp": run(MLP(300, [512, 512], 10, dropout=0.1), wide, optim.adam(1e-3)),
    "cnn": run(CNN(3, 10, width=0.125), images, optim.nesterov(1e-3)),
    "rnn": run(
        VanillaRNN(9, 1, 128, 10, recurrence="fused"),
        palindromes(k, 128, 10),
        optim.rmsprop(1e-3),
    ),
}))
"""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_torch_in(path):
    found = PRIVATE.search(path.read_text())
    assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"


def results(plain: bool) -> dict[str, list[float]]:
    environment = {**os.environ, "PURENETS_PLAIN": "1" if plain else "0"}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    return json.loads(done.stdout)


def test_without_the_fast_folder_the_results_are_the_same_within_rounding():
    """float32 products and sums in another order: 2e-6 of a loss in five steps, at most."""
    fast, plain = results(plain=False), results(plain=True)
    for name, values in fast.items():
        assert plain[name] == pytest.approx(values, rel=2e-6), name


def test_the_switch_turns_everything_off():
    code = (
        "from purenets.torch_nets.fast import enabled, matmul; import sys\n"
        "from purenets.torch_nets.vanilla_rnn import fused, loop\n"
        "assert not enabled() and not matmul.ONEDNN and fused is loop\n"
        "loaded = [m for m in sys.modules if m.startswith('purenets.torch_nets.fast.')]\n"
        "assert not any(m.endswith(('onednn', 'fused_recurrence', 'operations')) for m in "
        "loaded), loaded"
    )
    environment = {**os.environ, "PURENETS_PLAIN": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)
