"""The tables of meta-learning and of what stands around a training."""

from collections.abc import Callable

from tests.comparison.members import keys, members_of, numbers, numbers_in_jax
from tests.comparison.problem import batches, net
from tests.comparison.table import Section, mapped, named, row

# --- meta-learning: the gradient of the loss after three updates of w -----------------------------


def losses(w, weight):
    """Return a loss with a part of some weight, of tensors or arrays of JAX."""
    return ((w - 1) ** 2).sum() + weight * (w**4).sum()


def trained_in_torch(optimizer, apply_updates: Callable, w, weight):
    import torch

    params, state = {"w": w}, optimizer.init({"w": w})
    for _ in range(3):
        grads = {"w": torch.func.grad(losses)(params["w"], weight)}
        updates, state = optimizer.update(grads, state, params=params)
        params = apply_updates(params, updates)
    return losses(params["w"], 0.0)


def by_what(by: int, trained: Callable, of: Callable, grad: Callable) -> tuple:
    """Return f and its members: the gradient by w (0), the rate (1) or the weight (2)."""
    rates, weights = 0.1 + 0.05 * of(), 0.1 * of() ** 2
    if by == 1:
        return grad(trained, 1), of(4), rates, weights
    f = lambda w, weight: trained(w, 0.1, weight)
    return grad(f, min(by, 1)), of(4), weights


def ours(by: int) -> Callable:
    """Return the members of a training by Adam of ours."""

    def members() -> tuple:
        import torch

        from purenets import optim

        def trained(w, rate, weight):
            return trained_in_torch(optim.adam(rate), optim.apply_updates, w, weight)

        return by_what(by, trained, numbers, torch.func.grad)

    return members


def in_torchopt(by: int) -> Callable:
    """Return the members of a training by Adam of TorchOpt."""

    def members() -> tuple:
        import torch
        import torchopt

        class Pure:
            def __init__(self, rate):
                self.init, self.made = torchopt.adam(rate).init, torchopt.adam(rate)

            def update(self, *arguments, **named):
                return self.made.update(*arguments, **named, inplace=False)

        def apply_updates(params, updates):
            return torchopt.apply_updates(params, updates, inplace=False)

        def trained(w, rate, weight):
            return trained_in_torch(Pure(rate), apply_updates, w, weight)

        return by_what(by, trained, numbers, torch.func.grad)

    return members


def in_optax(by: int) -> Callable:
    """Return the members of a training by Adam of optax."""

    def members() -> tuple:
        import jax
        import optax

        def trained(w, rate, weight):
            optimizer = optax.adam(rate)
            state = optimizer.init(w)
            for _ in range(3):
                updates, state = optimizer.update(jax.grad(losses)(w, weight), state, w)
                w = optax.apply_updates(w, updates)
            return losses(w, 0.0)

        return by_what(by, trained, numbers_in_jax, jax.grad)

    return members


def learned(what: str, by: int, torchopt: str = "members") -> tuple:
    """Return the row of a gradient through updates."""
    return row(
        what,
        "",
        purenets=mapped("optim.adam", ours(by)),
        func=named("optim.Adam"),
        optax=mapped("adam", in_optax(by)),
        torchopt=mapped("adam", in_torchopt(by), torchopt),
    )


META = [
    learned("The first params (MAML)", 0),
    learned("The learning rate", 1, ""),
    learned("The weight of a part of the loss", 2),
    row(
        "The solution's equation (implicit gradient)",
        "customroot implicit.*",
        torchopt=named("diff.implicit.custom_root"),
    ),
    row(
        "Values only (zero order)",
        "zeroorder evolutionstrategies",
        torchopt=named("diff.zero_order.zero_order"),
    ),
]

# --- ways in and out ------------------------------------------------------------------------------


def module() -> tuple:
    """Return a module and its params."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    return net, {name: p.detach() for name, p in net.named_parameters()}


def from_module() -> tuple:
    from purenets.torch_nets import from_module

    net, params = module()
    model = from_module(net)
    return lambda params, x: model.apply(params, {}, x)[0], members_of(params), batches()[0]


def functional_call() -> tuple:
    from torch.func import functional_call

    net, params = module()
    return lambda params, x: functional_call(net, params, (x,)), members_of(params), batches()[0]


def frozen() -> tuple:
    from purenets.torch_nets import frozen

    model, params = net()
    part = frozen(model, params, {})
    own, constants = part.init(None)
    return lambda x: part.apply(own, constants, x)[0], batches()[0]


def ensemble() -> tuple:
    """Return a step of a training, and states of three members."""
    import torch

    from purenets import make_step, optim, random, train_state
    from purenets.torch_nets import grad_fn

    model, params = net()
    optimizer = optim.adam(0.1)
    step = make_step(grad_fn(model), optimizer)
    key = torch.as_tensor(random.key(0))

    def f(params, x, y):
        return step(train_state(params, {}, optimizer, key), (x, y))[0].params

    return f, members_of(params), *batches()


def sharpness_aware() -> tuple:
    from purenets.core.sam import sam
    from purenets.torch_nets import grad_fn

    model, params = net()
    f = sam(grad_fn(model), 0.05)
    return lambda p, x, y, key: f(p, {}, (x, y), key)[0], members_of(params), *batches(), keys()


def sharpness_aware_in_optax() -> tuple:
    import jax
    import optax

    def update(w):
        adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
        optimizer = optax.contrib.sam(optax.sgd(0.1), adversary, sync_period=2, opaque_mode=True)
        grad_fn = jax.grad(lambda w, _: jax.numpy.cos(w).sum())
        updates, _ = optimizer.update(grad_fn(w, 0), optimizer.init(w), w, grad_fn=grad_fn)
        return updates

    return update, numbers_in_jax(4)


AROUND = [
    row(
        "A module as a function",
        "frommodule functionalcall makefunctional.*",
        purenets=mapped("torch_nets.from_module", from_module),
        func=mapped("func.functional_call", functional_call),
    ),
    row(
        "A function as a module, for torch.export and ONNX",
        "tomodule",
        purenets=named("torch_nets.to_module"),
    ),
    row(
        "A trained net as a frozen part",
        "frozen freeze stopgradient",
        purenets=mapped("torch_nets.frozen", frozen),
        func=named("nn.Module.requires_grad_"),
        optax=named("transforms.freeze"),
        torchopt=named("stop_gradient"),
    ),
    row(
        "Convert optimizer states to and from torch.optim",
        "(to|from)torchstatedict",
        purenets=named("torch_nets.torch_optim.to_torch_state_dict"),
        func=named("optim.Optimizer.state_dict"),
    ),
    row(
        "Recompute BatchNorm statistics",
        "updatebn updatebatchnorm",
        purenets=named("torch_nets.update_batchnorm"),
        func=named("optim.swa_utils.update_bn"),
    ),
    row(
        "Sharpness-aware gradients",
        "sam sharpnessaware.*",
        purenets=mapped("core.sam.sam", sharpness_aware),
        optax=mapped("contrib.sam", sharpness_aware_in_optax),
    ),
    row(
        "A step of many nets in one call",
        "ensemble stackmodulestate",
        purenets=mapped("torch_nets.ensemble", ensemble),
        func=named("func.stack_module_state"),
    ),
    row(
        "FLOPs, forward and backward",
        "(flopcounter|countflops|tabulate).*",
        purenets=named("core.report.tabulate.tabulate"),
        func=named("utils.flop_counter.FlopCounterMode"),
    ),
    row(
        "Bytes, forward and backward",
        "(total|bytes)cost",
        purenets=named("core.report.costs.total_cost"),
    ),
    row(
        "Batches for a DataLoader",
        "iterabledataset (to|steps)dataset dpdataloader",
        purenets=named("torch_nets.to_dataset"),
        func=named("utils.data.IterableDataset"),
        opacus=named("data_loader.DPDataLoader"),
    ),
    row(
        "A DataLoader as batches, the same after a resume",
        "fromloader statefuldataloader",
        purenets=named("torch_nets.from_loader"),
    ),
    row(
        "One rank's part of a batch",
        "partof distributed.*sampler",
        purenets=named("data.part_of"),
        func=named("utils.data.DistributedSampler"),
        opacus=named("utils.uniform_sampler.DistributedUniformWithReplacementSampler"),
    ),
    row(
        "Gradient averaged over ranks",
        "dataparallel distributeddataparallel",
        purenets=named("torch_nets.distributed.data_parallel"),
        func=named("nn.parallel.DistributedDataParallel"),
        opacus=named("distributed.DifferentiallyPrivateDistributedDataParallel"),
    ),
    row(
        "The same bits from any number of processes",
        "sharded(gradfn|metrics)",
        purenets=named("torch_nets.shards.sharded_grad_fn"),
    ),
    row(
        "Sharded params (FSDP2)",
        "fullyshard fsdp.* .*fsdp",
        purenets=named("optim.adamw"),
        func=named("distributed.fsdp.fully_shard"),
        opacus=named("optimizers.FSDPOptimizerFastGradientClipping"),
    ),
]
META_LEARNING_TEXT = """\
What you can differentiate a training with respect to. Checked under vmap: the gradient of the loss
after three updates, each member with its own params, rate and weight;
[meta_learning.md](meta_learning.md) has examples. Any optimizer of purenets or optax works; those
of torch.optim need `differentiable=True` and change params in place; those of TorchOpt use one
rate for all members."""
WAYS_IN_AND_OUT_TEXT = """\
Ours are functions; [toolbox.md](toolbox.md) and [several_processes.md](several_processes.md) show
how to use them. All our optimizers accept sharded params, as dicts of `DTensor`s."""
SECTIONS = [
    Section(
        "Meta-learning",
        META_LEARNING_TEXT,
        ("purenets", "func", "optax", "torchopt"),
        META,
    ),
    Section(
        "Conversion, costs, loaders, several processes",
        WAYS_IN_AND_OUT_TEXT,
        ("purenets", "func", "optax", "torchopt", "opacus"),
        AROUND,
    ),
]
