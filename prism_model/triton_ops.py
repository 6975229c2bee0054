"""The scan as a Triton kernel with its own backward pass: for CUDA, or for Triton's interpreter on a processor.

One program scans ``BLOCK`` channels of a sample, their states in registers. It reads half precision as it is and
computes in float32. The forward pass keeps the state at every ``CHUNK``-th position; the backward pass recomputes a
chunk's states into a scratch buffer of one chunk a program. No tensor of ``(batch, length, channel, state)`` exists.
Gradients by B and C are sums over channels by atomic additions, whose order a GPU does not fix.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from prism_model.scan import ScanInputs

BLOCK = 16
"""Channels of a program."""
CHUNK = 32
"""Positions between two stored states."""


def scan(inputs: ScanInputs) -> Tensor:
    """The backend ``triton`` of :func:`prism_model.scan.selective_scan`.

    Raises
    ------
    TypeError
        For tensors that are neither on a GPU nor run by Triton's interpreter.
    """
    u, delta, A, B, C, D, z, bias, softplus, reverse = inputs
    if u.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise TypeError(
            f"the triton backend of the scan takes tensors on a GPU, not on {u.device}; use cpu or reference, or set "
            f"TRITON_INTERPRET=1 before the process starts to try the kernel slowly"
        )
    D = torch.zeros_like(A[:, 0]) if D is None else D
    bias = torch.zeros_like(A[:, 0]) if bias is None else bias
    gate = None if z is None else z.contiguous()
    tensors = [t.contiguous() for t in (u, delta, A, B, C, D)]
    out: Tensor = _scan(*tensors, gate, bias.contiguous(), softplus, reverse)[0]
    return out


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    e = tl.exp(-tl.abs(x))
    small = e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - e * 0.25)))  # log(1 + e) would lose its digits
    return tl.maximum(x, 0.0) + tl.where(e < 0.01, small, tl.log(1.0 + e))


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _read(pointer, offsets, mask):  # type: ignore[no-untyped-def]
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, D, z, bias, out, states, length, channels, n_states,
    GATED: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    c, n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STATES)
    in_c, in_n = c < channels, n < n_states
    both, cell = in_c[:, None] & in_n[None, :], c[:, None] * n_states + n[None, :]
    a, skip, offset = _read(A, cell, both), _read(D, c, in_c), _read(bias, c, in_c)
    h = tl.zeros([BLOCK, STATES], dtype=tl.float32)
    for t in range(length):
        if t % CHUNK == 0:
            kept = (b * tl.cdiv(length, CHUNK) + t // CHUNK) * channels * n_states
            tl.store(states + kept + cell, h, mask=both)
        at = b * length + (length - 1 - t if REVERSE else t)
        u_t, step = _read(u, at * channels + c, in_c), _read(delta, at * channels + c, in_c) + offset
        if SOFTPLUS:
            step = _softplus(step)
        b_t, c_t = _read(B, at * n_states + n, in_n), _read(C, at * n_states + n, in_n)
        h = tl.exp(step[:, None] * a) * h + (step * u_t)[:, None] * b_t[None, :]
        y = tl.sum(h * c_t[None, :], 1) + skip * u_t
        if GATED:
            gate = _read(z, at * channels + c, in_c)
            y = y * gate * _sigmoid(gate)
        tl.store(out + at * channels + c, y, mask=in_c)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    grad, u, delta, A, B, C, D, z, bias, states, scratch, du, ddelta, dA, dB, dC, dD, dz, dbias,
    length, channels, n_states,
    GATED: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    c, n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STATES)
    in_c, in_n = c < channels, n < n_states
    both, cell = in_c[:, None] & in_n[None, :], c[:, None] * n_states + n[None, :]
    a, skip, offset = _read(A, cell, both), _read(D, c, in_c), _read(bias, c, in_c)
    own = scratch + (b * tl.num_programs(1) + tl.program_id(1)) * CHUNK * BLOCK * STATES
    tile = tl.arange(0, BLOCK)[:, None] * STATES + n[None, :]
    da = tl.zeros([BLOCK, STATES], dtype=tl.float32)
    carry = tl.zeros([BLOCK, STATES], dtype=tl.float32)  # dL/dh of the next position, times its decay
    dskip, doffset = tl.zeros([BLOCK], dtype=tl.float32), tl.zeros([BLOCK], dtype=tl.float32)
    n_chunks = tl.cdiv(length, CHUNK)
    for back in range(n_chunks):
        start = (n_chunks - 1 - back) * CHUNK
        size = tl.minimum(CHUNK, length - start)
        h = _read(states, (b * n_chunks + n_chunks - 1 - back) * channels * n_states + cell, both)
        for k in range(size):
            tl.store(own + k * BLOCK * STATES + tile, h)
            at = b * length + (length - 1 - start - k if REVERSE else start + k)
            u_t, step = _read(u, at * channels + c, in_c), _read(delta, at * channels + c, in_c) + offset
            if SOFTPLUS:
                step = _softplus(step)
            b_t = _read(B, at * n_states + n, in_n)
            h = tl.exp(step[:, None] * a) * h + (step * u_t)[:, None] * b_t[None, :]
        tl.debug_barrier()  # what is read next was written by this program
        for j in range(size):
            k = size - 1 - j
            at = b * length + (length - 1 - start - k if REVERSE else start + k)
            u_t, raw = _read(u, at * channels + c, in_c), _read(delta, at * channels + c, in_c) + offset
            step = raw
            if SOFTPLUS:
                step = _softplus(raw)
            b_t, c_t = _read(B, at * n_states + n, in_n), _read(C, at * n_states + n, in_n)
            before = tl.load(own + k * BLOCK * STATES + tile)
            decay = tl.exp(step[:, None] * a)
            h = decay * before + (step * u_t)[:, None] * b_t[None, :]
            dy = _read(grad, at * channels + c, in_c)
            if GATED:
                gate = _read(z, at * channels + c, in_c)
                s = _sigmoid(gate)
                y = tl.sum(h * c_t[None, :], 1) + skip * u_t
                tl.store(dz + at * channels + c, dy * y * s * (1.0 + gate * (1.0 - s)), mask=in_c)
                dy = dy * gate * s
            g = carry + dy[:, None] * c_t[None, :]
            tl.atomic_add(dC + at * n_states + n, tl.sum(dy[:, None] * h, 0), mask=in_n)
            tl.atomic_add(dB + at * n_states + n, tl.sum(g * (step * u_t)[:, None], 0), mask=in_n)
            dfed = tl.sum(g * b_t[None, :], 1)
            carry = g * decay
            dstep = tl.sum(carry * before * a, 1) + dfed * u_t
            da += carry * before * step[:, None]
            if SOFTPLUS:
                dstep = dstep * _sigmoid(raw)
            tl.store(du + at * channels + c, dfed * step + dy * skip, mask=in_c)
            tl.store(ddelta + at * channels + c, dstep, mask=in_c)
            dskip += dy * u_t
            doffset += dstep
        tl.debug_barrier()  # before the next chunk overwrites the scratch
    tl.store(dA + b * channels * n_states + cell, da, mask=both)
    tl.store(dD + b * channels + c, dskip, mask=in_c)
    tl.store(dbias + b * channels + c, doffset, mask=in_c)


@torch.library.custom_op("prism_model::triton_scan", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    bias: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The scan, in the dtype of ``u``, and the states at the chunks' starts; all tensors contiguous."""
    out, states = torch.empty_like(u), _states(u, A)
    grid, sizes, options = _launch(u, A, z is not None, softplus, reverse)
    _forward[grid](u, delta, A, B, C, D, u if z is None else z, bias, out, states, *sizes, **options)
    return out, states


@_scan.register_fake
def _(u, delta, A, B, C, D, z, bias, softplus, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(u), _states(u, A)


def _states(u: Tensor, A: Tensor) -> Tensor:
    return u.new_empty(u.shape[0], -(-u.shape[1] // CHUNK), *A.shape, dtype=torch.float32)


def _launch(u: Tensor, A: Tensor, gated: bool, softplus: bool, reverse: bool) -> tuple[tuple, tuple, dict]:
    """Grid, sizes and compile-time options of a kernel."""
    batch, length, channels = u.shape
    options = {"GATED": gated, "SOFTPLUS": softplus, "REVERSE": reverse, "CHUNK": CHUNK, "BLOCK": BLOCK}
    options |= {"STATES": triton.next_power_of_2(A.shape[1]), "num_warps": 1}
    return (batch, triton.cdiv(channels, BLOCK)), (length, channels, A.shape[1]), options


@torch.library.custom_op("prism_model::triton_scan_backward", mutates_args=())
def _scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    bias: Tensor,
    states: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by u, delta, A, B, C, D, z (empty without a gate) and bias."""
    grid, sizes, options = _launch(u, A, z is not None, softplus, reverse)
    scratch = states.new_empty(*grid, CHUNK, BLOCK, options["STATES"])
    du, ddelta = torch.empty_like(u), torch.empty_like(delta)
    dz = u.new_empty(0, 0, 0) if z is None else torch.empty_like(z)
    dA = states.new_empty(len(u), *A.shape)
    dB, dC = (torch.zeros_like(t, dtype=torch.float32) for t in (B, C))
    dD, dbias = (states.new_empty(len(u), len(A)) for _ in "Db")
    inputs = [grad, u, delta, A, B, C, D, u if z is None else z, bias, states, scratch]
    _backward[grid](*inputs, du, ddelta, dA, dB, dC, dD, dz, dbias, *sizes, **options)
    dA, dD, dbias = (t.sum(0).to(like.dtype) for t, like in ((dA, A), (dD, D), (dbias, bias)))
    return du, ddelta, dA, dB.to(B.dtype), dC.to(C.dtype), dD, dz, dbias


@_scan_backward.register_fake
def _(grad, u, delta, A, B, C, D, z, bias, states, softplus, reverse):  # type: ignore[no-untyped-def]
    dz = u.new_empty(0, 0, 0) if z is None else torch.empty_like(z)
    return *(torch.empty_like(t) for t in (u, delta, A, B, C, D)), dz, torch.empty_like(bias)


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, softplus, reverse = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.flags = softplus, reverse
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad, _):  # type: ignore[no-untyped-def]
    *tensors, states = ctx.saved_tensors
    results = list(_scan_backward(grad.contiguous(), *tensors, states, *ctx.flags))
    if tensors[6] is None:
        results[6] = None
    return *results, None, None


_scan.register_autograd(_differentiate, setup_context=_keep)
