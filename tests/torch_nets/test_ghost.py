"""Ghost norms and clipped sums against the gradients of all examples, made by torch.func.vmap."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from purenets import Model, UserError, make_step, optim, random, train_state, tree
from purenets.torch_nets import (
    CNN,
    MLP,
    VanillaRNN,
    ensemble,
    from_module,
    jit,
    layers,
    losses,
    stack_states,
)
from purenets.torch_nets.analysis import ghost_pass, ghost_terms
from purenets.torch_nets.analysis.ghost import (
    clip_factors,
    clipped_sum,
    clipped_sum_by_vmap,
    ghost_norms,
)
from purenets.torch_nets.analysis.ghost_pass import Backward
from purenets.torch_nets.analysis.ghost_terms import Each, Geometry, Outer, Rows, Windows
from purenets.torch_nets.analysis.per_example import (
    example_grad_norms,
    per_example_grads,
    per_example_grads_by_vmap,
)
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.layers import serial
from purenets.torch_nets.vanilla_rnn import fused

KEY = torch.as_tensor(random.key(5))
ONES = torch.arange(6) % 3


def draw(*shape):
    return random.normal(random.fold_in(KEY, len(shape) + sum(shape)), shape, "float64")


def custom(names, f):
    """A net of one's own: f(params, x) of leaves with these shapes."""
    init = lambda key: ({name: 0.3 + 0.1 * draw(*shape) for name, shape in names.items()}, {})
    return Model(init, lambda p, b, x, *, train=False, key=None: (f(p, x), b), uses_key=False)


class Custom(nn.Module):
    """A module of one's own, whose params `from_module` copies, with a tied and a frozen leaf."""

    def __init__(self):
        super().__init__()
        self.embed, self.frozen = nn.Embedding(3, 4), nn.Linear(4, 4).requires_grad_(False)
        self.mix, self.scale = nn.MultiheadAttention(4, 2, batch_first=True), nn.Parameter(draw(4))

    def forward(self, tokens):
        x = self.frozen(self.embed(tokens)) * self.scale
        x, _ = self.mix(x, x, x, need_weights=False)
        return F.linear(x[:, -1], self.embed.weight)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2, bias=False), nn.GroupNorm(2, 6), nn.Flatten(), nn.ReLU(inplace=True),
        nn.LazyLinear(5), nn.LayerNorm(5), nn.Linear(5, 3, bias=False),
    )  # fmt: skip


def built(make, *shape):
    net = make().double()
    net(draw(*shape))
    return from_module(net)


def fused_rnn():
    """The fused recurrence of training, on inputs that have a gradient."""
    shapes = {"w": (4, 4), "W_hx": (5, 4), "W_hh": (5, 5), "b_h": (5,), "out": (3, 5)}
    return custom(
        shapes,
        lambda p, x: F.linear(fused(F.linear(x, p["w"]), p["W_hx"], p["W_hh"], p["b_h"]), p["out"]),
    )


def counted(monkeypatch):
    """Return a list that gets an element for each backward pass of the factors."""
    calls, original = [], ghost_pass.backward
    monkeypatch.setattr(ghost_pass, "backward", lambda *args: calls.append(1) or original(*args))
    return calls


NETS = {
    "mlp": (lambda: MLP(5, [8], 3), lambda: draw(6, 5)),
    "cnn": (
        lambda: CNN(2, 3, width=0.1, norm=lambda n: layers.GroupNorm(n, groups=1)),
        lambda: draw(6, 2, 16, 16),
    ),
    "convolutions": (
        lambda: serial(
            one=layers.Conv(2, 4, 3, stride=2, padding=2, dilation=2), norm=layers.BatchNorm(4),
            two=layers.Conv(4, 6, 3, padding=1, groups=2, bias=False), gelu=layers.GELU(),
            up=layers.ConvTranspose(6, 3, 3, stride=2, output_padding=1),
            pool=layers.GlobalAvgPool(),
        ),
        lambda: draw(6, 2, 9, 8),
    ),
    "sequences": (
        lambda: serial(
            one=layers.Conv1d(2, 4, 3, stride=2, padding=1), silu=layers.SiLU(),
            two=layers.Conv1d(4, 4, 2, dilation=2, groups=4), pool=layers.GlobalAvgPool(),
            norm=layers.RMSNorm(4), fc=layers.Linear(4, 3),
        ),
        lambda: draw(6, 2, 19),
    ),
    "rnn": (lambda: VanillaRNN(7, 1, 9, 3), lambda: draw(6, 7, 1)),
    "fused rnn": (fused_rnn, lambda: draw(6, 7, 4)),
    "lstm": (
        lambda: serial(
            lstm=layers.LSTM(4, 5, num_layers=2, bidirectional=True), last=layers.LastStep(),
            fc=layers.Linear(10, 3),
        ),
        lambda: draw(6, 7, 4),
    ),
    "transformer": (
        lambda: serial(
            embed=layers.Embedding(7, 8, padding=2), block=layers.TransformerBlock(8, 2, 16),
            last=layers.LastStep(), fc=layers.Linear(8, 3),
        ),
        lambda: random.randint(KEY, (6, 9), 0, 7),
    ),
    "module": (lambda: built(convolutional, 6, 2, 9, 9), lambda: draw(6, 2, 9, 9)),
    "custom module": (
        lambda: from_module(Custom().double()), lambda: random.randint(KEY, (6, 5), 0, 3)
    ),
    "tied twice": (
        lambda: custom({"w": (5, 5), "b": (5,)}, lambda p, x: F.linear(
            torch.tanh(F.linear(x, p["w"], p["b"])), p["w"])[:, :3]),
        lambda: draw(6, 5),
    ),
    "transposed": (
        lambda: custom({"w": (5, 4), "v": (4, 3), "b": (3,)}, lambda p, x: torch.addmm(
            p["b"], torch.tanh(x @ p["w"]), p["v"]) + (x @ p["w"]) @ p["w"].T @ p["w"].mT.T[:, :3]),
        lambda: draw(6, 5),
    ),
    "known and unknown": (
        lambda: custom({"w": (3, 5), "scale": (5,), "unused": (2,)}, lambda p, x: F.linear(
            x * p["scale"], p["w"]) + (x[:, None] * p["w"] ** 2).sum(2)),
        lambda: draw(6, 5),
    ),
    "several images": (
        lambda: custom({"w": (3, 1, 2, 2)}, lambda p, x: F.conv2d(
            x.view(-1, 1, 4, 4), p["w"], None, 2).view(len(x), -1, 12).sum(1)[:, :3]),
        lambda: draw(6, 5, 4, 4),
    ),
    "examples that would mix": (
        lambda: custom({"w": (3, 5)}, lambda p, x: F.linear(x - x.mean(0) / 2, p["w"])),
        lambda: draw(6, 5),
    ),
}  # fmt: skip
every_net = pytest.mark.parametrize("name", NETS)
# of attention in torch.nn, which vmap takes example by example
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def setting(name):
    make, inputs = NETS[name]
    model = make()
    own = hasattr(model.init, "float32_leaves")  # a module has values
    params, buffers = model.init(None if own else KEY)
    params = tree.map(lambda p: p + 0.1 * draw(*p.shape), tree.cast(params, "float64"))
    return model, params, tree.cast(buffers, "float64"), (inputs(), ONES)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@every_net
def test_norms_and_clipped_sums_are_those_of_materialized_gradients(name):
    model, params, buffers, batch = setting(name)
    grads, expected_losses = per_example_grads_by_vmap(model)(params, buffers, batch)
    norms = example_grad_norms(grads)
    found, found_losses = ghost_norms(model)(params, buffers, batch)
    close(found, norms)
    close(found_losses, expected_losses)
    clip = float(norms.median())
    assert 0 < int((norms > clip).sum()) < 6
    factors = clip_factors(norms, clip)
    for chunk_size in (None, 4):
        sums, (part_losses, outputs) = clipped_sum(model, clip, chunk_size=chunk_size)(
            params, buffers, batch, scale=0.5
        )
        assert sums.keys() == params.keys()
        for leaf, grad in grads.items():
            close(sums[leaf], torch.einsum("b,b...->...", factors, grad) / 2)
        close(part_losses, expected_losses)
        logits = torch.cat([model.apply(params, buffers, x[None])[0] for x in batch[0]])
        close(outputs, logits)
    by_vmap, (by_vmap_losses, _) = clipped_sum_by_vmap(model, clip)(params, buffers, batch)
    close(by_vmap_losses, expected_losses)
    for leaf in params:
        close(2 * sums[leaf], by_vmap[leaf])


@every_net
def test_factors_are_used_and_no_argument_is_changed(name, monkeypatch):
    """With no room for gradients, all that is known stays in factors."""
    for kind in (Outer, Rows, Windows):
        monkeypatch.setattr(kind, "smallest", lambda term: term)
    model, params, buffers, batch = setting(name)
    before = [leaf.clone() for part in (params, buffers) for leaf in part.values()]
    grads, _ = per_example_grads_by_vmap(model)(params, buffers, batch)
    sums, _ = clipped_sum(model, 1.0)(params, buffers, batch)
    factors = clip_factors(example_grad_norms(grads), 1.0)
    for leaf, grad in grads.items():
        close(sums[leaf], torch.einsum("b,b...->...", factors, grad))
    close(ghost_norms(model)(params, buffers, batch)[0], example_grad_norms(grads))
    after = [leaf for part in (params, buffers) for leaf in part.values()]
    assert all(map(torch.equal, before, after))


class Largest(TorchDispatchMode):
    """The number of elements of the largest memory that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, torch.Tensor):
                size = part.untyped_storage().nbytes() // part.element_size()
                self.elements = max(self.elements, size)
        return out


@pytest.mark.parametrize(
    ("model", "x", "most"),
    [
        (MLP(40, [60], 3), (50, 40), 50 * 60),
        (serial(lstm=layers.LSTM(20, 24), last=layers.LastStep(), fc=layers.Linear(24, 3)),
         (50, 5, 20), 50 * 5 * 24 * 4),
        (serial(conv=layers.Conv(24, 32, 3, padding=1), pool=layers.GlobalAvgPool()),
         (50, 24, 4, 4), 50 * 36 * 36),
    ],
    ids=["mlp", "lstm", "conv"],
)  # fmt: skip
def test_no_gradient_of_all_examples_is_made(model, x, most):
    """The largest tensor is one of activations, or of products of positions."""
    params, buffers = model.init(KEY)
    batch = random.normal(KEY, x), torch.arange(50) % 3
    with Largest() as by_vmap:
        per_example_grads_by_vmap(model)(params, buffers, batch)
    with Largest() as by_ghost:
        clipped_sum(model, 1.0)(params, buffers, batch)
    assert by_ghost.elements <= most < by_vmap.elements


# --- the gradients themselves ---------------------------------------------------------------------

BY_VMAP = ("known and unknown", "transposed")  # they use a matrix in a way that no rule knows


@every_net
def test_gradients_are_those_of_vmap(name, monkeypatch):
    model, params, buffers, batch = setting(name)
    expected, expected_losses = per_example_grads_by_vmap(model)(params, buffers, batch)
    seen, original = [], Backward.each
    monkeypatch.setattr(Backward, "each", lambda *args: seen.append(1) or original(*args))
    for chunk_size in (None, 4):
        options = {"chunk_size": chunk_size}
        grads, found_losses = per_example_grads(model, **options)(params, buffers, batch)
        assert [*grads] == [*params]
        for leaf, grad in expected.items():
            close(grads[leaf], grad)
        close(found_losses, expected_losses)
        norms, _ = per_example_grads(model, reduce=tree.norm, **options)(params, buffers, batch)
        close(norms, example_grad_norms(expected))
    assert len(seen) == (0 if name in BY_VMAP else 2 * (1 + 2))


@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_gradients_under_jit_are_the_same(name):
    model, params, buffers, batch = setting(name)
    expected, _ = per_example_grads_by_vmap(model)(params, buffers, batch)
    found, _ = jit(per_example_grads(model))(params, buffers, batch)
    for leaf, grad in expected.items():
        close(found[leaf], grad)


def test_gradients_have_the_dtype_of_the_params():
    model, params, buffers, (x, y) = setting("mlp")
    params = tree.cast(params, "bfloat16")
    found, losses_ = per_example_grads(model)(params, buffers, (x.bfloat16(), y))
    expected, expected_losses = per_example_grads_by_vmap(model)(params, buffers, (x.bfloat16(), y))
    assert losses_.dtype == expected_losses.dtype
    for leaf in params:
        torch.testing.assert_close(found[leaf], expected[leaf], rtol=0.02, atol=1e-3)


def test_gradients_can_be_differentiated():
    model, params, buffers, batch = setting("mlp")
    way = per_example_grads(model)
    square = lambda params: sum(g.square().sum() for g in way(params, buffers, batch)[0].values())
    expected = torch.func.grad(square)(params)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    square(leaves).backward()  # by plain autograd
    for name in params:
        close(leaves[name].grad, expected[name])


def test_a_model_may_map_over_something_of_its_own():
    """There the axis that vmap hides is not that of the examples."""
    inner = lambda p, x: torch.func.vmap(lambda v: F.linear(v, p["w"]))(x[0]).sum(0)[None]
    model, batch = custom({"w": (3, 5)}, inner), (draw(6, 4, 5), ONES)
    params, _ = model.init(KEY)
    expected, _ = per_example_grads_by_vmap(model)(params, {}, batch)
    close(per_example_grads(model)(params, {}, batch)[0]["w"], expected["w"])
    close(ghost_norms(model)(params, {}, batch)[0], example_grad_norms(expected))


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        losses.label_smoothed(0.1),
        F.cross_entropy,
        losses.focal(2.0),
        lambda x, y: losses.cross_entropy(x, torch.eye(3, dtype=x.dtype)[y]),
        lambda x, y: losses.mse(x, torch.eye(3, dtype=x.dtype)[y]),
    ],
)
def test_losses_of_all_kinds(loss):
    model, params, buffers, batch = setting("mlp")
    expected, expected_losses = per_example_grads_by_vmap(model, loss)(params, buffers, batch)
    found, found_losses = per_example_grads(model, loss)(params, buffers, batch)
    close(found_losses, expected_losses)
    for leaf in params:
        close(found[leaf], expected[leaf])


def test_a_class_that_does_not_exist_is_named():
    model, params, buffers, (x, y) = setting("mlp")
    for way in (per_example_grads, ghost_norms):
        with pytest.raises(UserError, match="target 7 is none of the classes 0 to 2"):
            way(model)(params, buffers, (x, torch.where(y == 2, 7, y)))


# --- terms ----------------------------------------------------------------------------------------


def check_term(term):
    each, factors = term.each(), draw(len(term.each())).abs()
    close(term.squared_norms(), each.square().flatten(1).sum(1))
    close(term.total(factors).reshape(each.shape[1:]), torch.einsum("b,b...->...", factors, each))
    close(Each(each).total(factors), torch.einsum("b,b...->...", factors, each))
    close(term.smallest().each(), each)


@pytest.mark.parametrize("positions", [1, 3, 9])
def test_outer_products(positions):
    check_term(Outer(draw(4, positions, 3), draw(4, positions, 5)))
    both = [Outer(draw(4, n, 3), draw(4, n, 5) + n) for n in (1, positions, 2)]
    close(ghost_terms.combined(both).each(), sum(term.each() for term in both))


def test_rows_of_a_table():
    index = torch.tensor([[0, 3, 0, 0], [1, 2, 3, 4], [5, 5, 5, 5]])
    check_term(Rows(index, draw(3, 4, 2), 6))
    both = [Rows(index, draw(3, 4, 2), 6), Rows(index.flip(1), draw(3, 4, 2) + 1, 6)]
    close(ghost_terms.combined(both).each(), sum(term.each() for term in both))
    mixed = [*both, Outer(draw(3, 1, 2), draw(3, 1, 6))]
    close(ghost_terms.combined(mixed).each().view(3, 6, 2), sum(term.each() for term in mixed))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_of_images(images, groups, stride, padding, dilation):
    x, shape = draw(3, images, 4, 7, 6), (6, 4 // groups, 3, 2)
    size = F.conv2d(x[0], draw(*shape), None, stride, padding, dilation, groups).shape[2:]
    geometry = Geometry(*((n, n) for n in (stride, padding, dilation)), groups)
    term = Windows(x, draw(3, images, 6, *size), shape, geometry)
    check_term(term)
    close(term._norms_by_gram(term.x, term.dy), term.each().square().flatten(1).sum(1))
    weight = torch.zeros(shape, dtype=torch.float64)
    for i, dy in enumerate(term.dy):  # each alone, by autograd
        f = lambda w, i=i: F.conv2d(x[i], w, None, stride, padding, dilation, groups)
        close(term.each()[i], torch.func.vjp(f, weight)[1](dy)[0])


# --- around it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_jit_and_ensembles_take_the_same_steps(name, traced_only):
    model, params, buffers, (x, y) = setting(name)
    optimizer = optim.sgd(0.1)
    step = make_step(dp_grad_fn(model, 0.3, 0.5), optimizer)
    state = train_state(params, buffers, optimizer, KEY)
    alone, metrics = step(state, (x, y))
    compiled, compiled_metrics = jit(step)(state, (x, y))
    members, _ = ensemble(step, same_batch=True)(stack_states([state, state]), (x, y))
    for leaf in params:
        torch.testing.assert_close(compiled.params[leaf], alone.params[leaf], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            members.params[leaf][1], alone.params[leaf], rtol=1e-9, atol=1e-9
        )
    assert compiled_metrics.keys() == metrics.keys() == {"loss", "accuracy"}
    close(compiled_metrics["loss"], metrics["loss"])


def test_under_transforms_the_numbers_are_the_same():
    model, params, _, batch = setting("mlp")
    many = tree.stack([params, tree.map(lambda p: 2 * p, params)])
    for f in (ghost_norms(model), clipped_sum(model, 0.5)):
        first = lambda params, f=f: f(params, {}, batch)[0]
        together = torch.func.vmap(first)(many)
        for a, b in zip(tree.leaves(together), tree.leaves(first(params)), strict=True):
            close(a[0], b)


def test_metrics_are_those_of_the_model_on_the_batch():
    model, params, buffers, batch = setting("module")
    _, (_, metrics) = dp_grad_fn(model, 1.0, 0.0)(params, buffers, batch, None)
    logits, _ = model.apply(params, buffers, batch[0])
    close(metrics["loss"], F.cross_entropy(logits, batch[1]))
    assert float(metrics["accuracy"]) == float((logits.argmax(1) == batch[1]).float().mean())


def test_outputs_and_inputs_of_several_arrays():
    init = lambda key: ({"w": draw(3, 4)}, {})
    apply = lambda p, b, x, *, train=False, key=None: (
        {"logits": F.linear(x["a"] + x["b"], p["w"]), "both": (x["a"], x["b"])},
        b,
    )
    model, batch = (
        Model(init, apply, uses_key=False),
        ({"a": draw(6, 4), "b": draw(6, 4) ** 2}, ONES),
    )
    loss = lambda outputs, y: losses.cross_entropy(outputs["logits"], y)
    params, _ = init(None)
    norms, _ = ghost_norms(model, loss)(params, {}, batch)
    close(norms, example_grad_norms(per_example_grads_by_vmap(model, loss)(params, {}, batch)[0]))
    _, (_, outputs) = clipped_sum(model, 1.0, loss, chunk_size=4)(params, {}, batch)
    close(outputs["logits"], F.linear(batch[0]["a"] + batch[0]["b"], params["w"]))
    assert torch.equal(outputs["both"][1], batch[0]["b"])


def test_outputs_that_are_no_tensors_are_left_out():
    apply = lambda p, b, x, *, train=False, key=None: ((F.linear(x, p["w"]), "text"), b)
    model = Model(lambda key: ({"w": draw(3, 4)}, {}), apply, uses_key=False)
    loss = lambda outputs, y: losses.cross_entropy(outputs[0], y)
    _, (_, outputs) = clipped_sum(model, 1.0, loss)(model.init(None)[0], {}, (draw(6, 4), ONES))
    assert outputs is None


def test_each_example_draws_with_a_key_of_its_own():
    model = MLP(5, [64], 3, dropout=0.5)
    params, _ = model.init(KEY)
    batch = draw(6, 5).float(), ONES
    norms, _ = ghost_norms(model, train=True)(params, {}, batch, KEY)
    expected, _ = per_example_grads_by_vmap(model, train=True)(params, {}, batch, KEY)
    torch.testing.assert_close(norms, example_grad_norms(expected))
    with pytest.raises(UserError, match=r"pass key=random.key"):
        ghost_norms(model, train=True)(params, {}, batch)


def test_an_input_that_is_changed_after_its_use_is_refused():
    def f(p, x):
        y = F.linear(x, p["w"])
        z = torch.relu(F.linear(y, p["v"]))
        y.mul_(2)
        return y + z

    model = custom({"w": (3, 5), "v": (3, 3)}, f)
    with pytest.raises(UserError, match="writes into the input of a layer after its use"):
        clipped_sum(model, 1.0)(model.init(KEY)[0], {}, (draw(6, 5), ONES))


def test_autocast_and_half_precision_are_taken():
    model = MLP(5, [8], 3)
    params, _ = model.init(KEY)
    batch = draw(6, 5).float(), ONES
    expected, _ = ghost_norms(model)(params, {}, batch)
    with torch.autocast("cpu", torch.bfloat16):
        norms, _ = ghost_norms(model)(params, {}, batch)
        sums, _ = clipped_sum(model, 1e9)(params, {}, batch)
    torch.testing.assert_close(norms, expected, rtol=0.05, atol=0.01)
    assert all(leaf.isfinite().all() for leaf in sums.values())
    half, _ = ghost_norms(model)(tree.cast(params, "bfloat16"), {}, (batch[0].bfloat16(), ONES))
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.01)


def test_a_net_without_gradients_has_norms_of_zero():
    model = custom({"w": (3,)}, lambda p, x: x[:, :3])
    params, _ = model.init(KEY)
    norms, _ = ghost_norms(model)(params, {}, (draw(6, 5), ONES))
    assert torch.equal(norms, torch.zeros(6, dtype=torch.float64))
    sums, _ = clipped_sum(model, 1.0)(params, {}, (draw(6, 5), ONES))
    assert torch.equal(sums["w"], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("fast", [True, False])
def test_dp_takes_the_ghost_way_unless_fast_operations_are_off(fast, monkeypatch):
    monkeypatch.setattr(ghost_pass, "enabled", lambda: fast)
    calls = counted(monkeypatch)
    model, params, buffers, batch = setting("mlp")
    grads, _ = dp_grad_fn(model, 0.5, 0.0)(params, buffers, batch, None)
    assert len(calls) == fast
    for leaf, expected in clipped_sum_by_vmap(model, 0.5)(params, buffers, batch)[0].items():
        close(grads[leaf], expected / 6)


def function_of(f):
    return Model(lambda key: ({}, {}), lambda p, b, x, train=False, key=None: (f(p, x), b))


def masked(p, x, write):
    """A product with a copy of the weights that is written into."""
    W = p["W"].clone()
    write(W)
    return F.linear(x, W)


def write_element(W):
    W[0] = 0


@torch.jit.script
def scripted(x, W):
    return x @ W


class Doubled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def inner_step(W):
    """A gradient step of the model's own."""
    return W - 0.1 * torch.func.grad(lambda W: W.pow(3).sum())(W)


ROWS, IMAGES = (5, 4), (5, 2, 5, 5)
ODD_USES = {  # of leaves, other than as the weights of a layer as they are
    "product of two": (lambda p, x: x @ (p["A"] @ p["B"]), {"A": (4, 2), "B": (2, 3)}, ROWS),
    "normalized": (lambda p, x: x @ F.layer_norm(p["V"], (3,)), {"V": (4, 3)}, ROWS),
    "image": (
        lambda p, x: x[:, :3] * F.conv2d(p["image"], p["W"]).flatten(1)[:, :3],
        {"image": (1, 2, 5, 5), "W": (4, 2, 3, 3)},
        ROWS,
    ),
    "logits": (lambda p, x: p["Z"] + 0 * x[:, :3], {"Z": (1, 3)}, ROWS),
    "transposed filters": (
        lambda p, x: F.conv2d(x, p["W"].mT).flatten(1)[:, :3], {"W": (4, 2, 3, 3)}, IMAGES,
    ),
    "transposed filters of rows": (
        lambda p, x: F.conv1d(x[:, 0], p["W"].mT).flatten(1)[:, :3], {"W": (4, 3, 5)}, IMAGES,
    ),
    "transposed scale": (
        lambda p, x: F.layer_norm(x, (5, 5), p["w"].mT).flatten(1)[:, :3], {"w": (5, 5)}, IMAGES,
    ),
    "reshaped": (
        lambda p, x: x[:, :1] * p["v"].view_as(torch.empty(8, 2)).norm(dim=1)[None, :3],
        {"v": (4, 4)},
        ROWS,
    ),
    "matrix added": (
        lambda p, x: torch.stack([torch.addmm(p["C"], image[0, :2], p["W"]) for image in x]),
        {"C": (2, 3), "W": (5, 3)},
        IMAGES,
    ),
    "scalar": (lambda p, x: x[:, :3] * p["t"], {"t": ()}, ROWS),
    "under vmap of the model's own": (
        lambda p, x: torch.func.vmap(lambda W: x @ W)(p["E"]).mean(0), {"E": (2, 4, 3)}, ROWS,
    ),
    "under grad of the model's own": (lambda p, x: x @ inner_step(p["W"]), {"W": (4, 3)}, ROWS),
    "under jacrev of the model's own": (
        lambda p, x: x @ torch.func.jacrev(lambda W: W.pow(3).sum(0))(p["W"]).sum(0),
        {"W": (4, 3)},
        ROWS,
    ),
    "in a layer and under vmap": (
        lambda p, x: F.linear(x, p["W"]) + torch.func.vmap(lambda w: x @ w, out_dims=1)(p["W"]),
        {"W": (3, 4)},
        ROWS,
    ),
    "scripted": (lambda p, x: scripted(x, p["W"]), {"W": (4, 3)}, ROWS),
    "in an autograd.Function": (lambda p, x: x @ Doubled.apply(p["W"]), {"W": (4, 3)}, ROWS),
    "scale and shift in one": (
        lambda p, x: F.layer_norm(x, (4,), p["s"], p["s"]) @ p["W"],
        {"s": (4,), "W": (4, 3)},
        ROWS,
    ),
    "scale and shift of groups in one": (
        lambda p, x: F.group_norm(x, 2, p["s"], p["s"]).flatten(1)[:, :3], {"s": (2,)}, IMAGES,
    ),
    "by input and by state in one": (
        lambda p, x: fused(x[:, 0], p["W"], p["W"], p["b"])[:, :3],
        {"W": (5, 5), "b": (5,)},
        IMAGES,
    ),
    "copy with an element set": (
        lambda p, x: masked(p, x, write_element), {"W": (3, 4)}, ROWS,
    ),
    "copy written into through a view": (
        lambda p, x: masked(p, x, lambda W: W[0].mul_(0)), {"W": (3, 4)}, ROWS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_USES)
def test_leaf_used_in_an_odd_way_has_the_gradients_of_a_loop(name):
    f, shapes, inputs = ODD_USES[name]
    model = function_of(f)
    draws = zip(random.split(KEY, len(shapes)), shapes.items(), strict=True)
    params = {n: random.normal(key, shape, "float64") for key, (n, shape) in draws}
    before = tree.map(torch.clone, params)
    x = random.normal(KEY, inputs, "float64")
    y = torch.full_like(f(params, x), 0.5)
    grad = torch.func.grad(lambda p, x, y: losses.mse(f(p, x), y))
    loop = tree.stack([grad(params, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    squares = {n: g.reshape(len(x), -1).square().sum(1) for n, g in loop.items()}
    norms = sum(squares.values()).sqrt()
    factors = (1 / norms).clamp(max=1)
    clipped = {n: torch.tensordot(factors, g, 1) for n, g in loop.items()}
    found = per_example_grads(model, losses.mse)(params, {}, (x, y))[0]
    total = clipped_sum(model, 1.0, losses.mse)(params, {}, (x, y))[0]
    for n in params:
        assert torch.allclose(found[n], loop[n])
        assert torch.allclose(total[n], clipped[n])
        assert torch.equal(params[n], before[n])
    assert torch.allclose(ghost_norms(model, losses.mse)(params, {}, (x, y))[0], norms)


def test_group_norm_of_features_without_positions():
    model = from_module(nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)))
    params, buffers = model.init(None)
    batch = torch.randn(5, 4), torch.randn(5, 3)
    found = per_example_grads(model, losses.mse)(params, buffers, batch)[0]
    f = lambda p, x, y: losses.mse(model.apply(p, buffers, x)[0], y)
    rows = [torch.func.grad(f)(params, batch[0][i : i + 1], batch[1][i : i + 1]) for i in range(5)]
    for name, expected in tree.stack(rows).items():
        assert torch.allclose(found[name], expected, atol=1e-5)
