"""The causal depthwise convolution in front of the scan, with its SiLU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool = False) -> Tensor:
    """Convolve each channel with its own filter over the present and past positions, then apply SiLU.

    Parameters
    ----------
    x
        ``(batch, length, channel)``.
    weight
        ``(channel, 1, width)``; the last tap is the present position.
    bias
        ``(channel,)``; none when None.
    reverse
        Look at the following positions instead of the past ones.

    Returns
    -------
    Tensor
        ``(batch, length, channel)``.
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and bias is not None:
        from prism_model import cpu_ops  # numba is imported when it is needed

        return cpu_ops.convolution(x, weight, bias, reverse)
    width = weight.shape[-1]
    pad = (0, 0, 0, width - 1) if reverse else (0, 0, width - 1, 0)
    taps = weight.flip(-1) if reverse else weight
    y = F.conv1d(F.pad(x, pad).transpose(1, 2), taps, bias, groups=x.shape[-1])
    return F.silu(y.transpose(1, 2))
