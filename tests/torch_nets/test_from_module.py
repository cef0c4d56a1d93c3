"""Any torch module as a model: its draws, its writes, its leaves and its inputs."""

import copy
import random as python_random
from random import uniform

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from purenets import UserError, data, make_step, optim, random, train_state
from purenets.torch_nets import checkpoint as recomputed
from purenets.torch_nets import ensemble, from_module, grad_fn, jit, module_draws, stack_states
from purenets.torch_nets.module_draws import KeyedDraws

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
Y = torch.tensor([0, 1, 2] * 2)
IDS = random.randint(KEY, (6, 3), 0, 10)
SEQUENCES = random.normal(KEY, (6, 5, 4))
SGD = optim.sgd(0.1)


class Last(nn.Module):
    """The last output of a sequence module, and a linear layer."""

    def __init__(self, part, n):
        super().__init__()
        self.part, self.out = part, nn.Linear(n, 3)

    def forward(self, x):
        inputs = (x, x, x) if isinstance(self.part, nn.MultiheadAttention) else (x,)
        return self.out(self.part(*inputs)[0][:, -1])


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(F.dropout(x[:, -1], 0.5, self.training))


class RandomReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.out = nn.RReLU(), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.relu(x[:, -1]))


def start(model, optimizer=SGD, seed=0):
    return train_state(*model.init(None), optimizer, torch.as_tensor(random.key(seed)))


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# --- draws --------------------------------------------------------------------------------


def functional(f):
    """A linear layer, and f(module, its output): (6, 4) -> (6, 4)."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x):
            return f(self, self.out(x[:, -1]))

    return Net()


def in_place(method, *args):
    """x times a tensor that the method fills, made in several ways."""
    return lambda net, x: x * getattr(x.new_empty(len(x), 1), method)(*args)


KEYED = {
    "lstm": lambda: Last(nn.LSTM(4, 8, 3, dropout=0.5, batch_first=True, bidirectional=True), 16),
    "lstm, projected": lambda: Last(
        nn.LSTM(4, 8, 2, dropout=0.5, batch_first=True, proj_size=3), 3
    ),
    "gru": lambda: Last(nn.GRU(4, 8, 2, dropout=0.5, batch_first=True), 8),
    "rnn": lambda: Last(nn.RNN(4, 8, 2, dropout=0.5, batch_first=True), 8),
    "attention": lambda: Last(nn.MultiheadAttention(4, 2, 0.5, batch_first=True), 4),
    "encoder": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, 0.5, batch_first=True), Mean()
    ),
    "functional": FunctionalDropout,
    "rrelu": RandomReLU,
    "dropout in place": lambda: nn.Sequential(
        Mean(), nn.Dropout(0.5, inplace=True), nn.Linear(4, 3)
    ),
    "alpha dropout": lambda: nn.Sequential(Mean(), nn.AlphaDropout(0.5), nn.Linear(4, 3)),
    "stochastic depth": lambda: nn.Sequential(Mean(), StochasticDepth(0.5, "row"), nn.Linear(4, 3)),
    "F.dropout": lambda: functional(lambda net, x: F.dropout(x, 0.5, net.training)),
    "F.dropout in place": lambda: functional(lambda net, x: F.dropout(x, 0.5, net.training, True)),
    "F.dropout1d": lambda: functional(lambda net, x: F.dropout1d(x.unsqueeze(2), 0.5).squeeze(2)),
    "F.dropout2d": lambda: functional(lambda net, x: F.dropout2d(x[:, :, None, None]).flatten(1)),
    "F.feature_alpha_dropout": lambda: functional(
        lambda net, x: F.feature_alpha_dropout(x[..., None], training=True).flatten(1)
    ),
    "F.gumbel_softmax": lambda: functional(lambda net, x: F.gumbel_softmax(x)),
    "F.gumbel_softmax, hard": lambda: functional(lambda net, x: F.gumbel_softmax(x, hard=True)),
    "F.rrelu": lambda: functional(lambda net, x: F.rrelu(x, training=True)),
    "F.scaled_dot_product_attention": lambda: functional(
        lambda net, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5, is_causal=True)
    ),
    "torch.dropout": lambda: functional(lambda net, x: torch.dropout(x, 0.5, True)),
    "torch.bernoulli": lambda: functional(lambda net, x: x * torch.bernoulli(torch.sigmoid(x))),
    "torch.normal": lambda: functional(lambda net, x: torch.normal(x, 1.0)),
    "torch.rand": lambda: functional(lambda net, x: x * torch.rand(4)),
    "torch.rand_like": lambda: functional(lambda net, x: x * torch.rand_like(x)),
    "torch.randn": lambda: functional(lambda net, x: x * torch.randn(len(x), 1)),
    "torch.randn_like": lambda: functional(lambda net, x: x + x * torch.randn_like(x)),
    "torch.randint": lambda: functional(lambda net, x: x * torch.randint(2, 99, (4,))),
    "torch.randperm": lambda: functional(lambda net, x: x[torch.randperm(len(x))]),
    "bernoulli_": lambda: functional(in_place("bernoulli_", 0.5)),
    "exponential_": lambda: functional(in_place("exponential_")),
    "normal_": lambda: functional(in_place("normal_", 1.0, 2.0)),
    "uniform_": lambda: functional(in_place("uniform_", 1.0, 2.0)),
    "ones": lambda: functional(lambda net, x: x * torch.ones(4).bernoulli_(0.5)),
    "Normal": lambda: functional(lambda net, x: torch.distributions.Normal(x, 1.0).rsample()),
}
SEEDED = {  # eagerly by torch's generator, seeded from the key
    "torch.multinomial": lambda: functional(lambda net, x: x * torch.multinomial(torch.ones(9), 4)),
    "torch.poisson": lambda: functional(lambda net, x: x * torch.poisson(torch.full((4,), 9.0))),
    "torch.native_dropout": lambda: functional(
        lambda net, x: torch.native_dropout(x, 0.5, True)[0]
    ),
    "torch.ops": lambda: functional(
        lambda net, x: torch.ops.aten.bernoulli.default(x.sigmoid()) * x
    ),
    "cauchy_": lambda: functional(in_place("cauchy_")),
    "Categorical": lambda: functional(
        lambda net, x: x * torch.distributions.Categorical(logits=x).sample()[:, None]
    ),
    "Gamma": lambda: functional(
        lambda net, x: x * torch.distributions.Gamma(x.exp(), 1.0).sample()
    ),
}


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def steps_of_keys(model, *seeds) -> list[dict]:
    step = make_step(grad_fn(model), SGD)
    return [step(start(model, seed=seed), (SEQUENCES, Y))[0].params for seed in seeds]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [*KEYED, *SEEDED])
def test_step_draws_from_its_key_alone(name):
    model, before = from_module({**KEYED, **SEEDED}[name]()), torch.random.get_rng_state()
    first, other, again = steps_of_keys(model, 0, 1, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)
    assert model.uses_key


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", KEYED)
def test_member_of_an_ensemble_draws_as_if_it_were_alone(name):
    model = from_module(KEYED[name]())
    members = stack_states([start(model, seed=seed) for seed in (0, 1)])
    state, _ = ensemble(make_step(grad_fn(model), SGD), same_batch=True)(members, (SEQUENCES, Y))
    for i, alone in enumerate(steps_of_keys(model, 0, 1)):
        for leaf, p in alone.items():
            assert torch.allclose(state.params[leaf][i], p, atol=1e-5), leaf


@pytest.mark.parametrize("name", SEEDED)
def test_draw_that_no_member_can_have_of_its_own_is_refused(name):
    model = from_module(SEEDED[name]())
    members = stack_states([start(model, seed=seed) for seed in (0, 1)])
    with pytest.raises(UserError, match="does not run under vmap"):
        ensemble(make_step(grad_fn(model), SGD), same_batch=True)(members, (SEQUENCES, Y))


def after_a_step(step, model, seed=0) -> dict:
    return step(start(model, seed=seed), (SEQUENCES, Y))[0].params


def near(a: dict, b: dict) -> bool:
    return all(torch.allclose(a[leaf], b[leaf], atol=1e-5) for leaf in b)


@pytest.mark.parametrize("name", ["functional", "attention", "lstm", "torch.rand_like", "normal_"])
def test_traced_step_draws_the_same(name, traced_only):
    assert_compiled_step_draws_the_same(name)


def test_compiled_step_draws_the_same():
    assert_compiled_step_draws_the_same("attention")


def assert_compiled_step_draws_the_same(name):
    model = from_module(KEYED[name]())
    step = make_step(grad_fn(model), SGD)
    compiled = jit(step)
    assert near(after_a_step(compiled, model), after_a_step(step, model))
    assert near(after_a_step(compiled, model, 1), after_a_step(step, model, 1))


@pytest.mark.filterwarnings("ignore:jit")
@pytest.mark.parametrize("name", ["torch.multinomial", "torch.native_dropout"])
def test_step_that_cannot_be_compiled_draws_the_same(name):
    model = from_module(SEEDED[name]())
    step = make_step(grad_fn(model), SGD)
    compiled = jit(step)
    assert near(after_a_step(compiled, model), after_a_step(step, model))
    assert near(after_a_step(compiled, model, 1), after_a_step(step, model, 1))


@pytest.mark.parametrize(
    "name", ["functional", "dropout in place", "attention", "F.gumbel_softmax", "ones"]
)
def test_step_that_torch_compiles_draws_the_same(name):
    torch.compiler.reset()
    model = from_module(KEYED[name]())
    step = make_step(grad_fn(model), SGD)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert near(after_a_step(compiled, model), after_a_step(step, model))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
@pytest.mark.parametrize("name", ["torch.rand_like", "torch.normal", "torch.multinomial"])
def test_draw_that_torch_compile_would_take_from_its_generator_is_an_error(name):
    torch.compiler.reset()
    model = from_module({**KEYED, **SEEDED}[name]())
    compiled = torch.compile(make_step(grad_fn(model), SGD), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"random|draws|super"):
        after_a_step(compiled, model)


@pytest.mark.parametrize("name", ["lstm", "functional", "F.gumbel_softmax", "dropout in place"])
def test_draw_without_a_key_is_refused(name):
    model = from_module(KEYED[name]())
    with pytest.raises(UserError, match="there is no key"):
        model.apply(*model.init(None), SEQUENCES, train=True)


def test_draw_in_evaluation_needs_a_key_too():
    model = from_module(
        functional(lambda net, x: F.dropout(x, 0.5))
    )  # training=True, whatever the mode
    params, buffers = model.init(None)
    with pytest.raises(UserError, match="there is no key"):
        model.apply(params, buffers, SEQUENCES)
    one, two = (model.apply(params, buffers, SEQUENCES, key=KEY)[0] for _ in range(2))
    assert torch.equal(one, two)


def test_evaluation_draws_nothing():
    for make in (KEYED["lstm"], KEYED["attention"], KEYED["functional"], KEYED["rrelu"]):
        module = make().eval()
        model = from_module(module)
        found, _ = model.apply(*model.init(None), SEQUENCES)
        assert torch.allclose(found, module(SEQUENCES), atol=1e-6)


class PythonDraw(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.out, self.draw = nn.Linear(4, 3), draw

    def forward(self, x):
        draw = python_random.random if self.draw == "Python" else np.random.rand
        return self.out(x) * draw()


@pytest.mark.parametrize("draw", ["Python", "NumPy"])
def test_draw_that_no_key_reaches_is_refused(draw):
    model = from_module(PythonDraw(draw))
    with pytest.raises(UserError, match=f"{draw}'s generator"):
        model.apply(*model.init(None), X, train=True, key=KEY)


OWN_GENERATORS = {
    "Generator": (np.random.default_rng(0), "random"),
    "RandomState": (np.random.RandomState(0), "rand"),
    "Random": (python_random.Random(0), "random"),
}


def by_import(x):
    from numpy.random import rand

    return x * rand()  # noqa: NPY002


HELPERS = {
    "module": (lambda x: x * python_random.random(), "Python's generator"),
    "function": (lambda x: x * uniform(0, 1), "Python's generator"),
    "import": (by_import, "NumPy's generator"),
}


@pytest.mark.parametrize("name", HELPERS)
def test_draw_of_a_function_that_a_module_calls_is_refused(name):
    helper, kind = HELPERS[name]
    model = from_module(functional(lambda net, x: helper(x)))
    with pytest.raises(UserError, match=f"draws from {kind}"):
        model.apply(*model.init(None), SEQUENCES, train=True, key=KEY)


class OwnGenerator(nn.Module):
    def __init__(self, generator, method, used):
        super().__init__()
        self.out, self.generator, self.method, self.used = nn.Linear(4, 3), generator, method, used

    def forward(self, x):
        return self.out(x) * (getattr(self.generator, self.method)() if self.used else 1)


@pytest.mark.parametrize("kind", OWN_GENERATORS)
def test_generator_that_a_module_holds_is_refused_where_it_draws(kind):
    model = from_module(OwnGenerator(*OWN_GENERATORS[kind], used=True))
    with pytest.raises(UserError, match=f"draws from a {kind} of its own"):
        model.apply(*model.init(None), X, train=True, key=KEY)
    model = from_module(OwnGenerator(*OWN_GENERATORS[kind], used=False))
    one, two = (model.apply(*model.init(None), X, train=True, key=KEY)[0] for _ in range(2))
    assert torch.equal(one, two)


def test_generator_of_its_own_is_refused():
    own = torch.Generator().manual_seed(0)
    model = from_module(functional(lambda net, x: x * torch.rand(4, generator=own)))
    with pytest.raises(UserError, match="a generator of its own"):
        model.apply(*model.init(None), SEQUENCES, train=True, key=KEY)


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_dropout_keeps_the_share_and_the_scale(p):
    module = nn.Sequential(nn.Dropout(p))
    y, _ = from_module(module).apply({}, {}, torch.ones(400, 500), train=True, key=KEY)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    assert float((y == 0).float().mean()) == pytest.approx(
        p, abs=5 * (p * (1 - p) / y.numel()) ** 0.5
    )


def test_alpha_dropout_keeps_mean_and_deviation():
    x = random.normal(KEY, (400, 500))
    y, _ = from_module(nn.Sequential(nn.AlphaDropout(0.3))).apply({}, {}, x, train=True, key=KEY)
    assert float(y.mean()) == pytest.approx(0, abs=0.02)
    assert float(y.std()) == pytest.approx(1, abs=0.02)


def test_attention_written_out_is_that_of_torch_where_nothing_drops():
    q, k, v = (random.normal(random.fold_in(KEY, i), (2, 3, 5, 4)) for i in range(3))
    masks = (None, torch.ones(5, 5).tril().bool(), random.normal(KEY, (5, 5)))
    for mask in masks:
        right = F.scaled_dot_product_attention(q, k, v, mask)
        tiny = 1e-12  # drops nothing
        found = KeyedDraws(KEY, "net").__torch_function__(
            F.scaled_dot_product_attention, (), (q, k, v, mask, tiny)
        )
        assert torch.allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("part", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_one_by_one_are_those_run_at_once(part):
    module = Last(
        part(4, 6, 3, dropout=1e-12, batch_first=True, bidirectional=True), 12
    )  # drops nothing
    model = from_module(module)
    found, _ = model.apply(*model.init(None), SEQUENCES, train=True, key=KEY)
    assert torch.allclose(found, module(SEQUENCES), atol=1e-6)


def test_part_in_evaluation_stays_there_in_training():
    module = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)), nn.BatchNorm1d(4)
    )
    module[1].eval()
    model = from_module(module)
    y, buffers = model.apply(*model.init(None), X, train=True, key=KEY)
    assert torch.equal(buffers["1.0.running_mean"], torch.zeros(4))
    assert buffers["2.running_mean"].any()
    assert torch.allclose(y, copy.deepcopy(module)(X), atol=1e-6)
    model = from_module(module.eval())  # the whole of it says nothing about its parts
    _, buffers = model.apply(*model.init(None), X, train=True, key=KEY)
    assert buffers["1.0.running_mean"].any()
    module[1].train()
    model = from_module(module)
    assert torch.allclose(model.apply(*model.init(None), X)[0], module.eval()(X), atol=1e-6)


def test_packed_sequences_drop_out_too():
    packed = nn.utils.rnn.pack_padded_sequence(
        SEQUENCES, torch.tensor([5, 4, 3, 2, 2, 1]), batch_first=True
    )
    model = from_module(nn.GRU(4, 6, 2, dropout=0.5, batch_first=True))
    draw = lambda seed: model.apply(
        *model.init(None), packed, train=True, key=torch.as_tensor(random.key(seed))
    )[0][1]
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_every_operation_that_torch_tags_as_random_is_known():
    """A newer torch may have more of them."""
    tagged = {
        name
        for name in dir(torch) + dir(torch.Tensor)
        for overload in getattr(getattr(torch.ops.aten, name, None), "overloads", list)()
        if torch.Tag.nondeterministic_seeded
        in getattr(getattr(torch.ops.aten, name), overload).tags
    }
    assert "bernoulli_" in tagged
    public = {name for name in tagged if not name.startswith(("_", "miopen"))}
    assert public - {"random"} <= module_draws.KEYED.keys() | module_draws.SEEDED


# --- writes -------------------------------------------------------------------------------


def test_step_leaves_the_training_set_as_it_was():
    model, x = from_module(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))), X.clone()
    make_step(grad_fn(model), SGD)(start(model), data.batches((x, Y))(0))
    assert torch.equal(x, X)


def test_apply_leaves_the_params_as_they_were():
    embedding = nn.Embedding(10, 4, max_norm=0.5)
    model = from_module(nn.Sequential(embedding, nn.Flatten(), nn.Linear(12, 3)))
    params, buffers = model.init(None)
    before = {name: leaf.clone() for name, leaf in params.items()}
    model.apply(params, buffers, IDS)
    assert same(params, before)


class Writes(nn.Module):
    """Writes into what it is given, before the linear layer."""

    def __init__(self, write):
        super().__init__()
        self.write, self.out = write, nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        with torch.no_grad():
            self.write(self, x)
        return self.out(x)


WRITES = {
    "inputs": lambda net, x: x.mul_(2),
    "a part of the inputs": lambda net, x: x[:, 0].fill_(7),
    "inputs by index": lambda net, x: x.__setitem__((slice(None), 1), 3.0),
    "data of the inputs": lambda net, x: x.data.clamp_(0, 1),
    "params": lambda net, x: net.out.weight.clamp_(-0.1, 0.1),
    "data of params": lambda net, x: net.out.weight.data.mul_(0.5),
    "new data of params": lambda net, x: setattr(net.out.weight, "data", net.out.weight * 0.5),
    "buffers": lambda net, x: net.calls.add_(1),
}


def copies(*parts) -> list:
    return [
        leaf.clone()
        for part in parts
        for leaf in (part.values() if isinstance(part, dict) else [part])
    ]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_apply_changes_no_argument_and_not_the_module(write, train):
    module, x = Writes(WRITES[write]), X.clone()
    model = from_module(module)
    params, buffers = model.init(None)
    before = copies(params, buffers, x, module.state_dict())
    one, two = (model.apply(params, buffers, x, train=train, key=KEY) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert all(map(torch.equal, before, copies(params, buffers, x, module.state_dict())))
    assert float(one[1]["calls"]) == (write == "buffers")
    again = copy.deepcopy(module)
    assert torch.allclose(one[0], again(x.clone()))


@pytest.mark.parametrize("inputs", [lambda x: (x,), lambda x: {"x": x}])
def test_inputs_in_tuples_and_dicts_are_not_written_into(inputs):
    model, x = from_module(Writes(WRITES["inputs"])), X.clone()
    model.apply(*model.init(None), inputs(x))
    assert torch.equal(x, X)


def test_embedding_bag_with_a_largest_norm_leaves_its_params():
    model = from_module(nn.EmbeddingBag(10, 4, max_norm=0.5))
    params, _ = model.init(None)
    before = params["weight"].clone()
    found, _ = model.apply(params, {}, IDS)
    assert torch.equal(params["weight"], before)
    assert float(found.norm(dim=1).max()) <= 0.5 + 1e-6


def test_gradient_of_a_module_that_writes_is_that_of_torch():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    model = from_module(module)
    grads, _ = grad_fn(model)(*model.init(None), (X, Y), None)
    F.cross_entropy(module(X), Y).backward()
    for name, p in module.named_parameters():
        assert torch.allclose(grads[name], p.grad, atol=1e-6)


class Counter(nn.Module):
    """Counts its calls in a plain attribute, and in a tensor that is no buffer."""

    def __init__(self, tensor=False):
        super().__init__()
        self.out, self.calls = nn.Linear(4, 3), torch.zeros(()) if tensor else 0

    def forward(self, x):
        self.calls += 1
        return self.out(x) * self.calls


def test_plain_attribute_lasts_for_a_call_only():
    module = Counter()
    model = from_module(module)
    one, two = (model.apply(*model.init(None), X)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert module.calls == 0


def test_write_into_a_tensor_that_is_no_buffer_is_refused():
    model = from_module(Counter(tensor=True))
    with pytest.raises(UserError, match="writes into calls, which is no buffer"):
        model.apply(*model.init(None), X)


def test_plain_attribute_that_jit_traces_lasts_for_the_trace_only():
    model = from_module(Counter())
    leaves = model.init(None)
    one = model.apply(*leaves, X)[0]
    assert torch.allclose(jit(lambda x: model.apply(*leaves, x)[0])(X), one)
    assert torch.equal(model.apply(*leaves, X)[0], one)


class Sets(nn.Module):
    """Sets what `change` returns as a leaf of this name."""

    def __init__(self, change, leaf="mean", **buffers):
        super().__init__()
        self.change, self.leaf, self.w = change, leaf, nn.Parameter(torch.ones(4))
        for name, value in (buffers or {"mean": torch.zeros(4)}).items():
            self.register_buffer(name, value, persistent=name != "temporary")

    def forward(self, x):
        y = self.w * (x - self.mean)
        if self.training:
            setattr(self, self.leaf, self.change(self, x))
        return y


def running_mean(net, x):
    return 0.9 * net.mean + 0.1 * x.detach().mean(0)


def shared_part():
    part = Sets(running_mean)
    return nn.Sequential(part, nn.ReLU(), part)


BUFFERS_SET = {
    "a running mean": lambda: Sets(running_mean),
    "of parts": lambda: nn.Sequential(Sets(running_mean), Sets(running_mean)),
    "of a part used twice": shared_part,
    "not persistent": lambda: Sets(
        lambda net, x: net.temporary + 1, "temporary", mean=torch.zeros(4), temporary=torch.zeros(1)
    ),
    "of another dtype": lambda: Sets(lambda net, x: running_mean(net, x).double()),
    "of another shape": lambda: Sets(
        lambda net, x: torch.cat([net.seen, x.detach()]), "seen", mean=torch.zeros(4),
        seen=torch.zeros(0, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUFFERS_SET)
def test_buffers_that_the_module_sets_are_returned(name):
    module = BUFFERS_SET[name]()
    model, before = from_module(module), copy.deepcopy(module.state_dict())
    params, buffers = model.init(None)
    given = copies(buffers)
    train = lambda params, buffers, x: model.apply(params, buffers, x, train=True, key=KEY)
    y, once = train(params, buffers, X)
    _, twice = train(params, once, 2 * X)
    assert all(map(torch.equal, given, copies(buffers)))
    assert same(module.state_dict(), before)
    assert torch.allclose(jit(train)(params, buffers, X)[0], y)
    compiled = jit(train)(params, buffers, X)[1]
    batched = torch.func.vmap(train, in_dims=(None, None, 0))(params, buffers, X[None])[1]
    assert torch.allclose(module.train()(X), y)
    right = {n: b.clone() for n, b in module.named_buffers()}
    for found in (once, compiled, {n: b[0] for n, b in batched.items()}):
        assert found.keys() == right.keys()
        assert all(b.dtype == right[n].dtype for n, b in found.items())
        assert all(torch.allclose(b, right[n]) for n, b in found.items())
    module(2 * X)
    assert all(torch.allclose(twice[n], b) for n, b in module.named_buffers())


def tied_buffers():
    mean = torch.zeros(4)
    return Sets(running_mean, mean=mean, other=mean)


REFUSED_SETS = {
    "a param": (lambda: Sets(lambda net, x: nn.Parameter(net.w * 2), "w"), "sets its param w anew"),
    "no tensor": (lambda: Sets(lambda net, x: None, "mean"), "buffer mean to what is no tensor"),
    "one of two that are tied": (tied_buffers, "one of the tied buffers mean and other anew"),
    "a buffer that was None": (
        lambda: Sets(lambda net, x: x, "last", mean=torch.zeros(4), last=None),
        "sets the leaf last, which init did not return",
    ),
    "a new param": (
        lambda: Sets(lambda net, x: nn.Parameter(x), "new"),
        "sets the leaf new, which init did not return",
    ),
}


@pytest.mark.parametrize("what", REFUSED_SETS)
def test_leaf_that_cannot_be_returned_is_not_set(what):
    make, text = REFUSED_SETS[what]
    model = from_module(make())
    leaves = model.init(None)
    for _ in range(2):
        with pytest.raises(UserError, match=text):
            model.apply(*leaves, X, train=True, key=KEY)
        model.apply(*leaves, X, key=KEY)


def test_buffer_that_is_a_param_is_refused():
    module = nn.Linear(4, 3)
    module.register_buffer("first", module.weight)
    with pytest.raises(UserError, match="first: is the param weight and a buffer too"):
        from_module(module)


def test_ensemble_of_a_module_that_reads_a_number_is_refused_in_one_line():
    model = from_module(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)))
    states = stack_states([start(model) for _ in range(2)])
    step = ensemble(make_step(grad_fn(model), SGD), same_batch=True)
    with pytest.raises(UserError, match="Sequential: reads a number out of a tensor"):
        step(states, (X, Y))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


def test_checkpoint_that_would_compute_again_with_other_params_is_refused():
    model = from_module(Checkpointed())
    params, _ = model.init(None)
    with pytest.raises(UserError, match=r"torch\.utils\.checkpoint"):
        grad_fn(model)({name: 3 * p for name, p in params.items()}, {}, (X, Y), None)


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return recomputed(lambda weight, x: F.linear(x, weight) * self.scale)(self.weight, x)


@pytest.mark.parametrize("run", [lambda f: f, jit])
def test_our_own_checkpoint_within_a_module_is_refused(run):
    """It would compute again with the buffers of the module itself."""
    model = from_module(Recomputed())
    params, _ = model.init(None)
    buffers = {"scale": torch.tensor(10.0)}
    with pytest.raises(UserError, match=r"Recomputed: calls .*checkpoint\(model\.apply\)"):
        run(grad_fn(model))(params, buffers, (X, Y), None)
    with pytest.raises(UserError, match=r"Recomputed: calls .*checkpoint\(model\.apply\)"):
        run(lambda *given: model.apply(*given)[0])(params, buffers, X)
    assert recomputed(lambda x: 2 * x)(X).equal(2 * X)


class OwnVmap(nn.Module):
    """A module that maps a function that draws over the examples."""

    def __init__(self, randomness: str, draw):
        super().__init__()
        self.randomness, self.draw = randomness, draw
        self.weight = nn.Parameter(torch.ones(3, 64))

    def forward(self, x):
        one = lambda row: self.draw(row @ self.weight)
        return torch.func.vmap(one, randomness=self.randomness)(x)


DRAWN_WITHIN = {
    "dropout": lambda h: F.dropout(h, 0.5, training=True),
    "noise": lambda h: h + torch.randn(64),
    "written": lambda h: h + torch.empty(64).normal_(),
    "twice mapped": lambda h: torch.func.vmap(
        lambda part: part + torch.rand(()), randomness="different"
    )(h),
}


@pytest.mark.parametrize("name", DRAWN_WITHIN)
@pytest.mark.parametrize("run", [lambda f: f, jit])
def test_each_member_of_a_modules_own_vmap_draws_for_itself(name, run):
    x, keys = torch.ones(4, 3), random.split(torch.as_tensor(random.key(0)), 3)
    found = {}
    for randomness in ("different", "same"):
        model = from_module(OwnVmap(randomness, DRAWN_WITHIN[name]).train())
        params, _ = model.init(None)
        apply = run(lambda key, m=model, p=params: m.apply(p, {}, x, train=True, key=key)[0])
        found[randomness] = y = apply(keys[0])
        assert torch.equal(y, apply(keys[0]))
        assert not torch.equal(y, apply(keys[1]))
        together = torch.func.vmap(apply)(keys)
        assert torch.equal(together, torch.stack([apply(key) for key in keys]))
    assert torch.equal(found["same"], found["same"][:1].expand(4, 64))
    assert len(found["different"].unique(dim=0)) == 4
    if name == "twice mapped":
        assert len(found["same"][0].unique()) > 60


@pytest.mark.parametrize("run", [lambda f: f, jit])
def test_draws_of_a_vmap_that_does_not_say_how_are_refused(run):
    model = from_module(OwnVmap("error", DRAWN_WITHIN["dropout"]).train())
    params, _ = model.init(None)
    apply = run(lambda key: model.apply(params, {}, torch.ones(4, 3), train=True, key=key)[0])
    with pytest.raises(UserError, match="OwnVmap: dropout draws within a vmap of the module's own"):
        apply(torch.as_tensor(random.key(0)))


# --- the drawing of params ----------------------------------------------------------------


class ClassToken(nn.Module):
    """A bare parameter, and a layer that begins at zero."""

    def __init__(self):
        super().__init__()
        self.token, self.out = nn.Parameter(torch.randn(1, 8)), nn.Linear(8, 3)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        return self.out(x + self.token)


NOT_DRAWN = {
    "in_proj": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "parametrizations": lambda: nn.Sequential(weight_norm(nn.Linear(4, 6))),
    "original": lambda: nn.Sequential(spectral_norm(nn.Linear(4, 6))),
    "token": lambda: ClassToken(),
}


def equal_under_two_keys(model) -> list[str]:
    """The names of the leaves that are drawn, but not from the key."""
    a, b = (model.init(torch.as_tensor(random.key(seed)))[0] for seed in (0, 1))
    return [name for name in a if torch.equal(a[name], b[name]) and a[name].std() > 0]


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_leaf_that_a_key_cannot_draw_is_named(name):
    with pytest.raises(UserError, match=name):
        from_module(NOT_DRAWN[name]()).init(KEY)


def trained():
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-9)
    module(X).sum().backward()
    optimizer.step()
    return module


def loaded():
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    module.load_state_dict(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).state_dict())
    return module


def with_statistics():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    module(X)
    return module


def otherwise(draw):
    """A layer drawn in another way, behind the back of its version counter."""
    module = nn.Sequential(nn.Linear(40, 80))
    draw(module[0].weight.data)
    return module


SET = {
    "trained by a tiny step": (trained, "0.weight"),
    "loaded": (loaded, "0.weight"),
    "running statistics": (with_statistics, "1.running_mean"),
    "normal": (lambda: otherwise(nn.init.normal_), "0.weight"),
    "kaiming": (lambda: otherwise(nn.init.kaiming_normal_), "0.weight"),
    "orthogonal": (lambda: otherwise(nn.init.orthogonal_), "0.weight"),
    "a constant": (lambda: otherwise(lambda weight: weight.fill_(0.01)), "0.weight"),
    "a copy of a trained one": (
        lambda: copy.deepcopy(otherwise(lambda weight: weight.mul_(1.5))),
        "0.weight",
    ),
    "torchvision's own": (lambda: torchvision.models.resnet18(num_classes=3), "conv1.weight"),
}


@pytest.mark.parametrize("name", SET)
def test_values_that_did_not_come_of_a_reset_are_not_drawn_over(name):
    make, leaf = SET[name]
    with pytest.raises(UserError, match=rf"{leaf}.* would be overwritten"):
        from_module(make()).init(KEY)


def trained_copy(change):
    """A copy, which has no version counter of its own, of a net of small leaves."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    change(module)
    return copy.deepcopy(module)


def by_adam(module, steps=200):
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimizer.step()


def one_beyond(module):
    module[2].weight.data[0, 0] = 1.01 / 8**0.5  # the largest draw is 1 / sqrt(8)


def all_moved(module):
    """Within the ranges of the draws, so that only all leaves together can show it."""
    for p in module.parameters():
        p.data = p.data.abs() * 0.99


COPIES = {"adam": (by_adam, "0.weight"), "one": (one_beyond, "2.weight"), "all": (all_moved, "0.w")}


@pytest.mark.parametrize("name", COPIES)
def test_copy_of_a_trained_module_of_small_leaves_is_not_drawn_over(name):
    change, leaf = COPIES[name]
    with pytest.raises(UserError, match=rf"{leaf}.* would be overwritten"):
        from_module(trained_copy(change)).init(KEY)


class OwnReset(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 3)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.body[0].weight)


FRESH = {
    "linear": lambda: nn.Linear(4, 8),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 3)
    ),
    "norms": lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.PReLU()),
    "embedding": lambda: nn.Embedding(50, 8, padding_idx=0),
    "recurrent": lambda: nn.LSTM(4, 8, 2),
    "double": lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).double(),
    "copied": lambda: copy.deepcopy(nn.Sequential(nn.Linear(4, 8), nn.Bilinear(4, 4, 3))),
    "tied": lambda: tied(),
    "scalar": lambda: nn.Linear(1, 1),
    "bfloat16": lambda: nn.Sequential(nn.Linear(40, 80), nn.Embedding(9, 40)).bfloat16(),
    "own reset": OwnReset,
}


def tied():
    embedding, out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    out.weight = embedding.weight
    return nn.Sequential(embedding, out)


@pytest.mark.parametrize("name", FRESH)
@pytest.mark.parametrize("seed", range(5))
def test_fresh_layers_are_drawn_anew(name, seed):
    torch.manual_seed(seed)
    module = FRESH[name]()
    model, before = from_module(module), torch.random.get_rng_state()
    (one, buffers), (again, _), (other, _) = (
        model.init(torch.as_tensor(random.key(s))) for s in (seed, seed, seed + 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one, again)
    varied = [
        leaf for leaf, p in module.named_parameters() if p.unique().numel() > 1 or name == "scalar"
    ]
    assert (
        varied == [leaf for leaf in one if not torch.equal(one[leaf], other[leaf])]
        or name == "norms"
    )
    assert [p.dtype for p in one.values()] == [p.dtype for p in module.parameters()]
    assert set(one) | set(buffers) == set(module.state_dict()) - (
        {"1.weight"} if name == "tied" else set()
    )


def test_construction_under_the_key_leaves_the_generators_as_they_were():
    def make():
        module = nn.Linear(4, 3)
        module.weight.data.mul_(python_random.random() + np.random.rand())  # noqa: NPY002
        return module

    model = from_module(make)
    states = lambda: (python_random.getstate(), np.random.get_state()[1:3])  # noqa: NPY002
    before, others = torch.random.get_rng_state(), str(states())
    one, again, other = (model.init(torch.as_tensor(random.key(s)))[0] for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert str(states()) == others
    assert same(one, again)
    assert not torch.equal(one["weight"], other["weight"])


def test_function_that_returns_what_was_built_before_draws_nothing():
    net, pretrained = nn.Linear(4, 3), nn.Linear(4, 4)
    for make in (lambda: net, lambda: nn.Sequential(net, nn.Tanh())):
        model = from_module(make)
        with pytest.raises(UserError, match="that was built before, the same for every key"):
            model.init(KEY)
        assert len(model.init(None)[0]) == 2
    params, _ = from_module(lambda: nn.Sequential(pretrained, nn.Linear(4, 3))).init(KEY)
    assert torch.equal(params["0.weight"], pretrained.weight)


def test_what_builds_no_module_is_refused():
    for wrong in (3, nn.Linear(4, 3).state_dict(), lambda: None):
        with pytest.raises(UserError, match=r"needs a torch\.nn\.Module"):
            from_module(wrong)


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_module_made_under_the_key_has_every_leaf_drawn(name):
    assert not equal_under_two_keys(from_module(NOT_DRAWN[name]))


def test_layer_that_begins_at_zero_is_not_drawn_over():
    with pytest.raises(UserError, match=r"out\.weight: trained, loaded or initialized otherwise"):
        from_module(ClassToken()).init(KEY)


def test_module_made_under_the_key_keeps_the_layer_that_begins_at_zero():
    params, _ = from_module(lambda: ClassToken()).init(KEY)
    assert not params["out.weight"].any()


def test_init_without_a_key_gives_the_own_values_of_the_module():
    module = ClassToken()
    assert same(dict(module.named_parameters()), from_module(module).init(None)[0])


# --- frozen and shared leaves -------------------------------------------------------------


def half_frozen():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    module[0].requires_grad_(False)
    return from_module(module)


def test_frozen_layer_stays_as_it_is():
    model, optimizer = half_frozen(), optim.adam(1e-2)
    before = start(model, optimizer)
    after, _ = make_step(grad_fn(model), optimizer)(before, (X, Y))
    weights = [{**state.params, **state.buffers}["0.weight"] for state in (before, after)]
    assert torch.equal(*weights)


def test_frozen_leaves_are_buffers():
    params, buffers = half_frozen().init(None)
    assert set(params) == {"2.weight", "2.bias"}
    assert {"0.weight", "0.bias"} <= set(buffers)


def test_key_draws_the_trained_leaves_only():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    module[:2].requires_grad_(False)
    module[0].weight.fill_(7)
    module(X)  # moves the statistics
    params, buffers = from_module(module).init(KEY)
    assert set(params) == {"2.weight", "2.bias"}
    assert not torch.equal(params["2.weight"], module[2].weight)
    assert all(torch.equal(leaf, module.state_dict()[name]) for name, leaf in buffers.items())


def test_bias_alone_may_be_trained():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    for name, p in module.named_parameters():
        p.requires_grad_(name.endswith("bias"))
    model = from_module(module)
    params, buffers = model.init(KEY)
    assert set(params) == {"0.bias", "2.bias"}
    assert torch.equal(buffers["0.weight"], module[0].weight)
    after, _ = make_step(grad_fn(model), SGD)(start(model), (X, Y))
    assert torch.equal(after.buffers["0.weight"], module[0].weight)


def test_momentum_encoder_that_the_module_moves_comes_back_in_the_buffers():
    class Momentum(nn.Module):
        def __init__(self):
            super().__init__()
            self.online, self.target = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)

        def forward(self, x):
            with torch.no_grad():
                self.target.weight.lerp_(self.online.weight, 0.5)
            return self.online(x) + self.target(x)

    module = Momentum()
    model = from_module(module)
    params, buffers = model.init(None)
    _, new = model.apply(params, buffers, X, train=True, key=KEY)
    middle = (module.online.weight + module.target.weight) / 2
    assert torch.allclose(new["target.weight"], middle)
    assert torch.equal(buffers["target.weight"], module.target.weight)


def test_params_in_the_same_memory_that_are_not_the_same_are_refused():
    embedding, out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    out.weight = nn.Parameter(embedding.weight.data)
    with pytest.raises(UserError, match=r"1\.weight: shares its memory with 0\.weight"):
        from_module(nn.Sequential(embedding, out))


def test_tied_leaf_gets_both_gradients():
    embedding, out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    out.weight = embedding.weight
    module = nn.Sequential(embedding, out, nn.Flatten())
    model, y = from_module(module), torch.arange(6)
    grads, _ = grad_fn(model)(*model.init(None), (IDS, y), None)
    F.cross_entropy(module(IDS), y).backward()
    assert torch.allclose(grads["0.weight"], out.weight.grad, atol=1e-6)


def test_tied_leaf_appears_once():
    embedding, out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    out.weight = embedding.weight
    params, _ = from_module(nn.Sequential(embedding, out)).init(None)
    assert list(params) == ["0.weight"]


# --- inputs and kinds of modules ----------------------------------------------------------


def bilinear(inputs):
    model = from_module(nn.Bilinear(4, 4, 3))
    params, buffers = model.init(None)
    return model.apply(params, buffers, inputs)[0], F.bilinear(X, 2 * X, *params.values())


def test_tuple_is_the_inputs_of_a_module():
    assert torch.allclose(*bilinear((X, 2 * X)))


def test_dict_is_the_keyword_inputs_of_a_module():
    assert torch.allclose(*bilinear({"input1": X, "input2": 2 * X}))


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.spectral_norm, weight_norm, spectral_norm]
)
def test_weight_and_spectral_norm_of_both_kinds(norm):
    module = norm(nn.Linear(4, 3)).eval()
    model = from_module(module)
    params, buffers = model.init(None)
    assert torch.allclose(model.apply(params, buffers, X)[0], module(X), atol=1e-6)
    grads, _ = grad_fn(model)(params, buffers, (X, Y), None)
    assert all(g.isfinite().all() and g.any() for g in grads.values())


def test_several_outputs_and_keyword_inputs_train():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = (
                nn.MultiheadAttention(4, 2, batch_first=True),
                nn.Linear(4, 3),
            )

        def forward(self, query, memory, *, scale=1.0):
            y, weights = self.attention(query, memory, memory)
            return self.out(y.mean(1)) * scale, weights

    module = Both()
    model = from_module(module)
    inputs = {"query": SEQUENCES, "memory": 2 * SEQUENCES, "scale": 0.5}
    loss = lambda outputs, y: F.cross_entropy(outputs[0], y) + outputs[1].square().mean()
    grads, _ = grad_fn(model, loss, metrics={})(*model.init(None), (inputs, Y), None)
    loss(module(**inputs), Y).backward()
    for name, p in module.named_parameters():
        assert torch.allclose(grads[name], p.grad, atol=1e-6), name


def test_lazy_layer_is_refused_in_one_line():
    with pytest.raises(UserError):
        from_module(nn.LazyLinear(3)).init(None)


def test_sparse_embedding_trains_as_a_dense_one():
    embedding = nn.Embedding(10, 4, sparse=True)
    dense = nn.Embedding.from_pretrained(embedding.weight.detach().clone(), freeze=False)
    rest, adam = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), optim.adam(0.1)

    def trained(embedding):
        model = from_module(nn.Sequential(embedding, rest))
        return make_step(grad_fn(model), adam)(start(model, adam), (IDS, Y))[0].params

    assert torch.allclose(trained(embedding)["0.weight"], trained(dense)["0.weight"])
    assert embedding.sparse


# --- memory -------------------------------------------------------------------------------


def graph_size(params: dict) -> int:
    """The number of nodes of autograd's graph that the params hold on to."""
    seen, left = set(), [leaf.grad_fn for leaf in params.values()]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [inner for inner, _ in node.next_functions]
    return len(seen)


def test_steps_from_the_parameters_of_a_module_do_not_pile_up():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model, optimizer = from_module(module), optim.adam(1e-3)
    state = train_state(dict(module.named_parameters()), {}, optimizer, KEY)
    sizes = []
    for _ in range(4):
        state, _ = make_step(grad_fn(model), optimizer)(state, (X, Y))
        sizes.append(graph_size(state.params))
    assert sizes[3] == sizes[1]


class Masked(torch.nn.Module):
    """Makes booleans and complex draws of its own."""

    def forward(self, x):
        drop = torch.zeros(x.shape[-1], dtype=torch.bool)
        drop[0] = True
        scores = torch.ones(2, 2, dtype=torch.bool).tril()
        seen = F.scaled_dot_product_attention(
            torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]), scores
        )
        return x * ~drop + F.dropout(seen.squeeze(1), 0.0, self.training) + 0 * torch.rand(2)


@pytest.mark.parametrize("run", [lambda f: f, jit])
def test_booleans_that_a_module_makes_stay_booleans_for_members(run):
    model = from_module(Masked())
    keys = random.split(torch.as_tensor(random.key(0)), 3)
    apply = run(lambda key, x: model.apply({}, {}, x, train=True, key=key)[0])
    x = torch.tensor([[5.0, 7.0]])
    expected = torch.tensor([[1.0, 9.0]])  # attention sees 1, and the mean of 1 and 3
    assert torch.equal(apply(keys[0], x), expected)
    together = torch.func.vmap(apply, in_dims=(0, None))(keys, x)
    assert torch.equal(together, expected.expand(3, 1, 2))


class ComplexNoise(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand(10_000, dtype=torch.complex64)


def test_complex_draws_of_a_module_have_both_parts():
    key = torch.as_tensor(random.key(0))
    drawn, _ = from_module(ComplexNoise()).apply({}, {}, torch.zeros(()), train=True, key=key)
    for part in (drawn.real, drawn.imag):
        assert 0 <= float(part.min()) < 0.01 < 0.99 < float(part.max()) < 1
        assert abs(float(part.mean()) - 0.5) < 0.02
    assert not torch.equal(drawn.real, drawn.imag)
