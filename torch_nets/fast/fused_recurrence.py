"""The recurrence of `vanilla_rnn.loop` as one operation of torch, with its derivative by hand.

It runs under torch.func.grad and vmap and inside torch.compile, for which it is one opaque call:
compiling takes the same time for any number of steps.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor

from purenets.torch_nets.fast import matmul, onednn, operations


def fused(x: Tensor, W_hx: Tensor, W_hh: Tensor, b_h: Tensor) -> Tensor:
    """Return what `vanilla_rnn.loop` returns, the last h (batch, hidden).

    It can be differentiated once, in reverse mode: backpropagation through time by hand (derived in
    docs/backprop_rnn.md), which keeps only the h(t) between the passes.
    """
    by_time = rearrange(x, "b t i -> t b i")
    return torch.ops.purenets.recurrence(by_time, W_hx, W_hh, b_h)[0]


# --- the two passes, of one network or of members along a first axis ------------------------------


def _forward(x, W_hx, W_hh, b_h, states):
    """x: (..., steps, batch, inputs); fills states: (..., steps, batch, hidden).

    On a CPU float32 has tanh(a) = 2 sigmoid(2a) - 1, much faster than torch's tanh there and as
    good to the last bit of 1; the factor inside is taken into the weights.
    """
    add = torch.addmm if W_hh.ndim == 2 else torch.baddbmm
    by_sigmoid = x.dtype == torch.float32 and x.device.type == "cpu"
    factor = 2 if by_sigmoid else 1
    minus_one = x.new_tensor(-1) if by_sigmoid else None
    W_hx_T, W_hh_T, b_h = (factor * w for w in (W_hx.mT, W_hh.mT, b_h.unsqueeze(-2)))
    onednn_matmul = W_hh.ndim == 2 and matmul.use_onednn(states[0], W_hh_T)
    scalar, h = x.shape[-1] == 1, None
    if scalar:
        torch.addcmul(b_h.unsqueeze(-3), x, W_hx_T.unsqueeze(-3), out=states)
    for x_t, out in zip(x.unbind(-3), states.unbind(-3), strict=True):
        if not scalar:
            add(b_h, x_t, W_hx_T, out=out)
        a = out
        if h is not None:
            a = (
                onednn.onednn_addmm(out, h, W_hh_T)
                if onednn_matmul
                else add(out, h, W_hh_T, out=out)
            )
        if by_sigmoid:
            torch.add(minus_one, torch.sigmoid(a, out=out), alpha=2, out=out)
        else:
            torch.tanh(a, out=out)
        h = out


def _backward(dh, states, x, W_hx, W_hh, dx, dW_hx, dW_hh, db_h):
    """From dL/dh of the last step back to the first; fills dx if it is not empty, dW_hx, dW_hh and
    db_h, which are zeros. `da` is dL/da(t) of a(t) = W_hx x(t) + W_hh h(t-1) + b_h."""
    if W_hh.ndim == 2:
        _fill_by_products(all_da(dh, states, W_hh), states, x, W_hx, dx, dW_hx, dW_hh, db_h)
    else:
        _fill_by_steps(dh, states, x, W_hx, W_hh, dx, dW_hx, dW_hh, db_h)


def all_da(dh, h, W_hh):
    """Return da(t) = dL/da(t) of all steps, of one network.

    dh: (rows, hidden), h and result: (steps, rows, hidden).
    """
    das = torch.empty_like(h)
    multiply = onednn.onednn_matmul if matmul.use_onednn(dh, W_hh) else torch.mm
    for t in reversed(range(len(h))):
        torch.ops.aten.tanh_backward.grad_input(dh, h[t], grad_input=das[t])  # dh (1 - h^2)
        dh = multiply(das[t], W_hh) if t > 0 else None
    return das


def _fill_by_products(das, h, x, W_hx, dx, dW_hx, dW_hh, db_h):
    """The gradients of one network: each is one product over all steps."""
    # flatten, not rearrange: this runs in every step of a small network, and no axis moves
    flat, before = das.flatten(0, 1), h[:-1].flatten(0, 1)
    if dx.numel():
        torch.mm(flat, W_hx, out=dx.view(len(flat), -1))
    torch.mm(flat.mT, x.flatten(0, 1), out=dW_hx)
    later = das[1:].flatten(0, 1).mT
    onednn_matmul = matmul.use_onednn(later, before)
    dW_hh.copy_(onednn.onednn_matmul(later, before) if onednn_matmul else later @ before)
    torch.sum(flat, 0, out=db_h)


def _fill_by_steps(dh, states, x, W_hx, W_hh, dx, dW_hx, dW_hh, db_h):
    """The gradients of members: the da(t) of a step are used while they are in the cache."""
    h, x, needs_dx = states.unbind(-3), x.unbind(-3), dx.numel() > 0
    dx = dx.unbind(-3) if needs_dx else ()
    dh, da = dh.clone(), torch.empty_like(dh)
    for t in reversed(range(len(h))):
        torch.ops.aten.tanh_backward.grad_input(dh, h[t], grad_input=da)
        torch.baddbmm(dW_hx, da.mT, x[t], out=dW_hx)
        db_h += da.sum(-2)
        if needs_dx:
            torch.bmm(da, W_hx, out=dx[t])
        if t > 0:
            torch.baddbmm(dW_hh, da.mT, h[t - 1], out=dW_hh)
            torch.bmm(da, W_hh, out=dh)


# --- as operations of torch, of one network or of members along a first axis (vmap) ---------------

torch.library.define(
    "purenets::recurrence", "(Tensor x, Tensor W_hx, Tensor W_hh, Tensor b_h) -> (Tensor, Tensor)"
)
torch.library.define(
    "purenets::recurrence_backward",
    "(Tensor dh, Tensor states, Tensor x, Tensor W_hx, Tensor W_hh, bool needs_dx)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("purenets::recurrence", "CompositeExplicitAutograd")
def _(x, W_hx, W_hh, b_h):
    last, states = _empty_states(x, W_hx, W_hh, b_h)
    _forward(x, W_hx, W_hh, b_h, states)
    return last.copy_(states.select(-3, -1)), states


@torch.library.impl("purenets::recurrence_backward", "CompositeExplicitAutograd")
def _(dh, states, x, W_hx, W_hh, needs_dx):
    grads = _empty_grads(dh, states, x, W_hx, W_hh, needs_dx)
    for grad in grads:
        grad.zero_()
    _backward(dh, states, x, W_hx, W_hh, *grads)
    return grads


@torch.library.register_fake("purenets::recurrence")
def _empty_states(x, W_hx, W_hh, b_h):
    *lead, steps, batch, _ = x.shape
    hidden = W_hh.shape[-1]
    states = x.new_empty(steps, *lead, batch, hidden)  # a step of all members lies together
    return x.new_empty(*lead, batch, hidden), states.movedim(0, -3)


@torch.library.register_fake("purenets::recurrence_backward")
def _empty_grads(dh, states, x, W_hx, W_hh, needs_dx):
    lead = W_hh.shape[:-2]
    dx_shape = x.shape if needs_dx else (*lead, 0)
    shapes = (dx_shape, W_hx.shape, W_hh.shape, W_hh.shape[:-1])
    return tuple(x.new_empty(shape) for shape in shapes)


@torch.library.register_vmap("purenets::recurrence")
def _(info, dims, x, *weights):
    if dims[1:] != (None, None, None) or weights[1].ndim > 2:
        arrays = _members_first(info, dims, (x, *weights))
        return _of_members(torch.ops.purenets.recurrence, arrays, arrays[2]), (0, 0)
    # one network for all, as for per-example gradients: members are nothing but more examples
    x = x.movedim(dims[0], 1)
    parts = torch.ops.purenets.recurrence(rearrange(x, "t m b i -> t (m b) i"), *weights)
    m, b = x.shape[1:3]  # both: neither can be inferred where the other is 0
    last, states = (rearrange(part, "... (m b) h -> ... m b h", m=m, b=b) for part in parts)
    return (last, states), (0, 1)


@torch.library.register_vmap("purenets::recurrence_backward")
def _(info, dims, *arguments):
    *arrays, needs_dx = arguments
    within_vmap = any(map(torch._C._functorch.is_batchedtensor, arrays))  # no rule for out=
    if dims[3:5] != (None, None) or arrays[4].ndim > 2 or within_vmap:
        arrays = _members_first(info, dims, arrays)
        operation = lambda *merged: torch.ops.purenets.recurrence_backward(*merged, needs_dx)
        return _of_members(operation, arrays, arrays[4]), (0, 0, 0, 0)
    dh, states, x = _members_first(info, dims[:3], arrays[:3])
    return _backward_of_examples(dh, states, x, *arrays[3:], needs_dx), (0, 0, 0, 0)


def _backward_of_examples(dh, states, x, W_hx, W_hh, needs_dx):
    """Return `_backward` of one network with gradients for each member: (members, ...).

    First all da(t), with members as more examples, then each gradient as one product over time.
    """
    h = rearrange(states, "m t b h -> t (m b) h")
    das = all_da(rearrange(dh, "m b h -> (m b) h"), h, W_hh)
    das = rearrange(das, "t (m b) h -> m t b h", m=dh.shape[0], b=dh.shape[1])
    dx = das @ W_hx if needs_dx else x.new_empty(len(x), 0)
    rows = "m t b features -> m (t b) features"
    dW_hx = rearrange(das, rows).mT @ rearrange(x, rows)
    dW_hh = rearrange(das[:, 1:], rows).mT @ rearrange(states[:, :-1], rows)
    return dx, dW_hx, dW_hh, reduce(das, "m t b h -> m h", "sum")


def _members_first(info, dims, arrays):
    """The arrays with the axis of vmap in front; those without it are the same for every member."""
    return [
        array.expand(info.batch_size, *array.shape) if dim is None else array.movedim(dim, 0)
        for array, dim in zip(arrays, dims, strict=False)
    ]


def _of_members(operation, arrays, W_hh):
    """Return an operation on arrays of members along a first axis: two axes of them become one."""
    if W_hh.ndim == 3:
        return operation(*arrays)
    lead = W_hh.shape[:2]
    found = operation(*(array.flatten(0, 1) for array in arrays))
    return tuple(part.unflatten(0, lead) for part in found)


# --- the derivative -------------------------------------------------------------------------------


class _Recurrence(operations.Function):
    @staticmethod
    def forward(ctx, x, W_hx, W_hh, b_h):
        last, states = operations.call_below_autograd(
            torch.ops.purenets.recurrence, x, W_hx, W_hh, b_h
        )
        ctx.mark_non_differentiable(states)
        ctx.save_for_backward(states, x, W_hx, W_hh)
        return last, states

    @staticmethod
    def backward(ctx, dh, _):
        return torch.ops.purenets.recurrence_backward(
            dh, *ctx.saved_tensors, ctx.needs_input_grad[0]
        )

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError(
            'recurrence.fused has no forward derivative; use recurrence="loop"'
        )


class _RecurrenceBackward(operations.Function):
    @staticmethod
    def forward(ctx, *arguments):
        return operations.call_below_autograd(torch.ops.purenets.recurrence_backward, *arguments)

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            'recurrence.fused has no second derivative; use recurrence="loop"'
        )

    jvp = backward


operations.register_derivative("purenets::recurrence", _Recurrence)
operations.register_derivative("purenets::recurrence_backward", _RecurrenceBackward)
