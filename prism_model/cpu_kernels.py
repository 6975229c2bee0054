"""Compiled loops of the CPU backend: scan, causal convolution and normalisation, forward and backward.

The loops work on vectors of ``LANES`` channels, a type that is defined here because no compiler finds this shape by
itself: vectors over channels outside, the state inside, so that what a position accumulates stays in registers and
what a vector of channels carries along the sequence stays in the first-level cache. The exponential is a polynomial
(relative error 1e-7). Everything is in one file because numba's cache watches that of the compiled
function alone.

Arrays are contiguous float32, ``(batch, length, channel)``, the channels a multiple of ``LANES``; an array that comes
with a column (``z, z_at``) is read from that column of its rows on. ``tasks`` has rows
``(sample, first channel, last channel, block)``. ``add`` adds to the arrays of results instead of overwriting them.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 32
"""Channels of a vector: two registers of AVX-512, four of AVX2. Fewer reload the constants more often."""
HALF = LANES // 2
CHUNK = 32
"""Positions between two stored states of the scan."""

_OPTIONS = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
_FAST = ("fast",)
_f = np.float32
_LOG2E, _LN2 = _f(1.4426950408889634), _f(0.6931471805599453)


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


@intrinsic
def _load_spread(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """A vector of the one number at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _spread(builder, builder.load(builder.gep(data, [args[1]])))

    return _vector(array, types.intp), make


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


_abs = _elementwise("fabs", 1)
_min, _max = _elementwise("minnum", 2), _elementwise("maxnum", 2)

_POLYNOMIAL = (
    0.0013264720366333027,
    0.0096715130223346026,
    0.05550733777650721,
    0.2402224207698363,
    0.69314697755782029,
    1.0,
)
"""``2 ** r`` for r in [-1/2, 1/2], highest power first: the best of degree 5 that is exactly 1 at 0."""


@intrinsic
def _exp2(typingctx, exponent):  # type: ignore[no-untyped-def]
    """``2 ** x`` for x in [-126, 127], to a relative 1e-7: the whole part of x is added to the bits of the exponent."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (x,) = args
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        k = builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{LANES}f32"), [x])
        r = builder.fsub(x, k, flags=_FAST)
        p = ir.Constant(_FLOATS, [_POLYNOMIAL[0]] * LANES)
        for coefficient in _POLYNOMIAL[1:]:
            p = builder.fadd(builder.fmul(p, r, flags=_FAST), ir.Constant(_FLOATS, [coefficient] * LANES), flags=_FAST)
        k = builder.shl(builder.fptosi(k, _INTS), ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(p, _INTS), k), _FLOATS)

    return _vector(_vector), make


@intrinsic
def _add_folded(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
    """Fold a vector in two and add it to the ``HALF`` numbers at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        half = ir.VectorType(ir.FloatType(), HALF)
        pointer = builder.bitcast(_address(context, builder, signature.args[0], *args[:2]), half.as_pointer())
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        halves = [
            builder.shuffle_vector(
                args[2], undefined, ir.Constant(ir.VectorType(ir.IntType(32), HALF), list(range(start, start + HALF)))
            )
            for start in (0, HALF)
        ]
        total = builder.fadd(builder.fadd(*halves, flags=_FAST), builder.load(pointer, align=4), flags=_FAST)
        builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), make


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
    return _exp2(_min(_max(x * _LOG2E, _splat(_f(-126.0))), _splat(_f(127.0))))


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


@njit(inline="always", **_OPTIONS)
def _raw_step(delta, mixed, weight, offset, b, i, c):  # type: ignore[no-untyped-def]
    """The step size of a vector of channels before its softplus: given, or projected from the first columns."""
    rank, channels = weight.shape
    row = (b * mixed.shape[1] + i) * mixed.shape[2]
    x = offset
    if rank == 0:
        x = x + _load(delta, (b * delta.shape[1] + i) * channels + c)
    for r in range(rank):
        x = x + _load(weight, r * channels + c) * _load_spread(mixed, row + r)
    return x


@njit(**_OPTIONS)
def scan_forward(  # type: ignore[no-untyped-def]
    u, delta, mixed, weight, A, D, z, z_at, bias, gated, softplus, reverse, add, out, states, tasks,
):  # fmt: skip
    """Scan; ``states`` receives the state before every ``CHUNK``-th position, unless it has no room.

    ``mixed`` holds in its columns what makes the step size (as many as ``weight`` has rows; none: ``delta`` is given),
    then B, then C. ``A`` is ``(state, channel)``, ``weight`` ``(rank, channel)``.
    """
    length, channels = u.shape[1], u.shape[2]
    n_states, rank = A.shape[0], weight.shape[0]
    row = n_states * LANES
    width = rank + 2 * n_states
    n_chunks, kept_chunks = (length + CHUNK - 1) // CHUNK, states.shape[1]
    for task in range(tasks.shape[0]):
        b, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        n_vectors = (last - first) // LANES
        a = np.empty(n_vectors * row, np.float32)
        h = np.zeros(n_vectors * row, np.float32)
        for q in range(n_vectors):
            for n in range(n_states):
                _store(a, q * row + n * LANES, _load(A, n * channels + first + q * LANES) * _LOG2E)
        for chunk in range(n_chunks):
            start = chunk * CHUNK
            size = min(CHUNK, length - start)
            for q in range(n_vectors):
                c, own = first + q * LANES, q * row
                if kept_chunks > 0:
                    kept = (b * kept_chunks + chunk) * n_states * channels + c
                    for n in range(n_states):
                        _store(states, kept + n * channels, _load(h, own + n * LANES))
                skip, offset = _load(D, c), _load(bias, c)
                for k in range(size):
                    i = length - 1 - start - k if reverse else start + k
                    at = (b * length + i) * channels + c
                    u_i = _load(u, at)
                    step = _raw_step(delta, mixed, weight, offset, b, i, c)
                    if softplus:
                        step = _softplus(step)
                    fed = step * u_i
                    y = skip * u_i
                    to_b = (b * length + i) * width + rank
                    to_c = to_b + n_states
                    for n in range(n_states):
                        here = own + n * LANES
                        x = _min(_max(step * _load(a, here), _splat(_f(-126.0))), _splat(_f(127.0)))
                        v = _exp2(x) * _load(h, here) + fed * _load_spread(mixed, to_b + n)
                        _store(h, here, v)
                        y = y + v * _load_spread(mixed, to_c + n)
                    if gated:
                        x = _load(z, (b * length + i) * z.shape[2] + z_at + c)
                        y = y * x * _sigmoid(x)
                    if add:
                        y = y + _load(out, at)
                    _store(out, at, y)


@njit(**_OPTIONS)
def scan_backward(  # type: ignore[no-untyped-def]
    grad, u, delta, mixed, weight, A, D, z, z_at, bias, gated, softplus, reverse, add, states,
    du, ddelta, dmixed, dweight, dA, dD, dz, dbias, tasks,
):  # fmt: skip
    """Gradients; ``dweight``, ``dA``, ``dD``, ``dbias`` by sample, ``dmixed`` by block, to be summed after.

    Chunk by chunk from the end, and in each for one vector of channels after the other: first the states of the chunk
    again, then their gradients. What the channels have in common (``dmixed``) is summed over vectors before it is
    summed over lanes. ``dz`` has the layout of ``z``; ``add`` concerns it alone.
    """
    length, channels = u.shape[1], u.shape[2]
    n_states, rank = A.shape[0], weight.shape[0]
    row = n_states * LANES
    width = rank + 2 * n_states
    n_chunks = states.shape[1]
    h = np.empty((CHUNK + 1) * row, np.float32)
    decay = np.empty(CHUNK * row, np.float32)
    shared = np.empty(CHUNK * width * HALF, np.float32)  # dmixed, before its lanes are summed
    step_at = np.empty(CHUNK * LANES, np.float32)
    slope_at = np.empty(CHUNK * LANES, np.float32)  # of the softplus; then the gradient of the raw step
    y_at = np.empty(CHUNK * LANES, np.float32)
    for task in range(tasks.shape[0]):
        b, first, last, block = tasks[task, 0], tasks[task, 1], tasks[task, 2], tasks[task, 3]
        n_vectors = (last - first) // LANES
        a = np.empty(n_vectors * row, np.float32)
        da = np.zeros(n_vectors * row, np.float32)
        carry = np.zeros(n_vectors * row, np.float32)  # dL/dh of the next position, times its decay
        for q in range(n_vectors):
            c = first + q * LANES
            for n in range(n_states):
                _store(a, q * row + n * LANES, _load(A, n * channels + c) * _LOG2E)
            _store(dD, b * channels + c, _splat(_f(0.0)))
            _store(dbias, b * channels + c, _splat(_f(0.0)))
            for r in range(rank):
                _store(dweight, (b * rank + r) * channels + c, _splat(_f(0.0)))
        for chunk in range(n_chunks - 1, -1, -1):
            start = chunk * CHUNK
            size = min(CHUNK, length - start)
            shared[:] = _f(0.0)
            for q in range(n_vectors):
                c, own = first + q * LANES, q * row
                skip, offset = _load(D, c), _load(bias, c)
                kept = (b * n_chunks + chunk) * n_states * channels + c
                for n in range(n_states):
                    _store(h, n * LANES, _load(states, kept + n * channels))
                for k in range(size):
                    i = length - 1 - start - k if reverse else start + k
                    x = _raw_step(delta, mixed, weight, offset, b, i, c)
                    step, slope = x, _splat(_f(1.0))
                    if softplus:
                        step, slope = _softplus(x), _sigmoid(x)
                    u_i = _load(u, (b * length + i) * channels + c)
                    fed = step * u_i
                    y = skip * u_i
                    to_b = (b * length + i) * width + rank
                    to_c = to_b + n_states
                    for n in range(n_states):
                        here = k * row + n * LANES
                        x = _min(_max(step * _load(a, own + n * LANES), _splat(_f(-126.0))), _splat(_f(127.0)))
                        e = _exp2(x)
                        v = e * _load(h, here) + fed * _load_spread(mixed, to_b + n)
                        _store(decay, here, e)
                        _store(h, here + row, v)
                        y = y + v * _load_spread(mixed, to_c + n)
                    _store(step_at, k * LANES, step)
                    _store(slope_at, k * LANES, slope)
                    _store(y_at, k * LANES, y)
                dskip, doffset = _load(dD, b * channels + c), _load(dbias, b * channels + c)
                for k in range(size - 1, -1, -1):
                    i = length - 1 - start - k if reverse else start + k
                    at = (b * length + i) * channels + c
                    dy = _load(grad, at)
                    if gated:
                        gate = (b * length + i) * z.shape[2] + z_at + c
                        x = _load(z, gate)
                        s = _sigmoid(x)
                        g = dy * _load(y_at, k * LANES) * s * (x * (_f(1.0) - s) + _f(1.0))
                        if add:
                            g = g + _load(dz, gate)
                        _store(dz, gate, g)
                        dy = dy * x * s
                    u_i, step = _load(u, at), _load(step_at, k * LANES)
                    fed = step * u_i
                    to_b = (b * length + i) * width + rank
                    to_c = to_b + n_states
                    dstep, dfed = _splat(_f(0.0)), _splat(_f(0.0))
                    for n in range(n_states):
                        here, mine = k * row + n * LANES, own + n * LANES
                        to = (k * width + rank + n) * HALF
                        _add_folded(shared, to + n_states * HALF, dy * _load(h, here + row))
                        g = _load(carry, mine) + dy * _load_spread(mixed, to_c + n)
                        _add_folded(shared, to, g * fed)
                        dfed = dfed + g * _load_spread(mixed, to_b + n)
                        g = g * _load(decay, here)
                        _store(carry, mine, g)
                        g = g * _load(h, here)
                        dstep = dstep + g * _load(a, mine)
                        _store(da, mine, _load(da, mine) + g * step)
                    _store(du, at, dfed * step + dy * skip)
                    dskip = dskip + dy * u_i
                    g = (dstep * _LN2 + dfed * u_i) * _load(slope_at, k * LANES)
                    _store(slope_at, k * LANES, g)
                    if rank == 0:
                        _store(ddelta, at, g)
                    for r in range(rank):
                        _add_folded(shared, (k * width + r) * HALF, g * _load(weight, r * channels + c))
                    doffset = doffset + g
                _store(dD, b * channels + c, dskip)
                _store(dbias, b * channels + c, doffset)
                for r in range(rank):
                    to = (b * rank + r) * channels + c
                    g = _load(dweight, to)
                    for k in range(size):
                        i = length - 1 - start - k if reverse else start + k
                        g = g + _load(slope_at, k * LANES) * _load_spread(mixed, (b * length + i) * width + r)
                    _store(dweight, to, g)
            for k in range(size):
                i = length - 1 - start - k if reverse else start + k
                for j in range(width):
                    total = _f(0.0)
                    for lane in range(HALF):
                        total += shared[(k * width + j) * HALF + lane]
                    dmixed[block, b, i, j] = total
        for q in range(n_vectors):
            for n in range(n_states):
                _store(dA, (b * n_states + n) * channels + first + q * LANES, _load(da, q * row + n * LANES))


@njit(inline="always", **_OPTIONS)
def _convolve(x, weight, offset, b, i, c, reverse):  # type: ignore[no-untyped-def]
    """The convolution of a vector of channels at one position, before its SiLU."""
    length, columns, taps, channels = x.shape[1], x.shape[2], weight.shape[0], weight.shape[1]
    y = offset
    for k in range(taps):
        j = i + taps - 1 - k if reverse else i - taps + 1 + k
        if 0 <= j < length:
            y = y + _load(weight, k * channels + c) * _load(x, (b * length + j) * columns + c)
    return y


@njit(**_OPTIONS)
def convolution_forward(x, weight, bias, reverse, out, tasks):  # type: ignore[no-untyped-def]
    """``silu`` of the causal convolution of the first columns of ``x``.

    ``weight`` is ``(tap, channel)``, its last tap the present position.
    """
    length, channels = x.shape[1], weight.shape[1]
    for task in range(tasks.shape[0]):
        b = tasks[task, 0]
        for i in range(length):
            for c in range(tasks[task, 1], tasks[task, 2], LANES):
                y = _convolve(x, weight, _load(bias, c), b, i, c, reverse)
                _store(out, (b * length + i) * channels + c, y * _sigmoid(y))


@njit(**_OPTIONS)
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
            _store(dbias, b * channels + c, _splat(_f(0.0)))
            for k in range(taps):
                _store(dweight, (b * taps + k) * channels + c, _splat(_f(0.0)))
        for start in range(0, length, CHUNK):
            size = min(CHUNK, length - start)
            for c in range(first, last, LANES):
                own = before * ((c - first) // LANES)
                for j in range(0, before, LANES):
                    _store(dy_at, j, _load(carried, own + j))
                offset, total = _load(bias, c), _load(dbias, b * channels + c)
                for t in range(size):
                    i = start + t if reverse else length - 1 - start - t
                    y = _convolve(x, weight, offset, b, i, c, reverse)
                    s = _sigmoid(y)
                    dy = _load(grad, (b * length + i) * channels + c) * s * (y * (_f(1.0) - s) + _f(1.0))
                    _store(dy_at, before + t * LANES, dy)
                    total = total + dy
                    g = _splat(_f(0.0))
                    at = (b * length + i) * columns + c
                    if add:
                        g = _load(dx, at)
                    for k in range(taps):
                        g = g + _load(weight, k * channels + c) * _load(dy_at, (t + k) * LANES)
                    _store(dx, at, g)
                _store(dbias, b * channels + c, total)
                for k in range(taps):
                    total = _load(dweight, (b * taps + k) * channels + c)
                    for t in range(size):
                        i = start + t if reverse else length - 1 - start - t
                        j = i + taps - 1 - k if reverse else i - taps + 1 + k
                        if 0 <= j < length:
                            total = total + _load(dy_at, before + t * LANES) * _load(x, (b * length + j) * columns + c)
                    _store(dweight, (b * taps + k) * channels + c, total)
                for j in range(0, before, LANES):
                    _store(carried, own + j, _load(dy_at, size * LANES + j))


@njit(inline="always", **_OPTIONS)
def _inverse_rms(x, i, eps):  # type: ignore[no-untyped-def]
    total = _splat(_f(0.0))
    for c in range(0, x.shape[1], LANES):
        v = _load(x, i * x.shape[1] + c)
        total = total + v * v
    return _f(1.0) / np.sqrt(_sum(total) / _f(x.shape[1]) + _f(eps))


@njit(**_OPTIONS)
def rms_norm_forward(x, weight, eps, out, rows):  # type: ignore[no-untyped-def]
    """``x * weight / sqrt(mean(x ** 2) + eps)`` of the rows ``(first, last, block)`` of a matrix."""
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            inverse = _inverse_rms(x, i, eps)
            for c in range(0, x.shape[1], LANES):
                _store(out, i * x.shape[1] + c, _load(x, i * x.shape[1] + c) * inverse * _load(weight, c))


@njit(**_OPTIONS)
def rms_norm_backward(grad, x, weight, eps, dx, dweight, rows):  # type: ignore[no-untyped-def]
    """Gradients; ``dweight`` by block, to be summed after."""
    width = x.shape[1]
    for task in range(rows.shape[0]):
        own = rows[task, 2] * width
        for c in range(0, width, LANES):
            _store(dweight, own + c, _splat(_f(0.0)))
        for i in range(rows[task, 0], rows[task, 1]):
            inverse = _inverse_rms(x, i, eps)
            along = _splat(_f(0.0))
            for c in range(0, width, LANES):
                along = along + _load(grad, i * width + c) * _load(weight, c) * _load(x, i * width + c)
            shrink = _sum(along) * inverse * inverse / _f(width)
            for c in range(0, width, LANES):
                v, g = _load(x, i * width + c), _load(grad, i * width + c) * inverse
                _store(dweight, own + c, _load(dweight, own + c) + g * v)
                _store(dx, i * width + c, g * _load(weight, c) - v * (shrink * inverse))
