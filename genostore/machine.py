"""Loads, stores, vectors and C calls at addresses, for the compiled loops of this package.

Addresses and words are int64 throughout, since numba turns a mixture of signed and unsigned into floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from genostore.compiled import njit

_WORD = ir.IntType(64)

# For functions that only compiled ones call: without the wrappers that Python would need, they compile faster.
part = njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def caller(n: int) -> Any:
    """Make a compiled function that calls the C function at an address with n words and gives a word."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD] * n)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, [builder.extract_value(arguments[1], i) for i in range(n)])

    @intrinsic
    def call(typing: Any, address: Any, words: Any) -> Any:
        return types.int64(types.int64, types.UniTuple(types.int64, n)), codegen

    return call


call3, call4, call5 = caller(3), caller(4), caller(5)


def _loader(bits: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_at(builder, arguments[0], ir.IntType(bits)), align=1)
        return builder.zext(value, _WORD) if bits < 64 else value

    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        return types.int64(types.int64), codegen

    return load


load8, load16, load32, load64 = (_loader(bits) for bits in (8, 16, 32, 64))


def _storer(bits: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.trunc(arguments[1], ir.IntType(bits)) if bits < 64 else arguments[1]
        builder.store(value, _at(builder, arguments[0], ir.IntType(bits)), align=1)
        return context.get_dummy_value()

    @intrinsic
    def store(typing: Any, address: Any, word: Any) -> Any:
        return types.void(types.int64, types.int64), codegen

    return store


store8, store16, store32, store64 = (_storer(bits) for bits in (8, 16, 32, 64))


@part
def get(words: int, i: int) -> int:
    """Load word number i of those at an address."""
    return load64(words + (i << 3))


@part
def put(words: int, i: int, value: int) -> None:
    """Store word number i of those at an address."""
    store64(words + (i << 3), value)


def _copier(size: int) -> Any:
    kind = ir.VectorType(_WORD, size // 8)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_at(builder, arguments[1], kind), align=1)
        builder.store(value, _at(builder, arguments[0], kind), align=1)
        return context.get_dummy_value()

    @intrinsic
    def copy(typing: Any, to: Any, source: Any) -> Any:
        return types.void(types.int64, types.int64), codegen

    return copy


copy16, copy32 = _copier(16), _copier(32)


@intrinsic
def fill32(typing: Any, address: Any, word: Any) -> Any:
    """Store a word four times over."""
    kind = ir.VectorType(_WORD, 4)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[1], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)
        value = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)
        builder.store(value, _at(builder, arguments[0], kind), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _comparer(size: int) -> Any:
    """Make a compiled function that compares 64 bytes with those four before, in values of a size.

    It gives a bit for each value that differs, the first one lowest.
    """
    n = 64 // size
    kind = ir.VectorType(ir.IntType(8 * size), n)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        here = builder.load(_at(builder, arguments[0], kind), align=1)
        before = builder.load(_at(builder, builder.sub(arguments[0], _WORD(4)), kind), align=1)
        mask = builder.bitcast(builder.icmp_unsigned("!=", here, before), ir.IntType(n))
        return builder.zext(mask, _WORD)

    @intrinsic
    def compare(typing: Any, address: Any) -> Any:
        return types.int64(types.int64), codegen

    return compare


differing2, differing4 = _comparer(2), _comparer(4)


@intrinsic
def move(typing: Any, to: Any, source: Any, n: Any) -> Any:
    """Copy n bytes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8)
        cgutils.raw_memcpy(builder, _at(builder, arguments[0], byte), _at(builder, arguments[1], byte), arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def fetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address ahead of its use; any address is allowed."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(function, [builder.inttoptr(arguments[0], byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2  # kinds of values that become float32


def _writer(n: int, kind: int) -> Any:
    """Make a compiled function that writes n values as float32, perhaps backwards, with a fill in the place of NaN."""
    i32 = ir.IntType(32)
    single, bits = ir.VectorType(ir.FloatType(), n), ir.VectorType(i32, n)
    stored = {FLOAT32: ir.FloatType(), FLOAT16: ir.HalfType(), BFLOAT16: ir.IntType(16)}[kind]
    nothing = ir.Constant(single, ir.Undefined)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source, backwards, fill = arguments
        value = builder.load(_at(builder, source, ir.VectorType(stored, n)), align=4 if kind == FLOAT32 else 2)
        if kind == FLOAT16:
            value = builder.fpext(value, single)
        elif kind == BFLOAT16:  # the upper half of a float32
            value = builder.shl(builder.zext(value, bits), ir.Constant(bits, [16] * n))
            value = builder.bitcast(value, single)
        turned = builder.shuffle_vector(value, nothing, ir.Constant(bits, list(range(n))[::-1]))
        value = builder.select(builder.trunc(backwards, ir.IntType(1)), turned, value)
        first = builder.insert_element(nothing, fill, i32(0))
        filled = builder.shuffle_vector(first, nothing, ir.Constant(bits, [0] * n))
        value = builder.select(builder.fcmp_unordered("uno", value, value), filled, value)
        builder.store(value, _at(builder, to, single), align=4)
        return context.get_dummy_value()

    @intrinsic
    def write(typing: Any, to: Any, source: Any, backwards: Any, fill: Any) -> Any:
        return types.void(types.int64, types.int64, types.boolean, types.float32), codegen

    return write


_VECTOR = 8
_single, _single1 = _writer(_VECTOR, FLOAT32), _writer(1, FLOAT32)
_half, _half1 = _writer(_VECTOR, FLOAT16), _writer(1, FLOAT16)
_bfloat, _bfloat1 = _writer(_VECTOR, BFLOAT16), _writer(1, BFLOAT16)


@part
def write_values(to: int, source: int, n: int, kind: int, backwards: bool, fill: np.float32, soon: int) -> None:
    """Write n values as float32, perhaps backwards, with ``fill`` in the place of NaN.

    ``soon`` is where the values lie that are written next: their way out of memory is most of the time that this takes.
    """
    size, end, i = 4 if kind == FLOAT32 else 2, n - n % _VECTOR, 0
    while i < end:
        target = to + 4 * (n - _VECTOR - i if backwards else i)
        fetch(soon + size * i)
        if kind == FLOAT32:
            _single(target, source + 4 * i, backwards, fill)
        elif kind == FLOAT16:
            _half(target, source + 2 * i, backwards, fill)
        else:
            _bfloat(target, source + 2 * i, backwards, fill)
        i += _VECTOR
    while i < n:
        target = to + 4 * (n - 1 - i if backwards else i)
        if kind == FLOAT32:
            _single1(target, source + 4 * i, backwards, fill)
        elif kind == FLOAT16:
            _half1(target, source + 2 * i, backwards, fill)
        else:
            _bfloat1(target, source + 2 * i, backwards, fill)
        i += 1


@intrinsic
def top(typing: Any, word: Any, n: Any) -> Any:
    """Give the n highest bits of a word, 0 <= n < 64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        halved = builder.lshr(arguments[0], _WORD(1))
        return builder.lshr(halved, builder.sub(_WORD(63), arguments[1]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def shift_right(typing: Any, word: Any, n: Any) -> Any:
    """Shift a word by n bits, 0 <= n < 64, with zeros coming in."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.lshr(arguments[0], arguments[1])

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def highest_bit(typing: Any, word: Any) -> Any:
    """Number the highest bit that is set, of a word that is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sub(_WORD(63), builder.ctlz(arguments[0], ir.IntType(1)(0)))

    return types.int64(types.int64), codegen


@intrinsic
def lowest_bit(typing: Any, word: Any) -> Any:
    """Number the lowest bit that is set, of a word that is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.int64), codegen


@intrinsic
def count_bits(typing: Any, word: Any) -> Any:
    """Count the bits that are set."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), codegen


@part
def word(value: Any) -> Any:
    """Make a word of any whole number, signed, as all words here are."""
    return np.int64(value)


def _crc_instruction() -> tuple[str, str] | None:
    """Name the processor's instructions for eight bytes and for one byte of CRC-32C, where it has them."""
    features = binding.get_host_cpu_features()
    if features.get("sse4.2"):
        return "llvm.x86.sse42.crc32.64.64", "llvm.x86.sse42.crc32.32.8"
    if features.get("crc"):
        return "llvm.aarch64.crc32cx", "llvm.aarch64.crc32cb"
    return None


_CRC = _crc_instruction()


def _crc_step(name: str, eight: bool) -> Any:
    """Make the compiled step of a checksum that one instruction takes."""
    i32, i8 = ir.IntType(32), ir.IntType(8)
    x86 = name.startswith("llvm.x86")
    state = _WORD if x86 and eight else i32
    data = _WORD if eight else (i8 if x86 else i32)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(state, [state, data])
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        crc, word = arguments
        crc = crc if state is _WORD else builder.trunc(crc, state)
        word = word if data is _WORD else builder.trunc(word, data)
        value = builder.call(function, [crc, word])
        return value if state is _WORD else builder.zext(value, _WORD)

    @intrinsic
    def step(typing: Any, crc: Any, word: Any) -> Any:
        return types.int64(types.int64, types.int64), codegen

    return step


def crc_table() -> NDArray[np.int64]:
    """Table of CRC-32C (polynomial 0x1EDC6F41, reflected) by byte, ``(256,)``."""
    table = np.zeros(256, dtype=np.int64)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table[byte] = value
    return table


_TABLE = crc_table()

if _CRC is not None:
    _crc8, _crc1 = _crc_step(_CRC[0], True), _crc_step(_CRC[1], False)
else:

    @njit(cache=True, nogil=True)
    def _crc1(crc: int, byte: int) -> int:
        return _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)

    @njit(cache=True, nogil=True)
    def _crc8(crc: int, word: int) -> int:
        for _ in range(8):
            crc = _TABLE[(crc ^ word) & 255] ^ (crc >> 8)
            word >>= 8
        return crc


@njit(cache=True, nogil=True)
def crc32c(address: int, n: int) -> int:
    """CRC-32C of n bytes."""
    crc, at, end = word(0xFFFFFFFF), address, address + n
    while at + 8 <= end:
        crc = _crc8(crc, load64(at))
        at += 8
    while at < end:
        crc = _crc1(crc, load8(at))
        at += 1
    return crc ^ 0xFFFFFFFF
