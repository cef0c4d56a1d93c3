"""`jit(f).lower(...).compile()`: compiled ahead of time for exactly these arguments."""

import pytest
import torch

from purenets import UserError, init_state, make_step, optim, random
from purenets.torch_nets import MLP, grad_fn, jit
from purenets.torch_nets.fast import aot


def test_a_leaf_of_a_state_is_named():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    x = random.normal(torch.as_tensor(random.key(1)), (8, 3))
    batch, state = (x, (x.sum(1) > 0).long()), init_state(model, optimizer, random.key(0))
    quick = jit(make_step(grad_fn(model), optimizer)).lower(state, batch).compile()
    assert quick(state, batch)[0].step == 1
    wrong = state._replace(params=state.params | {"fc1.bias": torch.zeros(5)})
    with pytest.raises(
        UserError, match=r"argument/0/params/fc1\.bias: shape is \(5,\), compiled for \(4,\)"
    ):
        quick(wrong, batch)


def affine(values: dict, pair: list, power: int = 2, flag: bool | None = None):
    a, b = pair
    return {"sum": values["x"] ** power + a, "rest": (b, flag, [a * 2])}


VALUES, PAIR = (
    {"x": torch.arange(6.0).reshape(2, 3)},
    [torch.ones(3), torch.zeros(2, dtype=torch.int64)],
)


@pytest.fixture(scope="module")
def compiled():
    return jit(affine).lower(VALUES, PAIR, 3, None).compile()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ({"x": torch.ones(2, 4)}, PAIR, 3, None),
            r"argument/0/x: shape is \(2, 4\), compiled for \(2, 3\)",
        ),
        (({"x": VALUES["x"].double()}, PAIR, 3, None), r"argument/0/x: dtype is torch\.float64"),
        (
            ({"y": VALUES["x"]}, PAIR, 3, None),
            r"argument/0: the names of the leaves differ: missing x; unknown y",
        ),
        ((VALUES, PAIR[:1], 3, None), r"argument/1: is .* compiled for a list of 2 parts"),
        ((VALUES, [1.0, PAIR[1]], 3, None), r"argument/1/0: is 1\.0, expected a tensor"),
        ((VALUES, PAIR, 2, None), r"argument/2: is 2, compiled for 3"),
        ((VALUES, PAIR, 3.0, None), r"argument/2: is 3\.0, compiled for 3"),
        ((VALUES, PAIR), r"argument: is .* compiled for a tuple of 4 parts"),
        ((VALUES, tuple(PAIR), 3, None), r"argument/1: is .* compiled for a list of 2 parts"),
    ],
)
def test_what_differs_is_named(compiled, arguments, message):
    with pytest.raises(UserError, match=message):
        compiled(*arguments)


def test_keywords_are_named(compiled):
    by_name = jit(affine).lower(VALUES, pair=PAIR, power=3).compile()
    assert torch.equal(by_name(VALUES, pair=PAIR, power=3)["sum"], VALUES["x"] ** 3 + 1)
    with pytest.raises(UserError, match="argument/power: is 2, compiled for 3"):
        by_name(VALUES, pair=PAIR, power=2)


def test_autocast_of_another_kind_runs_the_function():
    a = torch.randn(4, 4)
    quick = jit(lambda a: a @ a).lower(a).compile()
    assert quick(a).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert quick(a).dtype == torch.bfloat16


def test_what_cannot_be_compiled_is_the_function_with_a_reason():
    def f(x):
        return x if x.sum() > 0 else -x

    with pytest.warns(
        UserWarning, match="f runs eagerly, uncompiled: it needs the value of a tensor"
    ):
        assert jit(f).lower(torch.ones(3)).compile() is f


def test_without_a_compiler_it_is_the_function_and_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.warns(UserWarning, match=r"jit: no C\+\+ compiler found"):
        assert jit(affine).lower(VALUES, PAIR).compile() is affine


def test_the_reason_of_a_process_of_its_own_is_its_last_line():
    text = (
        "Failed: An exception occurred in a subprocess:\n\n"
        'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no kernel\n\n'
        "Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace"
    )
    expected = "Failed: An exception occurred in a subprocess: ValueError: no kernel"
    assert aot.reason(RuntimeError(text)) == f"RuntimeError: {expected}"
    assert aot.reason(RuntimeError("one line")) == "RuntimeError: one line"
    assert aot.reason(AssertionError("")) == "AssertionError"
