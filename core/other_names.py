"""What JAX, Flax and optax call otherwise: an error says what it is called here.

The names are no aliases, since the arguments and the results differ too. `optim` and `schedules`
answer to optax's in the same way (`optim.internals.optax_names`).
"""

from typing import NoReturn

OTHER_NAMES = {
    "purenets": {
        "PRNGKey": "random.key",
        "grad": "torch.func.grad, or torch_nets.grad_fn of a model",
        "jit": "torch_nets.jit",
        "lax": "purenets.scan for lax.scan; torch.where for lax.cond",
        "value_and_grad": "torch.func.grad_and_value, which returns (grads, value)",
        "vmap": "torch.func.vmap, or torch_nets.ensemble of a step",
    },
    "random": {
        "PRNGKey": "random.key",
        "exponential": "-np.log1p(-random.uniform(key, shape)), or torch.log1p",
        "key_data": "the key itself, an array of int64",
        "categorical": "(logits - (-random.uniform(key, logits.shape).log()).log()).argmax(-1)",
        "choice": "random.permutation(key, n)[:k], or random.randint(key, (k,), 0, n) to put back",
        "gumbel": "-np.log(-np.log(random.uniform(key, shape, low=2.0**-25))), or torch.log",
        "rademacher": "2 * random.bernoulli(key, 0.5, shape) - 1, as floats",
        "shuffle": "x[random.permutation(key, len(x))]",
    },
    "tree": {
        "all": "all(tree.leaves(x))",
        "flatten_with_path": "tree.flatten(x).items()",
        "full_like": "tree.map(lambda leaf: leaf + value, tree.zeros_like(x))",
        "leaves_with_path": "tree.flatten(x).items()",
        "map_with_path": "{name: f(name, leaf) for name, leaf in tree.flatten(x).items()}",
        "ones_like": "tree.map(lambda leaf: leaf + 1, tree.zeros_like(x))",
        "reduce": "functools.reduce(f, tree.leaves(x))",
        "structure": "list(tree.flatten(x))",
        "sum": "sum(leaf.sum() for leaf in tree.leaves(x))",
        "tree_leaves": "tree.leaves",
        "tree_map": "tree.map",
    },
    "layers": {
        "Dense": "layers.Linear",
        "Embed": "layers.Embedding",
        "GRUCell": "layers.GRU",
        "LSTMCell": "layers.LSTM",
        "MultiHeadDotProductAttention": "layers.MultiheadAttention",
        "Sequential": "layers.serial",
        "max_pool": "layers.MaxPool",
    },
    "losses": {
        "l2_loss": "losses.mse, which is twice that",
        "sigmoid_binary_cross_entropy": "losses.binary_cross_entropy",
        "softmax_cross_entropy": "losses.cross_entropy",
        "softmax_cross_entropy_with_integer_labels": "losses.cross_entropy",
        "squared_error": "losses.mse, its mean",
    },
    "torch_nets": {
        "cond": "torch.where",
        "custom_vjp": "torch.autograd.Function",
        "fori_loop": "purenets.scan over torch.arange(n)",
        "hessian": "torch.func.hessian",
        "jacfwd": "torch.func.jacfwd",
        "jacrev": "torch.func.jacrev",
        "jvp": "torch.func.jvp",
        "pmap": "a step in several processes, docs/several_processes.md",
        "scan": "purenets.scan",
        "stop_gradient": "x.detach()",
        "value_and_grad": "torch.func.grad_and_value, which returns (grads, value)",
        "vjp": "torch.func.vjp",
        "vmap": "torch.func.vmap",
        "while_loop": "a Python loop, which is not compiled",
    },
}
LIBRARIES = {"layers": "Flax", "losses": "optax"}  # of the others it is JAX


def refuse_name(module: str, name: str) -> NoReturn:
    """Raise an AttributeError for a name that a module lacks.

    For a name of another library it says what that is called here.
    """
    if name in OTHER_NAMES[module]:
        library, ours = LIBRARIES.get(module, "JAX"), OTHER_NAMES[module][name]
        raise AttributeError(f"{module}.{name} is a name of {library}; here it is {ours}")
    full = "purenets" if module == "purenets" else f"purenets.{module}"
    raise AttributeError(f"module {full!r} has no attribute {name!r}")
