"""The selective scan of Mamba: one interface, several backends.

For every channel ``d`` with a state of size ``N`` the scan computes, along the sequence::

    h[l] = exp(delta[l] * A) * h[l - 1] + delta[l] * B[l] * u[l]        h[-1] = 0
    y[l] = sum over n of C[l, n] * h[l, n] + D * u[l]

with ``delta`` after its bias and softplus, and the result gated by ``silu(z)``
(Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, algorithm 2).

Tensors are position-major, ``(batch, length, channel)``, as linear layers give them. ``BACKENDS`` names the
implementations; each is a function of :class:`ScanInputs`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genostore.errors import NotFoundError, nearest


class ScanInputs(NamedTuple):
    """What a backend scans; arguments of :func:`selective_scan`, their shapes checked."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    reverse: bool

    def to(self, dtype: torch.dtype) -> ScanInputs:
        """The same with all tensors of one dtype."""
        return ScanInputs(*(t.to(dtype) if isinstance(t, Tensor) else t for t in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Backend:
    """One implementation of the scan."""

    run: Callable[[ScanInputs], Tensor]
    package: str | None = None
    """What must be installed for it."""
    reads_half: bool = False
    """Whether it reads half precision as it is and computes in float32; other backends are given float32."""

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or _installed(self.package)


@lru_cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    backend: str = "auto",
    *,
    reverse: bool = False,
) -> Tensor:
    """Run the selective scan.

    Parameters
    ----------
    u
        Input, ``(batch, length, channel)``.
    delta
        Step sizes, ``(batch, length, channel)``, before bias and softplus.
    A
        State matrix, ``(channel, state)``, negative for a stable scan.
    B, C
        Input and output matrices of each position, ``(batch, length, state)``.
    D
        Skip connection, ``(channel,)``; none when omitted.
    z
        Gate, ``(batch, length, channel)``; the result is multiplied by ``silu(z)``.
    delta_bias
        Added to ``delta`` before the softplus, ``(channel,)``.
    delta_softplus
        Whether ``delta`` passes through a softplus.
    backend
        ``"auto"`` (see :func:`choose`) or a name of ``BACKENDS``: ``reference`` (sequential, any dtype and device),
        ``chunked`` (plain torch, parallel over chunks of the sequence), ``cpu`` (compiled, float32), ``triton``
        (fused, for GPUs), ``mamba_ssm`` (the kernel of that package, where it is installed).
    reverse
        Scan from the last position to the first, without flipping a tensor.

    Returns
    -------
    Tensor
        ``(batch, length, channel)``, in the dtype of ``u``. Half precisions are computed in float32.

    Raises
    ------
    ValueError
        When the shapes do not fit together.
    genostore.errors.NotFoundError
        When the backend is unknown or its package is not installed.
    """
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    _check(inputs)
    name = choose(u) if backend == "auto" else backend
    if name not in BACKENDS:
        raise NotFoundError(f"scan backend {name!r} is unknown: {nearest(name, BACKENDS)}")
    chosen = BACKENDS[name]
    if not chosen.available:
        ready = ", ".join(n for n, b in BACKENDS.items() if b.available)
        raise NotFoundError(
            f"scan backend {name!r} needs the package {chosen.package}, which is not installed: "
            f"pip install {chosen.package.replace('_', '-') if chosen.package else ''}, or use one of {ready}"
        )
    if not chosen.reads_half:
        dtype = torch.promote_types(u.dtype, A.dtype)
        inputs = inputs.to(torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype)
    with torch.autocast(u.device.type, enabled=False):
        return chosen.run(inputs).to(u.dtype)


def choose(u: Tensor) -> str:
    """The backend that ``"auto"`` means for this input.

    float64 is scanned by ``chunked``, anything else by ``cpu`` on a processor and by ``triton`` on a GPU, or by
    ``mamba_ssm`` or ``chunked`` where that is not installed.
    """
    wanted = {"cpu": ["cpu"], "cuda": ["triton", "mamba_ssm"]}.get(u.device.type, [])
    return next((n for n in wanted if BACKENDS[n].available and u.dtype != torch.float64), "chunked")


def compiled(backend: str, x: Tensor, *widths: int) -> bool:
    """Whether the operators for processors (:mod:`prism_model.cpu_ops`) take this input, of these widths, as it is."""
    if backend not in ("auto", "cpu") or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    from prism_model.cpu_vectors import LANES  # numba is imported when it is needed

    return all(width % LANES == 0 for width in widths)


def reference(inputs: ScanInputs) -> Tensor:
    """The recurrence as it is written, one position after the other: what every other backend must equal."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = inputs
    delta = _step_sizes(delta, delta_bias, delta_softplus)
    state = u.new_zeros(u.shape[0], *A.shape)  # (B, D, N)
    outputs: list[Tensor] = []
    # Unbound at once: the gradient of an index is as large as the whole tensor, at every position.
    steps = list(zip(*(t.unbind(1) for t in (u, delta, B, C)), strict=True))
    for u_i, delta_i, b_i, c_i in reversed(steps) if reverse else steps:
        state = torch.exp(delta_i[..., None] * A) * state + (delta_i * u_i)[..., None] * b_i[:, None]
        outputs.append((state * c_i[:, None]).sum(-1))  # (B, D)
    if reverse:
        outputs.reverse()
    return _finish(torch.stack(outputs, dim=1), u, D, z)


def chunked(inputs: ScanInputs) -> Tensor:
    """Scan within all chunks at once, carry the states across chunks, then add what the carried states give.

    Some ``2 sqrt(length)`` steps of large tensors instead of ``length`` of small ones: for devices without a
    compiled kernel. The states are recomputed in the backward pass, so that no layer keeps them.
    """
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = inputs
    delta = _step_sizes(delta, delta_bias, delta_softplus)
    along = [t.flip(1) if reverse else t for t in (u, delta, B, C)]
    if torch.is_grad_enabled():
        y: Tensor = checkpoint(_chunked_states, A, *along, use_reentrant=False, preserve_rng_state=False)
    else:
        y = _chunked_states(A, *along)
    return _finish(y.flip(1) if reverse else y, u, D, z)


def _chunked_states(A: Tensor, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """``sum_n C h`` of the recurrence; see :func:`chunked`."""
    length = u.shape[1]
    size = max(1, int(length**0.5))
    n_chunks = -(-length // size)
    pad = n_chunks * size - length
    # Padded steps have delta = 0: they neither decay nor feed the state.
    u, delta, B, C = (
        F.pad(t, (0, 0, 0, pad)).unflatten(1, (n_chunks, size)) for t in (u, delta, B, C)
    )  # (B, K, T, D or N)

    fed = delta * u
    state = torch.zeros_like(u[:, :, 0, :, None] * A)  # (B, K, D, N)
    local = []
    for t in range(size):
        decay = torch.exp(delta[:, :, t, :, None] * A)
        state = decay * state + fed[:, :, t, :, None] * B[:, :, t, None, :]
        local.append((state * C[:, :, t, None, :]).sum(-1))
    y = torch.stack(local, dim=2)  # (B, K, T, D)

    elapsed = delta.cumsum(2)  # a product of decays is the decay of the summed steps
    whole = torch.exp(elapsed[:, :, -1, :, None] * A)  # (B, K, D, N)
    carried = [torch.zeros_like(state[:, 0])]
    for k in range(n_chunks - 1):
        carried.append(whole[:, k] * carried[-1] + state[:, k])
    start = torch.stack(carried, dim=1)  # (B, K, D, N): the state that enters each chunk
    late = [(torch.exp(elapsed[:, :, t, :, None] * A) * start * C[:, :, t, None, :]).sum(-1) for t in range(size)]
    return (y + torch.stack(late, dim=2)).flatten(1, 2)[:, :length]


def _cpu(inputs: ScanInputs) -> Tensor:
    from prism_model import cpu_ops  # numba is imported when it is needed

    return cpu_ops.scan(inputs)


def _triton(inputs: ScanInputs) -> Tensor:
    from prism_model import triton_ops

    return triton_ops.scan(inputs)


def _mamba_ssm(inputs: ScanInputs) -> Tensor:
    """The kernel of the authors of Mamba, channels before positions and forward only."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    along = [inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z]
    if inputs.reverse:
        along = [None if t is None else t.flip(1) for t in along]
    u, delta, B, C, z = (None if t is None else t.transpose(1, 2).contiguous() for t in along)
    A, D, bias = (None if t is None else t.float() for t in (inputs.A, inputs.D, inputs.delta_bias))
    y: Tensor = selective_scan_fn(u, delta, A, B, C, D, z, bias, inputs.delta_softplus).transpose(1, 2)
    return y.flip(1) if inputs.reverse else y


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    if bias is not None:
        delta = delta + bias
    return F.softplus(delta) if softplus else delta


def _finish(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip connection and apply the gate."""
    if D is not None:
        y = y + D * u
    return y if z is None else y * F.silu(z)


def _check(inputs: ScanInputs) -> None:
    u, A = inputs.u, inputs.A
    if u.ndim != 3 or A.ndim != 2 or u.shape[1] == 0:
        raise ValueError(
            f"the scan takes u (batch, length > 0, channel) and A (channel, state), "
            f"not {tuple(u.shape)} and {tuple(A.shape)}"
        )
    batch, length, channels = u.shape
    state = A.shape[1]
    wanted = {
        "delta": (batch, length, channels),
        "A": (channels, state),
        "B": (batch, length, state),
        "C": (batch, length, state),
        "D": (channels,),
        "z": (batch, length, channels),
        "delta_bias": (channels,),
    }
    for name, shape in wanted.items():
        tensor = getattr(inputs, name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} of the scan has shape {tuple(tensor.shape)}; u {tuple(u.shape)} needs {shape}")


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference),
    "chunked": Backend(chunked),
    "cpu": Backend(_cpu),
    "triton": Backend(_triton, package="triton", reads_half=True),
    "mamba_ssm": Backend(_mamba_ssm, package="mamba_ssm", reads_half=True),
}
