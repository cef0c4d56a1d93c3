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

from collections.abc import Iterator, Sequence

import torch

from purenets.core.arguments import (
    expect_arrays,
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
MOMENTS = {"exp_avg", "exp_avg_sq"}
ENTRIES = {  # what the state of each holds beside the count of updates
    "sgd": set(),
    "rmsprop": {"square_avg"},
    "adagrad": {"sum"},
    "adadelta": {"square_avg", "acc_delta"},
    "adam": MOMENTS,
    "adamw": MOMENTS,
    "adamax": {"exp_avg", "exp_inf"},
    "nadam": MOMENTS | SHARED,
    "radam": MOMENTS,
}
KINDS_OF = {"radam": {"radam"}}  # the entries without arrays, which tell states apart
ENTRY_OF = {"momentum": "momentum_buffer", "centered": "grad_avg", "amsgrad": "max_exp_avg_sq"}


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
            or "radam". In a `chain`, transforms without a state (clipping) may stand beside it.
        params: the params that it belongs to.
        hyper: keyword arguments of torch's optimizer; of a schedule the present value. Those that
            say what its state holds (momentum, centered, amsgrad) must fit `opt_state`.
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
    names = list(params if order is None else _listed(order))
    _expect_names(names, params, "order")
    own = [(name, params[name].clone()) for name in names]
    try:
        theirs = CLASSES[optimizer_name](own, **(hyper or {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"to_torch_state_dict: hyper: torch says {error}") from error
    count = int(entries.pop("count", step))
    kinds = {entry for entry, value in entries.items() if isinstance(value, dict) and not value}
    if kinds != KINDS_OF.get(optimizer_name, set()):
        found = ", ".join(kinds) or "another optimizer"
        raise UserError(f"opt_state: of {found}, not of {optimizer_name}")
    entries = {entry: value for entry, value in entries.items() if entry not in kinds}
    _expect_entries(entries, optimizer_name, theirs.defaults, params)
    state = {}
    # torch begins the states of the others at their first step
    if count or optimizer_name == "adagrad" or _has_begun(entries):
        for i, name in enumerate(names):
            state[i] = {k: _of_leaf(v, name) for k, v in entries.items()}
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
        params: the params that it updates. Parameters of torch's optimizer that have a name and no
            state, since they are frozen, may be missing.
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
    first = optimizer.init(params)
    _expect_kind(state_dict["param_groups"], first)
    count = _shared(theirs, "step") if step is None else step
    if count is None and not any(theirs.values()) and not _keeps_no_state(state_dict):
        count = 0

    taken = {"step"}

    def fill(name, value):
        taken.add(name)
        if name == "count":
            if count is None:
                raise UserError("step: torch's state does not count the updates; give their number")
            return torch.full_like(value, int(count))
        if name in SHARED:
            found = _shared(theirs, name)
            if found is None and any(theirs.values()):
                raise UserError(f"state_dict: no {name}; it is of another optimizer")
            return value if found is None else found.to(value)
        if isinstance(value, dict) and value and value.keys() <= params.keys():
            return {leaf: _known(theirs[leaf], name, leaf, old) for leaf, old in value.items()}
        if isinstance(value, dict):
            return {inner: fill(inner, part) for inner, part in value.items()}
        raise UserError(f"{name}: not in the state of a torch optimizer")

    state = {name: fill(name, value) for name, value in first.items()}
    _expect_all_taken(theirs, taken)
    return state


def _expect_kind(groups: list[dict], opt_state: dict) -> None:
    """Raise a UserError for a state of torch's Adam or RAdam, which hold the same entries, where
    `opt_state` is of the other one, or of ADOPT.
    """
    if any(group.get("maximize") for group in groups):
        raise UserError(
            "state_dict: maximize=True: its moments are of gradients uphill; needs False, with the "
            "negative loss"
        )
    entries = dict(_at_any_depth(opt_state))
    kinds = {entry for entry, value in entries.items() if isinstance(value, dict) and not value}
    is_adam = any("amsgrad" in group for group in groups)
    is_radam = not is_adam and any("betas" in group for group in groups)
    of_radam = "radam" in kinds
    keeps_moments = entries.keys() >= MOMENTS and "mu_product" not in entries
    if "adopt" in kinds or (keeps_moments and (is_adam if of_radam else is_radam)):
        right = "RAdam" if is_radam else "Adam"
        raise UserError(f"state_dict: of torch's {right}, the optimizer is another one")


def _at_any_depth(opt_state: dict) -> Iterator[tuple]:
    """Yield the entries of a state, and those of the states that are wrapped in it."""
    for name, part in opt_state.items():
        yield name, part
        if isinstance(part, dict):
            yield from _at_any_depth(part)


def _keeps_no_state(state_dict: dict) -> bool:
    """Return True for torch's SGD without momentum, whose state is empty after any step."""
    groups = state_dict["param_groups"]
    return all("dampening" in group and not group.get("momentum") for group in groups)


def _expect_all_taken(theirs: dict[str, dict], taken: set[str]) -> None:
    """Raise a UserError for an entry of torch's state that the optimizer has no use for."""
    for leaf, entries in theirs.items():
        left = [name for name, value in entries.items() if value is not None and name not in taken]
        if left:
            hint = next((flag for flag, entry in ENTRY_OF.items() if entry == left[0]), None)
            hint = f"; give it {hint}" if hint else ", which is another optimizer"
            raise UserError(f"{leaf}: state_dict holds {left[0]}, optimizer does not{hint}")


def _by_name(state_dict: dict, params: Params, order: Sequence[str] | None) -> dict[str, dict]:
    """Return torch's entries of each parameter by its name."""
    groups, state = state_dict["param_groups"], state_dict["state"]
    numbers = [i for group in groups for i in group["params"]]
    if all("param_names" in group for group in groups):
        named = _without_frozen(groups, state, params)
        names, numbers = [name for name, _ in named], [i for _, i in named]
        _expect_names(names, params, "state_dict: param_names")
        if order is not None and _listed(order) != names:
            raise UserError(f"order: state_dict has its own names, in the order {', '.join(names)}")
    elif len(numbers) != len(params):
        raise UserError(f"state_dict: holds {len(numbers)} parameters, expected {len(params)}")
    else:
        names = _names(groups, params, order)
    lacking = [name for name, i in zip(names, numbers, strict=True) if not state.get(i)]
    if any(state.values()) and lacking:
        raise UserError(f"{', '.join(lacking)}: no state in state_dict, while others have one")
    return {name: state.get(i, {}) for name, i in zip(names, numbers, strict=True)}


def _without_frozen(groups: list[dict], state: dict, params: Params) -> list[tuple]:
    """Return names and numbers of torch's parameters; one that never had a gradient may be left
    out of `params`, as `from_module` leaves out the frozen ones.
    """
    pairs = ((group["param_names"], group["params"]) for group in groups)
    named = [pair for names, numbers in pairs for pair in zip(names, numbers, strict=True)]
    return [(name, i) for name, i in named if name in params or state.get(i)]


def _names(groups: list[dict], params: Params, order: Sequence[str] | None) -> list[str]:
    """Return the names of torch's parameters in its order, where it does not keep them.

    Raises:
        UserError: the order is not known.
    """
    if order is not None:
        _expect_names(_listed(order), params, "order")
        return _listed(order)
    if len(groups) > 1:
        raise UserError(
            f"state_dict: {len(groups)} groups without param_names; give their order, or build "
            "torch's optimizer from named_parameters()"
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
    for key, value in _parts(opt_state):
        if key in entries and key != "count":
            raise UserError(f"{key}: twice in the state; not the chain of one torch optimizer")
        entries[key] = value
    return entries


def _parts(state: dict) -> Iterator[tuple]:
    """Yield the entries of a state; the parts of a chain are numbered, and chains may be nested."""
    for name, part in state.items():
        if name.isdigit() and isinstance(part, dict):
            yield from _parts(part)
        else:
            yield name, part


def _expect_entries(entries: dict, name: str, hyper: dict, params: Params) -> None:
    """Raise a UserError unless the entries are those of torch's optimizer, for all params."""
    optional = {entry for flag, entry in ENTRY_OF.items() if hyper.get(flag)}
    expected = ENTRIES[name] | optional
    for flag, entry in ENTRY_OF.items():
        if flag in hyper and (entry in entries) != (entry in expected):
            there = "holds" if entry in entries else "has no"
            raise UserError(f"hyper: {flag} is {hyper[flag]}, but opt_state {there} {entry}")
    if entries.keys() != expected:
        found, right = (", ".join(part) or "nothing" for part in (entries, sorted(expected)))
        raise UserError(f"opt_state: holds {found}; torch's {name} holds {right}")
    for entry, value in entries.items():
        if entry in SHARED:
            expect_arrays("to_torch_state_dict", **{entry: value})
        else:
            _expect_leaves_like(entry, value, params)


def _expect_leaves_like(entry: str, value: dict, params: Params) -> None:
    """Raise a UserError unless an entry has a tensor of the shape of each of the params."""
    expect_leaves("to_torch_state_dict", **{entry: value})
    if value.keys() != params.keys():
        raise UserError(f"opt_state: {entry} is of {', '.join(value)}, not of {', '.join(params)}")
    expect_param_tensors(value)
    for name, leaf in value.items():
        if leaf.shape != params[name].shape:
            found, right = tuple(leaf.shape), tuple(params[name].shape)
            raise UserError(f"{name}: {entry} has the shape {found}, expected {right}")


def _has_begun(entries: dict) -> bool:
    """Return True if a moment is not 0 any more, so that an update has been made."""
    moments = (value for entry, value in entries.items() if entry not in SHARED)
    return any(bool(leaf.any()) for leaves in moments for leaf in leaves.values())


def _of_leaf(value, name: str) -> torch.Tensor:
    leaf = value[name] if isinstance(value, dict) else value
    return leaf.detach().clone()
