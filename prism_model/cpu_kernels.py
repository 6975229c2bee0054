"""Compiled loops of the CPU backend: scan, gate, causal convolution and normalisation, forward and backward.

The loops work on vectors of ``LANES`` channels, a type that is defined here because no compiler finds this shape by
itself. A scan goes chunk by chunk; within one, vectors of channels outside, entries of the state inside them, positions
innermost: what an entry carries along the sequence stays in registers, and what the entries share of a chunk in the
first-level cache. The exponential is a polynomial (relative error 1e-7). Everything is in one file because numba's
cache watches that of the compiled function alone.

Arrays are contiguous float32, ``(batch, length, channel)``, the channels a multiple of ``LANES``; an array that comes
with a column (``z, z_at``) is read from that column of its rows on. ``tasks`` has rows
``(sample, first channel, last channel, block)``. ``add`` adds to the arrays of results instead of overwriting them.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from genostore.compiled import njit

LANES = 32
"""Channels of a vector: two registers of AVX-512, four of AVX2. Fewer reload the constants more often."""
FOLD = 8
"""Lanes that sums over channels are kept in until a chunk ends."""
_SCALES = LANES % 16 == 0 and bool(binding.get_host_cpu_features().get("avx512f"))
"""Whether the processor multiplies by powers of two in one instruction, with no care at the ends of the range."""
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


def _call(builder: Any, name: str, *args: Any) -> Any:
    """Call an LLVM intrinsic that gives what its first argument is."""
    kind = ir.FunctionType(args[0].type, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _scale(builder: Any, x: Any, k: Any) -> Any:
    """``x * 2 ** k`` for whole k."""
    if not _SCALES:
        k = builder.shl(builder.fptosi(k, _INTS), ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(x, _INTS), k), _FLOATS)
    every, rounding = ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), 4)
    parts = []
    for start in range(0, LANES, 16):
        index = ir.Constant(ir.VectorType(ir.IntType(32), 16), list(range(start, start + 16)))
        value, power = (builder.shuffle_vector(v, ir.Constant(_FLOATS, ir.Undefined), index) for v in (x, k))
        parts.append(_call(builder, "llvm.x86.avx512.mask.scalef.ps.512", value, power, value, every, rounding))
    return builder.shuffle_vector(*parts, ir.Constant(_INTS, list(range(LANES))))


@intrinsic
def _exp2(typingctx, exponent):  # type: ignore[no-untyped-def]
    """``2 ** x`` to a relative 1e-7; beyond the range of float32, its ends."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (x,) = args
        if not _SCALES:  # whole powers are added to the bits of the exponent, which have no room for others
            for name, limit in (("maxnum", -126.0), ("minnum", 127.0)):
                x = _call(builder, f"llvm.{name}.v{LANES}f32", x, ir.Constant(_FLOATS, [limit] * LANES))
        k = _call(builder, f"llvm.rint.v{LANES}f32", x)
        r = builder.fsub(x, k, flags=_FAST)
        p = ir.Constant(_FLOATS, [_POLYNOMIAL[0]] * LANES)
        for coefficient in _POLYNOMIAL[1:]:
            p = builder.fadd(builder.fmul(p, r, flags=_FAST), ir.Constant(_FLOATS, [coefficient] * LANES), flags=_FAST)
        return _scale(builder, p, k)

    return _vector(_vector), make


@intrinsic
def _add_folded(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
    """Fold a vector to ``FOLD`` lanes and add it to the numbers at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        value, width = args[2], LANES
        while width > FOLD:
            undefined = ir.Constant(value.type, ir.Undefined)
            width //= 2
            index = ir.VectorType(ir.IntType(32), width)
            low, high = (
                builder.shuffle_vector(value, undefined, ir.Constant(index, list(range(start, start + width))))
                for start in (0, width)
            )
            value = builder.fadd(low, high, flags=_FAST)
        pointer = _address(context, builder, signature.args[0], *args[:2])
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        builder.store(builder.fadd(value, builder.load(pointer, align=4), flags=_FAST), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), make


@njit(inline="always", **_OPTIONS)
def _buffer(size):  # type: ignore[no-untyped-def]
    """Room for float32 that starts a cache line: a vector across two lines costs twice."""
    room = np.empty(size + 16, np.float32)
    return room[(-room.ctypes.data % 64) // 4 :][:size]


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
    return _exp2(_min(x * _LOG2E, _splat(_f(126.0))))  # what is divided by must be finite


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
def _raw_step(delta, mixed, weight, offset, i, c):  # type: ignore[no-untyped-def]
    """The step size of a vector of channels before its softplus: given, or projected from the first columns."""
    rank, channels = weight.shape
    x = offset
    if rank == 0:
        x = x + _load(delta, i * channels + c)
    for r in range(rank):
        x = x + _load(weight, r * channels + c) * _load_spread(mixed, i * mixed.shape[2] + r)
    return x


@njit(inline="always", **_OPTIONS)
def _chunk(chunk, b, length, reverse):  # type: ignore[no-untyped-def]
    """Of a sample's chunk the row of its first position, the way to the next one's row, and the number of rows."""
    start = chunk * CHUNK
    size = min(CHUNK, length - start)
    if reverse:
        return b * length + length - 1 - start, -1, size
    return b * length + start, 1, size


@njit(**_OPTIONS)
def _enter(  # type: ignore[no-untyped-def]
    u, delta, mixed, weight, bias, softplus, row, way, size, first, step_at, slope_at, fed_at,
):  # fmt: skip
    """What a chunk's states are made of: step sizes (and their slope, where there is room for it) and input."""
    channels, n_vectors = u.shape[2], step_at.size // (CHUNK * LANES)
    for k in range(size):
        i = row + k * way
        for q in range(n_vectors):
            c, here = first + q * LANES, (q * CHUNK + k) * LANES
            raw = _raw_step(delta, mixed, weight, _load(bias, c), i, c)
            step, slope = raw, _splat(_f(1.0))
            if softplus:
                step = _softplus(raw)
                slope = _exp(raw - step)  # the sigmoid
            _store(step_at, here, step)
            _store(fed_at, here, step * _load(u, i * channels + c))
            if slope_at.size > 0:
                _store(slope_at, here, slope)


@njit(**_OPTIONS)
def _along(h, a, step_at, fed_at, y_at, here, mixed, at, n_states, way, size):  # type: ignore[no-untyped-def]
    """One entry of the state along a chunk, from ``h`` on; gives the state after it."""
    for k in range(size):
        own = here + k * LANES
        h = _exp2(_load(step_at, own) * a) * h + _load(fed_at, own) * _load_spread(mixed, at)
        _store(y_at, own, _load(y_at, own) + h * _load_spread(mixed, at + n_states))
        at += way
    return h


@njit(**_OPTIONS)
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
        step_at, fed_at, y_at = _buffer(room), _buffer(room), _buffer(room)
        h = _buffer((last - first) * n_states)
        h[:] = _f(0.0)
        for chunk in range(n_chunks):
            row, way, size = _chunk(chunk, b, length, reverse)
            _enter(u, delta, mixed, weight, bias, softplus, row, way, size, first, step_at, h[:0], fed_at)
            y_at[:] = _f(0.0)
            for c in range(first, last, LANES):
                here = (c - first) * CHUNK
                for n in range(n_states):
                    own = (c - first) * n_states + n * LANES
                    v, a = _load(h, own), _load(A, n * channels + c) * _LOG2E
                    if kept_chunks > 0:
                        kept = ((b * kept_chunks + chunk) * channels + first) * n_states
                        _store(states, kept + own, v)
                    at = row * width + rank + n
                    _store(h, own, _along(v, a, step_at, fed_at, y_at, here, mixed, at, n_states, way * width, size))
            for k in range(size):
                i = row + k * way
                for c in range(first, last, LANES):
                    y = _load(y_at, (c - first) * CHUNK + k * LANES) + _load(D, c) * _load(u, i * channels + c)
                    if add:
                        y = y + _load(out, i * channels + c)
                    _store(out, i * channels + c, y)


@njit(**_OPTIONS)
def _again(h, a, step_at, fed_at, here, mixed, at, way, size, decay_at, h_at):  # type: ignore[no-untyped-def]
    """One entry of the state along a chunk once more; ``decay_at`` and ``h_at`` keep what it was."""
    for k in range(size):
        own = here + k * LANES
        decay = _exp2(_load(step_at, own) * a)
        _store(decay_at, k * LANES, decay)
        _store(h_at, k * LANES, h)
        h = decay * h + _load(fed_at, own) * _load_spread(mixed, at)
        at += way
    _store(h_at, size * LANES, h)


@njit(**_OPTIONS)
def _back(  # type: ignore[no-untyped-def]
    g, a, step_at, fed_at, dy_at, dstep_at, dfed_at, here, mixed, at, n_states, way, size,
    decay_at, h_at, shared, to_b, to_c,
):  # fmt: skip
    """Back along the chunk: from the gradient by the state after it to those by the state before it and by A."""
    da = _splat(_f(0.0))
    h = _load(h_at, size * LANES)
    at += (size - 1) * way
    for k in range(size - 1, -1, -1):
        own = here + k * LANES
        dy = _load(dy_at, own)
        _add_folded(shared, to_c + k * FOLD, dy * h)
        g = g + dy * _load_spread(mixed, at + n_states)
        _add_folded(shared, to_b + k * FOLD, g * _load(fed_at, own))
        _store(dfed_at, own, _load(dfed_at, own) + g * _load_spread(mixed, at))
        g = g * _load(decay_at, k * LANES)
        h = _load(h_at, k * LANES)
        dx = g * h
        _store(dstep_at, own, _load(dstep_at, own) + dx * a)
        da = da + dx * _load(step_at, own)
        at -= way
    return g, da


@njit(**_OPTIONS)
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
    h_at, decay_at = _buffer((CHUNK + 1) * LANES), _buffer(CHUNK * LANES)  # of one entry of the state
    shared = _buffer(2 * n_states * CHUNK * FOLD)  # gradients of B and C
    for task in range(tasks.shape[0]):
        b, first, last, block = tasks[task, 0], tasks[task, 1], tasks[task, 2], tasks[task, 3]
        room = (last - first) * CHUNK
        step_at, slope_at, fed_at = _buffer(room), _buffer(room), _buffer(room)
        dy_at, dstep_at, dfed_at = _buffer(room), _buffer(room), _buffer(room)
        carry = _buffer((last - first) * n_states)  # dL/dh of the next position, times its decay
        carry[:] = _f(0.0)
        dA[b, :, first:last] = _f(0.0)
        dweight[b, :, first:last] = _f(0.0)
        dD[b, first:last] = _f(0.0)
        dbias[b, first:last] = _f(0.0)
        for chunk in range(n_chunks - 1, -1, -1):
            row, way, size = _chunk(chunk, b, length, reverse)
            _enter(u, delta, mixed, weight, bias, softplus, row, way, size, first, step_at, slope_at, fed_at)
            for k in range(size):
                for c in range(first, last, LANES):
                    _store(dy_at, (c - first) * CHUNK + k * LANES, _load(grad, (row + k * way) * channels + c))
            shared[:] = _f(0.0)
            dstep_at[:] = _f(0.0)
            dfed_at[:] = _f(0.0)
            for c in range(first, last, LANES):
                here = (c - first) * CHUNK
                for n in range(n_states):
                    own, to = (c - first) * n_states + n * LANES, (b * n_states + n) * channels + c
                    a = _load(A, n * channels + c) * _LOG2E
                    h = _load(states, ((b * n_chunks + chunk) * channels + first) * n_states + own)
                    at = row * width + rank + n
                    _again(h, a, step_at, fed_at, here, mixed, at, way * width, size, decay_at, h_at)
                    g, da = _back(
                        _load(carry, own), a, step_at, fed_at, dy_at, dstep_at, dfed_at, here, mixed, at,
                        n_states, way * width, size, decay_at, h_at, shared, n * CHUNK * FOLD,
                        (n_states + n) * CHUNK * FOLD,
                    )  # fmt: skip
                    _store(carry, own, g)
                    _store(dA, to, _load(dA, to) + da)
            _leave(
                u, mixed, weight, D, row, way, size, b, first, last, step_at, slope_at, dy_at, dstep_at, dfed_at,
                shared, du, ddelta, dmixed[block], dweight, dD, dbias,
            )  # fmt: skip


@njit(**_OPTIONS)
def _leave(  # type: ignore[no-untyped-def]
    u, mixed, weight, D, row, way, size, b, first, last, step_at, slope_at, dy_at, dstep_at, dfed_at,
    shared, du, ddelta, dmixed, dweight, dD, dbias,
):  # fmt: skip
    """What is left of a chunk's gradients once those by its states are known. ``slope_at`` is overwritten."""
    length, channels = u.shape[1], u.shape[2]
    rank, width = weight.shape[0], mixed.shape[2]
    for k in range(size):
        i = row + k * way
        for c in range(first, last, LANES):
            here = (c - first) * CHUNK + k * LANES
            u_i, dy, dfed = _load(u, i * channels + c), _load(dy_at, here), _load(dfed_at, here)
            _store(du, i * channels + c, dfed * _load(step_at, here) + dy * _load(D, c))
            _store(dD, b * channels + c, _load(dD, b * channels + c) + dy * u_i)
            g = (_load(dstep_at, here) * _LN2 + dfed * u_i) * _load(slope_at, here)
            _store(slope_at, here, g)  # the gradient by the raw step
            if rank == 0:
                _store(ddelta, i * channels + c, g)
        for r in range(rank):
            total = _splat(_f(0.0))
            for c in range(first, last, LANES):
                total = total + _load(slope_at, (c - first) * CHUNK + k * LANES) * _load(weight, r * channels + c)
            dmixed[b, i - b * length, r] = _sum(total)
        dmixed[b, i - b * length, rank + shared.size // (CHUNK * FOLD) :] = _f(0.0)  # columns of padding
        for j in range(shared.size // (CHUNK * FOLD)):
            entry = _f(0.0)
            for lane in range(FOLD):
                entry += shared[(j * CHUNK + k) * FOLD + lane]
            dmixed[b, i - b * length, rank + j] = entry
    for c in range(first, last, LANES):
        here = (c - first) * CHUNK
        total = _load(dbias, b * channels + c)
        for k in range(size):
            total = total + _load(slope_at, here + k * LANES)
        _store(dbias, b * channels + c, total)
        for r in range(rank):
            total = _load(dweight, (b * rank + r) * channels + c)
            for k in range(size):
                total = total + _load(slope_at, here + k * LANES) * _load_spread(mixed, (row + k * way) * width + r)
            _store(dweight, (b * rank + r) * channels + c, total)


@njit(**_OPTIONS)
def gate_forward(y, z, z_at, out, rows):  # type: ignore[no-untyped-def]
    """``y * silu(z)`` of the rows ``(first, last, block)`` of matrices."""
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            for c in range(0, y.shape[1], LANES):
                x = _load(z, i * z.shape[1] + z_at + c)
                _store(out, i * y.shape[1] + c, _load(y, i * y.shape[1] + c) * x * _sigmoid(x))


@njit(**_OPTIONS)
def gate_backward(grad, y, z, z_at, dy, dz, rows):  # type: ignore[no-untyped-def]
    """Gradients; ``dz`` has the layout of ``z``."""
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            for c in range(0, y.shape[1], LANES):
                here, there = i * y.shape[1] + c, i * z.shape[1] + z_at + c
                g, x = _load(grad, here), _load(z, there)
                s = _sigmoid(x)
                _store(dy, here, g * x * s)
                _store(dz, there, g * _load(y, here) * s * (x * (_f(1.0) - s) + _f(1.0)))


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
def rms_norm_forward(x, residual, weight, eps, stream, out, rows):  # type: ignore[no-untyped-def]
    """``s * weight / sqrt(mean(s ** 2) + eps)`` of the rows ``(first, last, block)`` of a matrix.

    ``s`` is ``x + residual``, which ``stream`` receives; it is ``x`` where ``residual`` has no rows.
    """
    width, add = x.shape[1], residual.shape[0] > 0
    for task in range(rows.shape[0]):
        for i in range(rows[task, 0], rows[task, 1]):
            if add:
                for c in range(0, width, LANES):
                    _store(stream, i * width + c, _load(x, i * width + c) + _load(residual, i * width + c))
            normed = stream if add else x
            inverse = _inverse_rms(normed, i, eps)
            for c in range(0, width, LANES):
                _store(out, i * width + c, _load(normed, i * width + c) * inverse * _load(weight, c))


@njit(**_OPTIONS)
def rms_norm_backward(grad, stream_grad, x, weight, eps, dx, dweight, rows):  # type: ignore[no-untyped-def]
    """Gradients by what was normalised, ``x``, and by weight; ``dweight`` by block, to be summed after.

    ``stream_grad``, if it has rows, is what reached ``x`` past the normalisation.
    """
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
                g = g * _load(weight, c) - v * (shrink * inverse)
                if stream_grad.shape[0] > 0:
                    g = g + _load(stream_grad, i * width + c)
                _store(dx, i * width + c, g)
