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
from prism_model.cpu_vectors import LANES, prefetch

NARROW = 16
"""Columns of the narrowest tile."""
WIDE = 64 if binding.get_host_cpu_features().get("avx512f") else 16
"""Columns of a tile: with ``ROWS`` rows it fills half of the vector registers."""
MIDDLE = 48 if WIDE > 48 else NARROW
"""Columns of a tile where there is no room for a wide one. Narrow tiles reach half the rate: they have too few sums to
wait for."""
ROWS = 4
"""Rows of a tile."""
AT_ONCE = 96
"""Rows whose part in a product is completed before the next ones', so that they stay in the second-level cache."""

_OPTIONS = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}


def _tile(rows: int, columns: int) -> Any:
    """A tile of a product, summed in registers.

    ``out[r, c] = sum over k of a[r * a_row + k * a_step] * b[k * columns + c]``, added to what is there if ``add``;
    all from flat offsets on. ``out`` has rows of ``width``.
    """
    floats = ir.VectorType(ir.FloatType(), NARROW)
    undefined, zeros = ir.Constant(floats, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), NARROW), None)
    parts = range(columns // NARROW)  # of a row: a vector whose length is no power of two would not stay in registers

    @intrinsic
    def tile(typingctx, a, a_at, a_row, a_step, b, b_at, depth, add, out, out_at, width):  # type: ignore[no-untyped-def]
        def make(context, builder, signature, args):  # type: ignore[no-untyped-def]
            a, a_at, a_row, a_step, b, b_at, depth, add, out, out_at, width = args

            def pointer(which, array, *offsets):  # type: ignore[no-untyped-def]
                data = context.make_array(signature.args[which])(context, builder, array).data
                for offset in offsets:
                    data = builder.gep(data, [offset])
                return data

            def times(number, r):  # type: ignore[no-untyped-def]
                return builder.mul(number, ir.Constant(number.type, r))

            def vectors(pointer):  # type: ignore[no-untyped-def]
                pointer = builder.bitcast(pointer, floats.as_pointer())
                return [builder.gep(pointer, [ir.Constant(ir.IntType(64), part)]) for part in parts]

            there = [vectors(pointer(8, out, out_at, times(width, r))) for r in range(rows)]
            totals = [[cgutils.alloca_once(builder, floats) for _ in parts] for _ in range(rows)]
            pairs = [pair for row in zip(totals, there, strict=True) for pair in zip(*row, strict=True)]
            for total, _ in pairs:
                builder.store(ir.Constant(floats, None), total)
            # Before the loop, not after it: the processor waits for what is there beside its work on the tile before.
            with builder.if_then(add):
                for total, place in pairs:
                    builder.store(builder.load(place, align=4), total)
            starts = [pointer(0, a, a_at, times(a_row, r)) for r in range(rows)]
            with cgutils.for_range(builder, depth, intp=depth.type) as loop:
                vector = [builder.load(v, align=4) for v in vectors(pointer(4, b, b_at, times(loop.index, columns)))]
                step = builder.mul(loop.index, a_step)
                for start, row in zip(starts, totals, strict=True):
                    one = builder.load(builder.gep(start, [step]))
                    one = builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
                    one = builder.shuffle_vector(one, undefined, zeros)
                    for total, part in zip(row, vector, strict=True):
                        product = builder.fmul(one, part, flags=("fast",))
                        builder.store(builder.fadd(builder.load(total), product, flags=("fast",)), total)
            for total, place in pairs:
                builder.store(builder.load(total), place, align=4)
            return context.get_dummy_value()

        n = types.intp
        return types.void(a, n, n, n, b, n, n, types.boolean, out, n, n), make

    return tile


@njit(inline="always", **_OPTIONS)
def _columns_at(c, columns):  # type: ignore[no-untyped-def]
    """How many columns the tiles have that start at one."""
    if c + WIDE <= columns:
        return WIDE
    return MIDDLE if c + MIDDLE <= columns else NARROW


def _of_columns(rows: int) -> Any:
    """The tile of some rows and of so many columns as :func:`_columns_at` says."""
    wide, middle, narrow = _tile(rows, WIDE), _tile(rows, MIDDLE), _tile(rows, NARROW)

    @njit(**_OPTIONS | {"cache": False})  # part of what is kept of those that call it
    def tile(n, a, a_at, a_row, a_step, b, b_at, depth, add, out, out_at, width):  # type: ignore[no-untyped-def]
        if n == WIDE:
            wide(a, a_at, a_row, a_step, b, b_at, depth, add, out, out_at, width)
        elif n == MIDDLE:
            middle(a, a_at, a_row, a_step, b, b_at, depth, add, out, out_at, width)
        else:
            narrow(a, a_at, a_row, a_step, b, b_at, depth, add, out, out_at, width)

    return tile


_rows, _row = _of_columns(ROWS), _of_columns(1)


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
                        _rows(n, x, i * depth, depth, 1, panels, c * depth, depth, add, out, at, columns)
                        i += ROWS
                    else:
                        _row(n, x, i * depth, depth, 1, panels, c * depth, depth, add, out, at, columns)
                        i += 1
                c += n


@njit(**_OPTIONS)
def gram(a, b, out, tasks):  # type: ignore[no-untyped-def]
    """``a.T @ b`` of every sample: of a product's weight the gradient.

    ``tasks`` has rows ``(sample, first, last)``, of columns of ``a``.
    """
    (length, width), columns = a.shape[1:], b.shape[2]
    panel = np.empty(AT_ONCE * WIDE, np.float32)  # rows of b would share a few sets of the cache: copied, they do not
    for task in range(tasks.shape[0]):
        sample, first, last = tasks[task]
        for start in range(0, length, AT_ONCE):
            depth, add = min(AT_ONCE, length - start), start > 0
            c = 0
            while c < columns:
                n = _columns_at(c, columns)
                for k in range(depth):
                    for j in range(n):
                        panel[k * n + j] = b[sample, start + k, c + j]
                ahead, then = (start, c + n) if c + n < columns else (start + depth, 0)
                for m in range(first, last, ROWS):
                    for k in range(ahead + (m - first) // ROWS, min(ahead + AT_ONCE, length), (last - first) // ROWS):
                        for j in range(then, min(then + WIDE, columns), LANES):  # what the next panel is copied from
                            prefetch(b, (sample * length + k) * columns + j)
                    x, to = (sample * length + start) * width + m, (sample * width + m) * columns + c
                    _rows(n, a, x, 1, width, panel, 0, depth, add, out, to, columns)
                c += n
