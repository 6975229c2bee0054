"""Vectors of channels for the compiled loops: a type of numba's, its arithmetic, and functions of it.

A type of its own because no compiler finds this shape by itself. The exponential is a polynomial (relative error 1e-7).
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
OPTIONS = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
_BYTES = ir.IntType(8).as_pointer()
_FAST = ("fast",)
f32 = np.float32
LOG2E, LN2 = f32(1.4426950408889634), f32(0.6931471805599453)


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
def load(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """The vector at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return _vector(array, types.intp), make


@intrinsic
def store(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
    """Put a vector at a flat offset."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), make


@intrinsic
def prefetch(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """Ask memory for the vector at a flat offset, which is read later."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        start, number = builder.bitcast(_address(context, builder, signature.args[0], *args), _BYTES), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for line in range(0, 4 * LANES, 64):
            place = builder.gep(start, [ir.Constant(ir.IntType(64), line)])
            builder.call(function, [place, *(ir.Constant(number, n) for n in (0, 2, 1))])  # to read, second level, data
        return context.get_dummy_value()

    return types.void(array, types.intp), make


@intrinsic
def load_spread(typingctx, array, offset):  # type: ignore[no-untyped-def]
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
def splat(typingctx, value):  # type: ignore[no-untyped-def]
    """A vector of one value."""
    return _vector(types.float32), lambda context, builder, signature, args: _spread(builder, args[0])


@intrinsic
def total_of(typingctx, value):  # type: ignore[no-untyped-def]
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
    return _joined(builder, parts)


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of several, a power of two of them."""
    while len(parts) > 1:
        width = 2 * parts[0].type.count
        index = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width)))
        parts = [builder.shuffle_vector(*pair, index) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@intrinsic
def exp2(typingctx, exponent):  # type: ignore[no-untyped-def]
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
def sums_of(typingctx, array, offset):  # type: ignore[no-untyped-def]
    """A vector of sums of ``FOLD`` numbers each, which lie one after the other from a flat offset on."""

    def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
        part = ir.VectorType(ir.FloatType(), 16)
        start = builder.bitcast(_address(context, builder, signature.args[0], *args), part.as_pointer())
        places = [builder.gep(start, [ir.Constant(ir.IntType(64), k)]) for k in range(LANES * FOLD // 16)]
        parts = [builder.load(place, align=4) for place in places]
        even, odd = (ir.Constant(ir.VectorType(ir.IntType(32), 16), list(range(k, 32, 2))) for k in (0, 1))
        while len(parts) > LANES // 16:  # neighbours within and across parts: half as many numbers, in their order
            parts = [
                builder.fadd(builder.shuffle_vector(*pair, even), builder.shuffle_vector(*pair, odd), flags=_FAST)
                for pair in zip(parts[::2], parts[1::2], strict=True)
            ]
        return _joined(builder, parts)

    return _vector(array, types.intp), make


@intrinsic
def add_folded(typingctx, array, offset, value):  # type: ignore[no-untyped-def]
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


@njit(inline="always", **OPTIONS)
def buffer(size):  # type: ignore[no-untyped-def]
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


@njit(inline="always", **OPTIONS)
def exp(x):  # type: ignore[no-untyped-def]
    """``e ** x``, finite."""
    return exp2(_min(x * LOG2E, splat(f32(126.0))))  # what is divided by must be finite


@njit(inline="always", **OPTIONS)
def softplus_of(x):  # type: ignore[no-untyped-def]
    """``max(x, 0) + log1p(e)`` with ``e = exp(-|x|)`` and ``log1p(e) = 2 artanh(e / (2 + e))``."""
    e = exp(f32(0.0) - _abs(x))
    s = e / (e + f32(2.0))
    q = s * s
    p = q * f32(1.0 / 13.0) + f32(1.0 / 11.0)
    p = p * q + f32(1.0 / 9.0)
    p = p * q + f32(1.0 / 7.0)
    p = p * q + f32(1.0 / 5.0)
    p = p * q + f32(1.0 / 3.0)
    p = p * q + f32(1.0)
    return _max(x, splat(f32(0.0))) + s * p * f32(2.0)


@njit(inline="always", **OPTIONS)
def sigmoid(x):  # type: ignore[no-untyped-def]
    """``1 / (1 + e ** -x)``."""
    return f32(1.0) / (exp(f32(0.0) - x) + f32(1.0))
