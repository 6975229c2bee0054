"""Compiled matrix products of the CPU backend, for tall matrices by small ones.

A model's rows are the positions of all samples, tens of thousands; its weights are a few hundred squared. BLAS copies
both operands of a product into an order of its own, which for such shapes takes a quarter of the time; here only the
weight is copied. The loops also run on the threads of the other kernels: those of OpenMP, on which torch's products
run, go on spinning for some milliseconds after each and take a processor from whatever else runs then.

Arrays are contiguous float32. Widths are multiples of ``NARROW``. Results do not depend on how rows or columns are
shared out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from genostore.compiled import njit

NARROW = 16
"""Columns of the narrowest tile."""
WIDE = 64 if binding.get_host_cpu_features().get("avx512f") else 16
"""Columns of a tile: with ``ROWS`` rows it fills half of the vector registers."""
ROWS = 4
"""Rows of a tile."""
AT_ONCE = 96
"""Rows whose part in a product is completed before the next ones', so that they stay in the second-level cache."""

_OPTIONS = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}


def _tile(rows: int, columns: int) -> Any:
    """A tile of a product, summed in registers.

    ``out[r, c] = sum over k of a[r * a_row + k * a_step] * b[k * b_step + c]``, added to what is there if ``add``;
    all from flat offsets on. ``out`` has rows of ``width``.
    """
    floats = ir.VectorType(ir.FloatType(), columns)
    undefined, zeros = ir.Constant(floats, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), columns), None)

    @intrinsic
    def tile(typingctx, a, a_at, a_row, a_step, b, b_at, b_step, depth, add, out, out_at, width):  # type: ignore[no-untyped-def]
        def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
            a, a_at, a_row, a_step, b, b_at, b_step, depth, add, out, out_at, width = args

            def pointer(which, array, *offsets):  # type: ignore[no-untyped-def]
                data = context.make_array(signature.args[which])(context, builder, array).data
                for offset in offsets:
                    data = builder.gep(data, [offset])
                return data

            def times(number, r):  # type: ignore[no-untyped-def]
                return builder.mul(number, ir.Constant(number.type, r))

            def row(r):  # type: ignore[no-untyped-def]
                return builder.bitcast(pointer(9, out, out_at, times(width, r)), floats.as_pointer())

            def grow(total, value):  # type: ignore[no-untyped-def]
                builder.store(builder.fadd(builder.load(total), value, flags=("fast",)), total)

            totals = [cgutils.alloca_once(builder, floats) for _ in range(rows)]
            for total in totals:
                builder.store(ir.Constant(floats, None), total)
            starts = [pointer(0, a, a_at, times(a_row, r)) for r in range(rows)]
            with cgutils.for_range(builder, depth, intp=depth.type) as loop:
                vector = pointer(4, b, b_at, builder.mul(loop.index, b_step))
                vector = builder.load(builder.bitcast(vector, floats.as_pointer()), align=4)
                step = builder.mul(loop.index, a_step)
                for start, total in zip(starts, totals, strict=True):
                    one = builder.load(builder.gep(start, [step]))
                    one = builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
                    grow(total, builder.fmul(builder.shuffle_vector(one, undefined, zeros), vector, flags=("fast",)))
            with builder.if_then(add):
                for r, total in enumerate(totals):
                    grow(total, builder.load(row(r), align=4))
            for r, total in enumerate(totals):
                builder.store(builder.load(total), row(r), align=4)
            return context.get_dummy_value()

        n = types.intp
        return types.void(a, n, n, n, b, n, n, n, types.boolean, out, n, n), make

    return tile


_wide, _wide_row = _tile(ROWS, WIDE), _tile(1, WIDE)
_narrow, _narrow_row = _tile(ROWS, NARROW), _tile(1, NARROW)


@njit(inline="always", **_OPTIONS)
def _columns_at(c, columns):  # type: ignore[no-untyped-def]
    """How many columns the tiles have that start at one."""
    return WIDE if c + WIDE <= columns else NARROW


@njit(**_OPTIONS)
def _packed(weight, transposed):  # type: ignore[no-untyped-def]
    """A matrix ``(depth, columns)``, given as it is or transposed, in panels: a tile's columns together."""
    depth, columns = weight.shape
    if transposed:
        columns, depth = weight.shape
    panels = np.empty(depth * columns, np.float32)
    c = 0
    while c < columns:
        n = _columns_at(c, columns)
        for k in range(depth):
            for j in range(c, c + n):
                panels[c * depth + k * n + j - c] = weight[j, k] if transposed else weight[k, j]
        c += n
    return panels


@njit(**_OPTIONS)
def product(x, weight, transposed, add, out, tasks):  # type: ignore[no-untyped-def]
    """``x @ weight`` (``x @ weight.T`` if ``transposed``), added to ``out`` if ``add``.

    ``tasks`` has rows ``(first, last)``, of rows of ``x``.
    """
    depth, columns = x.shape[1], out.shape[1]
    panels = _packed(weight, transposed)
    for task in range(tasks.shape[0]):
        for first in range(tasks[task, 0], tasks[task, 1], AT_ONCE):
            last = min(first + AT_ONCE, tasks[task, 1])
            c = 0
            while c < columns:
                n = _columns_at(c, columns)
                i = first
                while i < last:
                    at = i * columns + c
                    if i + ROWS <= last:
                        if n == WIDE:
                            _wide(x, i * depth, depth, 1, panels, c * depth, n, depth, add, out, at, columns)
                        else:
                            _narrow(x, i * depth, depth, 1, panels, c * depth, n, depth, add, out, at, columns)
                        i += ROWS
                    else:
                        if n == WIDE:
                            _wide_row(x, i * depth, depth, 1, panels, c * depth, n, depth, add, out, at, columns)
                        else:
                            _narrow_row(x, i * depth, depth, 1, panels, c * depth, n, depth, add, out, at, columns)
                        i += 1
                c += n


@njit(**_OPTIONS)
def gram(a, b, out, tasks):  # type: ignore[no-untyped-def]
    """``a.T @ b`` of every sample: of a product's weight the gradient.

    ``tasks`` has rows ``(sample, first, last)``, of columns of ``a``.
    """
    (length, width), columns = a.shape[1:], b.shape[2]
    for task in range(tasks.shape[0]):
        sample = tasks[task, 0]
        for start in range(0, length, AT_ONCE):
            depth, add, row = min(AT_ONCE, length - start), start > 0, sample * length + start
            c = 0
            while c < columns:
                n = _columns_at(c, columns)
                for m in range(tasks[task, 1], tasks[task, 2], ROWS):
                    to, x, y = (sample * width + m) * columns + c, row * width + m, row * columns + c
                    if n == WIDE:
                        _wide(a, x, 1, width, b, y, columns, depth, add, out, to, columns)
                    else:
                        _narrow(a, x, 1, width, b, y, columns, depth, add, out, to, columns)
                c += n
