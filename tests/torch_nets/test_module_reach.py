"""What a module reaches beside its leaves: it follows the params given to apply, or is refused."""

import collections
import functools
import types
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from purenets import UserError, random
from purenets.torch_nets import from_module, grad_fn, jit

KEY = torch.as_tensor(random.key(0))
X, Y = (random.normal(random.fold_in(KEY, i), (6, 4)) for i in range(2))


def mse(y, target):
    return (y - target).square().mean()


class Net(nn.Module):
    """Two layers, and f(module, output of the first)."""

    def __init__(self, f=lambda net, h: h, **attributes):
        super().__init__()
        self.a, self.c, self.f = nn.Linear(4, 4), nn.Linear(4, 4), f
        for name, value in attributes.items():
            setattr(self, name, value(self))

    def forward(self, x):
        return self.c(self.f(self, self.a(x)))


def expect_gradients_of_torch(module, transform=lambda f: f):
    model = from_module(module)
    params, buffers = model.init(None)
    grads, _ = transform(grad_fn(model, mse, metrics={}))(params, buffers, (X, Y), KEY)
    module.zero_grad()
    mse(module.train()(X), Y).backward()
    for name, p in module.named_parameters():
        assert torch.allclose(grads[name], p.grad, atol=1e-6), name
    tripled = {name: 3 * p for name, p in params.items()}
    y, _ = model.apply(tripled, buffers, X, key=KEY)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(tripled[name])
    assert torch.allclose(y, module.eval()(X), atol=1e-4)


# --- closures -----------------------------------------------------------------------------


def with_forward():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    old = module.forward
    module.forward = lambda x: old(x) * 2
    return module


def with_hook(hook="register_forward_hook"):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    getattr(module[1], hook)(lambda *given: module[0].weight.sum() + given[-1])
    return module


def with_global():
    global OUTER
    OUTER = Net(lambda net, h: torch.tanh(OUTER.a(h)))
    return OUTER


def with_activation():
    module = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 4))
    module[1].activation = lambda h: torch.tanh(module[0](h))
    return module


class Holder:
    def __init__(self, held):
        self.held = held

    def __call__(self, h):
        return torch.tanh(h @ self.held)


call = lambda net, h: net.act(h)
CLOSURES = {
    "closure": (lambda: Net(call, act=lambda net: lambda h: torch.tanh(net.a(h))), "^act: .* mod"),
    "param": (lambda: Net(call, act=lambda n: (lambda w: lambda h: h @ w)(n.a.weight)), "a.weight"),
    "default": (lambda: Net(call, act=lambda net: lambda h, a=net.a: a(h)), "^act: .* part a by"),
    "forward": (with_forward, "^forward: reaches the module itself"),
    "hook": (with_hook, "^1._forward_hooks: reaches the module itself"),
    "pre-hook": (lambda: with_hook("register_forward_pre_hook"), "^1._forward_pre_hooks: reaches"),
    "global": (with_global, "^f: reaches the module itself"),
    "activation": (with_activation, "^1.activation: reaches the module itself"),
    "partial": (
        lambda: Net(call, act=lambda net: functools.partial(lambda a, h: net.a(h), 1)),
        "^act: reaches the module itself",
    ),
    "argument of a partial": (
        lambda: Net(call, act=lambda net: functools.partial(torch.add, net.a.bias)),
        "^act: holds a.bias in a closure, global, tuple or set",
    ),
    "of an object": (
        lambda: Net(call, act=lambda net: (lambda o: lambda h: o(h))(Holder(net.a.weight))),
        "^act: holds a.weight",
    ),
    "weakref": (
        lambda: Net(lambda net, h: net.first()(h), first=lambda net: weakref.ref(net.a)),
        "^first: reaches the part a by",
    ),
    "tuple": (
        lambda: Net(lambda net, h: h @ net.ws[0], ws=lambda net: (net.a.weight,)),
        "^ws: holds a.weight in a closure, global, tuple or set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSURES)
def test_leaf_or_part_that_stays_that_of_the_module_is_refused(name):
    make, text = CLOSURES[name]
    with pytest.raises(UserError, match=text):
        from_module(make())


def with_method(name):
    module = Net()

    def method(self, x):
        return self.c(torch.tanh(self.a(x)))

    setattr(module, name, types.MethodType(method, module))
    if name == "act":
        module.f = lambda net, h: net.act(h)
    return module


class Hooked(Net):
    """A hook that is a method, its handle, an optimizer of its own, and names that are global."""

    OUTER = None

    def __init__(self):
        super().__init__()
        self.handle = self.a.register_forward_hook(self.twice)
        self.optimizer = torch.optim.SGD(self.parameters(), 0.1)

    def twice(self, part, given, y):
        return y * self.c.weight.sum()


def by_lists(net, h):
    for w in net.ws:
        h = torch.tanh(h @ w)
    return h @ net.at["deep"][0] + net.holder(h) + net.other.weight.sum()


def unregistered(net):
    other = nn.Linear(4, 4)
    other.weight = net.a.weight
    net.__dict__["hidden"] = other
    return other


FOLLOWED = {
    "list of all": lambda: Net(
        lambda net, h: h @ net.every[0] + net.every[3], every=lambda net: list(net.parameters())
    ),
    "lists and dicts": lambda: Net(
        by_lists,
        ws=lambda net: [net.a.weight, net.c.weight],
        at=lambda net: {"deep": [net.a.weight]},
        holder=lambda net: Holder(net.c.weight),
        other=lambda net: net.c,
    ),
    "hidden part": lambda: Net(lambda net, h: net.__dict__["hidden"](h), x=unregistered),
    "deque of parts": lambda: Net(
        lambda net, h: net.parts[0](h), parts=lambda net: collections.deque([net.a], 2)
    ),
    "partial": lambda: Net(call, act=lambda net: functools.partial(torch.add, other=net.a.bias)),
    "forward": lambda: with_method("forward"),
    "method": lambda: with_method("act"),
    "hook": Hooked,
    "distribution": lambda: Net(
        lambda net, h: h + net.prior.loc.sum() + net.prior.mean[0],
        prior=lambda net: torch.distributions.Normal(net.a.weight, 1.0),
    ),
    "recurrent": lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4), First()),
}  # fmt: skip


class First(nn.Module):
    def forward(self, given):
        return given[0]


@pytest.mark.parametrize("name", FOLLOWED)
def test_leaves_in_containers_and_methods_follow_the_params(name):
    global OUTER
    OUTER = module = FOLLOWED[name]()  # a global of that name is not reached by an attribute
    expect_gradients_of_torch(module)


def test_leaves_in_containers_follow_the_params_where_jit_traces(traced_only):
    expect_gradients_of_torch(FOLLOWED["lists and dicts"](), jit)


# --- views --------------------------------------------------------------------------------


VIEWS = {
    "transposed": (lambda net: net.a.weight.t(), "^w: is a view of a.weight and would keep"),
    "data": (lambda net: net.a.weight.data.t(), "^w: is a view of a.weight"),
    "part": (lambda net: net.a.weight.data[1:], "^w: is a view of a.weight"),
    "in a list": (lambda net: [net.a.weight.detach()], "^w: is a view of a.weight"),
    "listed view": (lambda net: [net.a.weight.t()], "^w: is a view of a.weight"),
    "computed": (lambda net: 2 * net.a.weight, "^w: was computed from tensors with gradients"),
    "closure": (lambda net: (lambda w: lambda: w)(net.a.weight.detach()), "^w: is a view of a.w"),
}


@pytest.mark.parametrize("name", VIEWS)
def test_view_of_a_param_is_refused(name):
    make, text = VIEWS[name]
    with pytest.raises(UserError, match=text):
        from_module(Net(w=make))


def test_buffer_that_is_a_view_of_a_param_is_refused():
    module = Net()
    module.register_buffer("w", module.a.weight.detach())
    with pytest.raises(UserError, match=r"^w: is a view of a\.weight"):
        from_module(module)


class Renews(Net):
    def forward(self, x):
        return self.c(self.project(x))

    def project(self, x):
        self.w = self.a.weight.t()
        self.last = x @ self.w
        return self.last


def renewed():
    module = Renews()
    module(X)
    return module


def by_hook():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[0].register_forward_pre_hook(lambda part, given: setattr(part, "w", part.weight.t()))
    module[0].register_forward_hook(lambda part, given, y: y @ part.w)
    module(X)
    return module


def pruned():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(module[0], "weight", 0.5)
    return module


def slices_of_a_vector():
    module, vector = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.randn(40)
    module[0].weight.data = vector[:16].view(4, 4)
    module[1].running_mean = vector[16:20].abs()
    module[1].register_buffer("more", vector[20:])
    return module


RENEWED = {
    "in forward": renewed,
    "by a hook": by_hook,
    "pruned": pruned,
    "old weight_norm": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4))),
    "weight_norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))),
    "old spectral_norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))).eval(),
    "slices of a vector": slices_of_a_vector,
}


@pytest.mark.parametrize("name", RENEWED)
def test_view_that_the_forward_pass_renews_is_none(name):
    module = RENEWED[name]()
    model = from_module(module)
    params, buffers = model.init(None)
    y, _ = model.apply({name: 2 * p for name, p in params.items()}, buffers, X, key=KEY)
    assert not torch.allclose(y, model.apply(params, buffers, X, key=KEY)[0])


# --- containers that a call changes -------------------------------------------------------


def remembers(net, h):
    if "w" not in net.cache:
        net.cache["w"] = net.a.weight.norm()
    net.history.append(h)
    net.names.add(len(net.names))
    net.queue.append(len(net.queue))
    net.state.count += 1
    net.nested["list"].append(1)
    seen = len(net.history) + len(net.names) + sum(net.queue) + net.state.count
    return h / net.cache["w"] * (seen + len(net.nested["list"]))


def test_changes_of_containers_last_for_the_call_only():
    module = Net(
        remembers,
        cache=lambda net: {},
        history=lambda net: [],
        names=lambda net: set(),
        queue=lambda net: collections.deque([3], 2),
        state=lambda net: types.SimpleNamespace(count=0),
        nested=lambda net: {"list": []},
    )
    model = from_module(module)
    params, buffers = model.init(None)
    one, two = (model.apply(params, buffers, X, key=KEY)[0] for _ in range(2))
    assert torch.equal(one, two)
    compiled = jit(lambda p: model.apply(p, buffers, X, key=KEY)[0])
    assert torch.allclose(compiled(params), one, atol=1e-6)
    other = {name: 3 * p for name, p in params.items()}
    assert torch.allclose(compiled(other), model.apply(other, buffers, X, key=KEY)[0], atol=1e-5)
    assert (module.cache, module.history, module.state.count) == ({}, [], 0)
    module.load_state_dict(other)
    assert torch.allclose(model.apply(other, buffers, X, key=KEY)[0], module(X), atol=1e-5)


def test_write_into_a_tensor_of_a_list_is_refused():
    module = Net(lambda net, h: h + net.sums[0].add_(1), sums=lambda net: [torch.zeros(())])
    model = from_module(module)
    with pytest.raises(UserError, match="writes into sums, which is no buffer"):
        model.apply(*model.init(None), X, key=KEY)
