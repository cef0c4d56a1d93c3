"""Gradients of single examples against the loop; what is made of them against its definition;
DP-SGD.
"""

import functools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from purenets import Model, UserError, make_step, optim, random, train_state, tree
from purenets.torch_nets import MLP, VanillaRNN, from_module, grad_fn, losses
from purenets.torch_nets.analysis import privacy
from purenets.torch_nets.analysis.curvature import fisher_diagonal
from purenets.torch_nets.analysis.diagonal import ggn_diagonal
from purenets.torch_nets.analysis.ghost import clipped_sum, ghost_norms
from purenets.torch_nets.analysis.kfac import kfac
from purenets.torch_nets.analysis.laplace import diagonal_laplace
from purenets.torch_nets.analysis.per_example import (
    check_per_example,
    example_grad_norms,
    influence,
    leaf_grad_norms,
    noise_scale,
    per_example_grads,
    per_example_grads_by_vmap,
    top_loss_indices,
)
from purenets.torch_nets.analysis.privacy import (
    add_noise,
    dp_grad_fn,
    epsilon,
    poisson_batches,
)
from purenets.torch_nets.fast import outer_products
from purenets.torch_nets.layers import BatchNorm, Conv, GlobalAvgPool, Linear, ReLU, serial

KEY = torch.as_tensor(random.key(7))


def cnn():
    return serial(
        conv1=Conv(2, 4, 3, padding=1),
        norm1=BatchNorm(4),
        relu1=ReLU(),
        pool=GlobalAvgPool(),
        fc=Linear(4, 3),
    )


def group_norm():
    return from_module(
        nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    )


NETS = {
    "mlp": (lambda: MLP(5, [8], 3), (5,)),
    "cnn": (cnn, (2, 6, 6)),
    "group norm": (group_norm, (2, 6, 6)),
    "rnn": (lambda: VanillaRNN(7, 1, 9, 3, recurrence="fused"), (7, 1)),
    "nn.Module": (
        lambda: from_module(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))),
        (5,),
    ),
}


def setting(name, n=6, seed=0):
    make, shape = NETS[name]
    model, draw = make(), np.random.default_rng(seed)
    params, buffers = (tree.cast(part, "float64") for part in model.init(KEY))
    params = tree.map(lambda p: p + 0.1 * torch.tensor(draw.normal(size=p.shape)), params)
    return (
        model,
        params,
        buffers,
        (torch.tensor(draw.normal(size=(n, *shape))), torch.arange(n) % 3),
    )


@pytest.mark.parametrize("name", NETS)
def test_gradients_equal_the_loop(name):
    model, params, buffers, batch = setting(name)
    assert check_per_example(model, params, buffers, batch, tolerance=1e-10) < 1e-10
    grads, losses = per_example_grads(model, chunk_size=4)(params, buffers, batch)
    assert all(grads[leaf].shape == (6, *p.shape) for leaf, p in params.items())
    x, y = batch
    logits = model.apply(params, buffers, x)[0]
    assert torch.allclose(
        losses, nn.functional.cross_entropy(logits, y, reduction="none"), rtol=1e-12
    )


def test_a_trained_rnn_may_use_its_fused_recurrence():
    model, params, buffers, batch = setting("rnn")
    a, b = (
        per_example_grads(model, train=train)(params, buffers, batch)[0] for train in (False, True)
    )
    assert all(torch.allclose(a[name], b[name], rtol=1e-10, atol=1e-14) for name in a)


def test_outer_products_are_multiplications_with_the_same_bits(monkeypatch):
    model, params, buffers, batch = setting("mlp")
    monkeypatch.setattr(outer_products, "MIN_ELEMENTS", 0)
    found, _ = per_example_grads_by_vmap(model)(params, buffers, batch)
    calls = []
    original = outer_products._OuterProducts.__torch_dispatch__

    def counted(self, func, types, args=(), kwargs=None):
        calls.append(func is outer_products.BATCHED_PRODUCT and args[0].shape[-1] == 1)
        return original(self, func, types, args, kwargs)

    monkeypatch.setattr(outer_products._OuterProducts, "__torch_dispatch__", counted)
    per_example_grads_by_vmap(model)(params, buffers, batch)
    assert sum(calls) == 2  # one for each layer
    monkeypatch.setattr(outer_products, "MIN_ELEMENTS", 1 << 22)
    plain, _ = per_example_grads_by_vmap(model)(params, buffers, batch)
    assert sum(calls) == 2
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_examples_that_mix_are_found():
    model, params, buffers, batch = setting("cnn")
    with pytest.raises(
        UserError,
        match=r": per-example gradient mean differs .*: examples mix in the model, or the loss",
    ):
        check_per_example(model, params, buffers, batch, train=True)


def test_each_example_has_a_dropout_of_its_own():
    model = MLP(5, [64], 3, dropout=0.5)
    params, _ = model.init(KEY)
    x, y = torch.ones(4, 5), torch.zeros(4, dtype=torch.int64)
    assert check_per_example(model, params, {}, (x, y), train=True, key=KEY) < 1e-5
    grads, _ = per_example_grads(model, train=True)(params, {}, (x, y), KEY)
    assert len({tuple((g != 0).tolist()) for g in grads["fc1.bias"]}) == 4


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_reduced_gradients_equal_those_reduced_afterwards(chunk_size):
    model, params, buffers, batch = setting("mlp")
    grads, _ = per_example_grads(model)(params, buffers, batch)
    norms, _ = per_example_grads(model, reduce=tree.norm, chunk_size=chunk_size)(
        params, buffers, batch
    )
    assert torch.allclose(norms, example_grad_norms(grads), rtol=1e-13)
    by_leaf = leaf_grad_norms(grads)
    assert torch.allclose(by_leaf["fc1.weight"][2], grads["fc1.weight"][2].norm(), rtol=1e-13)
    assert torch.allclose(norms**2, sum(leaf**2 for leaf in by_leaf.values()), rtol=1e-13)


def test_noise_scale_finds_what_the_gradients_were_drawn_with():
    draw = np.random.default_rng(0)
    mean, deviation = draw.normal(size=300), 0.7
    grads = {"w": torch.tensor(mean + deviation * draw.normal(size=(4000, 300)))}
    expected = 300 * deviation**2 / (mean**2).sum()
    assert abs(float(noise_scale(grads)) / expected - 1) < 0.01
    # without bias: over many small batches, numerator and denominator are right on the mean
    few = [grads["w"][i : i + 2] for i in range(0, 4000, 2)]
    single = np.mean([float((g**2).sum(1).mean()) for g in few])
    whole = np.mean([float((g.mean(0) ** 2).sum()) for g in few])
    assert abs((single - whole) * 2 / (2 * whole - single) / expected - 1) < 0.02
    with pytest.raises(UserError, match="1 example, needs two or more"):
        noise_scale({"w": torch.ones(1, 3)})


def test_noise_scale_of_a_gradient_that_does_not_show_is_infinite():
    around_0 = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.5, 0.0], [-0.5, 0.1]])
    for grads in ({"w": around_0}, {"w": torch.zeros(4, 2)}):
        assert noise_scale(grads) == torch.inf
        assert torch.func.vmap(noise_scale)({"w": grads["w"][None]}) == torch.inf
    assert noise_scale({"w": torch.ones(4, 2)}) == 0  # no noise at all
    assert noise_scale({"w": torch.full((4, 2), torch.nan)}).isnan()


def test_planted_labels_are_hardest_and_do_harm():
    draw = np.random.default_rng(0)
    y = torch.tensor(draw.integers(0, 2, 120))
    x = torch.tensor(draw.normal(size=(120, 2)), dtype=torch.float32) + 2.5 * (2 * y[:, None] - 1)
    planted = torch.tensor([3, 40, 77, 101])
    wrong = y.clone()
    wrong[planted] = 1 - wrong[planted]
    model, optimizer = MLP(2, [8], 2), optim.adam(0.02)
    state = train_state(*model.init(KEY), optimizer, KEY)
    step = make_step(grad_fn(model), optimizer)
    for _ in range(60):
        state, _ = step(state, (x, wrong))
    grads, losses = per_example_grads(model)(state.params, {}, (x, wrong))
    assert set(top_loss_indices(losses, 4).tolist()) == set(planted.tolist())
    clean, _ = grad_fn(model)(state.params, {}, (x, y), None)
    helps = influence(grads, clean)
    assert set((-helps).topk(4).indices.tolist()) == set(planted.tolist())
    dot = sum(float((grads[n][5] * clean[n]).sum()) for n in clean)
    assert np.isclose(float(helps[5]), dot, rtol=1e-4)


# --- differential privacy -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "rnn"])
def test_without_noise_and_clip_it_is_sgd(name):
    model, params, buffers, batch = setting(name)
    runs = []
    for gradient in (dp_grad_fn(model, float("inf"), 0, chunk_size=4), grad_fn(model)):
        state = train_state(params, buffers, optim.sgd(0.5), KEY)
        for _ in range(20):
            state, metrics = make_step(gradient, optim.sgd(0.5))(state, batch)
        runs.append((state.params, metrics))
    assert all(torch.allclose(runs[0][0][n], runs[1][0][n], rtol=1e-12, atol=1e-14) for n in params)
    assert torch.allclose(runs[0][1]["loss"], runs[1][1]["loss"], rtol=1e-12)
    assert runs[0][1]["accuracy"] == runs[1][1]["accuracy"]


def test_each_gradient_is_clipped_by_itself():
    model, params, buffers, batch = setting("mlp")
    grads, _ = per_example_grads(model)(params, buffers, batch)
    norms = example_grad_norms(grads)
    clip = float(norms.median()) * 1.01
    factors = (clip / norms).clamp(max=1.0)
    assert 0 < int((factors < 1).sum()) < 6
    got, _ = dp_grad_fn(model, clip, 0.0, batch_size=10)(params, buffers, batch, KEY)
    for name, leaf in grads.items():
        expected = torch.einsum("b,b...->...", factors, leaf) / 10
        assert torch.allclose(got[name], expected, rtol=1e-12, atol=1e-15)


def test_noise_has_the_deviation_it_should():
    model = MLP(200, [200], 3)
    params, _ = model.init(KEY)
    x, y = (
        torch.randn(4, 200, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 0]),
    )
    noisy, _ = dp_grad_fn(model, 0.5, 3.0)(params, {}, (x, y), KEY)
    clean, _ = dp_grad_fn(model, 0.5, 0.0)(params, {}, (x, y), KEY)
    noise = torch.cat([(noisy[n] - clean[n]).flatten() for n in params])
    assert (
        abs(float(noise.std()) / (3.0 * 0.5 / 4) - 1) < 0.01
    )  # 40,803 draws: 3 deviations are 0.0105
    assert abs(float(noise.mean())) < 3 * 3.0 * 0.5 / 4 / len(noise) ** 0.5
    again, _ = dp_grad_fn(model, 0.5, 3.0)(params, {}, (x, y), KEY)
    assert all(torch.equal(noisy[n], again[n]) for n in params)
    other, _ = dp_grad_fn(model, 0.5, 3.0)(params, {}, (x, y), KEY + 1)
    assert not torch.equal(noisy["fc1.bias"], other["fc1.bias"])


def test_noise_is_another_one_in_every_leaf_and_step():
    nothing = {name: torch.zeros(2000) for name in "abc"}
    noise = [*add_noise(nothing, KEY, 1.0).values()]
    noise += add_noise(nothing, random.fold_in(KEY, 1), 1.0).values()
    assert all(abs(float(leaf.std()) - 1) < 0.1 for leaf in noise)
    correlations = torch.corrcoef(torch.stack(noise)) - torch.eye(6)
    assert float(correlations.abs().max()) < 5 / 2000**0.5


def test_poisson_batches_draw_each_example_at_the_rate():
    x = torch.arange(1000)
    batches = poisson_batches((x, x), 0.1, KEY)
    sizes = torch.tensor([float(batches(i)[1].shape[0]) for i in range(200)])
    assert abs(float(sizes.mean()) - 100) < 3 * (90 / 200) ** 0.5
    assert abs(float(sizes.var()) / 90 - 1) < 0.35
    assert torch.equal(batches(5)[0], batches(5)[0])
    model, params, buffers, (inputs, targets) = setting("mlp")
    grads, (_, metrics) = dp_grad_fn(model, 1.0, 1.0, batch_size=3)(
        params, buffers, (inputs[:0], targets[:0]), KEY
    )
    assert all(bool((g != 0).all()) for g in grads.values())
    assert float(metrics["loss"]) == 0


def test_epsilon_is_the_accountants():
    accountants = pytest.importorskip("opacus.accountants")
    rdp = accountants.RDPAccountant()
    for _ in range(500):
        rdp.step(noise_multiplier=1.1, sample_rate=0.01)
    assert np.isclose(epsilon(500, 0.01, 1.1, 1e-5), rdp.get_epsilon(delta=1e-5), rtol=1e-12)


def test_without_opacus_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(UserError, match=r'needs opacus: pip install -e "\.\[dp\]" in'):
        epsilon(1, 0.1, 1.0, 1e-5, "prv")


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match="clip 0 must be positive"):
        dp_grad_fn(MLP(2, [2], 2), 0, 1.0)
    with pytest.raises(UserError, match="give a finite clip"):
        dp_grad_fn(MLP(2, [2], 2), float("inf"), 1.0)


def test_no_argument_is_changed():
    model, params, buffers, batch = setting("cnn")
    before = [leaf.clone() for part in (params, buffers) for leaf in part.values()]
    grads, losses = per_example_grads(model)(params, buffers, batch)
    kept = [leaf.clone() for leaf in grads.values()]
    check_per_example(model, params, buffers, batch)
    for f in (leaf_grad_norms, example_grad_norms, noise_scale):
        f(grads)
    influence(grads, params)
    top_loss_indices(losses, 2)
    privacy.add_noise(params, KEY, 1.0)
    dp_grad_fn(model, 1.0, 1.0)(params, buffers, batch, KEY)
    assert all(
        map(torch.equal, before, [leaf for part in (params, buffers) for leaf in part.values()])
    )
    assert all(map(torch.equal, kept, grads.values()))


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", ["group norm", "nn.Module"])
def test_opacus_gives_the_same(name):
    pytest.importorskip("opacus")
    from opacus.grad_sample import GradSampleModule

    parts = {
        "group norm": [
            nn.Conv2d(2, 4, 3),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        ],
        "nn.Module": [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)],
    }
    module, (x, y) = nn.Sequential(*parts[name]).double(), setting(name)[3]
    model = from_module(module)
    grads, _ = per_example_grads(model)(*model.init(None), (x, y))
    theirs = GradSampleModule(module, loss_reduction="mean")
    nn.functional.cross_entropy(theirs(x), y).backward()
    for leaf, p in theirs._module.named_parameters():
        assert torch.allclose(grads[leaf], p.grad_sample, rtol=1e-10, atol=1e-14), leaf


def test_a_key_that_nothing_draws_from_is_refused():
    model, key = MLP(2, [8], 3, dropout=0.5), torch.as_tensor(random.key(3))
    params, buffers = model.init(random.key(0))
    batch = torch.eye(2), torch.tensor([0, 2])
    calls = {
        "per_example_grads": lambda: per_example_grads(model)(params, buffers, batch, key),
        "check_per_example": lambda: check_per_example(model, params, buffers, batch, key=key),
        "ghost_norms": lambda: ghost_norms(model)(params, buffers, batch, key),
        "clipped_sum": lambda: clipped_sum(model, 1.0)(params, buffers, batch, key),
    }
    for name, call in calls.items():
        with pytest.raises(UserError, match=f"{name}: a key, but train=False draws nothing"):
            call()
    with pytest.raises(UserError, match="per_example_grads: a key, but train=False"):
        per_example_grads_by_vmap(model)(params, buffers, batch, key)


def test_a_missing_key_is_asked_for_by_the_function_that_takes_it():
    model = MLP(2, [8], 3, dropout=0.5)
    params, buffers = model.init(random.key(0))
    batch = torch.eye(2), torch.tensor([0, 2])
    for make in (per_example_grads, per_example_grads_by_vmap, ghost_norms):
        with pytest.raises(UserError, match=r"the model draws .*pass key=random.key\(0\)"):
            make(model, train=True)(params, buffers, batch)


def test_gradients_that_are_no_per_example_gradients_are_named():
    model = MLP(2, [4], 3)
    params, _ = model.init(torch.as_tensor(random.key(0)))
    batch = torch.ones(8, 2), torch.zeros(8, dtype=torch.int64)
    grads, _ = per_example_grads(model)(params, {}, batch)
    whole, _ = grad_fn(model)(params, {}, batch, None)
    for f in (noise_scale, example_grad_norms, leaf_grad_norms):
        with pytest.raises(UserError, match=r"got 4 in fc1.weight, .*a mean gradient has none"):
            f(whole)
    with pytest.raises(UserError, match="influence: grads: needs as many examples in each leaf"):
        influence(whole, grads)
    with pytest.raises(
        UserError, match=r"reference\['fc1.weight'\]: shape is \(8, 4, 2\), expected"
    ):
        influence(grads, grads)
    with pytest.raises(UserError, match=r"fc2\.bias: in one of grads and reference"):
        influence(grads, {name: g for name, g in whole.items() if name != "fc2.bias"})
    one = {"w": torch.ones(8, 2)}
    with pytest.raises(UserError, match=r"per-example gradients, gradient\) in this order"):
        influence({"w": torch.ones(2)}, one)


# --- losses that are none of one example ----------------------------------------------------------

WEIGHT = torch.tensor([1.0, 5.0, 20.0])
OF_ONE = [
    per_example_grads,
    per_example_grads_by_vmap,
    ghost_norms,
    lambda model, loss: clipped_sum(model, 1.0, loss),
    lambda model, loss: lambda p, b, batch: dp_grad_fn(model, 1.0, 0.0, loss)(p, b, batch, None),
    lambda model, loss: lambda p, b, batch: ggn_diagonal(model, p, b, batch, loss),
    lambda model, loss: lambda p, b, batch: kfac(model, p, b, batch, loss),
]


@pytest.mark.parametrize("f", OF_ONE)
def test_class_weights_that_one_example_divides_out_are_refused(f):
    model, batch = MLP(4, [5], 3), (random.normal(KEY, (6, 4)), torch.arange(6) % 3)
    params, _ = model.init(KEY)
    for loss in (
        nn.CrossEntropyLoss(weight=WEIGHT),
        lambda z, y: nn.functional.cross_entropy(z, y, weight=WEIGHT),
    ):
        with pytest.raises(UserError, match=r"class weights.*\(weight\[y\] \* cross_entropy"):
            f(model, loss)(params, {}, batch)
    right = lambda z, y: (WEIGHT[y] * nn.functional.cross_entropy(z, y, reduction="none")).mean()
    f(model, right)(params, {}, batch)


def test_weights_that_are_not_divided_out_are_taken():
    model, x, y = MLP(4, [5], 3), random.normal(KEY, (6, 4)), torch.arange(6) % 3
    params, _ = model.init(KEY)
    plain, _ = per_example_grads(model)(params, {}, (x, y))
    sum_of_one = nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum")
    weighted, _ = per_example_grads(model, sum_of_one)(params, {}, (x, y))
    for name, grad in plain.items():
        factors = WEIGHT[y].view(-1, *[1] * (grad.ndim - 1))
        torch.testing.assert_close(weighted[name], factors * grad)
    soft = torch.softmax(random.normal(KEY, (6, 3)), 1)
    per_example_grads(model, nn.CrossEntropyLoss(weight=WEIGHT))(params, {}, (x, soft))


@pytest.mark.parametrize("f", OF_ONE[:5])
def test_an_example_that_a_loss_ignores_is_named(f):
    model, x, y = MLP(4, [5], 3), random.normal(KEY, (6, 4)), torch.arange(6) % 3
    params, _ = model.init(KEY)
    y[2] = -100
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss()):
        with pytest.raises(UserError, match="all targets of example 2 are -100"):
            f(model, loss)(params, {}, (x, y))
    assert f(model, nn.CrossEntropyLoss(reduction="sum"))(params, {}, (x, y)) is not None


def of_tokens():
    """Return a net of tokens, its params and a batch whose weights are the targets' last column."""
    model, x = Linear(4, 3), random.normal(KEY, (6, 5, 4))
    y = torch.arange(30).view(6, 5) % 3
    weights = (torch.arange(5) < torch.arange(1, 7)[:, None]).float()
    return model, model.init(KEY)[0], (x, torch.stack([y, weights.long()], -1))


def per_token(outputs, targets):
    y, w = targets.unbind(-1)
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), y, reduction="none") * w, w


def masked(outputs, targets):
    losses, w = per_token(outputs, targets)
    return losses.sum() / w.sum().clamp(min=1)


def declared(outputs, targets):
    return masked(outputs, targets)


declared.mean_over_examples = False


def declared_by_targets(outputs, targets):
    return masked(outputs, targets)


declared_by_targets.mean_over_examples = lambda targets: len(targets) == 1


ALL_OF_ONE = [
    *OF_ONE,
    lambda model, loss: lambda p, b, batch: fisher_diagonal(model, p, b, batch, loss),
    lambda model, loss: (
        lambda p, b, batch: diagonal_laplace(model, p, b, batch, loss, prior_precision=1.0)
    ),
]


@pytest.mark.parametrize("f", ALL_OF_ONE)
@pytest.mark.parametrize("loss", [declared, declared_by_targets, functools.partial(declared)])
def test_a_loss_that_declares_itself_no_mean_is_refused(f, loss):
    model, params, batch = of_tokens()
    with pytest.raises(UserError, match=r"no mean over the examples|mean_over_examples is False"):
        f(model, loss)(params, {}, batch)


WEIGHTS = torch.tensor([0.0, 0.0, 0.0, 4.0])
NO_MEANS = {
    "weights": lambda z, y: (WEIGHTS * (z[:, 0] - y) ** 2).mean(),
    "bce": nn.BCEWithLogitsLoss(weight=WEIGHTS[:, None]),
    "a sum": lambda z, y: ((z[:, 0] - y) ** 2).sum() / 4,
    "a root": lambda z, y: ((z[:, 0] - y) ** 2).mean().sqrt(),
}
ONE_BY_ONE = {
    "grads": lambda *args, **options: per_example_grads(args[0], args[-1], **options)(*args[1:4]),
    "by vmap": lambda *args: per_example_grads_by_vmap(args[0], args[-1])(*args[1:4]),
    "chunks": lambda *args: per_example_grads(args[0], args[-1], chunk_size=3)(*args[1:4]),
    "norms": lambda *args: ghost_norms(args[0], args[-1])(*args[1:4]),
    "private": lambda *args: privacy.dp_grad_fn(args[0], 1.0, 0.0, args[-1])(*args[1:4], None),
    "fisher": fisher_diagonal,
    "ggn": ggn_diagonal,
    "kfac": kfac,
}


@pytest.mark.parametrize("way", ONE_BY_ONE)
@pytest.mark.parametrize("name", NO_MEANS)
def test_a_loss_whose_examples_do_not_average_to_that_of_the_batch_is_refused(name, way):
    """Weights of (n,) times the loss of a batch of one would be broadcast."""
    loss, model = NO_MEANS[name], Linear(3, 1)
    params, _ = model.init(torch.as_tensor(random.key(0)))
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 0], [1, 0, 1]])
    y = torch.tensor([0.0, 1, 1, 0])
    targets = y[:, None] if name == "bce" else y
    with pytest.raises(UserError, match=r"needs a mean over the examples|loss fails for a batch"):
        ONE_BY_ONE[way](model, params, {}, (x, targets), loss)


def test_weights_beside_the_targets_are_those_of_the_examples():
    model = Linear(3, 1)
    params, _ = model.init(torch.as_tensor(random.key(0)))
    x, y = torch.eye(4, 3), torch.tensor([0.0, 1, 1, 0])
    loss = lambda z, targets: (targets[1] * (z[:, 0] - targets[0]) ** 2).mean()
    grads, _ = per_example_grads(model, loss)(params, {}, (x, (y, WEIGHTS)))
    whole, _ = grad_fn(model, loss, metrics={})(params, {}, (x, (y, WEIGHTS)), None)
    assert not grads["weight"][:3].any()
    torch.testing.assert_close(grads["weight"].mean(0), whole["weight"])


def test_a_loss_that_is_no_mean_is_found_by_the_check():
    model, params, batch = of_tokens()
    with pytest.raises(UserError, match="needs a mean over the examples"):
        check_per_example(model, params, {}, batch, masked)
    right = lambda z, targets: per_token(z, targets)[0].sum(1).mean() / 5
    check_per_example(model, params, {}, batch, right, tolerance=1e-5)
    grads, _ = per_example_grads(model, right)(params, {}, batch)
    whole, _ = grad_fn(model, right, metrics={})(params, {}, batch, None)
    for name, g in grads.items():
        torch.testing.assert_close(g.mean(0), whole[name])


@pytest.mark.parametrize("f", OF_ONE[:5])
def test_examples_that_count_different_numbers_of_targets_are_named(f):
    layer, x = Linear(4, 3), random.normal(KEY, (6, 3, 4))
    model = Model(layer.init, lambda *a, **k: (layer.apply(*a, **k)[0].movedim(-1, 1), {}))
    y = torch.arange(18).view(6, 3) % 3
    params, _ = model.init(KEY)
    y[:, 2] = -100
    f(model, nn.functional.cross_entropy)(params, {}, (x, y))
    y[4, 1] = -100
    with pytest.raises(UserError, match="the examples have 1 to 2 targets that are not -100"):
        f(model, nn.functional.cross_entropy)(params, {}, (x, y))


def test_noise_scale_does_not_cancel():
    grads = 1 + 1e-4 * random.normal(KEY, (64, 1000), "float64")
    expected = noise_scale({"w": grads})
    assert expected > 5e-9
    assert noise_scale({"w": grads.float()}) == pytest.approx(float(expected), rel=1e-2)


def test_statistics_of_a_scalar_leaf():
    grads = {"t": torch.tensor([3.0, -4.0])}
    assert leaf_grad_norms(grads)["t"].tolist() == [3, 4]
    assert influence(grads, {"t": torch.tensor(2.0)}).tolist() == [6, -8]


def test_gradient_that_is_no_number_is_not_accepted():
    model = Model(
        lambda key: ({}, {}),
        lambda p, b, x, train=False, key=None: (x * p["a"] + 0 * p["b"].sqrt().sum(), b),
    )
    params, batch = {"a": torch.ones(3), "b": torch.zeros(3)}, (torch.eye(3), torch.eye(3))
    with pytest.raises(UserError, match=r"^b: per-example gradient differs"):
        check_per_example(model, params, {}, batch, losses.mse)
