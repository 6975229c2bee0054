"""Prism: gene expression from sequence and signals, with the background's confounding adjusted for.

(Yang et al., "Extending Sequence Length is Not All You Need: Effective Integration of Multimodal Signals for Gene
Expression Prediction", ICLR 2026, arXiv 2602.21550.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

from torch import Tensor, nn

from genostore.errors import NotFoundError, QueryError
from prism_model.adjustment import Averaging, Branches, adjusted_prediction, embedded_copies, predict
from prism_model.backbone import Backbone
from prism_model.confounder import ConfounderEncoder
from prism_model.models.base import ModelConfig


@dataclass(frozen=True)
class PrismConfig(ModelConfig):
    """The architecture; the defaults are the paper's sizes."""

    d_model: int = 128
    n_layer: int = 4
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    bidirectional: bool = True
    n_context: int = 2
    """Contexts of the backdoor adjustment; 0 = no confounder encoder."""
    context_activation: str = "sigmoid"
    encoder_width: int = 8
    encoder_signals: Literal["all", "background"] | tuple[int, ...] = "all"
    """What the confounder encoder sees: all signals, as in the release, or the channels named; a run resolves
    "background" by the tracks' roles."""
    averaging: Averaging = "hidden"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "d_model", "n_layer", "d_state", "d_conv", "expand", "encoder_width")
        self.require(0, "n_context")
        if self.n_context and not self.signal_size:
            raise QueryError("a model without signals has nothing to learn contexts from: n_context must be 0")
        if self.averaging not in ("hidden", "prediction"):
            raise QueryError(f"model.averaging is hidden or prediction, not {self.averaging!r}")

    @property
    def adjusts(self) -> bool:
        """Whether there are contexts to adjust for."""
        return self.n_context > 0

    def fitted(self, channels: Sequence[str], roles: Sequence[str | None], features: int, width: int) -> Self:
        """The settings with what the data decide filled in, the channels of the confounder encoder among it."""
        fitted = super().fitted(channels, roles, features, width)
        if not self.n_context:
            return fitted
        if width < ConfounderEncoder.pooled:
            raise QueryError(
                f"data.width is {width}; the confounder encoder needs {ConfounderEncoder.pooled} positions or more "
                f"(or model.n_context=0)"
            )
        if self.encoder_signals != "background":
            return fitted
        seen = tuple(i for i, role in enumerate(roles) if role == "background")
        if not seen:
            raise NotFoundError(
                f"encoder_signals='background', and none of {', '.join(channels)} has that role: "
                f"give `role: background` in the catalogue, or name the channels"
            )
        return replace(fitted, encoder_signals=seen)


class PrismOutput(NamedTuple):
    """What the model gives for a batch; a part that was not asked for, or that the model lacks, is None."""

    original: Tensor | None
    """``(B,)`` predictions from what was observed."""
    adjusted: Tensor | None
    """``(B,)`` predictions averaged over the contexts."""
    contexts: Tensor | None
    """``(B, d_model, n_context)``."""


class Prism(nn.Module):
    """The model.

    Parameters
    ----------
    config
        The architecture.
    scan
        Backend of the selective scan, see :func:`prism_model.scan.selective_scan`.
    """

    def __init__(self, config: PrismConfig | None = None, *, scan: str = "auto") -> None:
        super().__init__()
        self.config = c = PrismConfig() if config is None else config
        self.seen = _encoder_channels(c)
        self.sequence_in = nn.Linear(4, c.d_model)
        self.signal_in = nn.Linear(c.signal_size, c.d_model) if c.signal_size else None
        self.encoder = (
            ConfounderEncoder(
                len(self.seen),
                c.d_model,
                c.n_context,
                width=c.encoder_width,
                activation=c.context_activation,
            )
            if c.n_context
            else None
        )
        self.backbone = Backbone(
            c.d_model,
            c.n_layer,
            norm_eps=c.norm_eps,
            expand=c.expand,
            d_state=c.d_state,
            d_conv=c.d_conv,
            bidirectional=c.bidirectional,
            scan=scan,
        )
        self.head = nn.Sequential(
            nn.Linear(c.d_model + c.feature_size, c.d_model),
            nn.ReLU(),
            nn.Linear(c.d_model, c.d_model),
            nn.ReLU(),
            nn.Linear(c.d_model, 1),
        )
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and module.bias is not None and not name.endswith("dt_proj"):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        sequence: Tensor,
        signals: Tensor | None = None,
        features: Tensor | None = None,
        *,
        averaging: Averaging | None = None,
        branches: Branches = "both",
    ) -> PrismOutput:
        """Predict.

        Parameters
        ----------
        sequence
            One-hot, ``(B, L, 4)``, A C G T, zeros for N.
        signals
            ``(B, L, signal_size)``; None for a model without signals.
        features
            ``(B, feature_size)``; None for a model without features.
        averaging
            Overrides the configuration's.
        branches
            ``"original"`` or ``"adjusted"`` computes that branch alone, at less cost.

        Returns
        -------
        PrismOutput
            Predictions of both branches and the contexts.

        Raises
        ------
        genostore.errors.QueryError
            When the inputs are not those the model was made for.
        """
        c = self.config
        self._check(sequence, signals, features, branches)
        contexts = None
        if signals is None or self.signal_in is None:
            stacked = self.sequence_in(sequence)
        else:
            if self.encoder is not None and branches != "original":
                contexts = self.encoder(signals if len(self.seen) == c.signal_size else signals[..., self.seen])
            stacked = embedded_copies(sequence, signals, self.sequence_in, self.signal_in, contexts, branches)
        hidden, start = self.backbone(stacked), (sequence.shape[1] - c.center_length) // 2
        if c.center_length < sequence.shape[1]:  # else the gradient would be written out once more
            hidden = hidden[:, start : start + c.center_length]
        # A sum rather than a mean: its gradient is the same at every position and need not be written out.
        pooled = (hidden.sum(1) / c.center_length).unflatten(0, (-1, len(sequence)))  # (copies, B, d)

        original = None if branches == "adjusted" else predict(self.head, pooled[0], features)
        adjusted = None
        if contexts is not None:
            adjusted = adjusted_prediction(self.head, pooled[-c.n_context :], features, averaging or c.averaging)
        return PrismOutput(original, adjusted, contexts)

    def _check(self, sequence: Tensor, signals: Tensor | None, features: Tensor | None, branches: Branches) -> None:
        c = self.config
        if sequence.ndim != 3 or sequence.shape[-1] != 4:
            raise QueryError(f"sequence is one-hot (B, L, 4), not {tuple(sequence.shape)}")
        batch, length, _ = sequence.shape
        if length < c.center_length:
            raise QueryError(
                f"the window has {length} positions, fewer than the {c.center_length} central ones that the "
                f"model averages (center_length)"
            )
        wanted = {
            "signals": (signals, (batch, length, c.signal_size)),
            "features": (features, (batch, c.feature_size)),
        }
        for name, (tensor, shape) in wanted.items():
            got = None if tensor is None else tuple(tensor.shape)
            if got != (shape if shape[-1] else None):
                raise QueryError(
                    f"{name} must be {shape if shape[-1] else None} for this model, and is {got}: it was made "
                    f"for {c.signal_size} signals and {c.feature_size} features"
                )
        if branches not in ("both", "original", "adjusted"):
            raise QueryError(f"branches is both, original or adjusted, not {branches!r}")
        if branches == "adjusted" and not c.n_context:
            raise QueryError("a model without contexts (n_context = 0) has no adjusted branch")

    @classmethod
    def from_official(
        cls,
        path: str | Path,
        *,
        center_length: int = 2_000,
        context_activation: str = "sigmoid",
        scan: str = "auto",
    ) -> Self:
        """Load a checkpoint of the official release without executing its pickle.

        Parameters
        ----------
        path
            A Lightning checkpoint with the release's parameter names.
        center_length, context_activation
            What the weights do not tell; all other sizes come from their shapes.
        scan
            Backend of the selective scan.

        Returns
        -------
        Prism
            In evaluation mode, float32, on the CPU.

        Raises
        ------
        genostore.errors.SourceError
            When the file is no such checkpoint.
        """
        from prism_model import official

        weights = official.read(path)
        config = official.infer_config(weights, source=str(path))
        model = cls(replace(config, center_length=center_length, context_activation=context_activation), scan=scan)
        model.load_state_dict(official.from_official(weights, model.state_dict(), source=str(path)))
        return model.eval()

    @classmethod
    def from_run(cls, path: str | Path, *, scan: str = "auto") -> Self:
        """Load the best weights of a run folder (or a converted checkpoint's folder).

        Raises
        ------
        genostore.errors.NotFoundError
            When the folder holds no model.
        """
        from prism_model.weights import load

        return load(path, cls, scan=scan)

    def official_named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under the names of the official release, without its leading ``model.``.

        A projection that both directions share appears once, under its forward name.
        """
        from prism_model.official import official_names

        for name, parameter in self.named_parameters():
            yield official_names(name)[0].removeprefix("model."), parameter


def _encoder_channels(config: PrismConfig) -> list[int]:
    """The channels that the confounder encoder sees, checked."""
    every = range(config.signal_size)
    seen = config.encoder_signals
    if seen == "background":
        raise QueryError(
            "encoder_signals='background' depends on the roles of a store's tracks: `prism train` resolves it; "
            "here, give the numbers of the channels"
        )
    if seen == "all":
        return list(every)
    channels = [int(i) for i in seen]
    if sorted(set(channels)) != channels or not set(channels) <= set(every) or not channels:
        raise QueryError(f"encoder_signals {seen} must name channels of 0 to {len(every) - 1}, ascending, each once")
    return channels
