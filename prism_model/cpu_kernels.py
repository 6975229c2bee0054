"""Compiled loops of the CPU backend: scan, gate, causal convolution and normalisation, forward and backward.

The loops work on vectors of channels (:mod:`prism_model.cpu_vectors`). A scan goes chunk by chunk; within one, vectors
of channels outside, entries of the state inside them, positions innermost: what an entry carries along the sequence
stays in registers, and what the entries share of a chunk in the first-level cache.

Arrays are contiguous float32, ``(batch, length, channel)``, the channels a multiple of ``LANES``; an array that comes
with a column (``z, z_at``) is read from that column of its rows on. ``tasks`` has rows
``(sample, first channel, last channel, block)``. ``add`` adds to the arrays of results instead of overwriting them.
"""

from __future__ import annotations

import numpy as np

from genostore.compiled import njit
from prism_model.cpu_vectors import (
    FOLD,
    LANES,
    LN2,
    LOG2E,
    OPTIONS,
    add_folded,
    buffer,
    exp,
    exp2,
    f32,
    load,
    load_spread,
    prefetch,
    sigmoid,
    softplus_of,
    splat,
    store,
    sums_of,
    total_of,
)

CHUNK = 32
"""Positions between two stored states of the scan."""


@njit(inline="always", **OPTIONS)
def _raw_step(delta, mixed, weight, offset, i, c):  # type: ignore[no-untyped-def]
    """The step size of a vector of channels before its softplus: given, or projected from the first columns."""
    rank, channels = weight.shape
    x = offset
    if rank == 0:
        x = x + load(delta, i * channels + c)
    for r in range(rank):
        x = x + load(weight, r * channels + c) * load_spread(mixed, i * mixed.shape[2] + r)
    return x


@njit(inline="always", **OPTIONS)
def _chunk(chunk, b, length, reverse):  # type: ignore[no-untyped-def]
    """Of a sample's chunk the row of its first position, the way to the next one's row, and the number of rows."""
    start = chunk * CHUNK
    size = min(CHUNK, length - start)
    if reverse:
        return b * length + length - 1 - start, -1, size
    return b * length + start, 1, size


@njit(inline="always", **OPTIONS)
def _ask_for_rows(x, y, chunk, c, n, n_states):  # type: ignore[no-untyped-def]
    """Ask memory for a vector of the next chunk's rows: beside each entry of the state, for some of them."""
    row, way, size = chunk
    for k in range(n, size, n_states):
        prefetch(x, (row + k * way) * x.shape[2] + c)
        prefetch(y, (row + k * way) * y.shape[2] + c)


@njit(**OPTIONS)
def _enter(  # type: ignore[no-untyped-def]
    u, delta, mixed, weight, bias, softplus, row, way, size, first, step_at, slope_at, fed_at,
):  # fmt: skip
    """What a chunk's states are made of: step sizes (and their slope, where there is room for it) and input."""
    channels, n_vectors = u.shape[2], step_at.size // (CHUNK * LANES)
    for k in range(size):
        i = row + k * way
        for q in range(n_vectors):
            c, here = first + q * LANES, (q * CHUNK + k) * LANES
            raw = _raw_step(delta, mixed, weight, load(bias, c), i, c)
            step, slope = raw, splat(f32(1.0))
            if softplus:
                step = softplus_of(raw)
                slope = exp(raw - step)  # the sigmoid
            store(step_at, here, step)
            store(fed_at, here, step * load(u, i * channels + c))
            if slope_at.size > 0:
                store(slope_at, here, slope)


@njit(**OPTIONS)
def _along(h, a, step_at, fed_at, y_at, here, mixed, at, n_states, way, size):  # type: ignore[no-untyped-def]
    """One entry of the state along a chunk, from ``h`` on; gives the state after it."""
    for k in range(size):
        own = here + k * LANES
        h = exp2(load(step_at, own) * a) * h + load(fed_at, own) * load_spread(mixed, at)
        store(y_at, own, load(y_at, own) + h * load_spread(mixed, at + n_states))
        at += way
    return h


@njit(**OPTIONS)
def scan_forward(  # type: ignore[no-untyped-def]
    u, delta, mixed, weight, A, D, bias, softplus, reverse, add, out, states, tasks,
):  # fmt: skip
    """Scan; ``states`` receives the state before every ``CHUNK``-th position, unless it has no room: for one vector of
    channels after the other all its entries, so that they are written and read in one go.

    ``mixed`` holds in its columns what makes the step size (as many as ``weight`` has rows; none: ``delta`` is given),
    then B, then C, then any others. ``A`` is ``(state, channel)``, ``weight`` ``(rank, channel)``.

    Arrays of rows are read and written row by row, as memory likes it. In between, a chunk's rows lie in a buffer
    (``_at``), a vector of channels after the other, and each entry of the state passes along them by itself.
    """
    length, channels = u.shape[1], u.shape[2]
    n_states, rank, width = A.shape[0], weight.shape[0], mixed.shape[2]
    n_chunks, kept_chunks = (length + CHUNK - 1) // CHUNK, states.shape[1]
    for task in range(tasks.shape[0]):
        b, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        room = (last - first) * CHUNK
        step_at, fed_at, y_at = buffer(room), buffer(room), buffer(room)
        h = buffer((last - first) * n_states)
        h[:] = f32(0.0)
        for chunk in range(n_chunks):
            row, way, size = _chunk(chunk, b, length, reverse)
            _enter(u, delta, mixed, weight, bias, softplus, row, way, size, first, step_at, h[:0], fed_at)
            y_at[:] = f32(0.0)
            for c in range(first, last, LANES):
                here = (c - first) * CHUNK
                for n in range(n_states):
                    own = (c - first) * n_states + n * LANES
                    v, a = load(h, own), load(A, n * channels + c) * LOG2E
                    if kept_chunks > 0:
                        kept = ((b * kept_chunks + chunk) * channels + first) * n_states
                        store(states, kept + own, v)
                    if chunk + 1 < n_chunks:
                        _ask_for_rows(u, out, _chunk(chunk + 1, b, length, reverse), c, n, n_states)
                    at = row * width + rank + n
                    store(h, own, _along(v, a, step_at, fed_at, y_at, here, mixed, at, n_states, way * width, size))
            for k in range(size):
                i = row + k * way
                for c in range(first, last, LANES):
                    y = load(y_at, (c - first) * CHUNK + k * LANES) + load(D, c) * load(u, i * channels + c)
                    if add:
                        y = y + load(out, i * channels + c)
                    store(out, i * channels + c, y)


@njit(**OPTIONS)
def _again(h, a, step_at, fed_at, here, mixed, at, way, size, decay_at, h_at):  # type: ignore[no-untyped-def]
    """One entry of the state along a chunk once more; ``decay_at`` and ``h_at`` keep what it was."""
    for k in range(size):
        own = here + k * LANES
        decay = exp2(load(step_at, own) * a)
        store(decay_at, k * LANES, decay)
        store(h_at, k * LANES, h)
        h = decay * h + load(fed_at, own) * load_spread(mixed, at)
        at += way
    store(h_at, size * LANES, h)


@njit(**OPTIONS)
def _back(  # type: ignore[no-untyped-def]
    g, a, step_at, fed_at, dy_at, dstep_at, dfed_at, here, mixed, at, n_states, way, size,
    decay_at, h_at, shared, to_b, to_c,
):  # fmt: skip
    """Back along the chunk: from the gradient by the state after it to those by the state before it and by A."""
    da = splat(f32(0.0))
    h = load(h_at, size * LANES)
    at += (size - 1) * way
    for k in range(size - 1, -1, -1):
        own = here + k * LANES
        dy = load(dy_at, own)
        add_folded(shared, to_c + k * FOLD, dy * h)
        g = g + dy * load_spread(mixed, at + n_states)
        add_folded(shared, to_b + k * FOLD, g * load(fed_at, own))
        store(dfed_at, own, load(dfed_at, own) + g * load_spread(mixed, at))
        g = g * load(decay_at, k * LANES)
        h = load(h_at, k * LANES)
        dx = g * h
        store(dstep_at, own, load(dstep_at, own) + dx * a)
        da = da + dx * load(step_at, own)
        at -= way
    return g, da


@njit(**OPTIONS)
def scan_backward(  # type: ignore[no-untyped-def]
    grad, u, delta, mixed, weight, A, D, bias, softplus, reverse, states,
    du, ddelta, dmixed, dweight, dA, dD, dbias, tasks,
):  # fmt: skip
    """Gradients; ``dweight``, ``dA``, ``dD``, ``dbias`` by sample, ``dmixed`` by block, to be summed after.

    Chunk by chunk from the end; each entry of the state passes along the chunk once more, then back. What the channels
    have in common (``dmixed``) is summed over vectors before it is summed over lanes.
    """
    length, channels = u.shape[1], u.shape[2]
    n_states, rank, width = A.shape[0], weight.shape[0], mixed.shape[2]
    n_chunks = states.shape[1]
    h_at, decay_at = buffer((CHUNK + 1) * LANES), buffer(CHUNK * LANES)  # of one entry of the state
    n_columns = rank + 2 * n_states
    shared, sums = buffer(n_columns * CHUNK * FOLD), buffer(n_columns * CHUNK)  # gradients of what channels share
    for task in range(tasks.shape[0]):
        b, first, last, block = tasks[task, 0], tasks[task, 1], tasks[task, 2], tasks[task, 3]
        room = (last - first) * CHUNK
        step_at, slope_at, fed_at = buffer(room), buffer(room), buffer(room)
        dy_at, dstep_at, dfed_at = buffer(room), buffer(room), buffer(room)
        carry = buffer((last - first) * n_states)  # dL/dh of the next position, times its decay
        carry[:] = f32(0.0)
        dA[b, :, first:last] = f32(0.0)
        dweight[b, :, first:last] = f32(0.0)
        dD[b, first:last] = f32(0.0)
        dbias[b, first:last] = f32(0.0)
        for chunk in range(n_chunks - 1, -1, -1):
            row, way, size = _chunk(chunk, b, length, reverse)
            _enter(u, delta, mixed, weight, bias, softplus, row, way, size, first, step_at, slope_at, fed_at)
            for k in range(size):
                for c in range(first, last, LANES):
                    store(dy_at, (c - first) * CHUNK + k * LANES, load(grad, (row + k * way) * channels + c))
            shared[:] = f32(0.0)
            dstep_at[:] = f32(0.0)
            dfed_at[:] = f32(0.0)
            for c in range(first, last, LANES):
                here = (c - first) * CHUNK
                for n in range(n_states):
                    own, to = (c - first) * n_states + n * LANES, (b * n_states + n) * channels + c
                    kept = ((b * n_chunks + chunk) * channels + first) * n_states + own
                    if chunk > 0:
                        prefetch(states, kept - n_states * channels)
                        coming = _chunk(chunk - 1, b, length, reverse)
                        _ask_for_rows(u, grad, coming, c, n, n_states)
                        _ask_for_rows(du, du, coming, c, n, n_states)
                    a, h = load(A, n * channels + c) * LOG2E, load(states, kept)
                    at = row * width + rank + n
                    _again(h, a, step_at, fed_at, here, mixed, at, way * width, size, decay_at, h_at)
                    g, da = _back(
                        load(carry, own), a, step_at, fed_at, dy_at, dstep_at, dfed_at, here, mixed, at,
                        n_states, way * width, size, decay_at, h_at, shared, (rank + n) * CHUNK * FOLD,
                        (rank + n_states + n) * CHUNK * FOLD,
                    )  # fmt: skip
                    store(carry, own, g)
                    store(dA, to, load(dA, to) + da)
            _leave(
                u, mixed, weight, D, row, way, size, b, first, last, step_at, slope_at, dy_at, dstep_at, dfed_at,
                shared, sums, du, ddelta, dmixed[block], dweight, dD, dbias,
            )  # fmt: skip


@njit(**OPTIONS)
def _leave(  # type: ignore[no-untyped-def]
    u, mixed, weight, D, row, way, size, b, first, last, step_at, slope_at, dy_at, dstep_at, dfed_at,
    shared, sums, du, ddelta, dmixed, dweight, dD, dbias,
):  # fmt: skip
    """What is left of a chunk's gradients once those by its states are known. ``slope_at`` is overwritten."""
    length, channels = u.shape[1], u.shape[2]
    rank = weight.shape[0]
    for k in range(size):
        i = row + k * way
        for c in range(first, last, LANES):
            here = (c - first) * CHUNK + k * LANES
            u_i, dy, dfed = load(u, i * channels + c), load(dy_at, here), load(dfed_at, here)
            store(du, i * channels + c, dfed * load(step_at, here) + dy * load(D, c))
            store(dD, b * channels + c, load(dD, b * channels + c) + dy * u_i)
            g = (load(dstep_at, here) * LN2 + dfed * u_i) * load(slope_at, here)
            store(slope_at, here, g)  # the gradient by the raw step
            if rank == 0:
                store(ddelta, i * channels + c, g)
    for r in range(rank):
        for k in range(0, CHUNK, 2):  # two at once load the weight once; those past the chunk's size are not used
            one, other = splat(f32(0.0)), splat(f32(0.0))
            for c in range(first, last, LANES):
                here, w = (c - first) * CHUNK + k * LANES, load(weight, r * channels + c)
                one = one + load(slope_at, here) * w
                other = other + load(slope_at, here + LANES) * w
            add_folded(shared, (r * CHUNK + k) * FOLD, one)
            add_folded(shared, (r * CHUNK + k + 1) * FOLD, other)
    n_columns = shared.size // (CHUNK * FOLD)
    for j in range(n_columns):
        for k in range(0, CHUNK, LANES):
            store(sums, j * CHUNK + k, sums_of(shared, (j * CHUNK + k) * FOLD))
    for k in range(size):
        to = dmixed[b, row - b * length + k * way]
        for j in range(n_columns):
            to[j] = sums[j * CHUNK + k]
        to[n_columns:] = f32(0.0)  # columns of padding
    for c in range(first, last, LANES):
        here = (c - first) * CHUNK
        total = load(dbias, b * channels + c)
        for k in range(size):
            total = total + load(slope_at, here + k * LANES)
        store(dbias, b * channels + c, total)
        for r in range(rank):
            total = load(dweight, (b * rank + r) * channels + c)
            for k in range(size):
                x = load_spread(mixed, (row + k * way) * mixed.shape[2] + r)
                total = total + load(slope_at, here + k * LANES) * x
            store(dweight, (b * rank + r) * channels + c, total)


@njit(**OPTIONS)
def gate_forward(y, z, z_at, out, rows):  # type: ignore[no-untyped-def]
    """``y * silu(z)`` of the rows ``(first, last, block)`` of matrices."""
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            for c in range(0, y.shape[1], LANES):
                x = load(z, i * z.shape[1] + z_at + c)
                store(out, i * y.shape[1] + c, load(y, i * y.shape[1] + c) * x * sigmoid(x))


@njit(**OPTIONS)
def gate_backward(grad, y, z, z_at, dy, dz, out, rows):  # type: ignore[no-untyped-def]
    """Gradients; ``dz`` has the layout of ``z``. ``out`` receives the gate's result once more, if it has rows."""
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            for c in range(0, y.shape[1], LANES):
                here, there = i * y.shape[1] + c, i * z.shape[1] + z_at + c
                g, x, v = load(grad, here), load(z, there), load(y, here)
                s = sigmoid(x)
                store(dy, here, g * x * s)
                store(dz, there, g * v * s * (x * (f32(1.0) - s) + f32(1.0)))
                if out.shape[0] > 0:
                    store(out, here, v * x * s)


@njit(inline="always", **OPTIONS)
def _convolve(x, weight, offset, b, i, c, reverse):  # type: ignore[no-untyped-def]
    """The convolution of a vector of channels at one position, before its SiLU."""
    length, columns, taps, channels = x.shape[1], x.shape[2], weight.shape[0], weight.shape[1]
    y = offset
    for k in range(taps):
        j = i + taps - 1 - k if reverse else i - taps + 1 + k
        if 0 <= j < length:
            y = y + load(weight, k * channels + c) * load(x, (b * length + j) * columns + c)
    return y


@njit(**OPTIONS)
def convolution_forward(x, weight, bias, reverse, out, tasks):  # type: ignore[no-untyped-def]
    """``silu`` of the causal convolution of the first columns of ``x``.

    ``weight`` is ``(tap, channel)``, its last tap the present position.
    """
    length, channels = x.shape[1], weight.shape[1]
    for task in range(tasks.shape[0]):
        b = tasks[task, 0]
        for i in range(length):
            for c in range(tasks[task, 1], tasks[task, 2], LANES):
                y = _convolve(x, weight, load(bias, c), b, i, c, reverse)
                store(out, (b * length + i) * channels + c, y * sigmoid(y))


@njit(**OPTIONS)
def convolution_backward(grad, x, weight, bias, reverse, add, dx, dweight, dbias, tasks):  # type: ignore[no-untyped-def]
    """Gradients; ``dweight`` ``(sample, tap, channel)`` and ``dbias`` are by sample; ``add`` concerns ``dx`` alone.

    Against the direction of the convolution, chunk by chunk: the gradients before the SiLU, after those of the last
    ``taps - 1`` positions of the chunk before, are what the gradients of the input and of the taps are made of.
    """
    length, columns = x.shape[1], x.shape[2]
    taps, channels = weight.shape
    before = (taps - 1) * LANES
    dy_at = np.empty(before + CHUNK * LANES, np.float32)
    for task in range(tasks.shape[0]):
        b, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        carried = np.zeros(before * ((last - first) // LANES), np.float32)
        for c in range(first, last, LANES):
            store(dbias, b * channels + c, splat(f32(0.0)))
            for k in range(taps):
                store(dweight, (b * taps + k) * channels + c, splat(f32(0.0)))
        for start in range(0, length, CHUNK):
            size = min(CHUNK, length - start)
            for c in range(first, last, LANES):
                own = before * ((c - first) // LANES)
                for j in range(0, before, LANES):
                    store(dy_at, j, load(carried, own + j))
                offset, total = load(bias, c), load(dbias, b * channels + c)
                for t in range(size):
                    i = start + t if reverse else length - 1 - start - t
                    y = _convolve(x, weight, offset, b, i, c, reverse)
                    s = sigmoid(y)
                    dy = load(grad, (b * length + i) * channels + c) * s * (y * (f32(1.0) - s) + f32(1.0))
                    store(dy_at, before + t * LANES, dy)
                    total = total + dy
                    g = splat(f32(0.0))
                    at = (b * length + i) * columns + c
                    if add:
                        g = load(dx, at)
                    for k in range(taps):
                        g = g + load(weight, k * channels + c) * load(dy_at, (t + k) * LANES)
                    store(dx, at, g)
                store(dbias, b * channels + c, total)
                for k in range(taps):
                    total = load(dweight, (b * taps + k) * channels + c)
                    for t in range(size):
                        i = start + t if reverse else length - 1 - start - t
                        j = i + taps - 1 - k if reverse else i - taps + 1 + k
                        if 0 <= j < length:
                            total = total + load(dy_at, before + t * LANES) * load(x, (b * length + j) * columns + c)
                    store(dweight, (b * taps + k) * channels + c, total)
                for j in range(0, before, LANES):
                    store(carried, own + j, load(dy_at, size * LANES + j))


@njit(inline="always", **OPTIONS)
def _inverse_rms(x, i, eps):  # type: ignore[no-untyped-def]
    total = splat(f32(0.0))
    for c in range(0, x.shape[1], LANES):
        v = load(x, i * x.shape[1] + c)
        total = total + v * v
    return f32(1.0) / np.sqrt(total_of(total) / f32(x.shape[1]) + f32(eps))


@njit(**OPTIONS)
def rms_norm_forward(x, residual, weight, eps, stream, out, rows):  # type: ignore[no-untyped-def]
    """``s * weight / sqrt(mean(s ** 2) + eps)`` of the rows ``(first, last, block)`` of a matrix.

    ``s`` is ``x + residual``, which ``stream`` receives; it is ``x`` where ``residual`` has no rows.
    """
    width, add = x.shape[1], residual.shape[0] > 0
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            if add:
                for c in range(0, width, LANES):
                    store(stream, i * width + c, load(x, i * width + c) + load(residual, i * width + c))
            normed = stream if add else x
            inverse = _inverse_rms(normed, i, eps)
            for c in range(0, width, LANES):
                store(out, i * width + c, load(normed, i * width + c) * inverse * load(weight, c))


@njit(**OPTIONS)
def rms_norm_backward(grad, stream_grad, x, weight, eps, dx, dweight, rows):  # type: ignore[no-untyped-def]
    """Gradients by what was normalised, ``x``, and by weight; ``dweight`` by block, to be summed after.

    ``stream_grad``, if it has rows, is what reached ``x`` past the normalisation.
    """
    width = x.shape[1]
    for task in range(rows.shape[0]):
        own = rows[task, 2] * width
        for c in range(0, width, LANES):
            store(dweight, own + c, splat(f32(0.0)))
        for i in range(rows[task, 0], rows[task, 1]):
            inverse = _inverse_rms(x, i, eps)
            along = splat(f32(0.0))
            for c in range(0, width, LANES):
                along = along + load(grad, i * width + c) * load(weight, c) * load(x, i * width + c)
            shrink = total_of(along) * inverse * inverse / f32(width)
            for c in range(0, width, LANES):
                v, g = load(x, i * width + c), load(grad, i * width + c) * inverse
                store(dweight, own + c, load(dweight, own + c) + g * v)
                g = g * load(weight, c) - v * (shrink * inverse)
                if stream_grad.shape[0] > 0:
                    g = g + load(stream_grad, i * width + c)
                store(dx, i * width + c, g)
