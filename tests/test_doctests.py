"""Every example in a docstring of the packages runs and gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import purenets
from purenets import core, numpy_nets, torch_nets

PACKAGES = (core, numpy_nets, torch_nets)
NAMES = [
    found.name
    for package in PACKAGES
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", [purenets.__name__, *NAMES])
def test_examples_of(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples"
