"""The CPU backend's loops as torch operators, so that autograd, ``torch.compile``, autocast and DDP see them.

The scan's forward pass keeps the state at every ``CHUNK``-th position; its backward pass recomputes the states in
between, chunk by chunk, in a buffer that stays in cache. No tensor of ``(batch, length, channel, state)`` exists.
The mixer's core (convolution, projection and scan of every direction, gate) keeps its input, what it convolved, the
small projections, those states and the sum before the gate; the step sizes are projected within the scan. Nothing
between two layers runs on OpenMP's threads, which would go on spinning for milliseconds beside these loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prism_model import cpu_kernels, cpu_products
from prism_model.cpu_kernels import CHUNK
from prism_model.cpu_products import NARROW
from prism_model.cpu_threads import Call, by_channels, by_columns, by_rows, n_blocks, run, run_in_turn
from prism_model.cpu_vectors import LANES
from prism_model.scan import ScanInputs


def scan(inputs: ScanInputs) -> Tensor:
    """The backend ``cpu`` of :func:`prism_model.scan.selective_scan`.

    Raises
    ------
    TypeError
        For tensors that are not float32 on a CPU.
    """
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = inputs
    if u.dtype != torch.float32 or u.device.type != "cpu":
        raise TypeError(
            f"the cpu backend of the scan takes float32 on a CPU, not {u.dtype} on {u.device}; use reference or chunked"
        )
    channels = u.shape[-1]
    D = u.new_zeros(channels) if D is None else D
    bias = u.new_zeros(channels) if delta_bias is None else delta_bias
    u, delta, A, D, bias = (_whole_vectors(t) for t in (u, delta, A.t(), D, bias))
    out: Tensor = _scan(u, delta, torch.cat([B, C], dim=-1), A, D, bias, delta_softplus, reverse)[0]
    if z is not None:
        out = _gate(out, _whole_vectors(z))
    return out[..., :channels]


def convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """:func:`prism_model.convolution.causal_convolution` for float32 on a CPU."""
    taps = weight[:, 0].t()
    out: Tensor = _convolution(_whole_vectors(x), _whole_vectors(taps), _whole_vectors(bias), reverse)
    return out[..., : x.shape[-1]]


def _contiguous(tensor: Tensor) -> Tensor:
    """The same in a row; torch's own copies run on OpenMP's threads."""
    return torch.from_numpy(np.ascontiguousarray(tensor.detach().numpy()))


def _whole_vectors(tensor: Tensor) -> Tensor:
    """Contiguous, with channels (the last dimension) of 0 up to a multiple of the kernels' vectors."""
    missing = -tensor.shape[-1] % LANES
    return F.pad(tensor, (0, missing)) if missing else tensor.contiguous()


# The scan


@torch.library.custom_op("prism_model::selective_scan", mutates_args=(), device_types="cpu")
def _scan(
    u: Tensor,
    delta: Tensor,
    mixed: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The scan and the states at the chunks' starts; contiguous float32, ``A`` as ``(N, D)``, ``mixed`` is B, C."""
    out, states = torch.empty_like(u), _states(u, A)
    arguments = [u, delta, mixed, u.new_empty(0, u.shape[2]), A, D, bias, softplus, reverse, False, out, states]
    run_in_turn([Call(cpu_kernels.scan_forward, arguments, by_channels(u.shape[2], len(u)))], len(u))
    return out, states


@_scan.register_fake
def _(u, delta, mixed, A, D, bias, softplus, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(u), _states(u, A)


def _states(u: Tensor, A: Tensor) -> Tensor:
    return u.new_empty(u.shape[0], -(-u.shape[1] // CHUNK), *A.shape[-2:])


@torch.library.custom_op("prism_model::selective_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    mixed: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    states: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by u, delta, mixed, A, D and bias."""
    du, ddelta = torch.empty_like(u), torch.empty_like(u)
    arguments = [grad, u, delta, mixed, u.new_empty(0, u.shape[2]), A, D, bias, softplus, reverse, states]
    by_sample = [u.new_empty(len(u), *shape) for shape in ((0, u.shape[2]), A.shape, D.shape, bias.shape)]
    calls, dmixed = _scan_back(arguments, du, ddelta, by_sample)
    run_in_turn(calls, len(u))
    return du, ddelta, dmixed, *(t.sum(0) for t in by_sample[1:])  # type: ignore[return-value]


@_scan_backward.register_fake
def _(grad, u, delta, mixed, A, D, bias, states, softplus, reverse):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (u, u, mixed, A, D, bias))


def _scan_back(
    arguments: Sequence[Any], du: Tensor, ddelta: Tensor, by_sample: Sequence[Tensor]
) -> tuple[list[Call], Tensor]:
    """The calls that fill the two and, by sample, the gradients by weight, A, D and bias; and that by mixed."""
    _, u, _, mixed, *_ = arguments
    batch, length, channels = u.shape
    blocks = n_blocks(channels, batch)
    # A sample that is not divided leaves all blocks but the first as they are.
    dmixed = torch.from_numpy((np.zeros if blocks > 1 else np.empty)((blocks, *mixed.shape), np.float32))
    calls = [
        Call(cpu_kernels.scan_backward, [*arguments, du, ddelta, dmixed, *by_sample], by_channels(channels, batch))
    ]
    if blocks > 1:
        calls.append(Call(_sum_blocks, [dmixed.flatten(1, 2)], by_rows(length)))
    return calls, dmixed[0]


def _sum_blocks(blocks: np.ndarray, tasks: np.ndarray) -> None:
    """Sum into the first block."""
    for first, last in tasks:
        blocks[0, first:last] = blocks[:, first:last].sum(0)


def _keep_for_scan(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, softplus, reverse = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.flags = softplus, reverse
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else zeros are made for the states


def _differentiate_scan(ctx, grad, _):  # type: ignore[no-untyped-def]
    *tensors, states = ctx.saved_tensors
    return *_scan_backward(grad.contiguous(), *tensors, states, *ctx.flags), None, None


_scan.register_autograd(_differentiate_scan, setup_context=_keep_for_scan)


# The gate


@torch.library.custom_op("prism_model::gate", mutates_args=(), device_types="cpu")
def _gate(y: Tensor, z: Tensor) -> Tensor:
    """``y * silu(z)``; contiguous float32."""
    out = torch.empty_like(y)
    run_in_turn([_gate_call(cpu_kernels.gate_forward, [y], z, 0, [out])], len(z))
    return out


@_gate.register_fake
def _(y, z):  # type: ignore[no-untyped-def]
    return torch.empty_like(y)


@torch.library.custom_op("prism_model::gate_backward", mutates_args=(), device_types="cpu")
def _gate_backward(grad: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by y and z."""
    dy, dz = torch.empty_like(y), torch.empty_like(z)
    run_in_turn([_gate_call(cpu_kernels.gate_backward, [grad, y], z, 0, [dy, dz])], len(z))
    return dy, dz


@_gate_backward.register_fake
def _(grad, y, z):  # type: ignore[no-untyped-def]
    return torch.empty_like(y), torch.empty_like(z)


def _gate_call(
    kernel: Callable[..., None], read: Sequence[Tensor], z: Tensor, z_at: int, written: Sequence[Tensor]
) -> Call:
    """A kernel over rows; the gate is in the columns of ``z`` from ``z_at`` on."""
    read, gate, written = [t.flatten(0, 1) for t in read], z.flatten(0, 1), [t.flatten(0, 1) for t in written]
    return Call(kernel, [*read, gate, z_at, *written], by_rows(z.shape[1]))


def _keep_for_gate(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate_gate(ctx, grad):  # type: ignore[no-untyped-def]
    return _gate_backward(grad.contiguous(), *ctx.saved_tensors)


_gate.register_autograd(_differentiate_gate, setup_context=_keep_for_gate)


# The causal convolution


@torch.library.custom_op("prism_model::causal_convolution", mutates_args=(), device_types="cpu")
def _convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """SiLU of the convolution; contiguous float32, ``weight`` as ``(tap, channel)``."""
    out = torch.empty_like(x)
    arguments = [x, weight, bias, reverse, out]
    run_in_turn([Call(cpu_kernels.convolution_forward, arguments, by_channels(x.shape[2], len(x)))], len(x))
    return out


@_convolution.register_fake
def _(x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op("prism_model::causal_convolution_backward", mutates_args=(), device_types="cpu")
def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, weight and bias."""
    dx, by_sample = torch.empty_like(x), [x.new_empty(len(x), *t.shape) for t in (weight, bias)]
    arguments = [grad, x, weight, bias, reverse, False, dx, *by_sample]
    run_in_turn([Call(cpu_kernels.convolution_backward, arguments, by_channels(x.shape[2], len(x)))], len(x))
    return dx, *(t.sum(0) for t in by_sample)  # type: ignore[return-value]


@_convolution_backward.register_fake
def _(grad, x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _keep_for_convolution(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])
    ctx.reverse = inputs[3]


def _differentiate_convolution(ctx, grad):  # type: ignore[no-untyped-def]
    return *_convolution_backward(grad.contiguous(), *ctx.saved_tensors, ctx.reverse), None


_convolution.register_autograd(_differentiate_convolution, setup_context=_keep_for_convolution)


# The mixer's core


@torch.library.custom_op("prism_model::mix", mutates_args=(), device_types="cpu")
def mix(
    x: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    project: Tensor,
    steps: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Convolve, project and scan in every direction, sum the directions up, and apply the gate that they share.

    Parameters
    ----------
    x
        Inner half and gate side by side, ``(B, L, 2 * channels)``; contiguous float32, as everything else.
    taps, tap_bias
        Of the convolutions, ``(direction, tap, channel)`` and ``(direction, channel)``.
    project
        Onto step, B and C, ``(direction, rank + 2 * state, channel)``.
    steps, step_bias
        From step to step sizes, ``(direction, rank, channel)`` and ``(direction, channel)``.
    A, D
        ``(direction, state, channel)`` and ``(direction, channel)``. The second direction reads backwards.
    keep
        Whether a backward pass may follow.

    Returns
    -------
    tuple
        The mixed sequence ``(B, L, channels)``; then, for the backward pass, the same before the gate, what each
        direction convolved, its projections and its states.
    """
    batch, length, channels = x.shape[0], x.shape[1], taps.shape[2]
    out, spare = (x.new_empty(batch, length, channels) for _ in range(2))
    y, convolved, mixed, states = _kept(x, project, A, keep)
    total, project = y if keep else out, _padded(project)
    calls = []
    for k in range(len(taps)):
        back, u = k == 1, convolved[k] if keep else spare
        scanned = [u, u, mixed[k], steps[k], A[k], D[k], step_bias[k], True, back, back, total, states[k]]
        calls += [
            Call(cpu_kernels.convolution_forward, [x, taps[k], tap_bias[k], back, u], by_channels(channels, batch)),
            _product(u, project[k], True, False, mixed[k]),
            Call(cpu_kernels.scan_forward, scanned, by_channels(channels, batch)),
        ]
    calls.append(_gate_call(cpu_kernels.gate_forward, [total], x, channels, [out]))
    run_in_turn(calls, batch)
    return out, y, convolved, mixed, states


@mix.register_fake
def _(x, taps, tap_bias, project, steps, step_bias, A, D, keep):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], x.shape[1], taps.shape[2]), *_kept(x, project, A, keep)


def _kept(x: Tensor, project: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the sum of all directions, what they convolve, their projections and their states."""
    batch, length = x.shape[:2]
    n_directions, n_states, channels = A.shape
    y = x.new_empty(batch if keep else 0, length, channels)
    convolved = x.new_empty(n_directions if keep else 0, batch, length, channels)
    mixed = x.new_empty(n_directions, batch, length, project.shape[1] + -project.shape[1] % NARROW)
    states = x.new_empty(n_directions, batch, -(-length // CHUNK) if keep else 0, n_states, channels)
    return y, convolved, mixed, states


@torch.library.custom_op("prism_model::mix_backward", mutates_args=(), device_types="cpu")
def _mix_backward(
    grad: Tensor,
    x: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    project: Tensor,
    steps: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    y: Tensor,
    convolved: Tensor,
    mixed: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by the arguments of :func:`mix`."""
    batch, channels = len(x), taps.shape[2]
    du, dy, dx = torch.empty_like(grad), torch.empty_like(grad), torch.empty_like(x)
    padded = _padded(project)
    weights = (taps, tap_bias, padded, steps, step_bias, A, D)
    by_sample = [x.new_empty(len(t), batch, *t.shape[1:]) for t in weights]
    calls = [_gate_call(cpu_kernels.gate_backward, [grad, y], x, channels, [dy, dx])]
    for k in range(len(taps)):
        back, u = k == 1, convolved[k]
        dtaps, dtap_bias, dproject, dsteps, dbias, dA, dD = (t[k] for t in by_sample)
        scanned = [dy, u, u, mixed[k], steps[k], A[k], D[k], step_bias[k], True, back, states[k]]
        scan, dmixed = _scan_back(scanned, du, du, [dsteps, dA, dD, dbias])
        convolution = [du, x, taps[k], tap_bias[k], back, back, dx, dtaps, dtap_bias]
        calls += [
            *scan,
            _gram(dmixed, u, dproject),
            _product(dmixed, padded[k], False, True, du),
            Call(cpu_kernels.convolution_backward, convolution, by_channels(channels, batch)),
        ]
    run_in_turn(calls, batch)
    by_sample[2] = by_sample[2][:, :, : project.shape[1]]
    results = [torch.from_numpy(t.numpy().sum(1)) for t in by_sample]
    return dx, *results  # type: ignore[return-value]


@_mix_backward.register_fake
def _(grad, *inputs):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in inputs[:8])


def _keep_for_mix(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:-1], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else zeros are made for what is kept


def _differentiate_mix(ctx, grad, *_):  # type: ignore[no-untyped-def]
    return *_mix_backward(grad.contiguous(), *ctx.saved_tensors), None


mix.register_autograd(_differentiate_mix, setup_context=_keep_for_mix)


def _padded(project: Tensor) -> Tensor:
    """With rows of 0 up to a multiple of the products' columns; what is projected has as many columns."""
    return F.pad(project, (0, 0, 0, -project.shape[-2] % NARROW))


# Matrix products


@torch.library.custom_op("prism_model::linear", mutates_args=(), device_types="cpu")
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``; contiguous float32, all widths multiples of ``NARROW``."""
    out = x.new_empty(*x.shape[:-1], len(weight))
    run_in_turn([_product(_samples(x), weight, True, False, _samples(out))], len(_samples(x)))
    return out


@linear.register_fake
def _(x, weight):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("prism_model::linear_backward", mutates_args=(), device_types="cpu")
def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by x and weight."""
    dx = torch.empty_like(x)
    of_x, of_out = _samples(x), _samples(grad)
    narrow, wide = (of_out, of_x) if len(weight) <= x.shape[-1] else (of_x, of_out)
    by_sample = x.new_empty(len(of_x), narrow.shape[-1], wide.shape[-1])
    run_in_turn([_product(of_out, weight, False, False, _samples(dx)), _gram(narrow, wide, by_sample)], len(of_x))
    dweight = by_sample.numpy().sum(0)
    return dx, torch.from_numpy(np.ascontiguousarray(dweight if narrow is of_out else dweight.T))


@_linear_backward.register_fake
def _(grad, x, weight):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight)


def _samples(rows: Tensor) -> Tensor:
    """As ``(sample, position, column)``."""
    return rows if rows.ndim == 3 else rows.flatten(0, -2)[None]


def _product(x: Tensor, weight: Tensor, transposed: bool, add: bool, out: Tensor) -> Call:
    """Fill ``out`` with ``x @ weight`` (or its transpose), or add that to it."""
    arguments = [x.flatten(0, 1), weight, transposed, add, out.flatten(0, 1)]
    return Call(cpu_products.product, arguments, by_rows(x.shape[1]))


def _gram(a: Tensor, b: Tensor, out: Tensor) -> Call:
    """Fill ``out`` with ``a.T @ b``, by sample. The loops go down the columns of ``a``, which had better be narrow."""
    return Call(cpu_products.gram, [a, b, out], by_columns(a.shape[2]))


def _keep_for_linear(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate_linear(ctx, grad):  # type: ignore[no-untyped-def]
    return _linear_backward(grad.contiguous(), *ctx.saved_tensors)


linear.register_autograd(_differentiate_linear, setup_context=_keep_for_linear)


# The normalisation


@torch.library.custom_op("prism_model::rms_norm", mutates_args=(), device_types="cpu")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square normalisation of the last dimension; contiguous float32."""
    return _normalise(x, x.new_empty(0, x.shape[-1]), weight, eps, x)


@rms_norm.register_fake
def _(x, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op("prism_model::add_rms_norm", mutates_args=(), device_types="cpu")
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised sum, and the sum; contiguous float32.

    One operator, so that their gradients are added while they are made: autograd would do so in a pass of its own.
    """
    stream = torch.empty_like(x)
    return _normalise(x, residual, weight, eps, stream), stream


@add_rms_norm.register_fake
def _(x, residual, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(x)


def _normalise(x: Tensor, residual: Tensor, weight: Tensor, eps: float, stream: Tensor) -> Tensor:
    out = torch.empty_like(x)
    x, residual, stream, rows = (t.flatten(0, -2) for t in (x, residual, stream, out))
    run(cpu_kernels.rms_norm_forward, [x, residual, weight, eps, stream, rows], _rows(len(x)))
    return out


@torch.library.custom_op("prism_model::rms_norm_backward", mutates_args=(), device_types="cpu")
def _rms_norm_backward(
    grad: Tensor, stream_grad: Tensor | None, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients by x, which includes what reached it past the normalisation, and by weight."""
    dx = torch.empty_like(x)
    past = x.new_empty(0, x.shape[-1]) if stream_grad is None else _contiguous(stream_grad)
    matrices = [t.flatten(0, -2) for t in (_contiguous(grad), past, x)]
    blocks = _rows(len(matrices[-1]))
    dweight = x.new_empty(len(blocks), x.shape[-1])
    run(cpu_kernels.rms_norm_backward, [*matrices, weight, eps, dx.flatten(0, -2), dweight], blocks)
    return dx, dweight.sum(0)


def _rows(n: int) -> np.ndarray:
    """Rows (first, last, block): the same blocks for any number of threads."""
    edges = np.append(np.arange(0, n, 1_024), n)
    return np.stack([edges[:-1], edges[1:], np.arange(len(edges) - 1)], axis=1)


@_rms_norm_backward.register_fake
def _(grad, stream_grad, x, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight)


def _keep_for_rms_norm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:2])
    ctx.eps = inputs[2]


def _differentiate_rms_norm(ctx, grad):  # type: ignore[no-untyped-def]
    return *_rms_norm_backward(grad, None, *ctx.saved_tensors, ctx.eps), None


rms_norm.register_autograd(_differentiate_rms_norm, setup_context=_keep_for_rms_norm)


def _keep_for_add_rms_norm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output[1], inputs[2])
    ctx.eps = inputs[3]
    ctx.set_materialize_grads(False)  # nothing reaches the last layer's stream past its normalisation


def _differentiate_add_rms_norm(ctx, grad, stream_grad):  # type: ignore[no-untyped-def]
    stream, weight = ctx.saved_tensors
    grad = torch.zeros_like(stream) if grad is None else grad
    dx, dweight = _rms_norm_backward(grad, stream_grad, stream, weight, ctx.eps)
    return dx, dx, dweight, None


add_rms_norm.register_autograd(_differentiate_add_rms_norm, setup_context=_keep_for_add_rms_norm)
