"""Compiled loops of the CPU backend: the selective scan and the causal convolution, forward and backward.

The loops work on vectors of ``LANES`` channels, a type that is defined here because no compiler finds this shape by
itself: vectors over channels outside, the state inside, so that what a position accumulates stays in registers and
what a vector of channels carries along the sequence stays in the first-level cache. The exponential is a polynomial
(relative error 2e-7 in float32). Everything is in one file because numba's cache watches that of the compiled
function alone.

Arrays are contiguous float32, ``(batch, length, channel)``, the channels a multiple of ``LANES``; ``tasks`` has rows
``(sample, first channel, last channel, block)``.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
"""Channels of a vector: one register of AVX-512, two of AVX2, four of NEON."""
CHUNK = 16
"""Positions between two stored states of the scan."""

_OPTIONS = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
_FAST = ("fast",)
_f = np.float32


class _VectorType(types.Type):  # type: ignore[misc]
    """``LANES`` float32 in registers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_vector = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _address(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Pointer to the vector that starts at an element of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _FLOATS.as_pointer())


@intrinsic
def _load(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """The vector at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return _vector(array, types.intp), make


@intrinsic
def _store(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
    """Put a vector at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), make


def _spread(builder: Any, value: Any) -> Any:
    """A vector of one value."""
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


@intrinsic
def _splat(typingctx, value):  # type: ignore[no-untyped-def]
    """A vector of one value."""
    return _vector(types.float32), lambda context, builder, signature, args: _spread(builder, args[0])


@intrinsic
def _sum(typingctx, value):  # type: ignore[no-untyped-def]
    """Sum of a vector's entries, by halves."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (value,) = args
        width = LANES
        while width > 1:
            width //= 2
            mask = [i + width if i < width else i for i in range(LANES)]
            other = builder.shuffle_vector(value, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, mask))
            value = builder.fadd(value, other, flags=_FAST)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(_vector), make


def _elementwise(name: str, n_arguments: int) -> Any:
    """An LLVM intrinsic applied to vectors."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * n_arguments)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
        return builder.call(function, args, fastmath=_FAST)

    if n_arguments == 1:
        return intrinsic(lambda typingctx, x: (_vector(_vector), make))
    return intrinsic(lambda typingctx, x, y: (_vector(_vector, _vector), make))


_floor, _abs = _elementwise("floor", 1), _elementwise("fabs", 1)
_min, _max = _elementwise("minnum", 2), _elementwise("maxnum", 2)


@intrinsic
def _power_of_two(typingctx, exponent):  # type: ignore[no-untyped-def]
    """``2 ** k`` for whole k in [-126, 127]: k goes into the exponent's bits."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        whole = builder.add(builder.fptosi(args[0], _INTS), ir.Constant(_INTS, [127] * LANES))
        return builder.bitcast(builder.shl(whole, ir.Constant(_INTS, [23] * LANES)), _FLOATS)

    return _vector(_vector), make


def _define(symbol: Any, instruction: str) -> None:
    """Give vectors an operator; a float32 on either side counts for all lanes."""

    @intrinsic
    def apply(typingctx, x, y):  # type: ignore[no-untyped-def]
        def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
            both = [a if kind == _vector else _spread(builder, a) for a, kind in zip(args, signature.args, strict=True)]
            return getattr(builder, instruction)(*both, flags=_FAST)

        return _vector(x, y), make

    @overload(symbol)
    def typed(x, y):  # type: ignore[no-untyped-def]
        if {x, y} <= {_vector, types.float32} and _vector in (x, y):
            return lambda x, y: apply(x, y)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _instruction)


@njit(inline="always", **_OPTIONS)
def _exp(x):  # type: ignore[no-untyped-def]
    """``2 ** k * 2 ** r`` with ``r`` in [-1/2, 1/2) from its Taylor series; saturates beyond [-87, 88]."""
    t = _min(_max(x, _splat(_f(-87.0))), _splat(_f(88.0))) * _f(1.4426950408889634)
    k = _floor(t + _f(0.5))
    r = t - k
    p = r * _f(1.5403530393381608e-4) + _f(1.3333558146428443e-3)
    p = p * r + _f(9.618129107628477e-3)
    p = p * r + _f(5.550410866482158e-2)
    p = p * r + _f(2.402265069591007e-1)
    p = p * r + _f(6.931471805599453e-1)
    p = p * r + _f(1.0)
    return p * _power_of_two(k)


@njit(inline="always", **_OPTIONS)
def _softplus(x):  # type: ignore[no-untyped-def]
    """``max(x, 0) + log1p(e)`` with ``e = exp(-|x|)`` and ``log1p(e) = 2 artanh(e / (2 + e))``."""
    e = _exp(_f(0.0) - _abs(x))
    s = e / (e + _f(2.0))
    q = s * s
    p = q * _f(1.0 / 13.0) + _f(1.0 / 11.0)
    p = p * q + _f(1.0 / 9.0)
    p = p * q + _f(1.0 / 7.0)
    p = p * q + _f(1.0 / 5.0)
    p = p * q + _f(1.0 / 3.0)
    p = p * q + _f(1.0)
    return _max(x, _splat(_f(0.0))) + s * p * _f(2.0)


@njit(inline="always", **_OPTIONS)
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return _f(1.0) / (_exp(_f(0.0) - x) + _f(1.0))


@njit(**_OPTIONS)
def scan_forward(u, delta, A, B, C, D, z, bias, gated, softplus, reverse, out, states, tasks):  # type: ignore[no-untyped-def]
    """Scan; ``A`` is ``(state, channel)``, ``states`` receives the state before every ``CHUNK``-th position."""
    length, channels = u.shape[1], u.shape[2]
    n_states = A.shape[0]
    a = np.empty(n_states * LANES, np.float32)
    h = np.empty(n_states * LANES, np.float32)
    for task in range(tasks.shape[0]):
        b = tasks[task, 0]
        for c in range(tasks[task, 1], tasks[task, 2], LANES):
            for n in range(n_states):
                _store(a, n * LANES, _load(A, n * channels + c))
                _store(h, n * LANES, _splat(_f(0.0)))
            skip, offset = _load(D, c), _load(bias, c)
            for t in range(length):
                i = length - 1 - t if reverse else t
                at = (b * length + i) * channels + c
                if t % CHUNK == 0:
                    kept = (b * states.shape[1] + t // CHUNK) * n_states * channels + c
                    for n in range(n_states):
                        _store(states, kept + n * channels, _load(h, n * LANES))
                u_i = _load(u, at)
                step = _load(delta, at) + offset
                if softplus:
                    step = _softplus(step)
                fed = step * u_i
                y = skip * u_i
                for n in range(n_states):
                    v = _exp(step * _load(a, n * LANES)) * _load(h, n * LANES) + fed * B[b, i, n]
                    _store(h, n * LANES, v)
                    y = y + v * C[b, i, n]
                if gated:
                    x = _load(z, at)
                    y = y * x * _sigmoid(x)
                _store(out, at, y)


@njit(**_OPTIONS)
def scan_backward(  # type: ignore[no-untyped-def]
    grad, u, delta, A, B, C, D, z, bias, gated, softplus, reverse, states,
    du, ddelta, dA, dB, dC, dD, dz, dbias, tasks,
):  # fmt: skip
    """Gradients; ``dA``, ``dD``, ``dbias`` by sample, ``dB``, ``dC`` by block, to be summed after.

    Chunk by chunk from the end, and in each for one vector of channels after the other: first the states of the chunk
    again, then their gradients. What the channels have in common (``dB``, ``dC``) is summed over vectors before it is
    summed over lanes.
    """
    length, channels = u.shape[1], u.shape[2]
    n_states = A.shape[0]
    row = n_states * LANES
    h = np.empty((CHUNK + 1) * row, np.float32)
    decay = np.empty(CHUNK * row, np.float32)
    to_b = np.empty(CHUNK * row, np.float32)
    to_c = np.empty(CHUNK * row, np.float32)
    step_at = np.empty(CHUNK * LANES, np.float32)
    slope_at = np.empty(CHUNK * LANES, np.float32)  # of the softplus
    y_at = np.empty(CHUNK * LANES, np.float32)
    for task in range(tasks.shape[0]):
        b, first, last, block = tasks[task, 0], tasks[task, 1], tasks[task, 2], tasks[task, 3]
        n_vectors = (last - first) // LANES
        a = np.empty(n_vectors * row, np.float32)
        da = np.zeros(n_vectors * row, np.float32)
        carry = np.zeros(n_vectors * row, np.float32)  # dL/dh of the next position, times its decay
        for q in range(n_vectors):
            for n in range(n_states):
                _store(a, q * row + n * LANES, _load(A, n * channels + first + q * LANES))
        dD[b, first:last] = _f(0.0)
        dbias[b, first:last] = _f(0.0)
        for chunk in range((length - 1) // CHUNK, -1, -1):
            start = chunk * CHUNK
            size = min(CHUNK, length - start)
            to_b[:] = _f(0.0)
            to_c[:] = _f(0.0)
            for q in range(n_vectors):
                c = first + q * LANES
                own = q * row
                skip, offset = _load(D, c), _load(bias, c)
                kept = (b * states.shape[1] + chunk) * n_states * channels + c
                for n in range(n_states):
                    _store(h, n * LANES, _load(states, kept + n * channels))
                for k in range(size):
                    i = length - 1 - start - k if reverse else start + k
                    at = (b * length + i) * channels + c
                    x = _load(delta, at) + offset
                    step, slope = x, _splat(_f(1.0))
                    if softplus:
                        step, slope = _softplus(x), _sigmoid(x)
                    u_i = _load(u, at)
                    fed = step * u_i
                    y = skip * u_i
                    for n in range(n_states):
                        here = k * row + n * LANES
                        e = _exp(step * _load(a, own + n * LANES))
                        v = e * _load(h, here) + fed * B[b, i, n]
                        _store(decay, here, e)
                        _store(h, here + row, v)
                        y = y + v * C[b, i, n]
                    _store(step_at, k * LANES, step)
                    _store(slope_at, k * LANES, slope)
                    _store(y_at, k * LANES, y)
                dskip, doffset = _load(dD, b * channels + c), _load(dbias, b * channels + c)
                for k in range(size - 1, -1, -1):
                    i = length - 1 - start - k if reverse else start + k
                    at = (b * length + i) * channels + c
                    dy = _load(grad, at)
                    if gated:
                        x = _load(z, at)
                        s = _sigmoid(x)
                        _store(dz, at, dy * _load(y_at, k * LANES) * s * (x * (_f(1.0) - s) + _f(1.0)))
                        dy = dy * x * s
                    u_i, step = _load(u, at), _load(step_at, k * LANES)
                    fed = step * u_i
                    dstep, dfed = _splat(_f(0.0)), _splat(_f(0.0))
                    for n in range(n_states):
                        here, mine = k * row + n * LANES, own + n * LANES
                        _store(to_c, here, _load(to_c, here) + dy * _load(h, here + row))
                        g = _load(carry, mine) + dy * C[b, i, n]
                        _store(to_b, here, _load(to_b, here) + g * fed)
                        dfed = dfed + g * B[b, i, n]
                        g = g * _load(decay, here)
                        _store(carry, mine, g)
                        g = g * _load(h, here)
                        dstep = dstep + g * _load(a, mine)
                        _store(da, mine, _load(da, mine) + g * step)
                    _store(du, at, dfed * step + dy * skip)
                    dskip = dskip + dy * u_i
                    g = (dstep + dfed * u_i) * _load(slope_at, k * LANES)
                    _store(ddelta, at, g)
                    doffset = doffset + g
                _store(dD, b * channels + c, dskip)
                _store(dbias, b * channels + c, doffset)
            for k in range(size):
                i = length - 1 - start - k if reverse else start + k
                for n in range(n_states):
                    dB[block, b, i, n] = _sum(_load(to_b, k * row + n * LANES))
                    dC[block, b, i, n] = _sum(_load(to_c, k * row + n * LANES))
        for q in range(n_vectors):
            for n in range(n_states):
                _store(dA, (b * n_states + n) * channels + first + q * LANES, _load(da, q * row + n * LANES))


@njit(inline="always", **_OPTIONS)
def _convolve(x, weight, offset, b, i, c, reverse):  # type: ignore[no-untyped-def]
    """The convolution of a vector of channels at one position, before its SiLU."""
    length, channels, taps = x.shape[1], x.shape[2], weight.shape[0]
    y = offset
    for k in range(taps):
        j = i + taps - 1 - k if reverse else i - taps + 1 + k
        if 0 <= j < length:
            y = y + _load(weight, k * channels + c) * _load(x, (b * length + j) * channels + c)
    return y


@njit(**_OPTIONS)
def convolution_forward(x, weight, bias, reverse, out, tasks):  # type: ignore[no-untyped-def]
    """``silu`` of the causal convolution; ``weight`` is ``(tap, channel)``, its last tap the present position."""
    length, channels = x.shape[1], x.shape[2]
    for task in range(tasks.shape[0]):
        b = tasks[task, 0]
        for i in range(length):
            for c in range(tasks[task, 1], tasks[task, 2], LANES):
                y = _convolve(x, weight, _load(bias, c), b, i, c, reverse)
                _store(out, (b * length + i) * channels + c, y * _sigmoid(y))


@njit(**_OPTIONS)
def convolution_backward(grad, x, weight, bias, reverse, dx, dweight, dbias, tasks):  # type: ignore[no-untyped-def]
    """Gradients, added to zeros; ``dweight`` ``(sample, tap, channel)`` and ``dbias`` are by sample."""
    length, channels, taps = x.shape[1], x.shape[2], weight.shape[0]
    for task in range(tasks.shape[0]):
        b = tasks[task, 0]
        for i in range(length):
            for c in range(tasks[task, 1], tasks[task, 2], LANES):
                y = _convolve(x, weight, _load(bias, c), b, i, c, reverse)
                s = _sigmoid(y)
                dy = _load(grad, (b * length + i) * channels + c) * s * (y * (_f(1.0) - s) + _f(1.0))
                _store(dbias, b * channels + c, _load(dbias, b * channels + c) + dy)
                for k in range(taps):
                    j = i + taps - 1 - k if reverse else i - taps + 1 + k
                    if 0 <= j < length:
                        at, own = (b * length + j) * channels + c, (b * taps + k) * channels + c
                        _store(dweight, own, _load(dweight, own) + dy * _load(x, at))
                        _store(dx, at, _load(dx, at) + dy * _load(weight, k * channels + c))
