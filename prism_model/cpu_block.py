"""A block of the backbone as one torch operator: add, normalise, mix.

Everything in it is of one sample: each thread takes its samples from the normalisation to the product out of the
mixer, and back, without waiting for another (:func:`prism_model.cpu_threads.run_in_turn`). For the backward pass are
kept what went into each product, what each direction convolved, its small projections, its states at every
``CHUNK``-th position and the sum before the gate; step sizes are projected within the scan. Nothing in it runs on
OpenMP's threads, which would go on spinning for milliseconds beside these loops.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prism_model import cpu_kernels, cpu_products
from prism_model.cpu_kernels import CHUNK
from prism_model.cpu_ops import contiguous, gate_call, norm_back, norm_call, scan_back, summed
from prism_model.cpu_products import NARROW
from prism_model.cpu_threads import Call, by_channels, by_columns, by_rows, run_in_turn


@torch.library.custom_op("prism_model::block", mutates_args=(), device_types="cpu")
def block(
    x: Tensor,
    residual: Tensor | None,
    norm: Tensor,
    inward: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    project: Tensor,
    steps: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    outward: Tensor,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Add to the residual stream and normalise it; project, convolve and scan it in every direction, gate, project.

    Parameters
    ----------
    x, residual
        What the layer before adds, and the stream, ``(B, L, width)``; contiguous float32, as everything else. Without a
        stream ``x`` is the stream.
    norm
        Weight of the normalisation, ``(width,)``.
    inward, outward
        Products into and out of the mixer, ``(2 * channels, width)``, inner half and gate, and ``(width, channels)``.
    taps, tap_bias
        Of the convolutions, ``(direction, tap, channel)`` and ``(direction, channel)``.
    project
        Onto step, B and C, ``(direction, rank + 2 * state, channel)``.
    steps, step_bias
        From step to step sizes, ``(direction, rank, channel)`` and ``(direction, channel)``.
    A, D
        ``(direction, state, channel)`` and ``(direction, channel)``. The second direction reads backwards.
    eps
        Of the normalisation.
    keep
        Whether a backward pass may follow.

    Returns
    -------
    tuple
        What the layer adds, ``(B, L, width)``, and the stream, which is empty if there was none before; then, for the
        backward pass, the stream normalised, inner half and gate, what each direction convolved, its projections and
        its states, and their sum before the gate and after.
    """
    batch, length = x.shape[:2]
    channels, padded = taps.shape[2], _padded(project)
    rooms = _rooms(x, residual, taps, project, A, keep)
    out, stream, normed, both, convolved, mixed, states, y, gated = rooms
    spare = x.new_empty(0 if keep else batch, length, channels)
    calls = [norm_call(x, residual, norm, eps, stream, normed), _product(normed, inward, True, False, both)]
    for k in range(len(taps)):
        back, u = k == 1, convolved[k] if keep else spare
        scanned = [u, u, mixed[k], steps[k], A[k], D[k], step_bias[k], True, back, back, y, states[k]]
        calls += [
            Call(cpu_kernels.convolution_forward, [both, taps[k], tap_bias[k], back, u], by_channels(channels, batch)),
            _product(u, padded[k], True, False, mixed[k]),
            Call(cpu_kernels.scan_forward, scanned, by_channels(channels, batch)),
        ]
    calls.append(gate_call(cpu_kernels.gate_forward, [y], both, channels, [gated]))
    calls.append(_product(gated, outward, True, False, out))
    run_in_turn(calls, batch)
    return _given(rooms, keep)


@block.register_fake
def _(x, residual, norm, inward, taps, tap_bias, project, steps, step_bias, A, D, outward, eps, keep):  # type: ignore[no-untyped-def]
    return _given(_rooms(x, residual, taps, project, A, keep), keep)


class _Rooms(NamedTuple):
    """What a block writes, all of which has the samples first but for ``convolved``, ``mixed`` and ``states``."""

    out: Tensor
    stream: Tensor
    normed: Tensor
    both: Tensor
    convolved: Tensor  # (direction, B, L, channels)
    mixed: Tensor  # (direction, B, L, columns of the projection)
    states: Tensor  # (direction, B, chunks, state, channels)
    y: Tensor
    gated: Tensor


def _rooms(x: Tensor, residual: Tensor | None, taps: Tensor, project: Tensor, A: Tensor, keep: bool) -> _Rooms:
    batch, length, width = x.shape
    n_directions, n_states, channels = A.shape
    y = x.new_empty(batch, length, channels)
    return _Rooms(
        torch.empty_like(x),
        x.new_empty(0 if residual is None else batch, length, width),
        torch.empty_like(x),
        x.new_empty(batch, length, 2 * channels),
        x.new_empty(n_directions if keep else 0, batch, length, channels),
        x.new_empty(n_directions, batch, length, project.shape[1] + -project.shape[1] % NARROW),
        x.new_empty(n_directions, batch, -(-length // CHUNK) if keep else 0, n_states, channels),
        y,
        torch.empty_like(y) if keep else y,
    )


def _given(rooms: _Rooms, keep: bool) -> _Rooms:
    return rooms if keep else _Rooms(*rooms[:2], *(t.new_empty(0) for t in rooms[2:]))


@torch.library.custom_op("prism_model::block_backward", mutates_args=(), device_types="cpu")
def _block_backward(
    grad: Tensor,
    stream_grad: Tensor | None,
    stream: Tensor,
    norm: Tensor,
    inward: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    project: Tensor,
    steps: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    outward: Tensor,
    eps: float,
    normed: Tensor,
    both: Tensor,
    convolved: Tensor,
    mixed: Tensor,
    states: Tensor,
    y: Tensor,
    gated: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by the stream and by the weights of :func:`block`, in their order."""
    batch, channels, padded = len(stream), taps.shape[2], _padded(project)
    dgated, du, dy, dboth, dx = (torch.empty_like(t) for t in (gated, y, y, both, stream))
    weights = taps, tap_bias, padded, steps, step_bias, A, D
    by_sample = [stream.new_empty(len(t), batch, *t.shape[1:]) for t in weights]
    dinward = stream.new_empty(batch, *reversed(inward.shape))
    doutward = stream.new_empty(batch, *outward.shape)
    calls = [
        _gram(grad, gated, doutward),
        _product(grad, outward, False, False, dgated),
        gate_call(cpu_kernels.gate_backward, [dgated, y], both, channels, [dy, dboth]),
    ]
    for k in range(len(taps)):
        back, u = k == 1, convolved[k]
        dtaps, dtap_bias, dproject, dsteps, dbias, dA, dD = (t[k] for t in by_sample)
        scanned = [dy, u, u, mixed[k], steps[k], A[k], D[k], step_bias[k], True, back, states[k]]
        scan, dmixed = scan_back(scanned, du, du, [dsteps, dA, dD, dbias])
        convolution = [du, both, taps[k], tap_bias[k], back, back, dboth, dtaps, dtap_bias]
        calls += [
            *scan,
            _gram(dmixed, u, dproject),
            _product(dmixed, padded[k], False, True, du),
            Call(cpu_kernels.convolution_backward, convolution, by_channels(channels, batch)),
        ]
    dnormed = torch.empty_like(normed)
    past, by_block = norm_back(dnormed, stream_grad, stream, norm, eps, dx)
    calls += [_gram(normed, dboth, dinward), _product(dboth, inward, False, False, dnormed), past]
    run_in_turn(calls, batch)
    by_sample[2] = by_sample[2][:, :, : project.shape[1]]
    inside = [summed(t, 1) for t in by_sample]
    return dx, summed(by_block), contiguous(summed(dinward).t()), *inside, summed(doutward)  # type: ignore[return-value]


@_block_backward.register_fake
def _(grad, stream_grad, *inputs):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in inputs[:11])


def _keep_for_block(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, residual, *weights, eps, _ = inputs
    _, stream, *kept = output
    ctx.save_for_backward(x if residual is None else stream, *weights, *kept)
    ctx.eps, ctx.first = eps, residual is None
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # else zeros are made for what is kept


def _differentiate_block(ctx, grad, stream_grad, *_):  # type: ignore[no-untyped-def]
    stream, *rest = ctx.saved_tensors
    grad = torch.zeros_like(stream) if grad is None else grad.contiguous()
    past = None if ctx.first else stream_grad
    dx, *dweights = _block_backward(grad, past, stream, *rest[:10], ctx.eps, *rest[10:])
    return dx, None if ctx.first else dx, *dweights, None, None


block.register_autograd(_differentiate_block, setup_context=_keep_for_block)


def _padded(project: Tensor) -> Tensor:
    """With rows of 0 up to a multiple of the products' columns; what is projected has as many columns."""
    return F.pad(project, (0, 0, 0, -project.shape[-2] % NARROW))


def _product(x: Tensor, weight: Tensor, transposed: bool, add: bool, out: Tensor) -> Call:
    """Fill ``out`` with ``x @ weight`` (or its transpose), or add that to it."""
    arguments = [x.flatten(0, 1), weight, transposed, add, out.flatten(0, 1)]
    return Call(cpu_products.product, arguments, by_rows(x.shape[1]))


def _gram(a: Tensor, b: Tensor, out: Tensor) -> Call:
    """Fill ``out`` with ``a.T @ b``, by sample. The loops go down the columns of ``a``, which had better be narrow."""
    return Call(cpu_products.gram, [a, b, out], by_columns(a.shape[2]))
