"""Compiled loops of the CPU backend: the selective scan and the causal convolution, forward and backward.

Each task is one sample and one block of channels. The loops are vectorised over channels, so that a block's states
stay in the first-level cache while the sequence passes by. LLVM vectorises no library exponential without SVML, hence
a polynomial one (relative error 2e-7 in float32). Everything is in one file because numba's cache watches the file of
the compiled function alone.

Arrays are contiguous float32 of position-major layout, ``(batch, length, channel)``; ``tasks`` has rows
``(sample, first channel, last channel, block)``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

CHUNK = 16
"""Positions between two stored states of the scan."""

_OPTIONS = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}
_f = np.float32


@intrinsic
def _bits_as_float(typingctx, bits):  # type: ignore[no-untyped-def]
    """The float32 of which these are the bits."""
    return types.float32(types.int32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@njit(inline="always", **_OPTIONS)
def _exp(x):  # type: ignore[no-untyped-def]
    """``2 ** k * 2 ** r`` with ``r`` in [-1/2, 1/2) from its Taylor series; saturates beyond [-87, 88]."""
    t = min(max(x, _f(-87.0)), _f(88.0)) * _f(1.4426950408889634)
    k = np.floor(t + _f(0.5))
    r = t - k
    p = _f(1.5403530393381608e-4)
    p = p * r + _f(1.3333558146428443e-3)
    p = p * r + _f(9.618129107628477e-3)
    p = p * r + _f(5.550410866482158e-2)
    p = p * r + _f(2.402265069591007e-1)
    p = p * r + _f(6.931471805599453e-1)
    p = p * r + _f(1.0)
    return p * _bits_as_float((np.int32(k) + np.int32(127)) << np.int32(23))


@njit(inline="always", **_OPTIONS)
def _softplus(x):  # type: ignore[no-untyped-def]
    """``max(x, 0) + log1p(e)`` with ``e = exp(-|x|)`` and ``log1p(e) = 2 artanh(e / (2 + e))``."""
    e = _exp(-abs(x))
    s = e / (_f(2.0) + e)
    q = s * s
    p = _f(1.0 / 13.0)
    p = p * q + _f(1.0 / 11.0)
    p = p * q + _f(1.0 / 9.0)
    p = p * q + _f(1.0 / 7.0)
    p = p * q + _f(1.0 / 5.0)
    p = p * q + _f(1.0 / 3.0)
    p = p * q + _f(1.0)
    return max(x, _f(0.0)) + _f(2.0) * s * p


@njit(inline="always", **_OPTIONS)
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return _f(1.0) / (_f(1.0) + _exp(-x))


@njit(**_OPTIONS)
def scan_forward(u, delta, A, B, C, D, z, bias, gated, softplus, reverse, out, states, tasks):  # type: ignore[no-untyped-def]
    """Scan; ``A`` is ``(state, channel)``, ``states`` receives the state before every ``CHUNK``-th position."""
    length = u.shape[1]
    n_states = A.shape[0]
    for task in range(tasks.shape[0]):
        b, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        width = last - first
        a = A[:, first:last].copy()
        skip, offset = D[first:last], bias[first:last]
        h = np.zeros((n_states, width), np.float32)
        step = np.empty(width, np.float32)
        fed = np.empty(width, np.float32)
        y = np.empty(width, np.float32)
        for t in range(length):
            i = length - 1 - t if reverse else t
            # Rows are cut out first: an inner index that is a plain loop variable is what LLVM vectorises.
            u_i, delta_i, out_i = u[b, i, first:last], delta[b, i, first:last], out[b, i, first:last]
            if t % CHUNK == 0:
                states[b, t // CHUNK, :, first:last] = h
            for d in range(width):
                x = delta_i[d] + offset[d]
                step[d] = _softplus(x) if softplus else x
            for d in range(width):
                fed[d] = step[d] * u_i[d]
                y[d] = skip[d] * u_i[d]
            for n in range(n_states):
                b_n = B[b, i, n]
                c_n = C[b, i, n]
                for d in range(width):
                    v = _exp(step[d] * a[n, d]) * h[n, d] + fed[d] * b_n
                    h[n, d] = v
                    y[d] += v * c_n
            if gated:
                z_i = z[b, i, first:last]
                for d in range(width):
                    out_i[d] = y[d] * z_i[d] * _sigmoid(z_i[d])
            else:
                for d in range(width):
                    out_i[d] = y[d]


@njit(**_OPTIONS)
def scan_backward(  # type: ignore[no-untyped-def]
    grad, u, delta, A, B, C, D, z, bias, gated, softplus, reverse, states,
    du, ddelta, dA, dB, dC, dD, dz, dbias, tasks,
):  # fmt: skip
    """Gradients; ``dA``, ``dD``, ``dbias`` by sample, ``dB``, ``dC`` by block, to be summed after."""
    length = u.shape[1]
    n_states = A.shape[0]
    for task in range(tasks.shape[0]):
        b, first, last, block = tasks[task, 0], tasks[task, 1], tasks[task, 2], tasks[task, 3]
        width = last - first
        a = A[:, first:last].copy()
        skip, offset = D[first:last], bias[first:last]
        da = np.zeros((n_states, width), np.float32)
        carry = np.zeros((n_states, width), np.float32)  # dL/dh of the next position, times its decay
        dskip = np.zeros(width, np.float32)
        doffset = np.zeros(width, np.float32)
        h = np.empty((CHUNK + 1, n_states, width), np.float32)
        decay = np.empty((CHUNK, n_states, width), np.float32)
        slope = np.empty((CHUNK, width), np.float32)  # of the softplus
        step = np.empty((CHUNK, width), np.float32)
        fed = np.empty((CHUNK, width), np.float32)
        y = np.empty((CHUNK, width), np.float32)
        dy = np.empty(width, np.float32)
        dstep = np.empty(width, np.float32)
        dfed = np.empty(width, np.float32)
        for chunk in range((length - 1) // CHUNK, -1, -1):
            start = chunk * CHUNK
            size = min(CHUNK, length - start)
            h[0] = states[b, chunk, :, first:last]
            for k in range(size):
                i = length - 1 - start - k if reverse else start + k
                u_i, delta_i = u[b, i, first:last], delta[b, i, first:last]
                step_k, slope_k, fed_k, y_k = step[k], slope[k], fed[k], y[k]
                h_k, next_h, decay_k = h[k], h[k + 1], decay[k]
                if softplus:
                    for d in range(width):
                        x = delta_i[d] + offset[d]
                        step_k[d] = _softplus(x)
                        slope_k[d] = _sigmoid(x)
                else:
                    for d in range(width):
                        step_k[d] = delta_i[d] + offset[d]
                        slope_k[d] = _f(1.0)
                for d in range(width):
                    fed_k[d] = step_k[d] * u_i[d]
                    y_k[d] = skip[d] * u_i[d]
                for n in range(n_states):
                    b_n = B[b, i, n]
                    c_n = C[b, i, n]
                    for d in range(width):
                        e = _exp(step_k[d] * a[n, d])
                        v = e * h_k[n, d] + fed_k[d] * b_n
                        decay_k[n, d] = e
                        next_h[n, d] = v
                        y_k[d] += v * c_n
            for k in range(size - 1, -1, -1):
                i = length - 1 - start - k if reverse else start + k
                u_i, grad_i, du_i, ddelta_i = (
                    u[b, i, first:last], grad[b, i, first:last], du[b, i, first:last], ddelta[b, i, first:last]
                )  # fmt: skip
                step_k, slope_k, fed_k, y_k = step[k], slope[k], fed[k], y[k]
                h_k, next_h, decay_k = h[k], h[k + 1], decay[k]
                if gated:
                    z_i, dz_i = z[b, i, first:last], dz[b, i, first:last]
                    for d in range(width):
                        x = z_i[d]
                        s = _sigmoid(x)
                        dz_i[d] = grad_i[d] * y_k[d] * s * (_f(1.0) + x * (_f(1.0) - s))
                        dy[d] = grad_i[d] * x * s
                else:
                    for d in range(width):
                        dy[d] = grad_i[d]
                for d in range(width):
                    dstep[d] = _f(0.0)
                    dfed[d] = _f(0.0)
                for n in range(n_states):
                    b_n = B[b, i, n]
                    c_n = C[b, i, n]
                    to_b = _f(0.0)
                    to_c = _f(0.0)
                    for d in range(width):
                        to_c += dy[d] * next_h[n, d]
                        g = carry[n, d] + dy[d] * c_n
                        to_b += g * fed_k[d]
                        dfed[d] += g * b_n
                        g *= decay_k[n, d]
                        carry[n, d] = g
                        g *= h_k[n, d]
                        dstep[d] += g * a[n, d]
                        da[n, d] += g * step_k[d]
                    dB[block, b, i, n] = to_b
                    dC[block, b, i, n] = to_c
                for d in range(width):
                    du_i[d] = dfed[d] * step_k[d] + dy[d] * skip[d]
                    dskip[d] += dy[d] * u_i[d]
                    g = (dstep[d] + dfed[d] * u_i[d]) * slope_k[d]
                    ddelta_i[d] = g
                    doffset[d] += g
        dD[b, first:last] = dskip
        dbias[b, first:last] = doffset
        dA[b, :, first:last] = da


@njit(inline="always", **_OPTIONS)
def _convolve(x, weight, offset, b, i, first, last, reverse, y):  # type: ignore[no-untyped-def]
    """The convolution at one position, before its SiLU, into ``y``."""
    taps = weight.shape[0]
    for d in range(last - first):
        y[d] = offset[d]
    for k in range(taps):
        j = i + taps - 1 - k if reverse else i - taps + 1 + k
        if 0 <= j < x.shape[1]:
            x_j, w_k = x[b, j, first:last], weight[k, first:last]
            for d in range(last - first):
                y[d] += w_k[d] * x_j[d]


@njit(**_OPTIONS)
def convolution_forward(x, weight, bias, reverse, out, tasks):  # type: ignore[no-untyped-def]
    """``silu`` of the causal convolution; ``weight`` is ``(tap, channel)``, its last tap the present position."""
    for task in range(tasks.shape[0]):
        b, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        offset = bias[first:last]
        y = np.empty(last - first, np.float32)
        for i in range(x.shape[1]):
            _convolve(x, weight, offset, b, i, first, last, reverse, y)
            out_i = out[b, i, first:last]
            for d in range(last - first):
                out_i[d] = y[d] * _sigmoid(y[d])


@njit(**_OPTIONS)
def convolution_backward(grad, x, weight, bias, reverse, dx, dweight, dbias, tasks):  # type: ignore[no-untyped-def]
    """Gradients; ``dx`` starts as zeros, ``dweight`` ``(sample, tap, channel)`` and ``dbias`` are by sample."""
    taps = weight.shape[0]
    for task in range(tasks.shape[0]):
        b, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        width = last - first
        offset = bias[first:last]
        y = np.empty(width, np.float32)
        dy = np.empty(width, np.float32)
        dw = np.zeros((taps, width), np.float32)
        db = np.zeros(width, np.float32)
        for i in range(x.shape[1]):
            _convolve(x, weight, offset, b, i, first, last, reverse, y)
            grad_i = grad[b, i, first:last]
            for d in range(width):
                s = _sigmoid(y[d])
                dy[d] = grad_i[d] * s * (_f(1.0) + y[d] * (_f(1.0) - s))
                db[d] += dy[d]
            for k in range(taps):
                j = i + taps - 1 - k if reverse else i - taps + 1 + k
                if 0 <= j < x.shape[1]:
                    x_j, dx_j, w_k, dw_k = x[b, j, first:last], dx[b, j, first:last], weight[k, first:last], dw[k]
                    for d in range(width):
                        dw_k[d] += dy[d] * x_j[d]
                        dx_j[d] += dy[d] * w_k[d]
        dbias[b, first:last] = db
        dweight[b, :, first:last] = dw
