"""Part III: train the vanilla RNN to predict the last digit of a palindrome from the others.

    python scripts/train.py --input_length 4 --out runs/rnn     # T = 5, the assignment's defaults
    python scripts/train.py --input_length 499 --input_dim 10 --init identity --gain 2 \
        --curriculum 20 --train_steps 1000                   # T = 500, trained at T = 20 first
    torchrun --nproc-per-node 2 scripts/train.py --input_length 4  # batches shared by two processes

T is the length of a palindrome; the network reads its first T-1 digits, and --input_length is T-1.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import (
    Array,
    Batch,
    History,
    Model,
    Optimizer,
    Params,
    Step,
    TrainState,
    UserError,
    init_state,
    make_step,
    optim,
    random,
    runs,
)
from purenets.core.architectures import RNN_INITS, RNN_RECURRENCES
from purenets.core.memory import expect_room, expect_room_for
from purenets.core.runs.command import command
from purenets.core.runs.options import (
    SHARDS,
    Options,
    file_path,
    integers_from,
    not_negative,
    one_of,
    open_fraction,
    option,
    positive,
    shard_count,
    thread_count,
)
from purenets.core.runs.rotation import KEEP
from purenets.optim import OPTIMIZERS
from purenets.schedules import SCHEDULES
from scripts.shared.result import Result

CHUNK = 500  # palindromes that are evaluated at a time
lengths = integers_from(2, "lengths T from 2 on with commas between them, as 20,50,100")


def all_ten_digits(value: int) -> str | None:
    return None if value == 10 else "10, the digits"


@dataclass(frozen=True)
class Config(Options):
    """Train the vanilla RNN on palindromes of length T = input_length + 1."""

    input_length: int = option(
        10, "digits that are read: T-1 for palindromes of length T", positive
    )
    input_dim: int = option(1, "1: a digit is a number; 10: one-hot")
    num_classes: int = option(10, "the digits", all_ten_digits)
    num_hidden: int = option(128, "units of the hidden layer", positive)
    batch_size: int = option(128, "palindromes in a step, always fresh ones", positive)
    learning_rate: float = option(1e-3, "the optimizer's rate", positive)
    train_steps: int = option(10000, "steps to train for", positive)
    max_norm: float = option(
        10.0, "clip the gradient's global norm at this; 0 for no clipping", not_negative
    )
    optimizer: str = option("rmsprop", f"one of {', '.join(OPTIMIZERS)}", one_of(OPTIMIZERS))
    init: str = option("default", f"of W_hh: one of {', '.join(RNN_INITS)}", one_of(RNN_INITS))
    gain: float = option(1.0, "W_hh begins as this times what --init gives", positive)
    input_scale: float = option(1.0, "inputs are multiplied with this", positive)
    schedule: str = option("constant", f"of the rate: {', '.join(SCHEDULES)}", one_of(SCHEDULES))
    recurrence: str = option(
        "loop",
        "of a training step: loop (autograd) or fused (one operation, faster)",
        one_of(RNN_RECURRENCES),
    )
    curriculum: tuple[int, ...] = option((), "lengths T to train at first, as 20,50,100", lengths)
    curriculum_fraction: float = option(
        0.6, "the part of the steps that these share equally", open_fraction
    )
    freeze_recurrence: bool = option(False, "leave W_hh as it began")
    eval_freq: int = option(500, "steps between evaluations", positive)
    eval_size: int = option(
        10000,
        "evaluate all palindromes if at most this many, else this many fresh ones",
        positive,
    )
    exhaustive: bool = option(False, "evaluate all palindromes, however many (T up to 12)")
    seed: int = option(0, "all randomness: params and palindromes", not_negative)
    device: str = option("cpu", "cpu, cuda, cuda:1, ... or auto")
    compile: bool = option(
        True, "compile the whole step (faster after some seconds); not with --curriculum"
    )
    threads: int = option(1, "CPU threads; 128 units are fastest on one", thread_count)
    shards: int = option(0, SHARDS, shard_count)
    out: str = option(None, "folder for config, history, checkpoint and figures", file_path)
    keep: int = option(KEEP, "how many of the newest checkpoints to keep", positive)
    resume: bool = option(False, "go on with the run in --out; begin it if there is none")

    def needs_length(self) -> str:
        parts = [f"its schedule ({self.schedule})"] * (self.schedule != "constant")
        return " and ".join(parts + ["its curriculum"] * bool(self.curriculum))

    def unused(self) -> Iterator[tuple[str, str]]:
        if self.exhaustive:
            yield "eval_size", "--exhaustive evaluates all; leave it out"
        if not self.curriculum:
            yield "curriculum_fraction", "means nothing without --curriculum; leave it out"
        if self.optimizer == "lbfgs" and self.max_norm:
            yield "optimizer", "its line search needs gradients as they are, so --max_norm 0"
        if self.freeze_recurrence and self.optimizer in ("backtracking", "lbfgs", "strong_wolfe"):
            yield "freeze_recurrence", f"--optimizer {self.optimizer} moves all params at once"
        stages, share = len(self.curriculum), steps_of_stage(self)
        if stages and not (share >= 1 and int((self.train_steps - 1) / share) >= stages):
            yield (
                "curriculum",
                f"some of its lengths, or --input_length, have no step of {self.train_steps}; "
                "needs more --train_steps or another --curriculum_fraction",
            )
        if self.out is None:
            yield "keep", "means nothing without --out; leave it out"


def make_model(config: Config) -> Model:
    """Return the network that the options describe."""
    from purenets.torch_nets import VanillaRNN  # late, here and below, so that --help is fast

    return VanillaRNN(
        config.input_length,
        config.input_dim,
        config.num_hidden,
        config.num_classes,
        init=config.init,
        gain=config.gain,
        input_scale=config.input_scale,
        recurrence=config.recurrence,
    )


def expect_room_for_batches(config: Config, members: int = 1) -> None:
    """Raise a UserError if the net, or a batch with its hidden states, does not fit into memory.

    Called before anything is drawn.
    """
    expect_room_for(make_model(config), "take a smaller --num_hidden", members)
    longest = max(config.input_length + 1, *config.curriculum, 0)
    each = 8 * config.input_dim + 4 * config.num_hidden + 64  # digits, inputs and states at a time
    what = f"a batch of {config.batch_size:,} palindromes of length {longest:,}"
    hint = "take a smaller --batch_size or --input_length"
    expect_room(members * max(config.batch_size, CHUNK) * longest * each, what, hint)


def make_optimizer(config: Config) -> Optimizer:
    """Return the optimizer with clipping, its schedule, and no update of a frozen W_hh."""
    rate = SCHEDULES[config.schedule](config.learning_rate, config.train_steps)
    clipping = [optim.clip_by_global_norm(config.max_norm)] if config.max_norm else []
    freezing = [optim.stateless(without_recurrence)] if config.freeze_recurrence else []
    return optim.chain(*clipping, OPTIMIZERS[config.optimizer](lr=rate), *freezing)


def without_recurrence(updates: Params, params: Params) -> Params:
    return updates | {"W_hh": 0 * updates["W_hh"]}


def steps_of_stage(config: Config) -> float:
    """Return how many steps each length of the curriculum has."""
    return config.train_steps * config.curriculum_fraction / max(1, len(config.curriculum))


def length_at(config: Config) -> Callable[[int], int]:
    """Return the function from a step (from 0) to the length T of its palindromes.

    The lengths of the curriculum come first, then that of the options.
    """
    stages, share = config.curriculum, steps_of_stage(config)

    def length(step: int) -> int:
        stage = int(step / share) if stages and share else len(stages)
        return stages[stage] if stage < len(stages) else config.input_length + 1

    return length


class Keys(NamedTuple):
    """The keys of a run.

    No draw of the training uses the key of the evaluation, or a key that this is derived from.
    """

    state: Array
    training: Array
    evaluation: Array


def keys(seed: int) -> Keys:
    """Return the keys of a seed: of the state, of the training and of the evaluation."""
    from purenets.core.data.palindromes import streams

    state_key, data_key = random.split(random.key(seed))
    return Keys(state_key, *streams(data_key))


def batches(config: Config, key, device) -> Callable[[int], Batch]:
    """Return the function from a step to its palindromes, which a DataLoader samples.

    All are fresh: no item of the dataset is used twice.
    """
    from purenets.torch_nets.dataset import LoadedBatches, PalindromeDataset

    length, size = length_at(config), config.train_steps * config.batch_size

    @functools.cache
    def dataset(T: int) -> PalindromeDataset:
        one_hot = config.input_dim != 1
        return PalindromeDataset(T, key, size, one_hot=one_hot, block=config.batch_size)

    return LoadedBatches(lambda step: dataset(length(step)), config.batch_size, device)


def evaluate_at(
    metrics: Callable, state: TrainState, key, T: int, size: int, one_hot: bool
) -> dict:
    """Return the mean metrics of a state on palindromes of length T, all or `size` fresh ones.

    They are on the host, and their names begin with "test_".
    """
    import torch

    from purenets.core.data.palindromes import evaluation_batches

    device, totals, n = state.step.device, {}, 0
    for x, y in evaluation_batches(random.fold_in(key, T), T, size, one_hot):
        part = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        for name, value in metrics(state.params, state.buffers, part).items():
            totals[name] = totals.get(name, 0.0) + value.double().cpu() * len(y)
        n += len(y)
    return {f"test_{name}": total / n for name, total in totals.items()}


def evaluation_size(config: Config) -> int:
    """Return the number of palindromes to evaluate.

    Raises:
        UserError: all of them are asked for and are too many.
    """
    from purenets.core.data.palindromes import count, is_listable

    T = config.input_length + 1
    if not config.exhaustive:
        return config.eval_size
    if not is_listable(T):
        raise UserError("--exhaustive: too many palindromes, needs --input_length up to 11")
    return count(T)


def set_up_torch(config: Config):
    """Set the threads and turn off denormal numbers; return the device.

    Vanishing gradients are full of denormal numbers, which are slow.
    """
    import torch

    from purenets.torch_nets.convert import device_from_name

    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    return device_from_name(config.device)


def train(config: Config | None = None) -> Result:
    """Train the RNN that the options describe; `train()` uses the defaults.

    Under torchrun, several processes share its batches.
    """
    from purenets.torch_nets.distributed import processes

    config = Config.given(config)
    device = set_up_torch(config)
    with processes(device, config.shards) as group:
        return train_as(config, device, group)


def train_as(config: Config, device, group) -> Result:
    """Train as one of the processes; all return the same result, and rank 0 writes it."""
    from purenets.torch_nets import metrics_fn
    from purenets.torch_nets.distributed import barrier, check_share, parallel_metrics

    check_share(config.batch_size, group)
    expect_room_for_batches(config)
    own = keys(config.seed)
    model, optimizer = make_model(config), make_optimizer(config)
    first = on_device(init_state(model, optimizer, own.state), device)
    metrics = parallel_metrics(metrics_fn(model), group)
    T, one_hot, size = config.input_length + 1, config.input_dim != 1, evaluation_size(config)

    def evaluate(state: TrainState) -> dict[str, float]:
        means = evaluate_at(
            metrics, optim.with_averaged_params(state), own.evaluation, T, size, one_hot
        )
        return {name: float(value) for name, value in means.items()}

    with runs.open_run(config, group.writes, group.size) as folder:
        barrier(group)  # wait until the folder is ready
        state, history = runs.fit_and_save(
            folder,
            step_of(config, model, optimizer, group),
            first,
            batches(config, own.training, device),
            steps=config.train_steps,
            every=config.eval_freq,
            evaluate=evaluate,
            label=f"RNN, T = {T}",
            hint="try a lower --learning_rate or --max_norm",
            writes=group.writes,
            keep=config.keep,
            steps_flag=f"--train_steps {config.train_steps}",
        )
        if folder and group.writes:
            draw(history, folder)
    return Result(state, history, model, first_params=first.params)


def draw(history: History, folder: Path) -> None:
    """Write the curves as PNG."""
    from purenets.core.report import plots

    figure = plots.curves({"": history}, [("loss", "test_loss"), ("accuracy", "test_accuracy")])
    plots.save(figure, folder / "curves.png")


def step_of(config: Config, model: Model, optimizer: Optimizer, group) -> Step:
    """Return the training step, compiled where all its palindromes have one length."""
    from purenets.torch_nets import grad_fn, jit
    from purenets.torch_nets.distributed import data_parallel

    compiled = jit if config.compile and not config.curriculum else lambda f: f
    if group.size == 1 and not group.shards:
        return compiled(make_step(grad_fn(model), optimizer))
    # communication stays outside of the compiled part
    return make_step(data_parallel(compiled(grad_fn(model)), group), optimizer)


def on_device(state: TrainState, device) -> TrainState:
    from purenets.torch_nets import to_torch

    return TrainState(**to_torch(state._asdict(), device=device))


def main(config: Config | None = None) -> Result:
    """Train and print the accuracy on palindromes of length T."""
    from purenets.core.data.palindromes import count, is_exhaustive

    config = Config.given(config)
    result = train(config)
    T, last = config.input_length + 1, result.history[-1]
    size = evaluation_size(config)
    what = f"all {count(T)}" if is_exhaustive(T, size) else f"{size} fresh"
    print(
        f"T = {T}: accuracy {last['test_accuracy']:.4f} on {what} palindromes after "
        f"{last['step']} steps"
    )
    return result


if __name__ == "__main__":
    command(Config, main)
