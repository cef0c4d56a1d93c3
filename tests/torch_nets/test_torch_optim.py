"""Runs taken over from torch.optim and handed back: the next 100 steps are the same."""

import numpy as np
import pytest
import torch

from purenets import UserError, optim, schedules, tree
from purenets.optim import apply_updates
from purenets.torch_nets.torch_optim import CLASSES, from_torch_state_dict, to_torch_state_dict

HYPER = {
    "sgd": {"lr": 0.03},
    "sgd momentum": {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
    "rmsprop": {"lr": 0.01, "momentum": 0.6, "centered": True, "eps": 1e-3},
    "adagrad": {"lr": 0.05, "lr_decay": 0.02, "initial_accumulator_value": 0.1},
    "adadelta": {"lr": 0.5, "weight_decay": 0.1},
    "adam": {"lr": 0.02, "betas": (0.8, 0.95)},
    "adam amsgrad": {"lr": 0.02, "amsgrad": True},
    "adamw": {"lr": 0.02, "weight_decay": 0.1},
    "adamax": {"lr": 0.02},
    "nadam": {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "radam": {"lr": 0.02, "betas": (0.8, 0.9)},
}


@pytest.fixture(autouse=True)
def double():
    """NAdam keeps its product of momenta in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradient(params, i):
    draw = np.random.default_rng(i)
    return {
        n: torch.sin(3 * p) + torch.tensor(draw.normal(size=p.shape)) for n, p in params.items()
    }


def ours(optimizer, state, params, steps):
    for i in steps:
        updates, state = optimizer.update(gradient(params, i), state, params)
        params = apply_updates(params, updates)
    return params, state


class Theirs:
    def __init__(self, name, params, hyper):
        self.params = {n: torch.nn.Parameter(p.clone()) for n, p in params.items()}
        self.optimizer = CLASSES[name](list(self.params.values()), **hyper)

    def run(self, steps):
        for i in steps:
            for name, grad in gradient({n: p.detach() for n, p in self.params.items()}, i).items():
                self.params[name].grad = grad
            self.optimizer.step()
        return {name: p.detach().clone() for name, p in self.params.items()}


def difference(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in a)


@pytest.mark.parametrize("begun", [0, 30])
@pytest.mark.parametrize("case", HYPER)
def test_a_run_goes_on_in_the_other_world(case, begun, params):
    name, hyper = case.split()[0], HYPER[case]
    optimizer, tensors = getattr(optim, name)(**hyper), tree.map(torch.tensor, params)

    theirs = Theirs(name, tensors, hyper)
    there = theirs.run(range(begun))
    state = from_torch_state_dict(theirs.optimizer.state_dict(), optimizer, tensors)
    taken, _ = ours(optimizer, state, there, range(begun, begun + 100))
    assert difference(taken, theirs.run(range(begun, begun + 100))) < 1e-12

    here, state = ours(optimizer, optimizer.init(tensors), tensors, range(begun))
    handed = to_torch_state_dict(state, name, here, hyper, step=begun)
    back = Theirs(name, here, {})
    back.optimizer.load_state_dict(handed)
    expected, _ = ours(optimizer, state, here, range(begun, begun + 100))
    assert difference(back.run(range(begun, begun + 100)), expected) < 1e-12
    assert difference(expected, here) > 0.01


@pytest.mark.parametrize("case", HYPER)
def test_a_state_comes_back_bit_by_bit(case, params):
    name, hyper = case.split()[0], HYPER[case]
    optimizer, tensors = getattr(optim, name)(**hyper), tree.map(torch.tensor, params)
    after, state = ours(optimizer, optimizer.init(tensors), tensors, range(7))
    again = from_torch_state_dict(
        to_torch_state_dict(state, name, after, hyper, step=7), optimizer, after
    )
    tree.check_like(again, state)
    assert all(map(torch.equal, tree.leaves(again), tree.leaves(state)))


def test_a_schedule_goes_on_at_the_given_step(params):
    tensors, rate = tree.map(torch.tensor, params), schedules.cosine(0.1, 50)
    optimizer = optim.sgd(rate, momentum=0.9)
    after, state = ours(optimizer, optimizer.init(tensors), tensors, range(10))
    handed = to_torch_state_dict(state, "sgd", after, {"lr": float(rate(10)), "momentum": 0.9})
    assert handed["param_groups"][0]["lr"] == float(rate(10))
    with pytest.raises(UserError, match="step: torch's state does not count the updates"):
        from_torch_state_dict(handed, optimizer, after)
    again = from_torch_state_dict(handed, optimizer, after, step=10)
    assert all(map(torch.equal, tree.leaves(again), tree.leaves(state)))


def test_what_does_not_fit_is_named(params):
    tensors = tree.map(torch.tensor, params)
    with pytest.raises(UserError, match=r"lion: not in torch\.optim, choose from sgd"):
        to_torch_state_dict({}, "lion", tensors)
    theirs = Theirs("adam", tensors, {})
    theirs.run(range(2))
    with pytest.raises(
        UserError, match=r"fc1\.weight: no square_avg in state_dict, it holds step, exp_avg"
    ):
        from_torch_state_dict(theirs.optimizer.state_dict(), optim.rmsprop(), tensors)
    fewer = {name: leaf for name, leaf in tensors.items() if name != "fc1.bias"}
    with pytest.raises(UserError, match="holds 4 parameters, expected 3"):
        from_torch_state_dict(theirs.optimizer.state_dict(), optim.adam(), fewer)
    wider = {**tensors, "fc1.weight": torch.zeros(9, 3)}
    with pytest.raises(
        UserError, match=r"fc1\.weight: exp_avg has the shape \(5, 3\), expected \(9, 3\)"
    ):
        from_torch_state_dict(theirs.optimizer.state_dict(), optim.adam(), wider)


def test_arguments_stay_as_they_are(params):
    tensors, optimizer = tree.map(torch.tensor, params), optim.adam()
    after, state = ours(optimizer, optimizer.init(tensors), tensors, range(3))
    before = [leaf.clone() for leaf in tree.leaves({"state": state, "params": after})]
    handed = to_torch_state_dict(state, "adam", after)
    other = Theirs("adam", after, {})
    other.optimizer.load_state_dict(handed)
    other.run(range(3))
    from_torch_state_dict(handed, optimizer, after)
    assert all(map(torch.equal, before, tree.leaves({"state": state, "params": after})))


# --- whose state is whose ---------------------------------------------------------------

MODULE = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).double()
NAMED = dict(MODULE.named_parameters())
PARAMS = {name: p.detach().clone() for name, p in NAMED.items()}
LAST_FIRST = ("1.weight", "1.bias", "0.weight", "0.bias")


def taken_over(params, order=None) -> tuple:
    """What is made of the state of torch's AdamW on `params` after a step, and what is right."""
    theirs = torch.optim.AdamW(params, lr=1e-3)
    theirs.zero_grad()
    MODULE(torch.ones(6, 4)).square().sum().backward()
    theirs.step()
    ours = from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), PARAMS, order=order)
    return ours, {name: theirs.state[p]["exp_avg"] for name, p in NAMED.items()}


def equal_moments(ours: dict, right: dict) -> bool:
    found = optim.get_state(ours, "exp_avg")
    return all(torch.equal(found[name], right[name]) for name in right)


def test_moments_in_the_order_of_the_module_go_to_their_layers():
    assert equal_moments(*taken_over(MODULE.parameters()))


def two_groups(named: bool = False) -> list[dict]:
    parts = (MODULE[1].parameters(), MODULE[0].parameters())
    if named:
        parts = (
            [(name, NAMED[name]) for name in names] for names in (LAST_FIRST[:2], LAST_FIRST[2:])
        )
    first, second = parts
    return [{"params": first}, {"params": second, "lr": 1e-4}]


def test_moments_go_to_the_layers_that_their_names_say():
    assert equal_moments(*taken_over([(name, NAMED[name]) for name in LAST_FIRST]))
    assert equal_moments(*taken_over(two_groups(named=True)))


def test_moments_go_to_the_layers_that_the_caller_says():
    assert equal_moments(*taken_over(two_groups(), order=LAST_FIRST))
    assert equal_moments(*taken_over([NAMED[name] for name in LAST_FIRST], order=LAST_FIRST))


def test_order_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="2 groups without param_names; give their order"):
        taken_over(two_groups())
    with pytest.raises(UserError, match=r"order: .*expected 0\.weight"):
        taken_over(two_groups(), order=LAST_FIRST[:3])
    with pytest.raises(UserError, match="state_dict has its own names"):
        taken_over(two_groups(named=True), order=list(NAMED))
    strange = [(f"module.{name}", p) for name, p in NAMED.items()]
    with pytest.raises(UserError, match=r"param_names: module\.0\.weight"):
        taken_over(strange)


def test_parameter_without_a_gradient_is_named():
    theirs = torch.optim.AdamW(NAMED.items(), lr=1e-3)
    theirs.zero_grad()
    MODULE[1](torch.ones(6, 4)).sum().backward()
    theirs.step()
    with pytest.raises(UserError, match=r"0\.weight, 0\.bias: no state in state_dict"):
        from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), PARAMS)


def test_parameters_of_different_steps_are_named():
    theirs = torch.optim.AdamW(NAMED.items(), lr=1e-3)
    for part in (MODULE, MODULE[1]):
        theirs.zero_grad()
        part(torch.ones(6, 4)).sum().backward()
        theirs.step()
    with pytest.raises(UserError, match=r"1\.weight: step is 2"):
        from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), PARAMS)


def test_two_groups_go_to_the_parts_of_a_partition():
    groups = two_groups(named=True)
    theirs = torch.optim.AdamW(groups, lr=1e-3)
    parts = {"0": optim.adamw(1e-4), "1": optim.adamw(1e-3)}
    ours = optim.partition(parts, lambda name, leaf: name[0])
    theirs.zero_grad()
    MODULE(torch.ones(6, 4)).square().sum().backward()
    theirs.step()
    state = from_torch_state_dict(theirs.state_dict(), ours, PARAMS)
    grads = {name: p.grad.clone() for name, p in NAMED.items()}
    before = {name: p.detach().clone() for name, p in NAMED.items()}
    theirs.step()
    after = apply_updates(before, ours.update(grads, state, before)[0])
    for name, p in NAMED.items():
        assert torch.allclose(after[name], p, atol=1e-9), name


def test_state_is_handed_over_in_the_order_of_the_other_side():
    optimizer = optim.adamw(1e-3)
    grads = {name: torch.full_like(p, i + 1.0) for i, (name, p) in enumerate(PARAMS.items())}
    _, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    theirs = torch.optim.AdamW([NAMED[name] for name in LAST_FIRST], lr=1e-3)
    theirs.load_state_dict(to_torch_state_dict(state, "adamw", PARAMS, order=LAST_FIRST))
    moments = optim.get_state(state, "exp_avg")
    for name, p in NAMED.items():
        assert torch.equal(theirs.state[p]["exp_avg"], moments[name])
    again = from_torch_state_dict(theirs.state_dict(), optimizer, PARAMS)  # the names went along
    assert all(map(torch.equal, tree.leaves(again), tree.leaves(state)))


# --- states that would be dropped in silence ----------------------------------------------


def trained(optimizer) -> dict:
    """The state of one of our optimizers after a step."""
    grads = {name: torch.full_like(p, i + 1.0) for i, (name, p) in enumerate(PARAMS.items())}
    return optimizer.update(grads, optimizer.init(PARAMS), PARAMS)[1]


def test_moments_behind_clipping_are_handed_over():
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-3))
    state = trained(optimizer)
    handed = to_torch_state_dict(state, "adamw", PARAMS)
    again = from_torch_state_dict(handed, optimizer, PARAMS)
    assert all(map(torch.equal, tree.leaves(again), tree.leaves(state)))
    assert all(entries["exp_avg"].any() for entries in handed["state"].values())


@pytest.mark.parametrize(
    ("name", "optimizer", "hyper"),
    [
        ("sgd", optim.sgd(0.1, momentum=0.9), {"momentum": 0.9}),
        ("rmsprop", optim.rmsprop(0.1), {}),
        ("adadelta", optim.adadelta(), {}),
    ],
)
def test_moments_are_handed_over_without_a_count_of_steps(name, optimizer, hyper):
    state = trained(optimizer)
    handed = to_torch_state_dict(state, name, PARAMS, hyper)
    again = from_torch_state_dict(handed, optimizer, PARAMS)
    assert all(map(torch.equal, tree.leaves(again), tree.leaves(state)))


@pytest.mark.parametrize(
    ("optimizer", "name", "hyper", "text"),
    [
        (optim.sgd(0.1, momentum=0.9), "adam", {}, "holds momentum_buffer; torch's adam holds exp"),
        (optim.adam(), "adamax", {}, "holds exp_avg, exp_avg_sq; torch's adamax holds exp_avg, e"),
        (optim.adam(), "sgd", {}, "torch's sgd holds nothing"),
        (optim.ema(0.9), "sgd", {}, "opt_state: holds ema"),
        (optim.lookahead(optim.adam()), "adam", {}, "opt_state: holds slow, inner"),
        (optim.sgd(0.1, momentum=0.9), "sgd", {}, "hyper: momentum is 0, but opt_state holds mom"),
        (optim.sgd(0.1), "sgd", {"momentum": 0.9}, "hyper: momentum is 0.9, but opt_state has no"),
        (optim.adam(amsgrad=True), "adam", {}, "amsgrad is False, but opt_state holds max_exp_avg"),
        (optim.rmsprop(), "rmsprop", {"centered": True}, "centered is True, but opt_state has no"),
    ],
)
def test_state_that_torch_would_ignore_is_refused(optimizer, name, hyper, text):
    with pytest.raises(UserError, match=text):
        to_torch_state_dict(trained(optimizer), name, PARAMS, hyper)


def test_state_of_other_params_is_refused():
    state = trained(optim.adam())
    fewer = {name: PARAMS[name] for name in LAST_FIRST[:2]}
    with pytest.raises(UserError, match="exp_avg is of 0"):
        to_torch_state_dict(state, "adam", fewer)
    with pytest.raises(UserError, match=r"0\.bias: exp_avg has the shape \(4,\), expected \(5,\)"):
        to_torch_state_dict(state, "adam", {**PARAMS, "0.bias": torch.zeros(5)})


def torchs(make, steps: int = 2) -> dict:
    """The state of one of torch's optimizers after some steps."""
    theirs = make(NAMED.items())
    for _ in range(steps):
        theirs.zero_grad()
        MODULE(torch.ones(6, 4)).square().sum().backward()
        theirs.step()
    return theirs.state_dict()


@pytest.mark.parametrize(
    ("make", "optimizer", "text"),
    [
        (
            lambda p: torch.optim.AdamW(p, amsgrad=True),
            optim.adamw(),
            "max_exp_avg_sq.*give it ams",
        ),
        (
            lambda p: torch.optim.SGD(p, momentum=0.9),
            optim.sgd(0.1),
            "momentum_buffer.*give it mom",
        ),
        (lambda p: torch.optim.RMSprop(p, centered=True), optim.rmsprop(), "grad_avg.*give it cen"),
        (torch.optim.Adam, optim.sgd(0.1), "exp_avg, optimizer does not, which is another"),
        (torch.optim.Adam, optim.nadam(), "no mu_product; it is of another optimizer"),
    ],
)
def test_state_that_ours_would_ignore_is_refused(make, optimizer, text):
    with pytest.raises(UserError, match=text):
        from_torch_state_dict(torchs(make), optimizer, PARAMS)


def test_schedule_after_plain_sgd_does_not_begin_again_in_silence():
    optimizer = optim.sgd(schedules.cosine(0.1, 50))
    state_dict = torchs(lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.raises(UserError, match="step: torch's state does not count the updates"):
        from_torch_state_dict(state_dict, optimizer, PARAMS)
    state = from_torch_state_dict(state_dict, optimizer, PARAMS, step=2)
    assert int(optim.get_state(state, "count")) == 2


def test_frozen_parameters_of_torchs_optimizer_may_be_missing():
    frozen = [("backbone.weight", torch.nn.Parameter(torch.ones(2), requires_grad=False))]
    theirs = torch.optim.AdamW([*frozen, *NAMED.items()], lr=1e-3)
    theirs.zero_grad()
    MODULE(torch.ones(6, 4)).square().sum().backward()
    theirs.step()
    ours = from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), PARAMS)
    assert equal_moments(ours, {name: theirs.state[p]["exp_avg"] for name, p in NAMED.items()})
    with pytest.raises(
        UserError, match=r"expected 0\.weight, each once"
    ):  # these have moments to lose
        fewer = {"0.weight": PARAMS["0.weight"]}
        from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), fewer)


def test_adam_and_radam_are_told_apart():
    """Which hold the same entries, that mean something else."""
    params = {"w": torch.ones(2, 2)}
    ours = {"adam": optim.adam(0.1), "radam": optim.radam(0.1), "adopt": optim.adopt(0.1)}
    theirs = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}
    for name, make in theirs.items():
        parameter = torch.nn.Parameter(params["w"].clone())
        parameter.grad = torch.ones(2, 2)
        optimizer = make([("w", parameter)], lr=0.1)
        optimizer.step()
        from_torch_state_dict(optimizer.state_dict(), ours[name], params)
        for other in ours.keys() - {name}:
            with pytest.raises(UserError, match="the optimizer is another one"):
                from_torch_state_dict(optimizer.state_dict(), ours[other], params)
            with pytest.raises(UserError, match=r"^opt_state: (of|holds) "):
                to_torch_state_dict(ours[other].init(params), name, params)


def test_a_state_of_gradients_uphill_is_refused():
    linear = torch.nn.Linear(2, 1)
    theirs = torch.optim.Adam(linear.parameters(), maximize=True)
    linear(torch.ones(1, 2)).sum().backward()
    theirs.step()
    params = {name: p.detach() for name, p in linear.named_parameters()}
    with pytest.raises(UserError, match="state_dict: maximize=True"):
        from_torch_state_dict(theirs.state_dict(), optim.adam(), params)
