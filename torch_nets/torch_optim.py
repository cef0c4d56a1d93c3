"""The state of an optimizer to and from torch.optim, in the middle of a run.

    state_dict = to_torch_state_dict(state.opt_state, "adamw", state.params, {"lr": 1e-3}, step=state.step)
    torch.optim.AdamW(module.parameters(), lr=1e-3).load_state_dict(state_dict)      # hand over

    opt_state = from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), params)    # take over

Arrays go over bit by bit; `params` are in the order of the module's parameters. The optimizers' states bear
the same names in both, so both ways are the same for all: sgd, rmsprop, adagrad, adadelta, adam, adamw,
adamax, nadam, radam.
"""

import torch

from purenets.core import tree
from purenets.core.base import Optimizer, Params, UserError

CLASSES = {
    name.lower(): getattr(torch.optim, name)
    for name in ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam")
}
SHARED = {"mu_product"}  # one number here, one for each parameter there


def to_torch_state_dict(
    opt_state: dict, optimizer_name: str, params: Params, hyper: dict | None = None, step: int = 0
) -> dict:
    """What `load_state_dict` of the torch optimizer of that name takes.

    hyper: its keyword arguments (a schedule's present value, not the schedule). step: how many updates have
    been made, for optimizers whose state here does not count them (sgd, rmsprop, adagrad, adadelta).
    """
    if optimizer_name not in CLASSES:
        raise UserError(f"{optimizer_name}: not in torch.optim, choose from {', '.join(CLASSES)}")
    entries = _entries(opt_state)
    count = int(entries.get("count", step))
    theirs = CLASSES[optimizer_name](list(tree.map(torch.clone, params).values()), **(hyper or {}))
    state = {}
    if count or optimizer_name == "adagrad":  # torch begins the states of the others at their first step
        for i, name in enumerate(params):
            state[i] = {k: _of_leaf(v, name) for k, v in entries.items() if k != "count"}
            if optimizer_name != "sgd":
                state[i]["step"] = torch.tensor(float(count))
    return {"state": state, "param_groups": theirs.state_dict()["param_groups"]}


def from_torch_state_dict(
    state_dict: dict, optimizer: Optimizer, params: Params, step: int | None = None
) -> dict:
    """The state of `optimizer` that goes on where the torch optimizer of `state_dict` stopped.

    step: how many updates have been made, if the optimizer counts them (a schedule, dampening) and torch's
    (sgd) does not.
    """
    per_param = [state_dict["state"].get(i, {}) for i in range(len(params))]
    fresh, theirs = optimizer.init(params), dict(zip(params, per_param, strict=True))
    if len(state_dict["state"]) not in (0, len(params)):
        raise UserError(f"state_dict: holds {len(state_dict['state'])} parameters, expected {len(params)}")
    if step is None and per_param[0]:
        step = per_param[0].get("step")
    if step is None and not any(per_param):
        step = 0

    def fill(name, value):
        if name == "count":
            if step is None:
                raise UserError("step: torch's state does not count the updates; give their number")
            return torch.full_like(value, int(step))
        if name in SHARED:
            found = per_param[0].get(name)
            return value if found is None else found.to(value)
        if isinstance(value, dict) and value.keys() == params.keys():
            return {leaf: _known(theirs[leaf], name, leaf, old) for leaf, old in value.items()}
        if isinstance(value, dict):
            return {inner: fill(inner, part) for inner, part in value.items()}
        raise UserError(f"{name}: not in the state of a torch optimizer")

    return {name: fill(name, value) for name, value in fresh.items()}


def _known(entries: dict, name: str, leaf: str, old: torch.Tensor) -> torch.Tensor:
    """The entry of one parameter, or the fresh one if torch has not made a step yet."""
    found = entries.get(name)
    if found is None and entries and any(v is not None for v in entries.values()):
        raise UserError(f"{leaf}: no {name} in state_dict, it holds {', '.join(entries)}")
    if found is not None and found.shape != old.shape:
        raise UserError(f"{leaf}: {name} has the shape {tuple(found.shape)}, expected {tuple(old.shape)}")
    return old if found is None else found.detach().clone().to(old)


def _entries(opt_state: dict) -> dict:
    """The entries of a chain's parts together; a state that has one twice cannot be torch's."""
    entries = {}
    for name, part in opt_state.items():
        for key, value in (part if name.isdigit() else {name: part}).items():
            if key in entries and key != "count":
                raise UserError(f"{key}: twice in the state; not the chain of one torch optimizer")
            entries[key] = value
    return entries


def _of_leaf(value, name: str) -> torch.Tensor:
    leaf = value[name] if isinstance(value, dict) else value
    return leaf.detach().clone()
