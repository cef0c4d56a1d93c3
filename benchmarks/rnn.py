"""The vanilla RNN beside nn.RNN and JAX: one training step, its growth with T, and an ensemble
beside single runs.

    python -m benchmarks.rnn  # writes results/benchmarks_rnn.json and docs/figures/rnn_cost.png

All contestants of a comparison take turns, round by round, in one process on one thread, so that a
ratio is that of neighbors in time; it is given as the median over the rounds, with quartiles. A
step is the same for all: gradient of the cross-entropy, clipping at 10, RMSProp 1e-3; batch 128,
128 units, scalar input. T is the length of the palindrome: T-1 digits are read.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import jax_peers
from benchmarks.timing import in_turns, medians, ratio, save_figure
from purenets import make_step, optim, random, runs, train_state
from purenets.core.base import TrainState
from purenets.core.data.palindromes import palindromes
from purenets.core.report import plots
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import VanillaRNN, ensemble, grad_fn, jit, stack_states, to_numpy
from scripts.shared import result_files

BATCH, HIDDEN, MEMBERS = 128, 128, 10


@dataclass(frozen=True)
class Config(Options):
    """Time the vanilla RNN beside nn.RNN."""

    rounds: int = option(30, "rounds in which all contestants take turns", positive)
    results: str = option("results/benchmarks_rnn.json", "JSON file for the numbers")
    whole_runs: bool = option(
        False, "time the commands too: ten seeds in one sweep, and a single run"
    )
    figure: str = option("docs/figures/rnn_cost.png", "PNG for the growth with T")


def data(T: int):
    return palindromes(torch.as_tensor(random.key(T)), BATCH, T)


def first_params(T: int) -> dict:
    return VanillaRNN(T - 1, 1, HIDDEN, 10).init(random.key(0))[0]


# the params of nn.RNN and nn.Linear by the names of ours; nn.RNN's second bias adds nothing and
# stays 0
NAMES = {
    "W_hx": "rnn.weight_ih_l0",
    "W_hh": "rnn.weight_hh_l0",
    "b_h": "rnn.bias_ih_l0",
    "W_ph": "linear.weight",
    "b_o": "linear.bias",
}


class Twin(nn.Module):
    """What one would write with torch.nn and torch.optim; a call is a step."""

    def __init__(self, T: int):
        super().__init__()
        self.rnn = nn.RNN(1, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, 10)
        first = {NAMES[name]: leaf for name, leaf in first_params(T).items()}
        self.load_state_dict(first | {"rnn.bias_hh_l0": torch.zeros(HIDDEN)})
        self.rnn.bias_hh_l0.requires_grad_(False)
        self.optimizer = torch.optim.RMSprop(
            [p for p in self.parameters() if p.requires_grad], lr=1e-3
        )
        self.batch = data(T)

    def forward(self):
        x, y = self.batch
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.linear(self.rnn(x)[0][:, -1]), y).backward()
        nn.utils.clip_grad_norm_(self.parameters(), 10.0)
        self.optimizer.step()

    def params(self) -> dict:
        found = dict(self.named_parameters())
        return to_numpy({name: found[other] for name, other in NAMES.items()})


class Ours:
    """A step of ours: of one network, or of an ensemble."""

    def __init__(
        self,
        T: int,
        wrap: Callable = lambda step: step,
        members: int = 0,
        recurrence: str = "loop",
    ):
        model = VanillaRNN(T - 1, 1, HIDDEN, 10, recurrence=recurrence)
        optimizer = optim.chain(optim.clip_by_global_norm(10.0), optim.rmsprop(lr=1e-3))
        step, self.batch = make_step(grad_fn(model), optimizer), data(T)
        states = [
            train_state(first_params(T), {}, optimizer, random.key(seed))
            for seed in range(max(1, members))
        ]
        self.state: TrainState = stack_states(states) if members else states[0]
        if members:
            step = ensemble(step)
            self.batch = tuple(
                part.expand(members, *part.shape).contiguous() for part in self.batch
            )
        self.step = wrap(step)

    def __call__(self) -> None:
        self.state, _ = self.step(self.state, self.batch)

    def params(self) -> dict:
        return to_numpy(self.state.params)


def in_jax(T: int) -> jax_peers.Step:
    """The step in JAX, its loop by lax.scan; optax's RMSProp as torch's: eps outside of the
    root.
    """
    import optax

    rmsprop = optax.rmsprop(1e-3, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), rmsprop)
    batch = (part.numpy() for part in data(T))
    return jax_peers.Step(jax_peers.rnn_loss(), optimizer, to_numpy(first_params(T)), tuple(batch))


def one_step(rounds: int, T: int, check: bool = False) -> dict:
    """A step beside those of nn.RNN and of JAX.

    check: first 100 steps, after which all params agree.
    """
    peers = {"nn.RNN": Twin(T)} | ({"JAX jit": in_jax(T)} if jax_peers.installed() else {})
    ours = {"loop, eager": Ours(T), "fused, eager": Ours(T, recurrence="fused")} | {
        "fused, jit": Ours(T, jit, recurrence="fused")
    }
    if T <= 50:  # unrolled, a long loop compiles for minutes
        ours["loop, jit"] = Ours(T, jit)
    if check:
        assert_same_work(ours | peers)
    times = in_turns(ours | peers, rounds)
    ratios = {
        f"{name} / {peer}": ratio(times[name], times[peer]) for peer in peers for name in ours
    }
    return {"T": T, "ms": medians(times), "ratio": ratios}


def assert_same_work(nets: dict) -> None:
    """After 100 steps the params are those of nn.RNN, but for a twentieth of the largest of a leaf
    (RMSProp makes steps of rounding too)."""
    for net in nets.values():
        for _ in range(100):
            net()
    expected = nets["nn.RNN"].params()
    for name, net in nets.items():
        for leaf, value in net.params().items():
            error = float(np.abs(value - expected[leaf]).max() / np.abs(expected[leaf]).max())
            assert error < 0.05, f"{name}: {leaf} differs from nn.RNN's by {error}"


def growth(rounds: int, lengths=(25, 50, 100, 200, 400)) -> dict:
    """Milliseconds of a step over T, and the exponent of their growth (1 is linear)."""
    rows: dict[str, list[float]] = {}
    for T in lengths:
        for name, value in one_step(rounds, T)["ms"].items():
            rows.setdefault(name, []).append(value)
    rows = {name: values for name, values in rows.items() if len(values) == len(lengths)}
    exponents = {
        name: float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
        for name, values in rows.items()
    }
    return {"T": list(lengths), "ms": rows, "exponent": exponents}


def on_all_cores(call: Callable[[], None]) -> Callable[[], None]:
    """The call with a thread for each core: members are shared out among them. One network alone is
    fastest on one thread."""

    def threaded():
        torch.set_num_threads(os.cpu_count())
        call()
        torch.set_num_threads(1)

    return threaded


def members_together(rounds: int, T: int) -> dict:
    """An ensemble, on all cores, beside its members one after the other, each as fast as it can."""
    times = in_turns(
        {
            "one, eager": Ours(T, recurrence="fused"),
            "one, compiled": Ours(T, jit, recurrence="fused"),
            "ensemble, eager": on_all_cores(Ours(T, members=MEMBERS, recurrence="fused")),
            "ensemble, compiled": on_all_cores(Ours(T, jit, MEMBERS, "fused")),
        },
        rounds,
    )
    pairs = [(a, b) for a in ("compiled", "eager") for b in ("eager", "compiled")]
    ratios = {
        f"ensemble, {a} / {MEMBERS} x one, {b}": ratio(
            times[f"ensemble, {a}"], MEMBERS * times[f"one, {b}"]
        )
        for a, b in pairs
    }
    return {"T": T, "ms": medians(times), "ratio": ratios}


def whole_runs(T: int, steps: int = 10_000) -> dict:
    """Seconds of the commands, from start to end: the sweep of ten seeds, and a single run of its
    defaults.
    """
    with tempfile.TemporaryDirectory() as folder:
        sweep = {"--lengths": T, "--seeds": MEMBERS, "--steps": steps, "--out": f"{folder}/sweep"}
        single = {"--input_length": T - 1, "--train_steps": steps, "--out": f"{folder}/single"}
        seconds = {
            "sweep of ten seeds": seconds_of("palindrome_sweep", {**sweep, "--eval_freq": 1000}),
            "one run": seconds_of("train", {**single, "--eval_freq": 1000}),
        }
    ratio_ = seconds["sweep of ten seeds"] / (MEMBERS * seconds["one run"])
    return {"T": T, "steps": steps, "seconds": seconds, f"sweep / {MEMBERS} x one run": ratio_}


def seconds_of(script: str, options: dict) -> float:
    flags = [str(part) for option_ in options.items() for part in option_]
    command = [sys.executable, str(Path(__file__).parents[1] / "scripts" / f"{script}.py"), *flags]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def draw(found: dict):
    """Milliseconds of a step over T."""
    figure, axes = plots.panels(1, 1, 6, 4)
    axis = axes[0, 0]
    for i, (name, values) in enumerate(found["ms"].items()):
        label = f"ours, {name}" if "," in name else name
        axis.plot(
            found["T"],
            values,
            plots.MARKERS[i] + plots.LINES[i % len(plots.LINES)],
            color=plots.COLORS[i],
            label=label,
        )
    axis.set(xlabel="length of the palindrome T", ylabel="one training step (ms)", xlim=0, ylim=0)
    axis.set_title("The cost of a step is linear in T")
    axis.legend(frameon=False)
    return figure


def main(config: Config) -> dict:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # or vanishing gradients at T = 400 make nn.RNN ten times slower
    command = "python -m benchmarks.rnn" + " --whole_runs" * config.whole_runs
    about = {"command": command, "n": config.rounds, **runs.environment(), **runs.machine()}
    found = {
        **about,
        "setting": f"batch {BATCH}, {HIDDEN} units, scalar input, float32, one thread (the "
        "ensemble: one a core, by the fused recurrence)",
        "one_step": one_step(config.rounds, 50, check=True),
        "growth": growth(max(3, config.rounds // 3)),
        "ensemble": [members_together(config.rounds, T) for T in (5, 11, 50)],
    }
    if config.whole_runs:
        found["whole_runs"] = [whole_runs(T) for T in (5, 11)]
    save_figure(draw(found["growth"]), config.figure)
    result_files.write(config.results, found)
    print(json.dumps({name: found[name] for name in ("one_step", "growth", "ensemble")}, indent=1))
    return found


if __name__ == "__main__":
    command(Config, main)
