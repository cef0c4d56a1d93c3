"""Kernels that differ in bits follow a rule that is recorded with a run and obeyed on resume."""

import json

import pytest

from purenets import UserError, runs
from purenets.core import kernel_rules
from purenets.core.runs.json_files import write_json
from scripts import pytorch_train_mlp


@pytest.fixture(autouse=True)
def own_choice(monkeypatch):
    monkeypatch.setattr(kernel_rules, "_chosen", [kernel_rules.default_rule_name()])


@pytest.mark.parametrize(
    ("processor", "rule"),
    [
        (("AuthenticAMD", 26), "oneDNN"),
        (("AuthenticAMD", 25), "oneDNN if large"),
        (("GenuineIntel", 6), "torch"),
        (("", 0), "torch"),
    ],
)
def test_the_rule_is_that_of_the_processor(processor, rule, monkeypatch):
    monkeypatch.setattr(kernel_rules, "processor", lambda: processor)
    assert kernel_rules.default_rule_name() == rule
    kernel_rules.use_product_rule(rule)
    assert kernel_rules.product_rule() is kernel_rules.PRODUCT_RULES[rule]


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(UserError, match="products: 'fast', needs one of oneDNN, "):
        kernel_rules.use_product_rule("fast")


def train(out, **options):
    config = pytorch_train_mlp.Config(out=str(out), max_steps=2, compile=False, **options)
    return pytorch_train_mlp.train(config)


def test_a_resumed_run_obeys_the_rule_of_its_first_processor(tmp_path):
    kernel_rules.use_product_rule("oneDNN if large")  # as on another processor
    train(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    assert json.loads(path.read_text())["kernels"] == {"products": "oneDNN if large"}
    kernel_rules.use_product_rule("oneDNN")
    train(tmp_path / "run", resume=True)
    assert kernel_rules.product_rule_name() == "oneDNN if large"


def test_a_rule_that_nobody_knows_ends_in_one_line(tmp_path):
    train(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    write_json(path, runs.read_config(path.parent) | {"kernels": {"products": "other"}})
    with pytest.raises(UserError, match=r"config\.json names unknown kernels \(products: 'other'"):
        train(tmp_path / "run", resume=True)
