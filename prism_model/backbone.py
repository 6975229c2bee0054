"""The backbone: pre-norm blocks of bidirectional Mamba, as Caduceus has them without embedding and RC equivariance.

(Schiff et al., "Caduceus: Bi-Directional Equivariant Long-Range DNA Sequence Modeling", arXiv 2403.03234.)
The two directions of a block share the projections into and out of it. So one product serves both: the input is
projected once, each direction convolves and scans it its own way, and the sum of both is projected out once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prism_model.convolution import causal_convolution
from prism_model.scan import compiled, selective_scan


class Direction(nn.Module):
    """One direction of a Mamba mixer: causal depthwise convolution, then the selective scan it parametrises.

    Parameters
    ----------
    channels
        Inner width, ``expand * d_model``.
    d_state, d_conv, dt_rank
        State size, convolution width and rank of the step-size projection.
    reverse
        Whether the direction reads from the last position to the first.
    scan
        Backend of the scan.
    """

    def __init__(
        self, channels: int, d_state: int, d_conv: int, dt_rank: int, *, reverse: bool, scan: str = "auto"
    ) -> None:
        super().__init__()
        self.split = (dt_rank, d_state, d_state)
        self.reverse = reverse
        self.scan = scan
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels)
        self.x_proj = nn.Linear(channels, sum(self.split), bias=False)
        self.dt_proj = nn.Linear(dt_rank, channels)
        self.A_log = nn.Parameter(torch.empty(channels, d_state))
        self.D = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as Mamba does: ``A = -(1 .. N)``, ``D = 1``, step sizes log-uniform in [0.001, 0.1]."""
        channels, d_state = self.A_log.shape
        with torch.no_grad():
            self.A_log.copy_(torch.log(torch.arange(1.0, d_state + 1)).expand(channels, d_state))
            self.D.fill_(1.0)
            bound = self.dt_proj.in_features**-0.5
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
            low, high = math.log(1e-3), math.log(1e-1)
            step = torch.exp(torch.rand(channels) * (high - low) + low).clamp(min=1e-4)
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus gives the step back

    def weights(self) -> tuple[Tensor, ...]:
        """Taps, their bias, projection, step weights, their bias, logarithm of -A, and D; channels last."""
        convolution, step = self.conv1d, self.dt_proj
        assert convolution.bias is not None
        taps = convolution.weight[:, 0].t()
        return taps, convolution.bias, self.x_proj.weight, step.weight.t(), step.bias, self.A_log.t(), self.D

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Mix along the sequence.

        Parameters
        ----------
        x, z
            Input and gate, ``(B, L, channels)``.

        Returns
        -------
        Tensor
            ``(B, L, channels)``.
        """
        u = causal_convolution(x, self.conv1d.weight, self.conv1d.bias, reverse=self.reverse)  # (B, L, D)
        step, B, C = self.x_proj(u).split(self.split, dim=-1)  # (B, L, R), (B, L, N), (B, L, N)
        delta = F.linear(step, self.dt_proj.weight)  # its bias is added within the scan, in full precision
        A = -torch.exp(self.A_log.float())
        return selective_scan(u, delta, A, B, C, self.D, z, self.dt_proj.bias, backend=self.scan, reverse=self.reverse)


class Mixer(nn.Module):
    """A Mamba mixer of one or two directions with tied projections.

    Parameters
    ----------
    d_model
        Width of the model.
    expand, d_state, d_conv, dt_rank
        Sizes of the inner layers, see :class:`Direction`.
    bidirectional
        Whether a second direction reads the sequence backwards.
    scan
        Backend of the scan.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        dt_rank: int | None = None,
        bidirectional: bool = True,
        scan: str = "auto",
    ) -> None:
        super().__init__()
        self.channels = expand * d_model
        self.scan = scan
        rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.channels, bias=False)
        self.directions = nn.ModuleList(
            Direction(self.channels, d_state, d_conv, rank, reverse=reverse, scan=scan)
            for reverse in ((False, True) if bidirectional else (False,))
        )
        self.out_proj = nn.Linear(self.channels, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, L, d_model)`` along its length."""
        # (B, L, channels) each: what the directions mix, and their gate
        inner, gate = self.in_proj(x).split(self.channels, dim=-1)
        parts = [direction(inner, gate) for direction in self.directions]
        out: Tensor = self.out_proj(parts[0] if len(parts) == 1 else parts[0] + parts[1])
        return out


class Block(nn.Module):
    """Add to the residual stream, normalise, mix."""

    def __init__(self, norm: nn.RMSNorm, mixer: Mixer) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the layer will add to the stream, ``(B, L, d_model)``, and the stream with what the one before adds."""
        stream = x if residual is None else residual + x
        return self.mixer(self.norm(stream)), stream


class Backbone(nn.Module):
    """``n_layer`` blocks on one residual stream, which is kept in float32, and a last normalisation.

    Parameters
    ----------
    d_model, n_layer
        Width and depth.
    norm_eps
        Epsilon of the RMS normalisations.
    scan
        Backend of the scan.
    **mixer
        Other arguments of :class:`Mixer`.
    """

    def __init__(
        self, d_model: int, n_layer: int, *, norm_eps: float = 1e-5, scan: str = "auto", **mixer: int | bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Block(nn.RMSNorm(d_model, eps=norm_eps), Mixer(d_model, scan=scan, **mixer))  # type: ignore[arg-type]
            for _ in range(n_layer)
        )
        self.norm = nn.RMSNorm(d_model, eps=norm_eps)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("out_proj.weight"):  # so that the sum of all layers keeps its scale
                    parameter.div_(math.sqrt(n_layer))

    def forward(self, x: Tensor) -> Tensor:
        """Encode ``(B, L, d_model)`` into hidden states of the same shape, float32."""
        x, stream = x.float(), None
        if self._compiled(x) and self._untouched():
            return self._in_one(x)
        for layer in self.layers:
            x, stream = layer(x, stream)
        hidden: Tensor = self.norm(x if stream is None else stream + x)
        return hidden

    def _untouched(self) -> bool:
        """Whether all within is as it was made, and nobody has hooked on to see what passes between two parts."""
        blocks = {tuple((name, p.shape) for name, p in layer.named_parameters()) for layer in self.layers}
        return len(blocks) == 1 and all(
            type(module) in _PARTS
            and not (module._forward_hooks or module._forward_pre_hooks)
            and not (module._backward_hooks or module._backward_pre_hooks)
            for child in self.children()
            for module in child.modules()
        )

    def _compiled(self, x: Tensor) -> bool:
        """Whether there is an operator for all layers at once."""
        mixers = [layer.mixer for layer in self.layers if isinstance(layer, Block)]
        return not torch.is_autocast_enabled("cpu") and all(
            compiled(mixer.scan, x, mixer.channels, x.shape[-1]) for mixer in mixers
        )

    def _in_one(self, x: Tensor) -> Tensor:
        """All layers in one operator, which keeps less than its parts would and waits less."""
        from prism_model.cpu_backbone import backbone

        blocks = [layer for layer in self.layers if isinstance(layer, Block)]
        directions = [d.weights() for b in blocks for d in b.mixer.directions if isinstance(d, Direction)]
        inside = [torch.stack(each).unflatten(0, (len(blocks), -1)) for each in zip(*directions, strict=True)]
        inside[5] = -torch.exp2(inside[5] * math.log2(math.e))  # exp runs on OpenMP's threads, see cpu_backbone
        norm = torch.stack([*(b.norm.weight for b in blocks), self.norm.weight])
        inward, outward = (
            torch.stack(each)
            for each in zip(*((b.mixer.in_proj.weight, b.mixer.out_proj.weight) for b in blocks), strict=True)
        )
        hidden: Tensor
        hidden, *_ = backbone(x.contiguous(), norm, inward, *inside, outward, self.norm.eps, torch.is_grad_enabled())
        return hidden


_PARTS = (Block, Mixer, Direction, nn.ModuleList, nn.Linear, nn.Conv1d, nn.RMSNorm)
"""What a backbone is made of."""
