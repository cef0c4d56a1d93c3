import subprocess
import sys

import pytest
import torch

from purenets import UserError
from purenets.torch_nets import jit, to_numpy
from purenets.torch_nets.convert import device_of


def test_without_a_compiler_the_step_runs_eagerly_and_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)

    def step(x):
        return x + 1

    with pytest.warns(UserWarning, match=r"no C\+\+ compiler found .* runs eagerly"):
        assert jit(step) is step


def test_a_compiled_script_is_quiet_about_what_is_not_there():
    code = "import torch; from torch_nets import jit; print(jit(lambda x: x + 1)(torch.ones(1)).item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2.0\n", "")


def test_devices_are_checked():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"--device {name}: not available here"):
            device_of(name)


def test_bfloat16_comes_to_numpy_as_float32():
    leaf = to_numpy({"w": torch.ones(2, dtype=torch.bfloat16)})["w"]
    assert leaf.dtype == "float32"
