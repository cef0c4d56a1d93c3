"""Layers against their twins of torch.nn, with the twin's own state for params, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from purenets import UserError, init_state, make_step, optim, random, tree
from purenets.core.report.tabulate import tabulate
from purenets.torch_nets import ensemble, grad_fn, jit, layers, stack_states, to_module
from purenets.torch_nets.analysis.per_example import check_per_example
from purenets.torch_nets.fast import aot
from purenets.torch_nets.layers.attention import attention, attention_weights
from purenets.torch_nets.precision import cast

KEY = torch.as_tensor(random.key(3))


def draw(*shape):
    return random.normal(random.fold_in(KEY, math.prod(shape)), shape, "float64")


def tokens(*shape):
    return random.randint(KEY, shape, 0, 7)


# ours, torch's, inputs
TWINS = {
    "Embedding": (
        lambda: layers.Embedding(7, 4, padding=2),
        lambda: nn.Embedding(7, 4, padding_idx=2),
        lambda: tokens(3, 5),
    ),
    "SiLU": (layers.SiLU, nn.SiLU, lambda: draw(3, 5)),
    "GELU": (lambda: layers.GELU(approximate="none"), nn.GELU, lambda: draw(3, 5)),
    "LayerNorm": (lambda: layers.LayerNorm(6), lambda: nn.LayerNorm(6), lambda: draw(3, 5, 6)),
    "LayerNorm without bias": (
        lambda: layers.LayerNorm(6, bias=False),
        lambda: nn.LayerNorm(6, bias=False),
        lambda: draw(3, 6),
    ),
    "RMSNorm": (lambda: layers.RMSNorm(6), lambda: nn.RMSNorm(6), lambda: draw(3, 5, 6)),
    "RMSNorm eps": (
        lambda: layers.RMSNorm(6, eps=0.1),
        lambda: nn.RMSNorm(6, eps=0.1),
        lambda: draw(3, 6),
    ),
    "GroupNorm": (
        lambda: layers.GroupNorm(6, groups=3),
        lambda: nn.GroupNorm(3, 6),
        lambda: draw(3, 6, 4, 5),
    ),
    "GroupNorm of features": (
        lambda: layers.GroupNorm(6, groups=2, eps=0.1),
        lambda: nn.GroupNorm(2, 6, eps=0.1),
        lambda: draw(3, 6),
    ),
    "BatchNorm1d": (lambda: layers.BatchNorm(6), lambda: nn.BatchNorm1d(6), lambda: draw(3, 6, 4)),
    "Conv": (
        lambda: layers.Conv(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        lambda: nn.Conv2d(4, 6, 3, 2, 2, 2, 2),
        lambda: draw(3, 4, 9, 8),
    ),
    "Conv1d": (
        lambda: layers.Conv1d(4, 6, 3, stride=2, padding=1),
        lambda: nn.Conv1d(4, 6, 3, 2, 1),
        lambda: draw(3, 4, 9),
    ),
    "Conv1d in groups": (
        lambda: layers.Conv1d(4, 8, 2, dilation=3, groups=4, bias=False),
        lambda: nn.Conv1d(4, 8, 2, dilation=3, groups=4, bias=False),
        lambda: draw(3, 4, 9),
    ),
    "ConvTranspose": (
        lambda: layers.ConvTranspose(4, 6, 3, stride=2, padding=1, output_padding=1),
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        lambda: draw(3, 4, 5, 4),
    ),
    "RNN": (
        lambda: layers.RNN(4, 6, num_layers=2, bidirectional=True),
        lambda: nn.RNN(4, 6, 2, batch_first=True, bidirectional=True),
        lambda: draw(3, 5, 4),
    ),
    "LSTM": (
        lambda: layers.LSTM(4, 6),
        lambda: nn.LSTM(4, 6, batch_first=True),
        lambda: draw(3, 5, 4),
    ),
    "LSTM deep": (
        lambda: layers.LSTM(4, 6, num_layers=3, bidirectional=True, bias=False),
        lambda: nn.LSTM(4, 6, 3, bias=False, batch_first=True, bidirectional=True),
        lambda: draw(3, 5, 4),
    ),
    "GRU": (
        lambda: layers.GRU(4, 6, num_layers=2),
        lambda: nn.GRU(4, 6, 2, batch_first=True),
        lambda: draw(3, 5, 4),
    ),
    "TransformerBlock": (
        lambda: layers.TransformerBlock(8, 2, 16),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
        lambda: draw(3, 5, 8),
    ),
    "TransformerBlock norm first": (
        lambda: layers.TransformerBlock(8, 4, 16, activation="gelu", norm_first=True, bias=False),
        lambda: nn.TransformerEncoderLayer(
            8, 4, 16, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
        ),
        lambda: draw(3, 5, 8),
    ),
}  # fmt: skip
every_layer = pytest.mark.parametrize("name", TWINS)


def setting(name):
    """Our layer, torch's module, its state as params and buffers, and inputs."""
    make, make_twin, inputs = TWINS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        twin = make_twin().double()
        for p in twin.parameters():
            nn.init.uniform_(p, -0.7, 0.9)
    params = {leaf: p.detach() for leaf, p in twin.named_parameters()}
    return make(), twin, params, dict(twin.named_buffers()), inputs()


def output(y):
    return y[0] if isinstance(y, tuple) else y


def grads_of(f, params, *inputs):
    leaves = {leaf: p.clone().requires_grad_() for leaf, p in params.items()}
    y = f(leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return y.detach(), torch.autograd.grad((y * weights).sum(), [*leaves.values(), *inputs])


@every_layer
def test_outputs_and_gradients_equal_torchs(name):
    model, twin, params, buffers, x = setting(name)
    assert model.init(KEY)[0].keys() == params.keys()
    drawn = model.init(KEY)[0]
    assert all(drawn[leaf].shape == p.shape for leaf, p in params.items())
    inputs = () if not x.is_floating_point() else (x.requires_grad_(),)
    before = {leaf: value.clone() for leaf, value in {**params, **buffers, "x": x}.items()}
    mine, my_grads = grads_of(lambda p: model.apply(p, buffers, x, train=True)[0], params, *inputs)
    assert all(torch.equal(before[leaf], v) for leaf, v in {**params, **buffers, "x": x}.items())
    twin.load_state_dict({**params, **buffers}) if params else None
    call = lambda p: output(torch.func.functional_call(twin, {**p, **buffers}, (x,)))
    theirs, grads = grads_of(call, params, *inputs)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(my_grads, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every_layer
def test_vmap_and_jit_equal_one_by_one(name):
    model, _, params, buffers, x = setting(name)
    apply = lambda p, x: model.apply(p, buffers, x)[0]
    members = [tree.map(lambda p, s=s: p * (1 + 0.1 * s), params) for s in range(3)]
    if params:
        together = torch.func.vmap(apply, in_dims=(0, None))(tree.stack(members), x)
        for y, p in zip(together, members, strict=True):
            torch.testing.assert_close(y, apply(p, x), rtol=1e-12, atol=1e-12)
    alone = torch.func.vmap(lambda x: apply(params, x[None])[0])(x)
    torch.testing.assert_close(alone, apply(params, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])  # their code takes torch long
def test_traced_equals_eager(name, traced_only):
    assert_jit_equals_eager(name)


@pytest.mark.parametrize("name", ["TransformerBlock", "ConvTranspose", "RMSNorm"])
def test_compiled_equals_eager(name):
    assert_jit_equals_eager(name)


def assert_jit_equals_eager(name):
    model, _, params, buffers, x = setting(name)

    def loss(params, x):
        return torch.func.grad(lambda p: (model.apply(p, buffers, x)[0] ** 2).sum())(params)

    compiled, eager = jit(loss)(params, x), loss(params, x)
    for leaf in params:
        torch.testing.assert_close(compiled[leaf], eager[leaf], rtol=1e-12, atol=1e-12)


def test_formula_of_attention_stays_where_the_fused_gradient_fails(monkeypatch):
    """As with torch 2.11 in float64; here any fused gradient is said to fail."""
    model, _, params, buffers, x = setting("TransformerBlock")
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    refused = []

    def has_fused(module):
        refused.append(bool(module.graph.find_nodes(op="call_function", target=fused)))
        return refused[-1]

    def loss(params):
        return torch.func.grad(lambda p: (model.apply(p, buffers, x)[0] ** 2).sum())(params)

    monkeypatch.setattr(aot, "_has_failing_attention", has_fused)
    compiled, eager = jit(loss)(params), loss(params)
    assert refused == [True, False]
    for leaf in params:
        torch.testing.assert_close(compiled[leaf], eager[leaf], rtol=1e-12, atol=1e-12)


@every_layer
def test_tables_count_every_parameter(name):
    model, _, params, buffers, x = setting(name)
    rows = tabulate(
        layers.serial(layer=model),
        x,
        tree.prefixed(params, "layer."),
        tree.prefixed(buffers, "layer."),
    )
    assert sum(row.params for row in rows) == sum(p.numel() for p in params.values())
    assert all(row.operation != "custom" for row in rows)


@every_layer
def test_tables_tell_the_operations_that_torch_counts(name):
    model, _, params, buffers, x = setting(name)
    rows = tabulate(model, x, params, buffers)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.apply(params, buffers, x)
    assert sum(row.cost.forward_flops for row in rows) == counter.get_total_flops()


def test_a_table_tells_lookups_and_transposed_convolutions_from_products():
    net = layers.serial(conv=layers.ConvTranspose(4, 4, 3), flat=layers.Flatten())
    conv = tabulate(net, torch.zeros(2, 4, 5, 5))[0]
    assert conv.operation == "ConvTranspose 3x3" and conv.output == (2, 4, 7, 7)
    assert conv.forward == "(50 x 4)(4 x 36) = (50 x 36)"
    assert tabulate(layers.Embedding(4, 4), tokens(3, 4) % 4)[0].forward == "rows of a table"
    block = tabulate(layers.TransformerBlock(4, 2, 8), torch.zeros(3, 5, 4))
    assert block[0].forward == "products with 2 matrices"
    assert [row.name for row in block][:3] == ["self_attn", "norm1", "linear1"]


@pytest.mark.parametrize("name", ["LSTM", "TransformerBlock", "GroupNorm", "Conv1d", "Embedding"])
def test_per_example_gradients_equal_the_loop(name):
    model, _, params, _, x = setting(name)
    mean = layers.elementwise(lambda y: y.flatten(1)[:, :6])
    net, params = layers.serial(layer=model, mean=mean), tree.prefixed(params, "layer.")
    assert check_per_example(net, params, {}, (x, torch.arange(3)), tolerance=1e-10) < 1e-10


def test_second_derivatives_of_attention():
    """By torch.func, against finite differences of the first."""
    model, _, params, _, x = setting("TransformerBlock norm first")
    f = lambda p: (model.apply(p, {}, x)[0] ** 2).sum()
    direction = tree.map(lambda p: torch.ones_like(p), params)
    gradient = torch.func.grad(f)
    _, product = torch.func.jvp(gradient, (params,), (direction,))
    ahead, behind = (
        gradient(tree.map(lambda p, d, h=h: p + h * d, params, direction)) for h in (1e-6, -1e-6)
    )
    for leaf in params:
        torch.testing.assert_close(
            product[leaf], (ahead[leaf] - behind[leaf]) / 2e-6, rtol=1e-5, atol=1e-4
        )


# --- recurrent layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", ["LSTM deep", "GRU", "RNN"])
def test_states_in_and_out_are_torchs(name, traced):
    model, twin, params, _, x = setting(name)
    shape = (twin.num_layers * (2 if twin.bidirectional else 1), 3, 6)
    begin = (draw(*shape), draw(*shape) / 2) if name.startswith("LSTM") else draw(*shape)
    apply = lambda p: model.apply(p, {}, (x, begin))[0]
    if traced:  # steps written out
        y, end = torch.func.vjp(apply, params)[0]
    else:
        y, end = apply(params)
    expected, expected_end = twin(x, begin)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end, expected_end, rtol=1e-12, atol=1e-12)


def test_two_halves_of_a_sequence_are_the_whole():
    model, _, params, _, x = setting("GRU")
    whole, _ = model.apply(params, {}, x)
    zeros = torch.zeros(2, 3, 6, dtype=torch.float64)
    (first, state), _ = model.apply(params, {}, (x[:, :2], zeros))
    (second, _), _ = model.apply(params, {}, (x[:, 2:], state))
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(layers.LastStep().apply({}, {}, whole)[0], whole[:, -1])


def test_dropout_between_layers_is_a_function_of_the_key():
    model = layers.LSTM(4, 6, num_layers=2, dropout=0.5)
    params, _ = model.init(KEY)
    x = draw(3, 5, 4).float()
    run = lambda key: model.apply(params, {}, x, train=True, key=key)[0]
    assert torch.equal(run(KEY), run(KEY)) and not torch.equal(run(KEY), run(KEY + 1))
    plain = layers.LSTM(4, 6, num_layers=2).apply(params, {}, x)[0]
    torch.testing.assert_close(model.apply(params, {}, x)[0], plain)
    assert model.uses_key and not layers.LSTM(4, 6).uses_key
    with pytest.raises(UserError, match="dropout: training needs a key"):
        model.apply(params, {}, x, train=True)


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("case", ["self", "causal", "cross", "mask"])
def test_attention_is_torchs(case, transformed):
    twin = nn.MultiheadAttention(8, 2, batch_first=True).double()
    for p in twin.parameters():
        nn.init.uniform_(p, -0.7, 0.9)
    params = {name: p.detach() for name, p in twin.named_parameters()}
    q, k, v = draw(3, 5, 8), draw(3, 7, 8), draw(3, 7, 8) ** 2
    model, inputs, options = layers.MultiheadAttention(8, 2, causal=case == "causal"), q, {}
    if case == "causal":
        options = {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5).double()}
    if case == "cross":
        inputs = (q, k, v)
    if case == "mask":  # where torch says True, a query may not see
        padded = torch.arange(7) > torch.tensor([6, 3, 1])[:, None]
        inputs, options = (q, k, v, ~padded[:, None, None]), {"key_padding_mask": padded}
    parts = inputs[:3] if isinstance(inputs, tuple) else (q, q, q)
    expected, _ = twin(*parts, need_weights=False, **options)
    apply = lambda p: model.apply(p, {}, inputs)[0]
    y = torch.func.vjp(apply, params)[0] if transformed else apply(params)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("transformed", [False, True])
def test_a_query_that_sees_nothing_gets_zero(transformed):
    q, mask = draw(1, 2, 3, 4), torch.ones(3, 3, dtype=torch.bool).triu(1)
    apply = lambda q: attention(q, q, q, mask)
    y = torch.func.vjp(apply, q)[0] if transformed else apply(q)
    assert not y[:, :, 2].any() and y[:, :, :2].all() and y.isfinite().all()
    grads = torch.func.grad(lambda q: apply(q).sum())(q)
    assert grads.isfinite().all()


def attention_by_loops(q, k, v, seen):
    """Return attention by its definition, with a loop over queries."""
    y = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for place in np.ndindex(*q.shape[:-1]):
        at = place[:-1]
        keys = seen.expand(*q.shape[:-1], k.shape[-2])[place]
        if keys.any():
            scores = k[at][keys] @ q[place] / q.shape[-1] ** 0.5
            y[place] = scores.softmax(0) @ v[at][keys]
    return y


@pytest.mark.parametrize("transformed", [False, True])
def test_causal_and_a_mask_hold_together(transformed):
    q, k, v = draw(2, 3, 5, 4), draw(2, 3, 5, 4), draw(2, 3, 5, 4)
    real = torch.arange(5) >= torch.tensor([0, 2])[:, None]  # two steps of padding in front
    seen = real[:, None, None, :] & torch.ones(5, 5, dtype=torch.bool).tril()
    apply = lambda q: attention(q, k, v, real[:, None, None, :], causal=True)
    y = torch.func.vjp(apply, q)[0] if transformed else apply(q)
    torch.testing.assert_close(y, attention_by_loops(q, k, v, seen))
    assert not y[1, :, :2].any()
    weights = attention_weights(q, k, real[:, None, None, :], causal=True)
    assert torch.equal(weights > 0, seen.expand_as(weights))
    assert torch.func.grad(lambda q: apply(q).sum())(q).isfinite().all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_causal_block_takes_a_padding_mask(dropout):
    block = layers.TransformerBlock(8, 2, 16, causal=True, dropout=dropout)
    plain = layers.TransformerBlock(8, 2, 16, dropout=dropout)
    params, _ = block.init(KEY)
    x = draw(3, 5, 8).float()
    real = (torch.arange(5) < torch.tensor([5, 3, 1])[:, None])[:, None, None, :]
    both = real & torch.ones(5, 5, dtype=torch.bool).tril()
    options = {"train": True, "key": KEY} if dropout else {}
    run = lambda net, mask: net.apply(params, {}, (x, mask), **options)[0][0]
    torch.testing.assert_close(run(block, real), run(plain, both))
    assert not torch.allclose(run(block, real), run(plain, real))
    torch.testing.assert_close(jit(lambda mask: run(block, mask))(real), run(plain, both))


MASKS = {
    r"shape is \(2, 5\), does not broadcast to .* here \(3, 2, 5, 5\); say mask\[:, None": (2, 5),
    r"shape is \(3, 5\), does not broadcast.* mask\[None, None\] for \(queries, keys\)": (3, 5),
    r"shape is \(3, 1, 5\), does not broadcast": (3, 1, 5),
    r"shape is \(1, 3, 1, 1, 5\), does not broadcast": (1, 3, 1, 1, 5),
    r"shape is \(4, 1, 1, 5\), does not broadcast": (4, 1, 1, 5),
}


@pytest.mark.parametrize("transform", [lambda f: f, jit])
@pytest.mark.parametrize("text", MASKS)
def test_a_mask_that_does_not_fit_is_named(text, transform):
    mask = torch.ones(*MASKS[text], dtype=torch.bool)
    for make in (layers.TransformerBlock, layers.MultiheadAttention):
        layer, x = make(8, 2), draw(3, 5, 8).float()
        params, _ = layer.init(KEY)
        inputs = (x, mask) if make is layers.TransformerBlock else (x, x, x, mask)
        with pytest.raises(UserError, match=f"mask: {text}"):
            transform(layer.apply)(params, {}, inputs)
    q = draw(2, 5, 4)
    alone = torch.ones(2, 4, dtype=torch.bool)
    for f, inputs in ((attention_weights, (q, q)), (attention, (q, q, q))):
        with pytest.raises(UserError, match=r"mask: shape is \(2, 4\), does not broadcast"):
            f(*inputs, alone)


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("mask", [torch.zeros(5, 5), torch.ones(5, 5).long(), np.ones((5, 5))])
def test_a_mask_of_another_dtype_is_named(mask, transformed):
    apply = lambda q: attention(q, q, q, mask, causal=True)
    with pytest.raises(UserError, match=r"mask: .* needs booleans, True where a query may see"):
        torch.func.vmap(apply)(draw(2, 5, 4)) if transformed else apply(draw(2, 5, 4))


@pytest.mark.parametrize("transform", [lambda f: f, jit])
def test_a_mask_of_two_meanings_is_refused(transform):
    layer, x = layers.MultiheadAttention(8, 2), draw(5, 5, 8).float()
    params, mask = layer.init(KEY)[0], torch.arange(5) < torch.tensor([5, 4, 3, 2, 1])[:, None]
    run = lambda x, mask: transform(layer.apply)(params, {}, (x, x, x, mask))[0]
    with pytest.raises(
        UserError, match=r"5 are the batch and the queries; say mask\[:, None, None"
    ):
        run(x, mask)
    padding, order = run(x, mask[:, None, None, :]), run(x, mask[None, None])
    assert not torch.allclose(padding, order)
    torch.testing.assert_close(run(x[:3], mask), order[:3])


def test_a_block_with_a_mask_of_its_own_is_exported_for_every_batch():
    block = layers.TransformerBlock(8, 2, 16)
    module = to_module(block, block.init(KEY)[0]).eval()
    x, mask = draw(3, 5, 8).float(), torch.ones(5, 5, dtype=torch.bool).tril()
    dims = ({0: torch.export.Dim("batch")}, None)
    program = torch.export.export(module, (x, mask), dynamic_shapes=(dims,)).module()
    more = torch.cat([x, x])[:4]
    torch.testing.assert_close(program(more, mask)[0], module(more, mask)[0])


def test_a_block_drops_with_a_key_and_hands_its_mask_on():
    block = layers.TransformerBlock(8, 2, 16, dropout=0.5)
    params, _ = block.init(KEY)
    x = draw(3, 5, 8).float()
    run = lambda key: block.apply(params, {}, x, train=True, key=key)[0]
    assert torch.equal(run(KEY), run(KEY)) and not torch.equal(run(KEY), run(KEY + 1))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    net = layers.serial(one=block, two=block)
    both = {**tree.prefixed(params, "one."), **tree.prefixed(params, "two.")}
    (y, same), _ = net.apply(both, {}, (x, mask))
    causal = layers.TransformerBlock(8, 2, 16, causal=True)
    expected, _ = layers.serial(one=causal, two=causal).apply(both, {}, x)
    torch.testing.assert_close(y, expected)
    assert same is mask
    half, _ = cast(net, torch.bfloat16).apply(both, {}, x)
    torch.testing.assert_close(half, net.apply(both, {}, x)[0], rtol=0.1, atol=0.1)


def test_an_ensemble_of_transformers_trains_as_each_alone():
    net = layers.serial(
        embed=layers.Embedding(7, 8), block=layers.TransformerBlock(8, 2, 16),
        last=layers.LastStep(), fc=layers.Linear(8, 3),
    )  # fmt: skip
    batch, optimizer = (tokens(6, 5), torch.arange(6) % 3), optim.sgd(0.1)
    step = make_step(grad_fn(net), optimizer)
    alone = [init_state(net, optimizer, KEY + seed) for seed in range(2)]
    together = stack_states(alone)
    for _ in range(3):
        together, _ = ensemble(step, same_batch=True)(together, batch)
        alone = [step(state, batch)[0] for state in alone]
    for i, state in enumerate(alone):
        for leaf, p in state.params.items():
            torch.testing.assert_close(together.params[leaf][i], p, rtol=1e-4, atol=1e-5)


# --- first params, sizes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "twin"),
    [
        (layers.Embedding(90, 40), lambda: nn.Embedding(90, 40)),
        (layers.Conv1d(30, 60, 5), lambda: nn.Conv1d(30, 60, 5)),
        (layers.Conv(8, 64, 5, groups=4), lambda: nn.Conv2d(8, 64, 5, groups=4)),
        (layers.ConvTranspose(30, 20, 3), lambda: nn.ConvTranspose2d(30, 20, 3)),
        (layers.LSTM(20, 50), lambda: nn.LSTM(20, 50)),
        (layers.MultiheadAttention(40, 4), lambda: nn.MultiheadAttention(40, 4)),
        (layers.TransformerBlock(40, 4, 80), lambda: nn.TransformerEncoderLayer(40, 4, 80)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_first_params_are_spread_as_torchs(layer, twin):
    params, _ = layer.init(KEY)
    for name, theirs in twin().named_parameters():
        mine, theirs = params[name], theirs.detach()
        assert mine.shape == theirs.shape and mine.dtype == torch.float32
        if theirs.std() == 0 or theirs.numel() < 1000:
            assert mine.std() == theirs.std() or theirs.std() > 0
        else:
            assert abs(mine.std() / theirs.std() - 1) < 0.05
            assert abs(mine.abs().max() / theirs.abs().max() - 1) < 0.3


def test_sizes_are_read_from_an_example():
    net = layers.serial(
        conv=layers.lazy(layers.Conv, 6, 3), norm=layers.lazy(layers.BatchNorm),
        relu=layers.ReLU(), flat=layers.Flatten(), fc=layers.lazy(layers.Linear, 5),
        out=layers.Linear(5, 3),
    )  # fmt: skip
    x = torch.zeros(2, 4, 7, 6)
    state = init_state(net, optim.sgd(0.1), KEY, x)
    sized = layers.serial(
        conv=layers.Conv(4, 6, 3), norm=layers.BatchNorm(6), relu=layers.ReLU(),
        flat=layers.Flatten(), fc=layers.Linear(6 * 5 * 4, 5), out=layers.Linear(5, 3),
    )  # fmt: skip
    expected = init_state(sized, optim.sgd(0.1), KEY)
    assert all(map(torch.equal, state.params.values(), expected.params.values()))
    batch = draw(2, 4, 7, 6).float(), torch.tensor([0, 2])
    stepped = [make_step(grad_fn(m), optim.sgd(0.1))(state, batch)[0] for m in (net, sized)]
    assert all(map(torch.equal, *(s.params.values() for s in stepped)))
    assert sum(row.params for row in tabulate(net, x)) == tree.size(expected.params)
    with pytest.raises(UserError, match=r"lazy Conv: needs an example of the inputs"):
        net.init(KEY)
    with pytest.raises(UserError, match=r"fc\.weight: shape is \(5, 120\), expected \(5, 216\)"):
        net.apply(state.params, state.buffers, torch.zeros(2, 4, 8, 8))
    keys = random.split(KEY, 3)
    many, _ = torch.func.vmap(net.init, in_dims=(0, None))(keys, x)
    assert torch.equal(many["fc.weight"][1], net.init(keys[1], x)[0]["fc.weight"])


WRONG = {
    "Embedding: padding is 7": lambda: layers.Embedding(7, 3, padding=7),
    "Embedding: n_tokens is 0": lambda: layers.Embedding(0, 3),
    "input: float64, needs integers": lambda: layers.Embedding(7, 3).apply(
        layers.Embedding(7, 3).init(KEY)[0], {}, draw(3)
    ),
    "input: a token is not from 0 to 6": lambda: layers.Embedding(7, 3).apply(
        layers.Embedding(7, 3).init(KEY)[0], {}, torch.tensor([0, 7])
    ),
    "GELU: unknown approximate 'erf', choose from": lambda: layers.GELU(approximate="erf"),
    "GroupNorm: 6 channels do not divide into 4 groups": lambda: layers.GroupNorm(6, groups=4),
    "Conv: 4 and 6 channels do not divide into 4 groups": lambda: layers.Conv(4, 6, groups=4),
    "Conv1d: padding is -1": lambda: layers.Conv1d(4, 6, padding=-1),
    "Conv: dirac=True needs groups=1": lambda: layers.Conv(4, 4, groups=2, dirac=True),
    "ConvTranspose: output_padding is 2, needs an integer below the stride, 2": (
        lambda: layers.ConvTranspose(4, 6, stride=2, output_padding=2)
    ),
    r"expected \(batch, 4, length\)": lambda: layers.Conv1d(4, 6).apply(
        layers.Conv1d(4, 6).init(KEY)[0], {}, draw(3, 4, 5, 5)
    ),
    "LSTM: num_layers is 0": lambda: layers.LSTM(3, 4, num_layers=0),
    r"input: shape is \(3, 4\), expected \(batch, steps, 4\)": lambda: layers.GRU(4, 6).apply(
        layers.GRU(4, 6).init(KEY)[0], {}, draw(3, 4)
    ),
    r"state: shapes are \(1, 3, 6\), expected 2 of \(1, 3, 6\)": lambda: layers.LSTM(4, 6).apply(
        layers.LSTM(4, 6).init(KEY)[0], {}, (draw(3, 5, 4), draw(1, 3, 6))
    ),
    "MultiheadAttention: 8 features do not divide into 3 heads": (
        lambda: layers.MultiheadAttention(8, 3)
    ),
    "input: 2 arrays, needs x, or query, key, value": lambda: layers.MultiheadAttention(8, 2).apply(
        layers.MultiheadAttention(8, 2).init(KEY)[0], {}, (draw(3, 5, 8), draw(3, 5, 8))
    ),
    "TransformerBlock: unknown activation 'tanh', choose from relu, gelu, silu": (
        lambda: layers.TransformerBlock(8, 2, activation="tanh")
    ),
    "linear3.weight: unknown in params": lambda: layers.TransformerBlock(8, 2).apply(
        {"linear3.weight": draw(2)}, {}, draw(3, 5, 8)
    ),
    "FixedLinear: weight is '8', needs an array": lambda: layers.FixedLinear("8", draw(2)),
    "FixedLinear: bias is float64 of shape \\(2, 2\\), needs 1 axes": lambda: layers.FixedLinear(
        draw(2, 3), draw(2, 2)
    ),
    "input: shape is .*, without the axis 1 of Conv": lambda: layers.lazy(layers.Conv, 3).init(
        KEY, draw(3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_wrong_arguments_are_named(text):
    with pytest.raises(UserError, match=text):
        WRONG[text]()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_embedding_takes_tokens_of_every_integer_dtype(dtype):
    layer, ids = layers.Embedding(7, 3), torch.tensor([[6, 0], [3, 3]])
    params, _ = layer.init(KEY)
    assert torch.equal(layer.apply(params, {}, ids.to(dtype))[0], params["weight"][ids])
