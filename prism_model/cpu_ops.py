"""The CPU backend's loops as torch operators, so that autograd, ``torch.compile``, autocast and DDP see them.

The scan's forward pass keeps the state at every ``CHUNK``-th position; its backward pass recomputes the states in
between, chunk by chunk, in a buffer that stays in cache. No tensor of ``(batch, length, channel, state)`` exists.
The whole backbone is one operator (:mod:`prism_model.cpu_backbone`); these serve its parts by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prism_model import cpu_kernels
from prism_model.cpu_kernels import CHUNK
from prism_model.cpu_threads import Call, by_channels, by_rows, n_blocks, run_in_turn
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


def contiguous(tensor: Tensor) -> Tensor:
    """The same in a row; torch's own copies run on OpenMP's threads."""
    return torch.from_numpy(np.ascontiguousarray(tensor.detach().numpy()))


def summed(parts: Tensor, dim: int = 0) -> Tensor:
    """The sum along a dimension, without OpenMP's threads."""
    return torch.from_numpy(parts.numpy().sum(dim))


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
    dmixed = gradients_of_mixed(u, mixed)
    run_in_turn(scan_back(arguments, du, ddelta, dmixed, by_sample), len(u))
    return du, ddelta, dmixed[0], *map(summed, by_sample[1:])  # type: ignore[return-value]


@_scan_backward.register_fake
def _(grad, u, delta, mixed, A, D, bias, states, softplus, reverse):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (u, u, mixed, A, D, bias))


def gradients_of_mixed(u: Tensor, mixed: Tensor) -> Tensor:
    """Room for the gradients by ``mixed`` in each block of channels; the sum over blocks comes to lie in the first."""
    batch, _, channels = u.shape
    blocks = n_blocks(channels, batch)
    # A sample that is not divided leaves all blocks but the first as they are.
    return torch.from_numpy((np.zeros if blocks > 1 else np.empty)((blocks, *mixed.shape), np.float32))


def scan_back(
    arguments: Sequence[Any], du: Tensor, ddelta: Tensor, dmixed: Tensor, by_sample: Sequence[Tensor]
) -> list[Call]:
    """The calls that fill the three and, by sample, the gradients by weight, A, D and bias."""
    batch, length, channels = du.shape
    calls = [
        Call(cpu_kernels.scan_backward, [*arguments, du, ddelta, dmixed, *by_sample], by_channels(channels, batch))
    ]
    if len(dmixed) > 1:
        calls.append(Call(_sum_blocks, [dmixed.flatten(1, 2)], by_rows(length)))
    return calls


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
    run_in_turn([gate_call(cpu_kernels.gate_forward, [y], z, 0, [out])], len(z))
    return out


@_gate.register_fake
def _(y, z):  # type: ignore[no-untyped-def]
    return torch.empty_like(y)


@torch.library.custom_op("prism_model::gate_backward", mutates_args=(), device_types="cpu")
def _gate_backward(grad: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by y and z."""
    dy, dz = torch.empty_like(y), torch.empty_like(z)
    run_in_turn([gate_call(cpu_kernels.gate_backward, [grad, y], z, 0, [dy, dz, y[:0]])], len(z))
    return dy, dz


@_gate_backward.register_fake
def _(grad, y, z):  # type: ignore[no-untyped-def]
    return torch.empty_like(y), torch.empty_like(z)


def gate_call(
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
    return dx, *map(summed, by_sample)  # type: ignore[return-value]


@_convolution_backward.register_fake
def _(grad, x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _keep_for_convolution(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])
    ctx.reverse = inputs[3]


def _differentiate_convolution(ctx, grad):  # type: ignore[no-untyped-def]
    return *_convolution_backward(grad.contiguous(), *ctx.saved_tensors, ctx.reverse), None


_convolution.register_autograd(_differentiate_convolution, setup_context=_keep_for_convolution)
