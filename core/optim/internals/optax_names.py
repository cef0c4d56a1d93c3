"""What optax calls otherwise: an error says what it is called here.

The names are no aliases, since the arguments differ too: `optim.clip_by_value(limit)` is
`optax.clip(max_delta)`, but `optim.scale_by_learning_rate(lr)` is `optax.scale(-lr)`.
"""

from typing import NoReturn

OURS = {
    "GradientTransformation": "Optimizer",
    "MultiSteps": "optim.accumulate",
    "clip": "optim.clip_by_value",
    "constant_schedule": "schedules.constant",
    "cosine_decay_schedule": "schedules.cosine",
    "cosine_onecycle_schedule": "schedules.one_cycle",
    "exponential_decay": "schedules.exponential",
    "global_norm": "tree.norm",
    "huber_loss": "torch_nets.losses.huber",
    "identity": "optim.chain without transforms",
    "incremental_update": "optim.ema",
    "join_schedules": "schedules.join",
    "linear_onecycle_schedule": "schedules.one_cycle",
    "linear_schedule": "schedules.linear",
    "multi_transform": "optim.partition",
    "piecewise_constant_schedule": "schedules.piecewise",
    "polyak_sgd": "optim.polyak",
    "polynomial_schedule": "schedules.polynomial",
    "scale": "optim.scale_by_learning_rate, which turns the sign too",
    "scale_by_backtracking_linesearch": "optim.backtracking",
    "scale_by_rss": "optim.scale_by_sum_of_squares",
    "scale_by_schedule": "optim.scale_by_learning_rate, which turns the sign too",
    "scale_by_zoom_linesearch": "optim.strong_wolfe",
    "set_to_zero": "optim.freeze",
    "sgdr_schedule": "schedules.cosine_restarts",
    "sigmoid_binary_cross_entropy": "torch_nets.losses.binary_cross_entropy",
    "softmax_cross_entropy": "torch_nets.losses.cross_entropy",
    "softmax_cross_entropy_with_integer_labels": "torch_nets.losses.cross_entropy",
    "warmup_constant_schedule": "schedules.warmup of schedules.constant",
    "warmup_cosine_decay_schedule": "schedules.warmup of schedules.cosine",
    "warmup_exponential_decay_schedule": "schedules.warmup of schedules.exponential",
    "zero_nans": "optim.apply_if_finite, which leaves the whole update out",
}


def refuse(module: str, name: str) -> NoReturn:
    """Raise the AttributeError of a name that a module lacks; of one of optax's, with ours."""
    if name in OURS:
        raise AttributeError(f"{module}.{name} is a name of optax; here it is {OURS[name]}")
    raise AttributeError(f"module 'purenets.{module}' has no attribute {name!r}")
