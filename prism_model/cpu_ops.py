"""The CPU backend's loops as torch operators, so that autograd, ``torch.compile``, autocast and DDP see them.

The scan's forward pass keeps the state at every ``CHUNK``-th position; its backward pass recomputes the states in
between, chunk by chunk, in a buffer that stays in cache. No tensor of ``(batch, length, channel, state)`` exists.
The convolution keeps nothing but its input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prism_model import cpu_kernels
from prism_model.cpu_kernels import CHUNK, LANES

BLOCK = 256
"""Most channels of a task; fewer where there are fewer samples than threads."""


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """The backend ``cpu`` of :func:`prism_model.scan.selective_scan`.

    Raises
    ------
    TypeError
        For tensors that are not float32 on a CPU.
    """
    if u.dtype != torch.float32 or u.device.type != "cpu":
        raise TypeError(
            f"the cpu backend of the scan takes float32 on a CPU, not {u.dtype} on {u.device}; use reference or chunked"
        )
    channels = u.shape[-1]
    D = u.new_zeros(channels) if D is None else D
    bias = u.new_zeros(channels) if delta_bias is None else delta_bias
    u, delta, A, D, bias = (_whole_vectors(t) for t in (u, delta, A.t(), D, bias))
    gate = None if z is None else _whole_vectors(z)
    out: Tensor = _scan(u, delta, A, B.contiguous(), C.contiguous(), D, gate, bias, delta_softplus, reverse)[0]
    return out[..., :channels]


def convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """:func:`prism_model.convolution.causal_convolution` for float32 on a CPU."""
    taps = weight[:, 0].t()
    out: Tensor = _convolution(_whole_vectors(x), _whole_vectors(taps), _whole_vectors(bias), reverse)
    return out[..., : x.shape[-1]]


def _whole_vectors(tensor: Tensor) -> Tensor:
    """Contiguous, with channels (the last dimension) of 0 up to a multiple of the kernels' vectors."""
    missing = -tensor.shape[-1] % LANES
    return F.pad(tensor, (0, missing)) if missing else tensor.contiguous()


@torch.library.custom_op("prism_model::selective_scan", mutates_args=(), device_types="cpu")
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
    """The scan and the states at the chunks' starts; contiguous float32, ``A`` as ``(N, D)``."""
    batch, length, channels = u.shape
    out = torch.empty_like(u)
    states = u.new_empty(batch, -(-length // CHUNK), A.shape[0], channels)
    gate = u if z is None else z
    arguments: list[Tensor | bool] = [u, delta, A, B, C, D, gate, bias, z is not None, softplus, reverse, out, states]
    _run(cpu_kernels.scan_forward, arguments, _tasks(batch, channels))
    return out, states


@_scan.register_fake
def _(u, delta, A, B, C, D, z, bias, softplus, reverse):  # type: ignore[no-untyped-def]
    batch, length, channels = u.shape
    return torch.empty_like(u), u.new_empty(batch, -(-length // CHUNK), A.shape[0], channels)


@torch.library.custom_op("prism_model::selective_scan_backward", mutates_args=(), device_types="cpu")
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
    batch, length, channels = u.shape
    n_states = A.shape[0]
    tasks = _tasks(batch, channels)
    n_blocks = int(tasks[:, 3].max()) + 1
    du, ddelta = torch.empty_like(u), torch.empty_like(u)
    dz = u.new_empty(0, 0, 0) if z is None else torch.empty_like(u)
    dA = u.new_empty(batch, n_states, channels)
    dB, dC = (u.new_empty(n_blocks, batch, length, n_states) for _ in "BC")
    dD, dbias = (u.new_empty(batch, channels) for _ in "Db")
    gate = u if z is None else z
    arguments: list[Tensor | bool] = [grad, u, delta, A, B, C, D, gate, bias, z is not None, softplus, reverse, states]
    _run(cpu_kernels.scan_backward, [*arguments, du, ddelta, dA, dB, dC, dD, dz, dbias], tasks)
    return du, ddelta, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0)


@_scan_backward.register_fake
def _(grad, u, delta, A, B, C, D, z, bias, states, softplus, reverse):  # type: ignore[no-untyped-def]
    like = torch.empty_like
    dz = u.new_empty(0, 0, 0) if z is None else like(u)
    return like(u), like(u), like(A), like(B), like(C), like(D), dz, like(bias)


def _keep_for_scan(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, softplus, reverse = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.flags = softplus, reverse
    ctx.mark_non_differentiable(output[1])


def _differentiate_scan(ctx, grad, _):  # type: ignore[no-untyped-def]
    *tensors, states = ctx.saved_tensors
    results = list(_scan_backward(grad.contiguous(), *tensors, states, *ctx.flags))
    if tensors[6] is None:
        results[6] = None
    return *results, None, None


_scan.register_autograd(_differentiate_scan, setup_context=_keep_for_scan)


@torch.library.custom_op("prism_model::causal_convolution", mutates_args=(), device_types="cpu")
def _convolution(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """SiLU of the convolution; contiguous float32, ``weight`` as ``(tap, channel)``."""
    out = torch.empty_like(x)
    _run(cpu_kernels.convolution_forward, [x, weight, bias, reverse, out], _tasks(x.shape[0], x.shape[2]))
    return out


@_convolution.register_fake
def _(x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op("prism_model::causal_convolution_backward", mutates_args=(), device_types="cpu")
def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, weight and bias."""
    batch, _, channels = x.shape
    dx = torch.zeros_like(x)
    dweight, dbias = x.new_zeros(batch, *weight.shape), x.new_zeros(batch, channels)
    arguments: list[Tensor | bool] = [grad, x, weight, bias, reverse, dx, dweight, dbias]
    _run(cpu_kernels.convolution_backward, arguments, _tasks(batch, channels))
    return dx, dweight.sum(0), dbias.sum(0)


@_convolution_backward.register_fake
def _(grad, x, weight, bias, reverse):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _keep_for_convolution(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3])
    ctx.reverse = inputs[3]


def _differentiate_convolution(ctx, grad):  # type: ignore[no-untyped-def]
    return *_convolution_backward(grad.contiguous(), *ctx.saved_tensors, ctx.reverse), None


_convolution.register_autograd(_differentiate_convolution, setup_context=_keep_for_convolution)


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


def _run(kernel: Callable[..., None], arguments: Sequence[Tensor | bool], tasks: np.ndarray) -> None:
    """Share the tasks out among as many threads as torch uses; the kernels release the GIL.

    Not numba's own parallel loops: their default layer aborts the process when two threads enter it at once, as a
    loader and a training step do, and their OpenMP layer when a child was forked.
    """
    arrays = [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments]
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
