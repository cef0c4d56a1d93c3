"""The state of an optimizer to and from torch.optim, in the middle of a run.

    torch_state = to_torch_state_dict(
        state.opt_state, "adamw", state.params, {"lr": 1e-3}, step=state.step
    )
    torch.optim.AdamW(module.parameters(), lr=1e-3).load_state_dict(torch_state)  # hand over

    opt_state = from_torch_state_dict(theirs.state_dict(), optim.adamw(1e-3), params)    # take over

Arrays are copied bit by bit. States have the same names in both libraries, so both directions work
for all of these: sgd, rmsprop, adagrad, adadelta, adam, adamw, adamax, nadam, radam.

torch numbers its parameters. Their names are read from `param_names`, which torch keeps if it was
given `named_parameters()`. Without them, one group is assumed to be in the order of `params`, or of
`order` if that is given; several groups need `order`.
"""

from collections.abc import Sequence

import torch

from purenets.core.arguments import (
    expect_integers,
    expect_leaves,
    expect_named,
    expect_optimizers,
)
from purenets.core.arrays import kind_of
from purenets.core.base import Optimizer, Params, UserError
from purenets.torch_nets.grad import expect_param_tensors

CLASSES = {
    name.lower(): getattr(torch.optim, name)
    for name in (
        "SGD",
        "RMSprop",
        "Adagrad",
        "Adadelta",
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
    )
}
SHARED = {"mu_product"}  # one number here, one for each parameter there


def to_torch_state_dict(
    opt_state: dict,
    optimizer_name: str,
    params: Params,
    hyper: dict | None = None,
    step: int = 0,
    order: Sequence[str] | None = None,
) -> dict:
    """Return the state of an optimizer as torch.optim's `load_state_dict` takes it.

    Args:
        opt_state: the state of one of our optimizers with the same name.
        optimizer_name: "sgd", "rmsprop", "adagrad", "adadelta", "adam", "adamw", "adamax", "nadam"
            or "radam".
        params: the params that it belongs to.
        hyper: keyword arguments of torch's optimizer; of a schedule the present value.
        step: how many updates have been made, for optimizers whose state here does not count them
            (sgd, rmsprop, adagrad, adadelta).
        order: the names in the order in which torch's optimizer was given them; None for that of
            `params`. torch itself compares no names.

    Returns:
        A dict with "state" and "param_groups".

    Raises:
        UserError: an argument is wrong, or the state is that of another optimizer.

    Example:
        >>> import torch
        >>> from purenets import optim
        >>> from purenets.torch_nets.torch_optim import to_torch_state_dict
        >>> params = {"weight": torch.ones(1, 2)}
        >>> _, state = (ours := optim.adam(0.1)).update(params, ours.init(params), params)
        >>> theirs = torch.optim.Adam([torch.nn.Parameter(params["weight"])], lr=0.1)
        >>> theirs.load_state_dict(to_torch_state_dict(state, "adam", params, {"lr": 0.1}))
        >>> theirs.state_dict()["state"][0]["exp_avg"]
        tensor([[0.1000, 0.1000]])

    Source:
        torch.optim.Optimizer.load_state_dict.
    """
    expect_named("to_torch_state_dict", "entries", opt_state=opt_state)
    expect_leaves("to_torch_state_dict", params=params)
    if not params:
        raise UserError("to_torch_state_dict: params: needs one leaf or more")
    expect_integers("to_torch_state_dict", 0, step=_number(step))
    expect_named("to_torch_state_dict", "arguments", hyper={} if hyper is None else hyper)
    expect_param_tensors(params)
    if not isinstance(optimizer_name, str) or optimizer_name not in CLASSES:
        raise UserError(f"{optimizer_name}: not in torch.optim, choose from {', '.join(CLASSES)}")
    entries = _entries(opt_state)
    count = int(entries.get("count", step))
    names = list(params if order is None else _listed(order))
    _expect_names(names, params, "order")
    own = [(name, params[name].clone()) for name in names]
    try:
        theirs = CLASSES[optimizer_name](own, **(hyper or {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"to_torch_state_dict: hyper: torch says {error}") from error
    state = {}
    if (
        count or optimizer_name == "adagrad"
    ):  # torch begins the states of the others at their first step
        for i, name in enumerate(names):
            state[i] = {k: _of_leaf(v, name) for k, v in entries.items() if k != "count"}
            if optimizer_name != "sgd":
                state[i]["step"] = torch.tensor(float(count))
    return {"state": state, "param_groups": theirs.state_dict()["param_groups"]}


def from_torch_state_dict(
    state_dict: dict,
    optimizer: Optimizer,
    params: Params,
    step: int | None = None,
    order: Sequence[str] | None = None,
) -> dict:
    """Return the state of an optimizer that continues where torch.optim's optimizer stopped.

    Args:
        state_dict: that of torch's optimizer, with one group of parameters or several.
        optimizer: ours; a `partition` for several groups with hyper-parameters of their own.
        params: the params that it updates.
        step: how many updates have been made, if only ours counts them (a schedule, dampening).
        order: the names in the order in which torch's optimizer was given them, group after group,
            where `state_dict` does not hold them.

    Returns:
        A state for `optimizer.update`.

    Raises:
        UserError: the order is not known, or names, shapes or steps do not fit.

    Example:
        >>> import torch
        >>> from purenets import optim
        >>> from purenets.torch_nets.torch_optim import from_torch_state_dict
        >>> weight = torch.nn.Parameter(torch.ones(1, 2))
        >>> theirs = torch.optim.SGD([("weight", weight)], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> theirs.step()
        >>> ours = optim.sgd(0.1, momentum=0.9)
        >>> from_torch_state_dict(theirs.state_dict(), ours, {"weight": weight.detach()})
        {'0': {'momentum_buffer': {'weight': tensor([[1., 1.]])}}, '1': {}}

    Source:
        torch.optim.Optimizer.state_dict.
    """
    expect_optimizers("from_torch_state_dict", optimizer=optimizer)
    expect_leaves("from_torch_state_dict", params=params)
    if not isinstance(state_dict, dict) or not {"param_groups", "state"} <= state_dict.keys():
        raise UserError("state_dict: needs the param_groups and state of a torch optimizer")
    if step is not None:
        step = _number(step)
        expect_integers("from_torch_state_dict", 0, step=step)
    theirs = _by_name(state_dict, params, order)
    count = _shared(theirs, "step") if step is None else step
    if count is None and not any(theirs.values()):
        count = 0

    def fill(name, value):
        if name == "count":
            if count is None:
                raise UserError("step: torch's state does not count the updates; give their number")
            return torch.full_like(value, int(count))
        if name in SHARED:
            found = _shared(theirs, name)
            return value if found is None else found.to(value)
        if isinstance(value, dict) and value and value.keys() <= params.keys():
            return {leaf: _known(theirs[leaf], name, leaf, old) for leaf, old in value.items()}
        if isinstance(value, dict):
            return {inner: fill(inner, part) for inner, part in value.items()}
        raise UserError(f"{name}: not in the state of a torch optimizer")

    return {name: fill(name, value) for name, value in optimizer.init(params).items()}


def _by_name(state_dict: dict, params: Params, order: Sequence[str] | None) -> dict[str, dict]:
    """Return torch's entries of each parameter by its name."""
    groups, state = state_dict["param_groups"], state_dict["state"]
    numbers = [i for group in groups for i in group["params"]]
    if len(numbers) != len(params):
        raise UserError(f"state_dict: holds {len(numbers)} parameters, expected {len(params)}")
    names = _names(groups, params, order)
    lacking = [name for name, i in zip(names, numbers, strict=True) if not state.get(i)]
    if any(state.values()) and lacking:
        raise UserError(f"{', '.join(lacking)}: no state in state_dict, while others have one")
    return {name: state.get(i, {}) for name, i in zip(names, numbers, strict=True)}


def _names(groups: list[dict], params: Params, order: Sequence[str] | None) -> list[str]:
    """Return the names of torch's parameters in its order.

    Raises:
        UserError: the order is not known.
    """
    if all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
        _expect_names(names, params, "state_dict: param_names")
        if order is not None and _listed(order) != names:
            raise UserError(f"order: state_dict has its own names, in the order {', '.join(names)}")
        return names
    if order is not None:
        _expect_names(_listed(order), params, "order")
        return _listed(order)
    if len(groups) > 1:
        raise UserError(
            f"state_dict: {len(groups)} groups without param_names; give their order, or build "
            "torch's "
            "optimizer from named_parameters()"
        )
    return list(params)


def _number(step):
    """Return the number that a scalar array holds; what is none, as it is."""
    is_scalar = hasattr(step, "dtype") and getattr(step, "ndim", 1) == 0
    return int(step) if is_scalar and kind_of(step) in "iuf" else step


def _listed(order: Sequence[str]) -> list[str]:
    if not isinstance(order, list | tuple):
        raise UserError(f"order: a {type(order).__name__}, needs a list of the params' names")
    return list(order)


def _expect_names(names: list[str], params: Params, what: str) -> None:
    """Raise a UserError unless the names are those of the params, each once."""
    names = [*map(str, names)]
    if sorted(names) != sorted(params):
        raise UserError(f"{what}: {', '.join(names)}; expected {', '.join(params)}, each once")


def _shared(theirs: dict[str, dict], name: str) -> torch.Tensor | None:
    """Return the entry that all parameters have in common, or None where they have none."""
    found = {leaf: entries.get(name) for leaf, entries in theirs.items()}
    first = next(iter(found.values()), None)
    for leaf, value in found.items():
        if (value is None) != (first is None) or (
            value is not None and float(value) != float(first)
        ):
            raise UserError(f"{leaf}: {name} is {value}, that of another parameter {first}")
    return first


def _known(entries: dict, name: str, leaf: str, old: torch.Tensor) -> torch.Tensor:
    """Return the entry of one parameter, or the fresh one if torch has not made a step yet."""
    found = entries.get(name)
    if found is None and entries and any(v is not None for v in entries.values()):
        raise UserError(f"{leaf}: no {name} in state_dict, it holds {', '.join(entries)}")
    if found is not None and found.shape != old.shape:
        raise UserError(
            f"{leaf}: {name} has the shape {tuple(found.shape)}, expected {tuple(old.shape)}"
        )
    return old if found is None else found.detach().clone().to(old)


def _entries(opt_state: dict) -> dict:
    """Return the entries of all parts of a chain together.

    Raises:
        UserError: the state has an entry twice, so it cannot be torch's.
    """
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
