"""cuda_graph: the function itself on a CPU, the same numbers on a GPU."""

import warnings

import pytest
import torch

from purenets import UserError, init_state, make_step, optim, random
from purenets.torch_nets import CNN, MLP, grad_fn
from purenets.torch_nets.fast import cuda_graph as module
from purenets.torch_nets.fast.cuda_graph import cuda_graph

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BATCH = torch.linspace(0, 1, 6 * 4).reshape(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def on_gpu(value):
    if isinstance(value, torch.Tensor):
        return value.cuda()
    return module.map_parts(on_gpu, value)


def trained(wrap, place=lambda value: value):
    """Return loss and params of five steps of Adam with a schedule, whose dropout draws."""
    from purenets.schedules import cosine

    model = MLP(4, [8, 8], 3, dropout=0.2)
    optimizer = optim.adam(cosine(1e-2, 5))
    step = wrap(make_step(grad_fn(model), optimizer))
    state, losses = place(init_state(model, optimizer, random.key(0))), []
    for _ in range(5):
        state, metrics = step(state, place(BATCH))
        losses.append(float(metrics["loss"]))
    return losses, {name: leaf.cpu() for name, leaf in state.params.items()}


def test_on_a_cpu_it_is_the_function_itself():
    losses, params = trained(cuda_graph)
    expected, expected_params = trained(lambda step: step)
    assert losses == expected and len(set(losses)) == 5
    assert all(torch.equal(params[name], leaf) for name, leaf in expected_params.items())


def test_needs_a_function():
    with pytest.raises(UserError, match="cuda_graph: f"):
        cuda_graph(3)


def test_rebuilt_keeps_structure_and_static_values():
    value = {"a": (torch.zeros(1), 3), "b": [None, {"c": torch.ones(2)}]}
    new = module.rebuilt(value, iter([torch.ones(1), torch.zeros(2)]))
    assert new["a"][1] == 3 and new["b"][0] is None
    assert new["a"][0].item() == 1 and new["b"][1]["c"].tolist() == [0, 0]


@needs_gpu
def test_a_replayed_training_has_the_same_numbers():
    losses, params = trained(cuda_graph, on_gpu)
    expected, expected_params = trained(lambda step: step, on_gpu)
    assert losses == expected
    assert all(torch.equal(params[name], leaf) for name, leaf in expected_params.items())


@needs_gpu
def test_results_are_not_overwritten_by_the_next_call():
    f = cuda_graph(lambda x: {"twice": 2 * x})
    first = f(torch.ones(3, device="cuda"))
    assert f(torch.full((3,), 5.0, device="cuda"))["twice"].tolist() == [10.0] * 3
    assert first["twice"].tolist() == [2.0] * 3


@needs_gpu
def test_each_signature_is_recorded_for_itself():
    f = cuda_graph(lambda x, factor: factor * x)
    for n, factor in ((2, 3), (4, 3), (2, 5), (2, 3)):
        assert f(torch.ones(n, device="cuda"), factor).tolist() == [factor] * n


@needs_gpu
def test_what_waits_for_the_gpu_is_called_as_it_is():
    def f(x):
        return x * (2 if bool(x.sum() > 0) else 3)

    g = cuda_graph(f)
    with pytest.warns(UserWarning, match="cuda_graph: f is not recorded"):
        assert g(torch.ones(1, device="cuda")).item() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert g(-torch.ones(1, device="cuda")).item() == -3


@needs_gpu
def test_a_convolutional_net_trains_replayed():
    model, optimizer = CNN(1, 10, width=0.1), optim.adam(1e-3)
    step = cuda_graph(make_step(grad_fn(model), optimizer))
    state = on_gpu(init_state(model, optimizer, random.key(0)))
    x, y = torch.rand(8, 1, 16, 16, device="cuda"), torch.arange(8, device="cuda")
    losses = []
    for _ in range(30):
        state, metrics = step(state, (x, y))
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 30
    assert losses[-1] < losses[0] / 2
