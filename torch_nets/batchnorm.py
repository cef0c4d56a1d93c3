"""Recompute BatchNorm's running statistics for other params, such as averaged ones."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from purenets.core import random
from purenets.core.arguments import expect_leaves, expect_models
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.data.checks import input_leaves
from purenets.torch_nets.keys import expect_key_for, key_like

MEAN, VAR, COUNT = "running_mean", "running_var", "num_batches_tracked"


@torch.no_grad()
def update_batchnorm(
    model: Model,
    params: Params,
    buffers: Buffers,
    batches: Iterable[Batch],
    *,
    key: Tensor | None = None,
) -> Buffers:
    """Return buffers whose BatchNorm statistics are recomputed for these params.

    Averaged params need it: no net was ever trained with them, so the running statistics do not
    fit. The new ones are the means over `batches` of the mean and the (unbiased) variance of a
    batch, whatever the momentum; if a torch.nn layer is used several times in a pass, all its
    calls count. Other buffers change as they do in training. A layer whose statistics do not
    move in training mode (a frozen one) keeps them.

    Args:
        model: any number of BatchNorm layers, of `layers.BatchNorm` or in a module of
            `from_module`.
        params: such as those of `optim.with_averaged_params(state)`.
        buffers: those of the same state; the old statistics have no influence.
        batches: an iterable of (inputs, targets) of the training set. From a function of the step,
            make `[batches(i) for i in range(100)]`.
        key: for models that draw (dropout), which do so here too.

    Returns:
        The buffers, with new "running_mean", "running_var" and "num_batches_tracked".

    Raises:
        UserError: an argument is wrong, a batch is not a pair or is empty, there is no batch, the
            model draws and there is no key, or it uses a `layers.BatchNorm` several times.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, update_batchnorm
        >>> norm = layers.BatchNorm(1)
        >>> params, buffers = norm.init(None)
        >>> x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1])
        >>> buffers = update_batchnorm(norm, params, buffers, [(x, y), (x + 4, y)])
        >>> buffers["running_mean"], buffers["running_var"]  # batches have the means 1 and 5
        (tensor([3.]), tensor([2.]))

    Source:
        Izmailov et al. 2018, arXiv 1803.05407, section 3.2; torch.optim.swa_utils.update_bn.
    """
    expect_models("update_batchnorm", model=model)
    expect_leaves("update_batchnorm", params=params, buffers=buffers)
    is_scalar = getattr(batches, "ndim", 1) == 0
    if is_scalar or (not hasattr(batches, "__iter__") and not callable(batches)):
        raise UserError(f"update_batchnorm: batches: a {type(batches).__name__}, needs a list")
    if callable(batches):
        raise UserError("batches: a function, needs a list as [batches(i) for i in range(100)]")
    n, statistics, track, calls, first = 0, {}, None, {}, buffers
    for n, batch in enumerate(batches, start=1):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(f"update_batchnorm: a batch is a {type(batch).__name__}, needs a pair")
        x, _ = batch
        if not all(len(array) for array in input_leaves(x) if getattr(array, "ndim", 0)):
            raise UserError("update_batchnorm: an empty batch has no statistics")
        batch_key = None if key is None else random.fold_in(key_like(key, x), n)
        train = _in_training(model, params, x, batch_key)
        track = track or _tracking(train, buffers)
        buffers, fresh = track(train, buffers)
        for name, (value, more) in fresh.items():
            calls[name] = calls.get(name, 0) + more
            mean = statistics.get(name, 0.0)
            statistics[name] = mean + (value - mean) * (more / max(calls[name], 1))
    if n == 0:
        raise UserError("update_batchnorm: no batches, needs one or more")
    counts = {f"{prefix}{COUNT}" for prefix in map(_prefix, statistics)} & buffers.keys()
    new = {name: value.to(buffers[name].dtype) for name, value in statistics.items()}
    return {**buffers, **new, **{name: buffers[name] - first[name] for name in counts}}


def _in_training(model: Model, params: Params, x, key) -> Callable[[Buffers], Buffers]:
    """Return the function from buffers to the buffers after a forward pass in training mode."""

    def train(buffers: Buffers) -> Buffers:
        try:
            with _UnitMomentum() as mode:
                new = model.apply(params, buffers, x, train=True, key=key)[1]
        except UserError as error:
            expect_key_for("update_batchnorm", key, error)
            raise
        several = [name for name in new if _leaf(name) == MEAN and _calls(name, buffers, new) > 1]
        if len(several) > sum(n > 1 for _, n in mode.calls.values()):
            raise UserError(
                f"update_batchnorm: {', '.join(several)}: the layer is used several times in a "
                "pass, which only torch.nn layers in from_module allow; give each use its own layer"
            )
        return new

    return train


def _tracking(train: Callable, buffers: Buffers) -> Callable:
    """Return `track(train, buffers) -> (buffers, statistics of the batch, each with its calls)`.

    A layer returns its running statistics moved towards the batch's: new = (1 - m) old + m batch,
    with a momentum m that only the layer knows. Two passes from different `old` tell m, and then
    one pass tells the batch's statistics; in float64, so that nothing is lost. A layer that returns
    arbitrary statistics as they are is frozen.
    """
    running = [name for name in buffers if _leaf(name) in (MEAN, VAR)]
    arbitrary = {name: 1.5 * buffers[name] + 0.6 for name in running}
    once = train({**buffers, **arbitrary})
    moved = {_prefix(name) for name in running if not torch.equal(arbitrary[name], once[name])}
    names = [name for name in running if _prefix(name) in moved]
    start = {name: buffers[name].to(torch.float64) for name in names}
    start = {name: torch.full_like(old, float(_leaf(name) == VAR)) for name, old in start.items()}
    new = train({**buffers, **start})
    # as far apart as the statistics are large, which a net in lower precision rounds
    far = {name: (new[name] - value).abs().clamp_min(1) for name, value in start.items()}
    ahead = train({**buffers, **{name: value + far[name] for name, value in start.items()}})
    momentum = {name: 1 - (ahead[name] - new[name]) / far[name] for name in names}
    counted = {name for name in names if _calls(name, buffers, once)}

    def track(train: Callable, buffers: Buffers) -> tuple[Buffers, dict[str, tuple[Tensor, int]]]:
        new = train({**buffers, **start})
        fresh = {name: (new[name] - start[name]) / momentum[name] + start[name] for name in names}
        calls = {name: _calls(name, buffers, new) if name in counted else 1 for name in names}
        fresh = {name: (value, calls[name]) for name, value in fresh.items()}
        return {**new, **{name: buffers[name] for name in names}}, fresh

    return track


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _prefix(name: str) -> str:
    """Return "norm1." of "norm1.running_mean"."""
    return name[: len(name) - len(_leaf(name))]


def _calls(name: str, before: Buffers, after: Buffers) -> int:
    """Return how often a layer was called between two states; 1 for one without a count."""
    count = f"{_prefix(name)}{COUNT}"
    return int(after[count] - before[count]) if count in before else 1


class _UnitMomentum(TorchFunctionMode):
    """Within the block torch.nn's BatchNorm sets its running statistics to those of the batch.

    Of several calls they are the means. Its kernels take statistics of one dtype only, so float64
    ones are written after the call.
    """

    def __init__(self):
        super().__init__()
        self.calls: dict[int, tuple[Tensor, int]] = {}  # of each running mean, by its id

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is not torch.nn.functional.batch_norm:
            return func(*args, **kwargs)
        names = ("input", MEAN, VAR, "weight", "bias", "training", "momentum", "eps")
        given = dict(zip(names, args, strict=False)) | kwargs
        running = given.get(MEAN), given.get(VAR)
        if not given.get("training") or running[0] is None:
            return func(**given)
        own = [torch.zeros_like(value, dtype=_dtype(given)) for value in running]
        y = func(**{**given, MEAN: own[0], VAR: own[1], "momentum": 1.0})
        n = self.calls.get(id(running[0]), (None, 0))[1] + 1
        self.calls[id(running[0])] = running[0], n
        for value, fresh in zip(running, own, strict=True):
            value.copy_(fresh if n == 1 else value + (fresh - value) / n)
        return y


def _dtype(arguments: dict) -> torch.dtype:
    """Return the dtype of statistics: that of the weights, or of the inputs; at least float32."""
    like = arguments["input"] if arguments.get("weight") is None else arguments["weight"]
    return torch.promote_types(like.dtype, torch.float32)
