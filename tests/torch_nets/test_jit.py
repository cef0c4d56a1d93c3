"""`jit`: the numbers of the eager function, and that function where it cannot compile."""

import dataclasses
import functools
import gc
import math
import os
import signal
import subprocess
import sys
import warnings
import weakref
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from purenets import (
    Interrupted,
    UserError,
    fit,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    scan,
    train_state,
    tree,
)
from purenets.torch_nets import (
    MLP,
    VanillaRNN,
    ensemble,
    grad_fn,
    jit,
    layers,
    stack_states,
    to_numpy,
)
from purenets.torch_nets.convert import device_from_name
from purenets.torch_nets.fast import aot
from purenets.torch_nets.fast import jit as engine


def data(*shape: int):
    x = random.normal(torch.as_tensor(random.key(1)), shape)
    return x, (x.flatten(1).sum(1) > 0).long()


def assert_same(found, expected, tolerance: float = 1e-6):
    for part, other in zip(found, expected, strict=True):
        part, other = ({"": leaf} if torch.is_tensor(leaf) else leaf for leaf in (part, other))
        tree.check_like(part, other)
        for a, b in zip(tree.leaves(part), tree.leaves(other), strict=True):
            assert torch.allclose(a, b, atol=tolerance, rtol=1e-5)


def cnn():
    return layers.serial(
        conv1=layers.Conv(3, 4, 3, padding=1, bias=False), norm1=layers.BatchNorm(4),
        relu1=layers.ReLU(), mean=layers.GlobalAvgPool(), fc=layers.Linear(4, 2),
    )  # fmt: skip


NETS = {
    "mlp with dropout": (lambda: MLP(3, [7, 4], 2, dropout=0.5), (8, 3)),
    "wide mlp": (lambda: MLP(300, [400], 2), (128, 300)),  # its products are for oneDNN
    "cnn": (cnn, (8, 3, 6, 6)),
    "rnn": (lambda: VanillaRNN(5, 1, 16, 2), (8, 5, 1)),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_words_are_compiled_for_a_gpu():
    key = torch.as_tensor(random.key(1)).cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it does not run eagerly
        found = jit(lambda key: random.uniform(key, (64,)))(key)
    assert torch.equal(found, random.uniform(key, (64,)))


@pytest.mark.parametrize("name", NETS)
def test_a_step_is_the_same_for_twenty_steps(name):
    make, shape = NETS[name]
    model, optimizer = make(), optim.adam(1e-2)
    step, batch = make_step(grad_fn(model), optimizer), data(*shape)
    slow = fast = init_state(model, optimizer, random.key(0))
    quick = jit(step)
    for _ in range(20):
        (slow, a), (fast, b) = step(slow, batch), quick(fast, batch)
        assert_same([b], [a], 1e-4)
    assert_same(fast, slow, 1e-3)
    assert type(fast) is type(slow)
    assert list(fast.params) == list(slow.params)


@pytest.mark.parametrize("average", [optim.ema(0.5), None], ids=["ema", "lookahead"])
def test_a_leaf_at_two_places_is_two_leaves_later(average):
    """The first average of the params is the params themselves."""
    adam = optim.adam(1e-1)
    optimizer = optim.chain(adam, average) if average else optim.lookahead(adam, 2)
    model, batch = MLP(3, [4], 2), data(8, 3)
    slow = fast = init_state(model, optimizer, random.key(0))
    step = make_step(grad_fn(model), optimizer)
    quick = jit(step)
    for _ in range(4):
        (slow, _), (fast, _) = step(slow, batch), quick(fast, batch)
    assert_same(fast, slow, 1e-5)


def test_members_of_an_ensemble_are_compiled_too():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8, 3)
    together = ensemble(make_step(grad_fn(model), optimizer), same_batch=True)
    stacked = stack_states([init_state(model, optimizer, random.key(seed)) for seed in range(3)])
    assert_same(jit(together)(stacked, batch)[0], together(stacked, batch)[0])


def affine(values: dict, pair: list, power: int = 2, flag: bool | None = None):
    a, b = pair
    return {"sum": values["x"] ** power + a, "rest": (b, flag, [a * 2])}


VALUES, PAIR = (
    {"x": torch.arange(6.0).reshape(2, 3)},
    [torch.ones(3), torch.zeros(2, dtype=torch.int64)],
)


def test_containers_and_constants_come_back_as_they_are():
    found = jit(affine)(VALUES, PAIR, 3, None)
    assert torch.equal(found["sum"], VALUES["x"] ** 3 + 1)
    assert found["rest"][0] is not None
    assert found["rest"][1] is None
    assert torch.equal(found["rest"][2][0], torch.full((3,), 2.0))
    assert isinstance(found["rest"], tuple)
    assert found["rest"][0] is PAIR[1]  # an argument that is returned is not copied


def test_other_strides_are_taken():
    turned = {"x": torch.arange(6.0).reshape(3, 2).T}
    compiled = jit(affine)
    compiled(VALUES, PAIR, 3, None)
    assert torch.equal(compiled(turned, PAIR, 3, None)["sum"], turned["x"] ** 3 + 1)


@pytest.fixture
def traces():
    """A function that counts how often it is traced or run by itself, and the count."""
    count = []

    def f(x, scale=2.0, name=None):
        count.append(name)
        return {"a": scale * x["a"], **{k: v + 1 for k, v in x.items() if k != "a"}}

    return f, count


def test_traces_once_for_each_signature(traces, traced_only):
    f, count = traces
    quick, a = jit(f), torch.arange(3.0)
    for _ in range(3):
        assert torch.equal(quick({"a": a})["a"], 2 * a)
    assert len(count) == 1
    others = [
        (({"a": torch.ones(4)},), {}),
        (({"a": a.double()},), {}),
        (({"a": a}, 3.0), {}),
        (({"a": a}, 3), {}),
        (({"a": a}, True), {}),
        (({"a": a}, 0.0), {}),
        (({"a": a}, -0.0), {}),
        (({"a": a},), {"scale": 3.0}),
        (({"a": a}, 2.0, "other"), {}),
        (({"a": a, "b": a},), {}),
        (({"b": a, "a": a},), {}),
    ]
    for n, (args, kwargs) in enumerate(others, 2):
        for _ in range(2):
            found, expected = quick(*args, **kwargs), f(*args, **kwargs)
            count.pop()
            assert list(found) == list(expected)
            for name, leaf in expected.items():
                assert torch.equal(found[name], leaf)
                assert torch.equal(found[name].signbit(), leaf.signbit())
                assert found[name].dtype == leaf.dtype
            assert len(count) == n
    for args, kwargs in others:  # all are still known
        quick(*args, **kwargs)
    assert len(count) == len(others) + 1


def test_grad_mode_threads_and_dtype_belong_to_the_signature(traces, traced_only):
    f, count = traces
    quick, x = jit(f), {"a": torch.ones(3)}
    quick(x)
    with torch.no_grad():
        quick(x), quick(x)
    assert len(count) == 2
    torch.set_num_threads(2)
    try:
        quick(x), quick(x)
    finally:
        torch.set_num_threads(1)
    assert len(count) == 3
    torch.set_default_dtype(torch.float64)
    try:
        assert quick(x)["a"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(count) == 4
    quick(x)
    assert len(count) == 4


def test_autocast_is_that_of_the_call():
    a, b = torch.randn(8, 8), torch.randn(8, 8)

    def f(a, b):
        return a @ b

    quick = jit(f)
    for _ in range(2):
        assert quick(a, b).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert quick(a, b).dtype == f(a, b).dtype == torch.bfloat16
            assert torch.allclose(quick(a, b), f(a, b), atol=0.1)


def test_inference_mode_and_parameters_are_taken():
    quick, weight = jit(lambda w: 2 * w), torch.nn.Parameter(torch.ones(3))
    with torch.inference_mode():
        assert torch.equal(quick(torch.ones(3)), torch.full((3,), 2.0))
    assert torch.equal(quick(torch.ones(3)), torch.full((3,), 2.0))
    with torch.no_grad():
        assert not quick(weight).requires_grad
    assert quick(weight).requires_grad


def test_views_and_captured_tensors_come_back():
    constant = torch.tensor([5.0, 6.0])

    def f(x):
        y = 2 * x
        return {
            "turned": x.T,
            "row": x[0],
            "y": y,
            "part": y[0],
            "again": y,
            "x": x,
            "constant": constant,
        }

    quick = jit(f)
    for x in (torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)):
        found, expected = quick(x), f(x)
        assert list(found) == list(expected)
        for name, leaf in expected.items():
            assert torch.equal(found[name], leaf), name
        assert found["x"] is x
        assert found["again"] is found["y"]


def test_a_tensor_given_twice_and_then_two_tensors():
    quick, a, b = jit(lambda a, b: a + 2 * b), torch.ones(3), torch.zeros(3)
    for first, second in ((a, a), (a, b), (b, a), (b, b), (a, a)):
        assert torch.equal(quick(first, second), first + 2 * second)


@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_conjugates_are_resolved():
    quick, z = jit(lambda z: z * 1j), torch.tensor([1 + 2j, 3 - 1j])
    assert torch.equal(quick(z), z * 1j)
    assert torch.equal(quick(z.conj()), z.conj() * 1j)


def test_compiled_code_is_freed_with_the_function(traces):
    f, _ = traces
    quick = jit(lambda x: f({"a": x})["a"])
    quick(torch.ones(3))
    watched = weakref.ref(quick.__wrapped__)
    del quick
    gc.collect()
    assert watched() is None


def data_dependent(x):
    return x if x.sum() > 0 else -x


def draws(x):
    return x + torch.rand(3)


def drops(x):
    return torch.nn.functional.dropout(x, 0.5)


def in_place(x):
    return x.add_(1)


def in_place_of_a_view(x):
    x[0] = 5
    return x * 2


def reads(x):
    return x * float(x.sum())


def returns_a_number(x):
    return x.sum().item()


CLOSED, LEAF = torch.zeros(3), torch.ones(3, requires_grad=True)


def changes_what_it_closes_over(x):
    CLOSED.add_(1)
    return x * CLOSED


def of_a_leaf(x):
    return x * LEAF


def picks_by_value(x):
    return x[x > 0].sum()


def writes_to_its_own(x):
    total = torch.zeros(3)
    total[1:] += x[1:]
    y = 2 * x
    return y.add_(total)


def test_in_place_on_what_the_function_has_made_is_compiled():
    x = torch.arange(3.0)
    assert torch.equal(jit(writes_to_its_own)(x), writes_to_its_own(x))


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (data_dependent, "it needs the value of a tensor while it is traced, as in `if`"),
        (reads, "it needs the value of a tensor"),
        (
            returns_a_number,
            "it returns a number that depends on the values of tensors|it needs the value",
        ),
        (draws, "it draws random numbers from a generator of torch .aten.rand"),
        (drops, "it draws random numbers"),
        (in_place, "it changes an argument or a captured tensor in place"),
        (in_place_of_a_view, "it changes an argument or a captured tensor in place"),
        (changes_what_it_closes_over, "it changes an argument or a captured tensor in place"),
        (picks_by_value, r"its shapes depend on the values of a tensor, as in x\[x > 0\]"),
        (of_a_leaf, "its result depends on a tensor that it closes over and that requires grad"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_with_one_warning(f, why):
    CLOSED.zero_()
    quick = jit(f)
    torch.manual_seed(0)
    with pytest.warns(
        UserWarning, match=f"jit: {f.__name__} runs eagerly, uncompiled: ({why})"
    ) as caught:
        first = quick(torch.ones(3))
    assert caught[0].filename == __file__
    assert len(str(caught[0].message).splitlines()) == 1
    second, third = (
        quick(torch.ones(3)),
        quick(torch.ones(3)),
    )  # no second warning, which would be an error
    CLOSED.zero_()
    torch.manual_seed(0)
    for found in (first, second, third):
        expected = f(torch.ones(3))
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


def test_an_error_of_the_function_is_its_own():
    def f(x):
        raise UserError("x: not like this")

    with pytest.raises(UserError, match="x: not like this"):
        jit(f)(torch.ones(3))
    with pytest.raises(RuntimeError, match="size of tensor"):
        jit(lambda x: x + torch.ones(4))(torch.ones(3))


def test_a_net_on_numpy_runs_eagerly_with_one_warning():
    model, optimizer = numpy_nets.MLP(3, [4], 2), optim.adam(1e-2)
    step = make_step(numpy_nets.grad_fn(model), optimizer)
    state = init_state(model, optimizer, random.key(0))
    batch = tuple(part.numpy() for part in data(8, 3))
    quick = jit(step)
    with pytest.warns(UserWarning, match="array of NumPy"):
        found, _ = quick(state, batch)
    found, _ = quick(found, batch)
    expected, _ = step(step(state, batch)[0], batch)
    for name, leaf in expected.params.items():
        assert np.array_equal(found.params[name], leaf)


def test_small_products_are_cast_by_autocast():
    layer = layers.Linear(4, 4)
    params, _ = layer.init(random.key(0))
    f, x = lambda x: layer.apply(params, {}, x)[0], torch.ones(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert jit(f)(x).dtype == f(x).dtype == torch.bfloat16
        assert torch.equal(jit(f)(x), f(x))


@pytest.mark.parametrize("value", [float("nan"), complex("nan"), complex(1, float("nan"))])
def test_nan_is_a_static_argument_like_others(value, traced_only):
    f, x = lambda x, v: x + v.real + v.imag, torch.zeros(2)
    quick = jit(f)
    for _ in range(12):  # another object each time
        assert quick(x, type(value)(str(value)))[0].isnan()
    assert not quick(x, 1.0).isnan().any()
    ahead = jit(f).lower(x, value).compile()
    assert ahead(x, type(value)(str(value)))[0].isnan()


def test_complex_zeros_are_told_apart_by_their_signs(traced_only):
    quick, x = jit(lambda x, v: x * math.copysign(1, v.imag)), torch.ones(1)
    assert [quick(x, complex(1, zero)).item() for zero in (0.0, -0.0, 0.0)] == [1, -1, 1]


def test_values_that_never_repeat_end_in_eager_calls(traced_only):
    quick, x = jit(lambda x, i: x + i), torch.zeros(2)
    assert [quick(x, i)[0].item() for i in range(8)] == list(range(8))
    with pytest.warns(
        UserWarning, match="8 values of its static arguments already; pass as a tensor"
    ):
        assert quick(x, 8)[0] == 8
    assert [quick(x, i)[0].item() for i in range(12)] == list(range(12))


class Holder:
    """An object with an attribute, compared by its identity."""

    def __init__(self):
        self.v = 2.0

    def times(self, x):
        return self.v * x


class Slots:
    __slots__ = ("v",)

    def __init__(self):
        self.v = 2.0


class ByValue(Holder):
    def __hash__(self):
        return hash(self.v)

    def __eq__(self, other):
        return self.v == other.v


@dataclasses.dataclass(frozen=True)
class Frozen:
    v: float = 2.0
    held: Any = None


HELD = {
    "an object": (Holder(), lambda o: o),
    "slots": (Slots(), lambda o: o),
    "an object compared by its value": (ByValue(), lambda o: o),
    "a method": (Holder(), lambda o: o.times),
    "a partial function": (Holder(), lambda o: functools.partial(o.times)),
    "a part of a frozen dataclass": (Holder(), lambda o: Frozen(held=o)),
    "a module": (nn.Identity(), lambda o: o),
}


def of_held(x, argument):
    if isinstance(argument, Frozen):
        argument = argument.held
    is_function = callable(argument) and not isinstance(argument, nn.Module)
    return argument(x) if is_function else x * argument.v


@pytest.mark.parametrize("name", HELD)
@pytest.mark.filterwarnings("ignore:jit")
def test_object_that_has_changed_since_gives_its_new_number(name, traced_only):
    holder, argument_of = HELD[name]
    quick, x, argument = jit(of_held), torch.ones(2), argument_of(holder)
    for v in (2.0, 5.0, 2.0, 7.0):
        holder.v = v
        assert [quick(x, argument)[0].item() for _ in range(2)] == [v, v]


def test_object_whose_attributes_may_change_is_named():
    with pytest.warns(UserWarning, match="an argument of type Holder has attributes, which may"):
        jit(of_held)(torch.ones(2), Holder())


def test_object_compiled_for_ahead_of_time_may_not_change():
    argument, x = ByValue(), torch.ones(2)
    compiled = jit(of_held).lower(x, argument).compile()
    assert compiled(x, argument)[0] == 2
    argument.v = 5.0
    with pytest.raises(UserError, match="jit: an argument has changed since"):
        compiled(x, argument)


def test_frozen_dataclasses_and_functions_are_compiled_for(recwarn, traced_only):
    assert jit(of_held)(torch.ones(2), Frozen(held=Frozen(3.0)))[0] == 3
    assert jit(of_held)(torch.ones(2), torch.neg)[0] == -1
    assert not [w for w in recwarn if "jit" in str(w.message)]


def test_the_number_of_structures_is_bounded(monkeypatch):
    monkeypatch.setattr(engine, "MAX_STRUCTURES", 2)
    quick = jit(lambda x: 2 * x)
    assert [len(quick(torch.zeros(n))) for n in (2, 3)] == [2, 3]
    with pytest.warns(UserWarning, match="2 structures and shapes already"):
        assert len(quick(torch.zeros(4))) == 4
    assert [len(quick(torch.zeros(n))) for n in (2, 3, 4, 5)] == [2, 3, 4, 5]


def test_a_function_within_another_is_compiled_once():
    inner = jit(lambda x: 2 * x)
    assert torch.equal(jit(lambda x: inner(x) + 1)(torch.ones(3)), torch.full((3,), 3.0))
    assert torch.equal(torch.compile(lambda x: inner(x) + 1)(torch.ones(3)), torch.full((3,), 3.0))


def test_plain_torch_is_asked_for_by_the_environment(monkeypatch, traces):
    monkeypatch.setattr(engine, "enabled", lambda: False)
    f, count = traces
    quick = jit(f)
    for _ in range(2):
        assert torch.equal(quick({"a": torch.ones(3)})["a"], torch.full((3,), 2.0))
    assert len(count) == 2
    assert quick.lower({"a": torch.ones(3)}).compile() is f


def test_transforms_and_gradients_go_through_the_function_itself():
    compiled = jit(affine)

    def total(x):
        return compiled({"x": x}, PAIR, 3, None)["sum"].sum()

    x = VALUES["x"]
    assert torch.allclose(torch.func.grad(total)(x), 3 * x**2)
    leaf = x.clone().requires_grad_()
    assert torch.allclose(torch.autograd.grad(total(leaf), leaf)[0], 3 * x**2)
    members = torch.func.vmap(lambda x: compiled({"x": x}, PAIR, 3, None)["sum"])(
        torch.stack([x, x])
    )
    assert torch.equal(members[1], x**3 + 1)
    last = torch.func.vmap(lambda x: compiled({"x": x}, PAIR, 3, None)["sum"], in_dims=2)(
        torch.stack([x, x], 2)
    )
    assert torch.equal(last[1], x**3 + 1)
    with forward_ad.dual_level():
        dual = compiled({"x": forward_ad.make_dual(x, torch.ones_like(x))}, PAIR, 3, None)["sum"]
        assert torch.allclose(forward_ad.unpack_dual(dual).tangent, 3 * x**2)


@pytest.mark.parametrize("fails", [True, False])
def test_a_stop_while_a_step_is_compiled_ends_before_it(fails, monkeypatch):
    """The signal may end the compiler too: then the code is missing, or another one."""
    compile_graph = aot._compile

    def compile_and_stop(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        if fails:
            raise RuntimeError("the compiler ended by signal 2")
        return compile_graph(*arguments)

    @jit
    def step(state, x):
        return state._replace(step=state.step + 1), {"loss": x.sum()}

    monkeypatch.setattr(aot, "_compile", compile_and_stop)
    start = train_state({"w": torch.zeros(1)}, {}, optim.sgd(0.1), random.key(0))
    saved = []
    with pytest.raises(Interrupted, match="after step 2 of 9"), warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(
            lambda state, x: eager_then_compiled(step, state, x), start, torch.ones, steps=9,
            save=lambda *what: saved.append(what),
        )  # fmt: skip
    assert [int(state.step) for state, _, _ in saved] == [2]


def eager_then_compiled(step, state, x):
    """Two steps as they are, then compiled ones."""
    return step(state, x) if len(x) >= 2 else step.__wrapped__(state, x)


def test_a_header_that_a_killed_compiler_left_half_written_is_made_again(monkeypatch, tmp_path):
    compile_graph, calls = aot._compile, []
    header = tmp_path / "cabc.h.gch"
    header.write_bytes(b"gpch")

    def compile_as_g_plus_plus_does(*arguments):
        calls.append(header.exists())
        if header.exists():
            command = f"g++ a.cpp -O3 -include {header.with_suffix('')} -o a.so"
            raise RuntimeError(f"{command}\n<command-line>: fatal error: cannot read PCH file")
        return compile_graph(*arguments)

    monkeypatch.setattr(aot, "_compile", compile_as_g_plus_plus_does)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jit(lambda x: x + 1)(torch.zeros(2)).tolist() == [1, 1]
    assert calls == [True, False]


def test_what_a_compiler_says_is_in_the_warning(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("C++ compile error\n\nCommand:\ng++ ...\n\na.cpp:3: error: no sinh\nend")

    monkeypatch.setattr(aot, "_compile", fail)
    with pytest.warns(UserWarning, match="runs eagerly, uncompiled: RuntimeError: error: no sinh$"):
        jit(lambda x: x + 1)(torch.zeros(2))


def test_without_a_compiler_the_step_runs_eagerly_and_says_so(monkeypatch, traces):
    monkeypatch.setattr("shutil.which", lambda name: None)
    f, count = traces
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler found .* runs eagerly") as caught:
        quick = jit(f)
    assert caught[0].filename == __file__
    assert torch.equal(quick({"a": torch.ones(3)})["a"], torch.full((3,), 2.0))
    assert len(count) == 1


def test_a_compiled_script_is_quiet_about_what_is_not_there():
    code = "import torch; from purenets.torch_nets import jit\n"
    code += "print(jit(lambda x: x + 1)(torch.ones(1)).item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2.0\n", "")


def test_devices_are_checked():
    assert device_from_name("cpu") == torch.device("cpu")
    assert device_from_name("auto").type in ("cpu", "cuda")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"--device {name}: not available here"):
            device_from_name(name)


def test_bfloat16_comes_to_numpy_as_float32():
    leaf = to_numpy({"w": torch.ones(2, dtype=torch.bfloat16)})["w"]
    assert leaf.dtype == "float32"


def test_a_captured_tensor_that_is_changed_in_place_compiles_again():
    rate, offsets = torch.tensor(0.1), torch.ones(3, 2)
    f = lambda x: (x * rate, torch.func.vmap(lambda row: x[0] + row)(offsets))
    compiled, x = jit(f), torch.randn(2)
    assert_same(compiled(x), f(x))
    for change in (lambda: rate.fill_(0.0), lambda: offsets[1].mul_(5)):
        change()
        with pytest.warns(UserWarning, match="is compiled again: a tensor that it closes over was"):
            assert_same(compiled(x), f(x))
        assert_same(compiled(x), f(x))  # without a warning


def test_a_captured_tensor_under_scan_and_ahead_of_time_is_watched_too():
    rate = torch.tensor(0.5)
    f = lambda total, xs: scan(lambda c, x: (c + rate * x, c), total, xs)
    given = torch.zeros(()), torch.arange(4.0)
    compiled = jit(f).lower(*given).compile()
    assert_same(compiled(*given), f(*given))
    rate.mul_(3.0)
    with pytest.warns(UserWarning, match="is compiled again"):
        assert_same(compiled(*given), f(*given))


def test_numbers_that_a_function_makes_tensors_of_are_not_watched():
    seen = torch.ones(2)
    f = lambda x: [x + torch.tensor(2.0) + seen]
    graph = aot.trace_flat(f, [torch.ones(2)])
    assert [*map(id, aot._captured(graph))] == [id(seen)]


def test_the_warning_names_the_line_that_cannot_be_compiled():
    def branches(x):
        y = 2 * x
        return y if float(y.sum()) > 0 else -y

    line = branches.__code__.co_firstlineno + 2
    with pytest.warns(UserWarning, match=rf"needs the value of a tensor .*test_jit\.py:{line}\)$"):
        jit(branches)(torch.ones(2))
    with pytest.warns(UserWarning, match=r"draws random numbers .*test_jit\.py:\d+\)$"):
        jit(lambda x: x + torch.rand(2))(torch.ones(2))


@pytest.mark.filterwarnings("error")
def test_the_evaluation_of_attention_is_compiled():
    block = layers.TransformerBlock(8, 2, 16, causal=True)
    params, x = block.init(random.key(0))[0], torch.randn(3, 5, 8)
    compiled = jit(block.apply)  # which says so where it is not
    torch.testing.assert_close(compiled(params, {}, x)[0], block.apply(params, {}, x)[0])


VALUE = torch.tensor(1.0)
READ = {
    "float": lambda x: x * float(VALUE),
    "item": lambda x: x * VALUE.item(),
    "alpha": lambda x: torch.add(x, x, alpha=VALUE.item()),
    "equal": lambda x: x if torch.equal(VALUE, torch.ones(())) else 2 * x,
    "list": lambda x: x * VALUE.reshape(1).tolist()[0],
}


@pytest.mark.parametrize("f", READ.values(), ids=READ)
def test_the_value_of_a_captured_tensor_is_not_compiled_in(f):
    VALUE.fill_(1.0)
    compiled, x = jit(f), torch.ones(2)
    with pytest.warns(
        UserWarning, match="runs eagerly, uncompiled: it (reads|needs) the value of a"
    ):
        assert torch.equal(compiled(x), f(x))
    VALUE.fill_(3.0)
    assert torch.equal(compiled(x), f(x))


def test_the_value_of_a_tensor_that_it_makes_is_compiled_in():
    compiled = jit(lambda x: x * torch.tensor(2.0).item() * torch.tensor([3.0]).tolist()[0])
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 6.0))


@dataclasses.dataclass(frozen=True)
class Held:
    value: object


ALIKE = {
    "a number": (2, 2.0, lambda v: v),
    "a flag": (1, True, lambda v: 1 + isinstance(v, bool)),
    "a zero": (0.0, -0.0, lambda v: math.copysign(1, v)),
    "a set": (frozenset([1]), frozenset([True]), lambda v: 1 + isinstance(min(v), bool)),
    "a range": (range(0, 3, 2), range(0, 4, 2), lambda v: v.stop),
    "a decimal": (Decimal("1.0"), Decimal("1.00"), lambda v: len(str(v))),
}


@pytest.mark.parametrize("name", ALIKE)
def test_equal_values_that_are_not_the_same_are_told_apart(name):
    one, other, read = ALIKE[name]
    assert Held(one) == Held(other)
    for f, hold in (
        (lambda held, x: x * read(held), lambda v: v),
        (lambda held, x: x * read(held.value), Held),
        (lambda held, x: x * read(next(iter(held))), lambda v: frozenset([v])),
        (lambda held, x: x * read(held[0].value), lambda v: (Held(v),)),
    ):
        compiled, x = jit(f), torch.tensor([1, 2])
        for held in (hold(one), hold(other), hold(one)):
            result, right = compiled(held, x), f(held, x)
            assert torch.equal(result, right) and result.dtype == right.dtype


def test_keys_that_are_equal_are_told_apart():
    compiled = jit(lambda d: next(iter(d.values())) * (1 + isinstance(min(d), bool)))
    x = torch.ones(1)
    assert [float(compiled({key: x})) for key in (1, True, 1)] == [1, 2, 1]
