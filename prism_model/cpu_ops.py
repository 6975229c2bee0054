"""The CPU backend's loops as torch operators, so that autograd, ``torch.compile``, autocast and DDP see them.

The scan's forward pass keeps the state at every ``CHUNK``-th position; its backward pass recomputes the states in
between, chunk by chunk, in a buffer that stays in cache. No tensor of ``(batch, length, channel, state)`` exists.
The mixer's core (convolution, projection and scan of every direction, gate) keeps its input, what it convolved, the
small projections, those states and the sum before the gate; the step sizes are projected within the scan. Nothing
between two layers runs on OpenMP's threads, which would go on spinning for milliseconds beside these loops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

from prism_model import cpu_kernels, cpu_products
from prism_model.cpu_kernels import CHUNK, LANES
from prism_model.cpu_products import NARROW, ROWS
from prism_model.scan import ScanInputs

BLOCK = 256
"""Most channels of a task; fewer where there are fewer samples than threads."""


def scan(inputs: ScanInputs) -> Tensor:
    """The backend ``cpu`` of :func:`prism_model.scan.selective_scan`.

    Raises
    ------
    TypeError
        For tensors that are not float32 on a CPU.
    """
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = inputs
    if u.dtype != torch.float32 or u.device.type != "cpu":
        raise TypeError(
            f"the cpu backend of the scan takes float32 on a CPU, not {u.dtype} on {u.device}; use reference or chunked"
        )
    channels = u.shape[-1]
    D = u.new_zeros(channels) if D is None else D
    bias = u.new_zeros(channels) if delta_bias is None else delta_bias
    u, delta, A, D, bias = (_whole_vectors(t) for t in (u, delta, A.t(), D, bias))
    out: Tensor = _scan(u, delta, torch.cat([B, C], dim=-1), A, D, bias, delta_softplus, reverse)[0]
    if z is not None:
        out = _gate(out, _whole_vectors(z))
    return out[..., :channels]


def convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """:func:`prism_model.convolution.causal_convolution` for float32 on a CPU."""
    taps = weight[:, 0].t()
    out: Tensor = _convolution(_whole_vectors(x), _whole_vectors(taps), _whole_vectors(bias), reverse)
    return out[..., : x.shape[-1]]


def _contiguous(tensor: Tensor) -> Tensor:
    """The same in a row; torch's own copies run on OpenMP's threads."""
    return torch.from_numpy(np.ascontiguousarray(tensor.detach().numpy()))


def _whole_vectors(tensor: Tensor) -> Tensor:
    """Contiguous, with channels (the last dimension) of 0 up to a multiple of the kernels' vectors."""
    missing = -tensor.shape[-1] % LANES
    return F.pad(tensor, (0, missing)) if missing else tensor.contiguous()


# The scan


@torch.library.custom_op("prism_model::selective_scan", mutates_args=(), device_types="cpu")
def _scan(
    u: Tensor,
    delta: Tensor,
    mixed: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The scan and the states at the chunks' starts; contiguous float32, ``A`` as ``(N, D)``, ``mixed`` is B, C."""
    out, states = torch.empty_like(u), _states(u, A)
    arguments = [u, delta, mixed, u.new_empty(0, u.shape[2]), A, D, bias, softplus, reverse, False, out, states]
    _run(cpu_kernels.scan_forward, arguments, _tasks(u.shape[0], u.shape[2]))
    return out, states


@_scan.register_fake
def _(u, delta, mixed, A, D, bias, softplus, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(u), _states(u, A)


def _states(u: Tensor, A: Tensor) -> Tensor:
    return u.new_empty(u.shape[0], -(-u.shape[1] // CHUNK), *A.shape[-2:])


@torch.library.custom_op("prism_model::selective_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    mixed: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    states: Tensor,
    softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by u, delta, mixed, A, D and bias."""
    du, ddelta = torch.empty_like(u), torch.empty_like(u)
    arguments = [grad, u, delta, mixed, u.new_empty(0, u.shape[2]), A, D, bias, softplus, reverse, states]
    dmixed, _, dA, dD, dbias = _scan_gradients(arguments, du, ddelta)
    return du, ddelta, dmixed, dA, dD, dbias


@_scan_backward.register_fake
def _(grad, u, delta, mixed, A, D, bias, states, softplus, reverse):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (u, u, mixed, A, D, bias))


def _scan_gradients(arguments: Sequence[Any], du: Tensor, ddelta: Tensor) -> tuple[Tensor, ...]:
    """Run the scan backward: fill the two, give those by mixed, weight, A, D and bias."""
    _, u, _, mixed, weight, A, *_ = arguments
    batch, _, channels = u.shape
    tasks = _tasks(batch, channels)
    dmixed = u.new_empty(int(tasks[:, 3].max()) + 1, *mixed.shape)
    dweight, dA, dD, dbias = (u.new_empty(batch, *s) for s in (weight.shape, A.shape, (channels,), (channels,)))
    _run(cpu_kernels.scan_backward, [*arguments, du, ddelta, dmixed, dweight, dA, dD, dbias], tasks)
    return dmixed[0] if len(dmixed) == 1 else dmixed.sum(0), *(t.sum(0) for t in (dweight, dA, dD, dbias))


def _keep_for_scan(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, softplus, reverse = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.flags = softplus, reverse
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else zeros are made for the states


def _differentiate_scan(ctx, grad, _):  # type: ignore[no-untyped-def]
    *tensors, states = ctx.saved_tensors
    return *_scan_backward(grad.contiguous(), *tensors, states, *ctx.flags), None, None


_scan.register_autograd(_differentiate_scan, setup_context=_keep_for_scan)


# The gate


@torch.library.custom_op("prism_model::gate", mutates_args=(), device_types="cpu")
def _gate(y: Tensor, z: Tensor) -> Tensor:
    """``y * silu(z)``; contiguous float32."""
    out = torch.empty_like(y)
    _run_gate(cpu_kernels.gate_forward, [y], z, 0, [out])
    return out


@_gate.register_fake
def _(y, z):  # type: ignore[no-untyped-def]
    return torch.empty_like(y)


@torch.library.custom_op("prism_model::gate_backward", mutates_args=(), device_types="cpu")
def _gate_backward(grad: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by y and z."""
    dy, dz = torch.empty_like(y), torch.empty_like(z)
    _run_gate(cpu_kernels.gate_backward, [grad, y], z, 0, [dy, dz])
    return dy, dz


@_gate_backward.register_fake
def _(grad, y, z):  # type: ignore[no-untyped-def]
    return torch.empty_like(y), torch.empty_like(z)


def _run_gate(
    kernel: Callable[..., None], read: Sequence[Tensor], z: Tensor, z_at: int, written: Sequence[Tensor]
) -> None:
    """Run a kernel over rows; the gate is in the columns of ``z`` from ``z_at`` on."""
    read, gate, written = [t.flatten(0, 1) for t in read], z.flatten(0, 1), [t.flatten(0, 1) for t in written]
    _run(kernel, [*read, gate, z_at, *written], _rows(len(gate)))


def _keep_for_gate(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate_gate(ctx, grad):  # type: ignore[no-untyped-def]
    return _gate_backward(grad.contiguous(), *ctx.saved_tensors)


_gate.register_autograd(_differentiate_gate, setup_context=_keep_for_gate)


# The causal convolution


@torch.library.custom_op("prism_model::causal_convolution", mutates_args=(), device_types="cpu")
def _convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """SiLU of the convolution; contiguous float32, ``weight`` as ``(tap, channel)``."""
    return _convolve(x, weight, bias, reverse, torch.empty_like(x))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool, out: Tensor) -> Tensor:
    _run(cpu_kernels.convolution_forward, [x, weight, bias, reverse, out], _tasks(out.shape[0], out.shape[2]))
    return out


@_convolution.register_fake
def _(x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op("prism_model::causal_convolution_backward", mutates_args=(), device_types="cpu")
def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, weight and bias."""
    dx = torch.empty_like(x)
    return dx, *_convolution_gradients(grad, x, weight, bias, reverse, False, dx)


@_convolution_backward.register_fake
def _(grad, x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, reverse: bool, add: bool, dx: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill ``dx``, or add to it; give the gradients by weight and bias."""
    batch, _, channels = grad.shape
    dweight, dbias = grad.new_empty(batch, *weight.shape), grad.new_empty(batch, channels)
    arguments = [grad, x, weight, bias, reverse, add, dx, dweight, dbias]
    _run(cpu_kernels.convolution_backward, arguments, _tasks(batch, channels))
    return dweight.sum(0), dbias.sum(0)


def _keep_for_convolution(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])
    ctx.reverse = inputs[3]


def _differentiate_convolution(ctx, grad):  # type: ignore[no-untyped-def]
    return *_convolution_backward(grad.contiguous(), *ctx.saved_tensors, ctx.reverse), None


_convolution.register_autograd(_differentiate_convolution, setup_context=_keep_for_convolution)


# The mixer's core


@torch.library.custom_op("prism_model::mix", mutates_args=(), device_types="cpu")
def mix(
    x: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    project: Tensor,
    steps: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Convolve, project and scan in every direction, sum the directions up, and apply the gate that they share.

    Parameters
    ----------
    x
        Inner half and gate side by side, ``(B, L, 2 * channels)``; contiguous float32, as everything else.
    taps, tap_bias
        Of the convolutions, ``(direction, tap, channel)`` and ``(direction, channel)``.
    project
        Onto step, B and C, ``(direction, rank + 2 * state, channel)``.
    steps, step_bias
        From step to step sizes, ``(direction, rank, channel)`` and ``(direction, channel)``.
    A, D
        ``(direction, state, channel)`` and ``(direction, channel)``. The second direction reads backwards.
    keep
        Whether a backward pass may follow.

    Returns
    -------
    tuple
        The mixed sequence ``(B, L, channels)``; then, for the backward pass, the same before the gate, what each
        direction convolved, its projections and its states.
    """
    batch, length, channels = x.shape[0], x.shape[1], taps.shape[2]
    out, spare = (x.new_empty(batch, length, channels) for _ in range(2))
    y, convolved, mixed, states = _kept(x, project, A, keep)
    total = y if keep else out
    tasks = _tasks(batch, channels)
    for k in range(len(taps)):
        u = _convolve(x, taps[k], tap_bias[k], k == 1, convolved[k] if keep else spare)
        _product(u, _padded(project[k]), True, False, mixed[k])
        arguments = [u, u, mixed[k], steps[k], A[k], D[k], step_bias[k], True, k == 1, k == 1, total, states[k]]
        _run(cpu_kernels.scan_forward, arguments, tasks)
    _run_gate(cpu_kernels.gate_forward, [total], x, channels, [out])
    return out, y, convolved, mixed, states


@mix.register_fake
def _(x, taps, tap_bias, project, steps, step_bias, A, D, keep):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], x.shape[1], taps.shape[2]), *_kept(x, project, A, keep)


def _kept(x: Tensor, project: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the sum of all directions, what they convolve, their projections and their states."""
    batch, length = x.shape[:2]
    n_directions, n_states, channels = A.shape
    y = x.new_empty(batch if keep else 0, length, channels)
    convolved = x.new_empty(n_directions if keep else 0, batch, length, channels)
    mixed = x.new_empty(n_directions, batch, length, project.shape[1] + -project.shape[1] % NARROW)
    states = x.new_empty(n_directions, batch, -(-length // CHUNK) if keep else 0, n_states, channels)
    return y, convolved, mixed, states


@torch.library.custom_op("prism_model::mix_backward", mutates_args=(), device_types="cpu")
def _mix_backward(
    grad: Tensor,
    x: Tensor,
    taps: Tensor,
    tap_bias: Tensor,
    project: Tensor,
    steps: Tensor,
    step_bias: Tensor,
    A: Tensor,
    D: Tensor,
    y: Tensor,
    convolved: Tensor,
    mixed: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by the arguments of :func:`mix`."""
    channels = taps.shape[2]
    du, dy, dx = torch.empty_like(grad), torch.empty_like(grad), torch.empty_like(x)
    results = tuple(torch.empty_like(t) for t in (taps, tap_bias, project, steps, step_bias, A, D))
    _run_gate(cpu_kernels.gate_backward, [grad, y], x, channels, [dy, dx])
    for k in range(len(taps)):
        u = convolved[k]
        arguments = [dy, u, u, mixed[k], steps[k], A[k], D[k], step_bias[k], True, k == 1, states[k]]
        gradients = _scan_gradients(arguments, du, du)
        dproject = _gram(gradients[0], u)[: project.shape[1]]
        _product(gradients[0], _padded(project[k]), False, True, du)
        dtaps = _convolution_gradients(du, x, taps[k], tap_bias[k], k == 1, k == 1, dx)
        dsteps, dA, dD, dbias = gradients[1:]
        for result, value in zip(results, (*dtaps, dproject, dsteps, dbias, dA, dD), strict=True):
            result[k] = value
    return dx, *results  # type: ignore[return-value]


@_mix_backward.register_fake
def _(grad, *inputs):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in inputs[:8])


def _keep_for_mix(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:-1], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else zeros are made for what is kept


def _differentiate_mix(ctx, grad, *_):  # type: ignore[no-untyped-def]
    return *_mix_backward(grad.contiguous(), *ctx.saved_tensors), None


mix.register_autograd(_differentiate_mix, setup_context=_keep_for_mix)


def _padded(project: Tensor) -> Tensor:
    """With rows of 0 up to a multiple of the products' columns; what is projected has as many columns."""
    return F.pad(project, (0, 0, 0, -project.shape[-2] % NARROW))


# Matrix products


@torch.library.custom_op("prism_model::linear", mutates_args=(), device_types="cpu")
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``; contiguous float32, all widths multiples of ``NARROW``."""
    return _product(x, weight, True, False, x.new_empty(*x.shape[:-1], len(weight)))


@linear.register_fake
def _(x, weight):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("prism_model::linear_backward", mutates_args=(), device_types="cpu")
def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by x and weight."""
    return _product(grad, weight, False, False, torch.empty_like(x)), _gram(grad, x)


@_linear_backward.register_fake
def _(grad, x, weight):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight)


def _product(x: Tensor, weight: Tensor, transposed: bool, add: bool, out: Tensor) -> Tensor:
    """Fill ``out`` with ``x @ weight`` (or its transpose), or add that to it."""
    x_rows, out_rows = x.flatten(0, -2), out.flatten(0, -2)
    _run(cpu_products.product, [x_rows, weight, transposed, add, out_rows], _shares(len(x_rows)))
    return out


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """``a.T @ b`` over all rows."""
    if a.shape[-1] > b.shape[-1]:  # the loops go down the columns of the first, which had better be narrow
        return torch.from_numpy(np.ascontiguousarray(_gram(b, a).numpy().T))
    out = a.new_empty(a.shape[-1], b.shape[-1])
    _run(cpu_products.gram, [a.flatten(0, -2), b.flatten(0, -2), out], _shares(len(out)))
    return out


def _keep_for_linear(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate_linear(ctx, grad):  # type: ignore[no-untyped-def]
    return _linear_backward(grad.contiguous(), *ctx.saved_tensors)


linear.register_autograd(_differentiate_linear, setup_context=_keep_for_linear)


# The normalisation


@torch.library.custom_op("prism_model::rms_norm", mutates_args=(), device_types="cpu")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square normalisation of the last dimension; contiguous float32."""
    return _normalise(x, x.new_empty(0, x.shape[-1]), weight, eps, x)


@rms_norm.register_fake
def _(x, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op("prism_model::add_rms_norm", mutates_args=(), device_types="cpu")
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised sum, and the sum; contiguous float32.

    One operator, so that their gradients are added while they are made: autograd would do so in a pass of its own.
    """
    stream = torch.empty_like(x)
    return _normalise(x, residual, weight, eps, stream), stream


@add_rms_norm.register_fake
def _(x, residual, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(x)


def _normalise(x: Tensor, residual: Tensor, weight: Tensor, eps: float, stream: Tensor) -> Tensor:
    out = torch.empty_like(x)
    x, residual, stream, rows = (t.flatten(0, -2) for t in (x, residual, stream, out))
    _run(cpu_kernels.rms_norm_forward, [x, residual, weight, eps, stream, rows], _rows(len(x)))
    return out


@torch.library.custom_op("prism_model::rms_norm_backward", mutates_args=(), device_types="cpu")
def _rms_norm_backward(
    grad: Tensor, stream_grad: Tensor | None, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients by x, which includes what reached it past the normalisation, and by weight."""
    dx = torch.empty_like(x)
    past = x.new_empty(0, x.shape[-1]) if stream_grad is None else _contiguous(stream_grad)
    matrices = [t.flatten(0, -2) for t in (_contiguous(grad), past, x)]
    blocks = _rows(len(matrices[-1]))
    dweight = x.new_empty(len(blocks), x.shape[-1])
    _run(cpu_kernels.rms_norm_backward, [*matrices, weight, eps, dx.flatten(0, -2), dweight], blocks)
    return dx, dweight.sum(0)


@_rms_norm_backward.register_fake
def _(grad, stream_grad, x, weight, eps):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight)


def _keep_for_rms_norm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:2])
    ctx.eps = inputs[2]


def _differentiate_rms_norm(ctx, grad):  # type: ignore[no-untyped-def]
    return *_rms_norm_backward(grad, None, *ctx.saved_tensors, ctx.eps), None


rms_norm.register_autograd(_differentiate_rms_norm, setup_context=_keep_for_rms_norm)


def _keep_for_add_rms_norm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output[1], inputs[2])
    ctx.eps = inputs[3]
    ctx.set_materialize_grads(False)  # nothing reaches the last layer's stream past its normalisation


def _differentiate_add_rms_norm(ctx, grad, stream_grad):  # type: ignore[no-untyped-def]
    stream, weight = ctx.saved_tensors
    grad = torch.zeros_like(stream) if grad is None else grad
    dx, dweight = _rms_norm_backward(grad, stream_grad, stream, weight, ctx.eps)
    return dx, dx, dweight, None


add_rms_norm.register_autograd(_differentiate_add_rms_norm, setup_context=_keep_for_add_rms_norm)


# Sharing work out


def _rows(n: int) -> np.ndarray:
    """Rows (first, last, block): the same blocks for any number of threads."""
    edges = np.append(np.arange(0, n, 1_024), n)
    return np.stack([edges[:-1], edges[1:], np.arange(len(edges) - 1)], axis=1)


def _shares(n: int) -> np.ndarray:
    """Rows (first, last): equal parts of whole tiles, one for each thread."""
    edges = np.linspace(0, -(-n // ROWS), torch.get_num_threads() + 1).astype(np.int64) * ROWS
    return np.stack([edges[:-1], np.minimum(edges[1:], n)], axis=1)


def _tasks(batch: int, channels: int) -> np.ndarray:
    """Rows (sample, first channel, last channel, block), enough of them for all threads."""
    if channels % LANES:  # the kernels would read past the end
        raise ValueError(f"the operator takes a multiple of {LANES} channels, not {channels}; call selective_scan")
    block = BLOCK
    while batch * -(-channels // block) < torch.get_num_threads() and block > LANES:
        block //= 2
    starts = range(0, channels, block)
    rows = [(b, s, min(s + block, channels), k) for b in range(batch) for k, s in enumerate(starts)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _run(kernel: Callable[..., None], arguments: Sequence[Any], tasks: np.ndarray) -> None:
    """Share the tasks out among as many threads as torch uses; the kernels release the GIL.

    Not numba's own parallel loops: their default layer aborts the process when two threads enter it at once, as a
    loader and a training step do, and their OpenMP layer when a child was forked.
    """
    with record_function(f"prism_model::{kernel.__name__}"):
        _share(kernel, [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments], tasks)


def _share(kernel: Callable[..., None], arrays: Sequence[Any], tasks: np.ndarray) -> None:
    n_threads = min(torch.get_num_threads(), len(tasks))
    if n_threads <= 1:
        kernel(*arrays, tasks)
        return
    pool = _pool(n_threads - 1, os.getpid())
    mine, *others = np.array_split(tasks, n_threads)
    running = [pool.submit(kernel, *arrays, share) for share in others]
    kernel(*arrays, mine)
    for job in running:
        job.result()


@lru_cache(maxsize=1)
def _pool(size: int, pid: int) -> ThreadPoolExecutor:
    """One pool a process; ``pid`` because a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(size, thread_name_prefix="prism")
