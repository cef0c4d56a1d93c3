"""What JAX calls otherwise: an error says what it is called here.

The names are no aliases, since the arguments and the results differ too. `optim` and `schedules`
answer to optax's in the same way (`optim.internals.optax_names`).
"""

from typing import NoReturn

OF_JAX = {
    "random": {
        "PRNGKey": "random.key",
        "categorical": "(logits - (-random.uniform(key, logits.shape).log()).log()).argmax(-1)",
        "choice": "random.permutation(key, n)[:k], or random.randint(key, (k,), 0, n) to put back",
        "gumbel": "-(-random.uniform(key, shape).log()).log()",
        "rademacher": "2 * random.bernoulli(key, 0.5, shape) - 1, as floats",
        "shuffle": "x[random.permutation(key, len(x))]",
    },
    "tree": {
        "all": "all(tree.leaves(x))",
        "leaves_with_path": "tree.flatten(x).items()",
        "map_with_path": "{name: f(name, leaf) for name, leaf in tree.flatten(x).items()}",
        "reduce": "functools.reduce(f, tree.leaves(x))",
        "tree_leaves": "tree.leaves",
        "tree_map": "tree.map",
    },
    "torch_nets": {
        "hessian": "torch.func.hessian",
        "jacfwd": "torch.func.jacfwd",
        "jacrev": "torch.func.jacrev",
        "jvp": "torch.func.jvp",
        "scan": "purenets.scan",
        "value_and_grad": "torch.func.grad_and_value, which returns (grads, value)",
        "vjp": "torch.func.vjp",
        "vmap": "torch.func.vmap",
    },
}


def refuse_name(module: str, name: str) -> NoReturn:
    """Raise the AttributeError of a name that a module lacks; of one of JAX's, with ours."""
    if name in OF_JAX[module]:
        ours = OF_JAX[module][name]
        raise AttributeError(f"{module}.{name} is a name of JAX; here it is {ours}")
    raise AttributeError(f"module 'purenets.{module}' has no attribute {name!r}")
