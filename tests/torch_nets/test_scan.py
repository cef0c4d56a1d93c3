"""`scan` on torch: the same numbers eagerly, compiled as a loop, vmapped and differentiated."""

import inspect
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch._inductor.exc import InductorError

from purenets import UserError, init_state, make_step, optim, random, scan
from purenets.torch_nets import MLP, ensemble, grad_fn, jit, stack_states
from purenets.torch_nets.fast import aot


class Pair(NamedTuple):
    sum: object
    rest: dict


def step(carry: Pair, x: dict):
    new = Pair(
        carry.sum + x["a"], {"last": x["b"], "none": None, "empty": {}, "same": carry.rest["same"]}
    )
    return new, (carry.sum * carry.rest["same"], [2 * x["b"], None])


SAME = {"none": None, "empty": {}, "same": torch.tensor(3.0)}
INIT = Pair(torch.zeros(3), {"last": torch.tensor(0)} | SAME)
XS = {"a": torch.arange(21.0).reshape(7, 3), "b": torch.arange(7)}


def leaves(value) -> list:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def assert_close(found, expected, tolerance: float = 1e-6):
    found, expected = leaves(found), leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=tolerance, rtol=1e-5)


@pytest.fixture
def loops(traced_only, generated_loops):
    """The number of loops in each graph that is traced, in order."""
    return generated_loops


@pytest.fixture
def generated_loops(monkeypatch):
    """The number of loops in each graph that code is generated for, in order."""
    counts, compile_graph = [], aot.compile_graph

    def count(graph, examples):
        counts.append(sum(map(aot._is_loop, graph.graph.nodes)))
        return compile_graph(graph, examples)

    monkeypatch.setattr(aot, "compile_graph", count)
    return counts


@pytest.mark.parametrize("reverse", [False, True])
def test_compiled_is_the_plain_loop(reverse, generated_loops):
    assert_is_the_plain_loop(unroll=3, reverse=reverse)
    assert generated_loops == [1]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("unroll", [1, 3, 10])
def test_traced_is_the_plain_loop(reverse, unroll, loops):
    assert_is_the_plain_loop(unroll=unroll, reverse=reverse)
    assert loops == [1]


def assert_is_the_plain_loop(**options):
    def f(init, xs):
        return scan(step, init, xs, **options)

    found = jit(f)(INIT, XS)
    assert_close(found, f(INIT, XS))
    assert isinstance(found[0], Pair)
    assert found[0].rest["empty"] == {}


def test_captured_tensors_of_the_caller_and_of_the_module(generated_loops):
    constant, weights = torch.tensor([1.0, 2.0, 3.0]), torch.randn(3, 3) / 3

    def f(weights, x):
        weights = weights + 1

        def inner(h, x):
            h = torch.tanh(x + h @ weights + constant)
            return h, h.sum() * weights[0, 0] + torch.tensor(2.0)

        return scan(inner, torch.zeros(3), x)

    x = torch.randn(6, 3)
    assert_close(jit(f)(weights, x), f(weights, x))
    assert generated_loops == [1]


def test_a_loop_within_a_loop(generated_loops):
    def f(x):
        def outer(total, row):
            scale = row.sum()
            total, partial = scan(lambda t, v: (t + scale * v, t * v), total, row)
            return total, partial

        return scan(outer, torch.zeros(()), x)

    x = torch.randn(5, 4)
    assert_close(jit(f)(x), f(x))
    assert generated_loops == [1]


def test_a_length_takes_the_place_of_xs(loops):
    def f(n):
        return scan(lambda n, _: (n * 2, n), n, None, 6)

    assert_close(jit(f)(torch.tensor(3)), f(torch.tensor(3)))
    assert loops == [1]


def test_no_carry_and_no_ys(traced_only):
    x = torch.randn(5, 3)
    assert_close(jit(lambda x: scan(lambda c, v: (c, v * 2), None, x)[1])(x), x * 2)
    carry, ys = jit(lambda x: scan(lambda c, v: (c + v, None), torch.zeros(3), x))(x)
    assert_close(carry, x.sum(0))
    assert ys is None


def test_no_iterations(traced_only):
    carry, ys = jit(lambda x: scan(lambda c, v: (c + v, 2 * v), torch.ones(3), x))(
        torch.zeros(0, 3)
    )
    assert torch.equal(carry, torch.ones(3))
    assert ys.shape == (0, 3)


def test_a_number_in_the_carry_becomes_a_tensor(generated_loops):
    def f(x, reverse=False):
        return scan(lambda total, v: (total + v, total * v), 0.5, x, reverse=reverse)

    x = torch.randn(5)
    for reverse in (False, True):
        found, expected = jit(f)(x, reverse), f(x, reverse)
        assert_close(found, expected)
    assert generated_loops == [1, 1]


def test_a_counter_of_python_is_refused_under_jit(traced_only):
    def f(x):
        return scan(lambda i, v: (i + 1, v * i), 0, x)

    with pytest.warns(UserWarning, match="scan: carry is 1, needs a tensor under jit"):
        assert_close(jit(f)(torch.ones(3))[1], torch.tensor([0.0, 1.0, 2.0]))


def test_wrong_carries_are_named_under_jit():
    with pytest.raises(
        UserError, match=r"scan: carry: f returned the shape \(1, 3\), was given \(3,\)"
    ):
        jit(lambda x: scan(lambda c, v: (c[None], v), torch.zeros(3), x))(torch.zeros(5, 3))


def train_step():
    model, optimizer = MLP(3, [7], 2, dropout=0.2), optim.chain(optim.adam(1e-2), optim.ema(0.9))
    return make_step(grad_fn(model), optimizer), [
        init_state(model, optimizer, random.key(seed)) for seed in range(3)
    ]


def batches(n: int):
    x = random.normal(torch.as_tensor(random.key(1)), (n, 8, 3))
    return x, (x.sum(2) > 0).long()


def test_training_steps(generated_loops):
    assert_compiled_training_steps_are_the_loop(unroll=1)
    assert generated_loops == [1]


def test_training_steps_two_in_each_pass(loops):
    assert_compiled_training_steps_are_the_loop(unroll=2)
    assert loops == [1]


def assert_compiled_training_steps_are_the_loop(unroll: int):
    one, (state, *_) = train_step()
    xs, ys = batches(5)
    expected, losses = state, []
    for batch in zip(xs, ys, strict=True):
        expected, metrics = one(expected, batch)
        losses.append(metrics["loss"])
    eager, metrics = scan(one, state, (xs, ys))
    assert_close(eager, expected, 0)
    assert torch.equal(metrics["loss"], torch.stack(losses))
    found, metrics = jit(lambda state, batch: scan(one, state, batch, unroll=unroll))(
        state, (xs, ys)
    )
    assert_close(found, expected, 1e-4)
    assert_close(metrics["loss"], torch.stack(losses), 1e-5)


def test_training_steps_of_an_ensemble(generated_loops):
    one, states = train_step()
    together, stacked = ensemble(one, same_batch=True), stack_states(states)
    found, metrics = jit(lambda state, batch: scan(together, state, batch))(stacked, batches(6))
    expected, same = scan(together, stacked, batches(6))
    assert_close(found, expected, 1e-4)
    assert_close(metrics["loss"], same["loss"], 1e-5)
    assert generated_loops == [1]


def recurrent(weights, x):
    """The last state and the sum of the squares of all."""
    h, sums = scan(lambda h, v: (torch.tanh(v + h @ weights), (h * h).sum()), torch.zeros(3), x)
    return h.sum() + sums.sum()


def recurrent_by_hand(weights, x):
    h, total = torch.zeros(3), 0
    for v in x.unbind(0):
        total = total + (h * h).sum()
        h = torch.tanh(v + h @ weights)
    return h.sum() + total


def test_differentiable_and_vmapped():
    weights, x = torch.randn(3, 3) / 3, torch.randn(5, 3)
    expected = torch.func.grad(recurrent_by_hand, argnums=(0, 1))(weights, x)
    assert_close(torch.func.grad(recurrent, argnums=(0, 1))(weights, x), expected)
    assert_close(jit(torch.func.grad(recurrent, argnums=(0, 1)))(weights, x), expected)
    leaf = weights.clone().requires_grad_()
    assert_close(torch.autograd.grad(recurrent(leaf, x), leaf), expected[:1])
    assert_close(torch.autograd.grad(jit(recurrent)(leaf, x), leaf), expected[:1])
    many = torch.randn(4, 5, 3)
    by_hand = torch.stack([recurrent_by_hand(weights, x) for x in many])
    over = torch.func.vmap(recurrent, in_dims=(None, 0))
    assert_close(over(weights, many), by_hand)
    assert_close(jit(over)(weights, many), by_hand)
    hessian = torch.func.hessian(recurrent)(weights, x)
    assert_close(hessian, torch.func.hessian(recurrent_by_hand)(weights, x), 1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_under_torch_compile_too(reverse):
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph

    def f(init, xs):
        return scan(step, init, xs, reverse=reverse)

    assert_close(torch.compile(f, fullgraph=True, backend=backend)(INIT, XS), f(INIT, XS))
    assert sum(map(aot._is_loop, graphs[0].graph.nodes)) == 1


def test_training_steps_under_torch_compile():
    one, (state, *_) = train_step()
    found, metrics = torch.compile(lambda s, b: scan(one, s, b), fullgraph=True)(state, batches(4))
    expected, same = scan(one, state, batches(4))
    assert_close(found, expected, 1e-4)
    assert_close(metrics["loss"], same["loss"], 1e-5)


def test_python_runs_the_compiled_body_of_a_loop_that_has_no_code_in_cpp(
    monkeypatch, generated_loops
):
    """As with torch 2.11, whose inductor refuses each loop with a y."""
    asked, compile_with = [], aot._compile

    def compile_without_cpp(graph, examples, patches, inner):
        asked.append(patches["cpp_wrapper"])
        if patches["cpp_wrapper"]:
            inner.append(None)  # of a part that was compiled before
            raise InductorError(AssertionError(), inspect.currentframe())
        return compile_with(graph, examples, patches, inner)

    monkeypatch.setattr(aot, "_compile", compile_without_cpp)
    assert_close(jit(lambda init, xs: scan(step, init, xs))(INIT, XS), scan(step, INIT, XS))
    assert asked == [True, False] and generated_loops == [1]


def test_plain_torch_writes_the_loop_out(monkeypatch, loops):
    monkeypatch.setattr("purenets.torch_nets.fast.scan.enabled", lambda: False)
    assert_close(jit(lambda init, xs: scan(step, init, xs))(INIT, XS), scan(step, INIT, XS))
    assert loops == [0]


def test_the_graph_does_not_grow_with_the_length():
    """The time to compile follows the graph; clocks are not to be trusted in a test."""
    one, (state, *_) = train_step()
    sizes = []
    for n in (10, 1000):
        graph, _ = aot.trace(
            lambda state, batch: scan(one, state, batch),
            aot.like(((state, batches(n)), {})),
            aot.tensors((state, batches(n))),
        )
        sizes.append(sum(len(m.graph.nodes) for m in graph.modules() if hasattr(m, "graph")))
    assert sizes[0] == sizes[1]


def running(total, x):
    """A carry that may begin as a number, and is seen before x is added."""
    return total + x, total


@pytest.mark.parametrize("zero", [0, 0.0])
@pytest.mark.parametrize("wrap", [lambda f: f, jit, lambda f: torch.func.vmap(f, in_dims=0)])
def test_numbers_in_a_carry_and_among_the_ys_become_tensors(zero, wrap, traced_only):
    xs = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 1.0]])
    f = lambda x: scan(running, zero, x)
    if wrap is jit or wrap(abs) is abs:
        carry, ys = wrap(f)(xs[0])
        assert carry == 15
        assert torch.equal(ys, torch.tensor([0.0, 1.0, 3.0, 7.0]))
    else:
        carry, ys = wrap(f)(xs)
        assert torch.equal(carry, torch.tensor([15.0, 4.0]))
        assert torch.equal(ys[0], torch.tensor([0.0, 1.0, 3.0, 7.0]))


def test_the_gradient_of_a_scan_that_begins_at_a_number():
    xs = torch.tensor([1.0, 2.0, 4.0])
    grad = torch.func.grad(lambda x: scan(running, 0.0, x)[1].sum())(xs)
    assert torch.equal(grad, torch.tensor([2.0, 1.0, 0.0]))


@pytest.mark.parametrize("wrap", [lambda f: f, jit])
def test_ys_that_are_numbers_only_are_tensors_beside_tensors(wrap, traced_only):
    carry, ys = wrap(lambda x: scan(lambda c, v: (c + v, (1.5, 2, True)), torch.zeros(()), x))(
        torch.ones(3)
    )
    assert carry == 3
    assert [y.dtype for y in ys] == [torch.float32, torch.int64, torch.bool]
    assert all(y.shape == (3,) for y in ys)
    assert torch.equal(ys[0], torch.full((3,), 1.5))


def test_a_number_becomes_an_array_of_its_library_and_one_that_does_not_fit_is_kept():
    _, ys = scan(lambda c, v: (c + v, c), 0.5, np.array([1, 2, 3]))
    assert isinstance(ys, np.ndarray)
    assert ys.tolist() == [0.5, 1.5, 3.5]
    _, ys = scan(lambda c, v: (c, v if c.shape else 0.5), torch.zeros(1), torch.ones(2).long())
    assert ys.tolist() == [1, 1]


def test_a_number_in_the_carry_is_of_shape_nothing():
    with pytest.raises(
        UserError, match=r"scan: carry: f returned the shape \(2,\), was given \(\)"
    ):
        scan(running, 0.0, torch.ones(3, 2))
