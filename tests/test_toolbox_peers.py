"""The table of peers in docs/toolbox.md: the names are there, and what it says of vmap is so."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from purenets.torch_nets import layers

PAGE = (Path(__file__).parents[1] / "docs" / "toolbox.md").read_text()
TABLE = PAGE.split("## Who else has layers, private training and ways out")[1].split("\n## ")[0]
NAMES = sorted(set(re.findall(r"`((?:purenets|torch|torchvision|optax|opacus)\.[\w.]+)`", TABLE)))


@pytest.mark.filterwarnings("ignore")  # of peers, about themselves
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there(name):
    library, *parts = name.split(".")
    found = pytest.importorskip(library, reason=f"{library} is not installed")
    for i, part in enumerate(parts):
        if not hasattr(found, part):
            importlib.import_module(".".join((library, *parts[: i + 1])))
        found = getattr(found, part)
    assert found is not None


def test_the_table_names_all_libraries():
    assert {name.split(".")[0] for name in NAMES} >= {"purenets", "torch", "optax", "opacus"}


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_recurrent_modules_have_no_rule_for_vmap(kind):
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    module = getattr(nn, kind)(3, 4, batch_first=True)
    params = {name: p.detach() for name, p in module.named_parameters()}
    theirs = lambda p, x: torch.func.functional_call(module, p, (x[None],))[0].square().sum()
    ours = getattr(layers, kind)(3, 4)
    mine = lambda p, x: ours.apply(p, {}, x[None])[0].square().sum()
    with pytest.raises(RuntimeError):
        torch.func.vmap(torch.func.grad(theirs), (None, 0))(params, x)
    together = torch.func.vmap(torch.func.grad(mine), (None, 0))(params, x)
    one = torch.func.grad(mine)(params, x[1])
    for name, leaf in one.items():
        torch.testing.assert_close(together[name][1], leaf)
