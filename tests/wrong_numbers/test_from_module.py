"""Any torch module as a model: its draws, its writes, its leaves and its inputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from purenets import UserError, data, make_step, optim, random, train_state
from purenets.torch_nets import ensemble, from_module, grad_fn, stack_states
from tests.wrong_numbers.choice import or_refused

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

DRAWING = {
    "lstm": lambda: Last(nn.LSTM(4, 8, 2, dropout=0.5, batch_first=True), 8),
    "attention": lambda: Last(nn.MultiheadAttention(4, 2, 0.5, batch_first=True), 4),
    "functional": FunctionalDropout,
    "rrelu": RandomReLU,
}


@pytest.mark.parametrize("name", DRAWING)
def test_same_step_twice_is_the_same(name):
    model = from_module(DRAWING[name]())
    state, step = start(model), make_step(grad_fn(model), SGD)
    found = or_refused(lambda: [step(state, (SEQUENCES, Y))[0].params for _ in range(2)])
    assert found is None or same(*found)


def test_steps_of_two_keys_draw_differently_and_the_model_says_so():
    model = from_module(DRAWING["lstm"]())
    step = make_step(grad_fn(model), SGD)
    states = start(model), start(model)._replace(key=torch.as_tensor(random.key(1)))
    found = or_refused(lambda: [step(state, (SEQUENCES, Y))[0].params for state in states])
    assert found is None or (model.uses_key and not same(*found))


def test_members_of_an_ensemble_drop_out_differently():
    model = from_module(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    members = stack_states([start(model, seed=seed) for seed in (0, 1)])
    step = ensemble(make_step(grad_fn(model), SGD), same_batch=True)
    found = or_refused(step, members, (X, Y))
    if found:
        first, second = found[0].params["2.weight"]
        assert not torch.equal(first, second)


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
def test_key_draws_every_leaf_or_the_leaf_is_named(name):
    try:
        assert not equal_under_two_keys(from_module(NOT_DRAWN[name]()))
    except UserError as error:
        assert name in str(error)


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_module_made_under_the_key_has_every_leaf_drawn(name):
    assert not equal_under_two_keys(from_module(NOT_DRAWN[name]))


def test_layer_that_begins_at_zero_is_not_drawn_over():
    found = or_refused(from_module(ClassToken()).init, KEY)
    assert found is None or not found[0]["out.weight"].any()


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


def test_weight_norm_of_the_old_kind_works_or_is_refused():
    module = nn.utils.weight_norm(nn.Linear(4, 3))
    model = or_refused(from_module, module)
    if model:
        assert torch.allclose(model.apply(*model.init(None), X)[0], module(X))


def test_lazy_layer_is_refused_in_one_line():
    with pytest.raises(UserError):
        from_module(nn.LazyLinear(3)).init(None)


def test_sparse_embedding_trains_or_is_refused():
    embedding = nn.Embedding(10, 4, sparse=True)
    dense = nn.Embedding.from_pretrained(embedding.weight.detach().clone(), freeze=False)
    rest, adam = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), optim.adam(0.1)

    def trained(embedding):
        model = from_module(nn.Sequential(embedding, rest))
        return make_step(grad_fn(model), adam)(start(model, adam), (IDS, Y))[0].params

    found = or_refused(trained, embedding)
    assert found is None or torch.allclose(found["0.weight"], trained(dense)["0.weight"])


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
