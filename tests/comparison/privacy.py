"""The table of per-example gradients and private training."""

from tests.comparison.members import keys, members_of, numbers, numbers_in_jax
from tests.comparison.problem import batches, net
from tests.comparison.table import Section, mapped, named, row


def per_example(name: str):
    """Return the members of a function of per-example gradients of ours, each with own params."""

    def members() -> tuple:
        from purenets.torch_nets.analysis import ghost, per_example

        made = {
            "per_example_grads": per_example.per_example_grads,
            "ghost_norms": ghost.ghost_norms,
            "clipped_sum": lambda model: lambda *args: ghost.clipped_sum(model, 0.5)(*args)[0],
        }
        model, params = net()
        f = made[name](model)
        return lambda params, x, y: f(params, {}, (x, y)), members_of(params), *batches()

    return members


def by_func() -> tuple:
    from torch.func import grad, vmap
    from torch.nn.functional import cross_entropy

    model, params = net()
    f = lambda params, x, y: cross_entropy(model.apply(params, {}, x)[0], y)
    return vmap(grad(f), (None, 0, 0)), members_of(params), *batches()


def dp_step() -> tuple:
    from purenets.torch_nets.analysis.privacy import dp_grad_fn

    model, params = net()
    f = dp_grad_fn(model, clip=0.5, noise_multiplier=1.0)
    step = lambda params, x, y, key: f(params, {}, (x, y), key)[0]
    return step, members_of(params), *batches(), keys()


def clipped_in_jax() -> tuple:
    import optax

    clipped = lambda grads: optax.per_example_global_norm_clip({"w": grads}, 0.5)
    return clipped, numbers_in_jax(5, 2, 3)


def dpsgd_in_jax() -> tuple:
    import optax

    def update(grads):
        optimizer = optax.contrib.dpsgd(0.1, 0.5, 1.0, 0)
        return optimizer.update({"w": grads}, optimizer.init({"w": grads[0]}))[0]

    return update, numbers_in_jax(5, 2, 3)


def poisson() -> tuple:
    from purenets.torch_nets.analysis.privacy import poisson_batches

    data = numbers(8, 2)[0], numbers(8)[0]
    return lambda key: poisson_batches(data, 0.5, key)(0), keys()


def noised() -> tuple:
    from purenets.torch_nets.analysis.noise import add_noise

    return lambda g, key: add_noise({"w": g}, key, 0.5), numbers(2, 3), keys()


PRIVACY = [
    row(
        "Per-example gradients",
        "perexamplegrads?",
        purenets=mapped(
            "torch_nets.analysis.per_example.per_example_grads", per_example("per_example_grads")
        ),
        func=mapped("func.vmap", by_func),
        opacus=named("grad_sample.GradSampleModule"),
    ),
    row(
        "Their norms only",
        "ghostnorms?",
        purenets=mapped("torch_nets.analysis.ghost.ghost_norms", per_example("ghost_norms")),
        opacus=named("grad_sample.GradSampleModuleFastGradientClipping"),
    ),
    row(
        "Their clipped sum",
        "clippedsum",
        purenets=mapped("torch_nets.analysis.ghost.clipped_sum", per_example("clipped_sum")),
        optax=mapped("per_example_global_norm_clip", clipped_in_jax),
        opacus=named("optimizers.DPOptimizer"),
    ),
    row(
        "DP-SGD",
        "dpsgd dpoptimizer",
        purenets=mapped("torch_nets.analysis.privacy.dp_grad_fn", dp_step),
        optax=mapped("contrib.dpsgd", dpsgd_in_jax),
        opacus=named("PrivacyEngine"),
    ),
    row(
        "Privacy spent",
        "epsilon rdpaccountant",
        purenets=named("torch_nets.analysis.privacy.epsilon"),
        opacus=named("accountants.RDPAccountant"),
    ),
    row(
        "Noise for a budget",
        "noisefor getnoisemultiplier",
        purenets=named("torch_nets.analysis.privacy.noise_for"),
        opacus=named("accountants.utils.get_noise_multiplier"),
    ),
    row(
        "Poisson sampling",
        "poissonbatches uniformwithreplacementsampler poissonsampler",
        purenets=mapped("torch_nets.analysis.privacy.poisson_batches", poisson, ""),
        opacus=named("utils.uniform_sampler.UniformWithReplacementSampler"),
    ),
]
PRIVATE_TRAINING_TEXT = """\
Ours work with any function of params and inputs, and any optimizer; norms and clipped sums cost
about as much as one gradient of the batch. optax expects per-example gradients as input; Opacus
wraps a module whose layers it knows. Checked under vmap: each member with its own params, batch
and key. A Poisson sample has no fixed size, so it cannot be vmapped."""
SECTIONS = [
    Section(
        "Private training",
        PRIVATE_TRAINING_TEXT,
        ("purenets", "func", "optax", "opacus"),
        PRIVACY,
    )
]
