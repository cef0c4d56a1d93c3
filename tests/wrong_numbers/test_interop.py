"""The state of torch's optimizers, with its parameters in another order."""

import torch
from torch import nn

from purenets import optim
from purenets.torch_nets.torch_optim import from_torch_state_dict
from tests.wrong_numbers.choice import or_refused

MODULE = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
NAMED = dict(MODULE.named_parameters())
PARAMS = {name: p.detach().clone() for name, p in NAMED.items()}
LAST_FIRST = ("1.weight", "1.bias", "0.weight", "0.bias")


def taken_over(params) -> tuple:
    """What is made of the state of torch's AdamW on `params` after a step, and what is right."""
    theirs = torch.optim.AdamW(params, lr=1e-3)
    theirs.zero_grad()
    MODULE(torch.ones(6, 4)).square().sum().backward()
    theirs.step()
    ours = or_refused(from_torch_state_dict, theirs.state_dict(), optim.adamw(1e-3), PARAMS)
    return ours, {name: theirs.state[p]["exp_avg"] for name, p in NAMED.items()}


def equal_moments(ours: dict, right: dict) -> bool:
    found = optim.get_state(ours, "exp_avg")
    return all(torch.equal(found[name], right[name]) for name in right)


def test_moments_in_the_order_of_the_module_go_to_their_layers():
    assert equal_moments(*taken_over(MODULE.parameters()))


def test_moments_of_two_groups_go_to_their_layers_or_are_refused():
    groups = [{"params": MODULE[1].parameters()}, {"params": MODULE[0].parameters(), "lr": 1e-4}]
    ours, right = taken_over(groups)
    assert ours is None or equal_moments(ours, right)


def test_moments_go_to_the_layers_that_their_names_say():
    ours, right = taken_over([(name, NAMED[name]) for name in LAST_FIRST])
    assert ours is not None
    assert equal_moments(ours, right)
