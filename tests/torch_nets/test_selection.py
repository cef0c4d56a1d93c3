"""The hardest images of each batch: chosen as by hand, and the same for the same key."""

import torch

from purenets import init_state, make_step, optim, random
from purenets.torch_nets import MLP, grad_fn, layers, selection

KEY = torch.as_tensor(random.key(0))
X = torch.randn(40, 4)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 1).long()
MODEL = layers.serial(fc=layers.Linear(4, 16), norm=layers.BatchNorm(16), out=layers.Linear(16, 3))
STEP = make_step(grad_fn(MODEL), optim.adam(0.05))


def batches(step):
    rows = random.permutation(random.fold_in(KEY, step), 40)[:20]
    return X[rows], Y[rows]


def by_hand(steps, keep):
    """The rows of the largest losses by NumPy-like steps, with a training step at each fourth."""
    state, found = init_state(MODEL, optim.adam(0.05), KEY), []
    for i in range(steps):
        x, y = batches(i)
        logits, _ = MODEL.apply(state.params, state.buffers, x, train=True)
        losses = -torch.log_softmax(logits, 1)[torch.arange(len(y)), y]
        rows = sorted(sorted(range(len(y)), key=lambda row: -float(losses[row]))[:keep])
        if i % 4 == 0:
            state, _ = STEP(state, (x[rows], y[rows]))
        found.append(rows)
    return torch.tensor(found)


def test_the_rows_are_those_of_the_largest_losses():
    state = init_state(MODEL, optim.adam(0.05), KEY)
    rows = selection.hardest_rows(MODEL, STEP, state, batches, 9, 7)
    assert torch.equal(rows, by_hand(9, 7))
    assert rows.shape == (9, 7)
    assert selection.proxy_steps(9) == 3  # at 0, 4 and 8


def test_selected_batches_hold_these_rows_only():
    state = init_state(MODEL, optim.adam(0.05), KEY)
    rows = selection.hardest_rows(MODEL, STEP, state, batches, 3, 7)
    x, y = selection.selected(batches, rows)(2)
    assert torch.equal(x, batches(2)[0][rows[2]])
    assert torch.equal(y, batches(2)[1][rows[2]])


def test_a_net_that_draws_has_other_draws_in_every_step():
    model = MLP(4, [32], 3, dropout=0.5)
    state = init_state(model, optim.sgd(0.0), KEY)
    first = selection.losses(model, state, (X, Y))
    assert torch.equal(first, selection.losses(model, state, (X, Y)))
    later = selection.losses(model, state._replace(step=state.step + 1), (X, Y))
    assert not torch.equal(first, later)
