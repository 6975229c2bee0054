"""The backbone as one torch operator: all blocks (add, normalise, mix), and the last sum and normalisation.

Everything in it is of one sample: each thread takes its samples from the first normalisation to the last, and back,
without waiting for another (:func:`prism_model.cpu_threads.run_in_turn`). For the backward pass are kept the streams,
what went into each product, what each direction convolved, its small projections, its states at every ``CHUNK``-th
position and the sum before the gate; step sizes are projected within the scan. Nothing in it runs on OpenMP's threads,
which would go on spinning for milliseconds beside these loops.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prism_model import cpu_kernels, cpu_products
from prism_model.cpu_kernels import CHUNK
from prism_model.cpu_ops import contiguous, gate_call, gradients_of_mixed, scan_back, summed
from prism_model.cpu_products import NARROW
from prism_model.cpu_threads import Call, by_channels, by_columns, by_row_blocks, by_rows, run_in_turn


@torch.library.custom_op("prism_model::backbone", mutates_args=(), device_types="cpu")
def backbone(
    x: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Layer by layer, normalise the stream; project, convolve and scan it in every direction; gate, project and add.

    Parameters
    ----------
    x
        The stream, ``(B, L, width)``; contiguous float32, as everything else.
    norm
        Weights of the normalisations, ``(layer + 1, width)``.
    inward, outward
        Products into and out of the mixers, ``(layer, 2 * channels, width)``, inner half and gate, and
        ``(layer, width, channels)``.
    taps, tap_bias
        Of the convolutions, ``(layer, direction, tap, channel)`` and ``(layer, direction, channel)``.
    project
        Onto step, B and C, ``(layer, direction, rank + 2 * state, channel)``.
    steps, step_bias
        From step to step sizes, ``(layer, direction, rank, channel)`` and ``(layer, direction, channel)``.
    A, D
        ``(layer, direction, state, channel)`` and ``(layer, direction, channel)``. A second direction reads backwards.
    eps
        Of the normalisations.
    keep
        Whether a backward pass may follow.

    Returns
    -------
    tuple
        The last stream normalised, ``(B, L, width)``; then, for the backward pass and by layer, the streams after it,
        the stream before it normalised, inner half and gate, what each direction convolved, its projections and its
        states, and their sum before the gate.
    """
    batch, length = x.shape[:2]
    n_layers, n_directions, _, channels = taps.shape
    padded = _padded(project)
    rooms = _rooms(x, taps, project, A, keep)
    out, added, spare = rooms.out, torch.empty_like(x), x.new_empty(batch, length, channels)
    stream, calls = x, [_norm_call(x, x[:0], norm[0], eps, x[:0], rooms.normed[0])]
    for layer in range(n_layers):
        now = layer if keep else 0
        streams, normed, both, convolved, mixed, states, y = (room[now] for room in rooms[1:])
        gated = spare if keep else y
        calls.append(_product(normed, inward[layer], True, False, both))
        for k in range(n_directions):
            back, u = k == 1, convolved[k] if keep else spare
            convolution = [both, taps[layer, k], tap_bias[layer, k], back, u]
            weights = [steps[layer, k], A[layer, k], D[layer, k], step_bias[layer, k]]
            calls += [
                Call(cpu_kernels.convolution_forward, convolution, by_channels(channels, batch)),
                _product(u, padded[layer, k], True, False, mixed[k]),
                Call(
                    cpu_kernels.scan_forward,
                    [u, u, mixed[k], *weights, True, back, back, y, states[k]],
                    by_channels(channels, batch),
                ),
            ]
        last = layer == n_layers - 1
        normed = out if last else rooms.normed[now + 1 if keep else 0]
        calls += [
            gate_call(cpu_kernels.gate_forward, [y], both, channels, [gated]),
            _product(gated, outward[layer], True, False, added),
            _norm_call(added, stream, norm[layer + 1], eps, streams, normed),
        ]
        stream = streams
    run_in_turn(calls, batch)
    return _given(rooms, keep)


@backbone.register_fake
def _(x, norm, inward, taps, tap_bias, project, steps, step_bias, A, D, outward, eps, keep):  # type: ignore[no-untyped-def]
    return _given(_rooms(x, taps, project, A, keep), keep)


class _Rooms(NamedTuple):
    """What the operator writes; all but ``out`` by layer, or one for all layers if nothing is kept."""

    out: Tensor  # (B, L, width)
    streams: Tensor  # (layer, B, L, width)
    normed: Tensor  # (layer, B, L, width)
    both: Tensor  # (layer, B, L, 2 * channels)
    convolved: Tensor  # (layer, direction, B, L, channels)
    mixed: Tensor  # (layer, direction, B, L, columns of the projection)
    states: Tensor  # (layer, direction, B, chunks, state, channels)
    y: Tensor  # (layer, B, L, channels)


def _rooms(x: Tensor, taps: Tensor, project: Tensor, A: Tensor, keep: bool) -> _Rooms:
    batch, length, width = x.shape
    n_layers, n_directions, n_states, channels = A.shape
    columns = project.shape[2] + -project.shape[2] % NARROW
    n = n_layers if keep else 1
    return _Rooms(
        torch.empty_like(x),
        x.new_empty(n, batch, length, width),
        x.new_empty(n, batch, length, width),
        x.new_empty(n, batch, length, 2 * channels),
        x.new_empty(n, n_directions if keep else 0, batch, length, channels),
        x.new_empty(n, n_directions, batch, length, columns),
        x.new_empty(n, n_directions, batch, -(-length // CHUNK) if keep else 0, n_states, channels),
        x.new_empty(n, batch, length, channels),
    )


def _given(rooms: _Rooms, keep: bool) -> _Rooms:
    return rooms if keep else _Rooms(rooms.out, *(t.new_empty(0) for t in rooms[1:]))


@torch.library.custom_op("prism_model::backbone_backward", mutates_args=(), device_types="cpu")
def _backbone_backward(
    grad: Tensor,
    x: Tensor,
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
    streams: Tensor,
    normed: Tensor,
    both: Tensor,
    convolved: Tensor,
    mixed: Tensor,
    states: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by the stream and by the weights of :func:`backbone`, in their order."""
    batch, length = x.shape[:2]
    n_layers, n_directions, _, channels = taps.shape
    padded = _padded(project)
    # By layer and sample; what passes from kernel to kernel has one room for all layers.
    dinward, doutward = (x.new_empty(n_layers, batch, *shape) for shape in (inward.mT.shape[1:], outward.shape[1:]))
    weights = taps, tap_bias, padded, steps, step_bias, A, D
    by_sample = [x.new_empty(n_layers, n_directions, batch, *t.shape[2:]) for t in weights]
    dx, dnormed = torch.empty_like(x), torch.empty_like(x)
    gated, dgated, du, dy, dboth = (torch.empty_like(t[0]) for t in (y, y, y, y, both))
    dmixed = gradients_of_mixed(y[0], mixed[0, 0])
    tasks, blocks = by_row_blocks(length)
    dnorm = x.new_empty(n_layers + 1, batch * blocks, x.shape[2])

    def norm_call(after: int, grad: Tensor, past: Tensor) -> Call:
        """Fill ``dx`` with the gradient by the stream after some layers, what passed the normalisation by included."""
        rows = [t.flatten(0, 1) for t in (grad, past, x if after == 0 else streams[after - 1])]
        arguments = [*rows, norm[after], eps, dx.flatten(0, 1), dnorm[after]]
        return Call(cpu_kernels.rms_norm_backward, arguments, tasks)

    calls = [norm_call(n_layers, contiguous(grad), x[:0])]
    for layer in reversed(range(n_layers)):
        calls += [
            _product(dx, outward[layer], False, False, dgated),
            gate_call(cpu_kernels.gate_backward, [dgated, y[layer]], both[layer], channels, [dy, dboth, gated]),
            _gram(dx, gated, doutward[layer]),
        ]
        for k in range(n_directions):
            back, u = k == 1, convolved[layer, k]
            dtaps, dtap_bias, dproject, dsteps, dbias, dA, dD = (t[layer, k] for t in by_sample)
            own = [steps[layer, k], A[layer, k], D[layer, k], step_bias[layer, k]]
            scanned = [dy, u, u, mixed[layer, k], *own, True, back, states[layer, k]]
            convolution = [du, both[layer], taps[layer, k], tap_bias[layer, k], back, back, dboth, dtaps, dtap_bias]
            calls += [
                *scan_back(scanned, du, du, dmixed, [dsteps, dA, dD, dbias]),
                _gram(dmixed[0], u, dproject),
                _product(dmixed[0], padded[layer, k], False, True, du),
                Call(cpu_kernels.convolution_backward, convolution, by_channels(channels, batch)),
            ]
        calls += [
            _gram(normed[layer], dboth, dinward[layer]),
            _product(dboth, inward[layer], False, False, dnormed),
            norm_call(layer, dnormed, dx),
        ]
    run_in_turn(calls, batch)
    by_sample[2] = by_sample[2][..., : project.shape[2], :]
    inside = [summed(t, 2) for t in by_sample]
    return dx, summed(dnorm, 1), contiguous(summed(dinward, 1).mT), *inside, summed(doutward, 1)  # type: ignore[return-value]


@_backbone_backward.register_fake
def _(grad, *inputs):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in inputs[:11])


def _keep_for_backbone(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, eps, _ = inputs
    _, *kept = output
    ctx.save_for_backward(*tensors, *kept)
    ctx.eps = eps
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # else zeros are made for what is kept


def _differentiate_backbone(ctx, grad, *_):  # type: ignore[no-untyped-def]
    tensors = ctx.saved_tensors
    return *_backbone_backward(grad, *tensors[:11], ctx.eps, *tensors[11:]), None, None


backbone.register_autograd(_differentiate_backbone, setup_context=_keep_for_backbone)


def _padded(project: Tensor) -> Tensor:
    """With rows of 0 up to a multiple of the products' columns; what is projected has as many columns."""
    return F.pad(project, (0, 0, 0, -project.shape[-2] % NARROW))


def _norm_call(x: Tensor, residual: Tensor, weight: Tensor, eps: float, stream: Tensor, out: Tensor) -> Call:
    """Fill ``out`` with the normalised sum and ``stream`` with the sum; without a residual, only ``out``."""
    rows = [t.flatten(0, 1) for t in (x, residual, stream, out)]
    return Call(cpu_kernels.rms_norm_forward, [*rows[:2], weight, eps, *rows[2:]], by_rows(x.shape[1]))


def _product(x: Tensor, weight: Tensor, transposed: bool, add: bool, out: Tensor) -> Call:
    """Fill ``out`` with ``x @ weight`` (or its transpose), or add that to it."""
    arguments = [x.flatten(0, 1), weight, transposed, add, out.flatten(0, 1)]
    return Call(cpu_products.product, arguments, by_rows(x.shape[1]))


def _gram(a: Tensor, b: Tensor, out: Tensor) -> Call:
    """Fill ``out`` with ``a.T @ b``, by sample. The loops go down the columns of ``a``, which had better be narrow."""
    return Call(cpu_products.gram, [a, b, out], by_columns(a.shape[2]))
