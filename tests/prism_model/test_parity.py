"""Every number of the official release, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prism_model import hic_profile, prism_loss
from prism_model.losses import uniformity

from .conftest import Parity

TOLERANCE = 1e-4
INPUTS = {"base_ids", "signals", "rna_features", "target"}


def assert_agree(ours: dict[str, torch.Tensor], parity: Parity, names: set[str]) -> None:
    for name in sorted(names):
        a, b = ours[name].detach().numpy(), parity.arrays[name]
        assert a.shape == b.shape, name
        assert np.abs(a - b).max() <= TOLERANCE * np.abs(b).max(), name


def test_every_array_and_gradient_agrees(parity: Parity) -> None:
    model = parity.model()
    with torch.no_grad():
        out = model(*parity.inputs)
    ours = {
        "eval_logits": out.original[:, None],
        "eval_intervention_logits": out.adjusted[:, None],
        "eval_context_weights": out.contexts,
        "eval_uniform_loss": uniformity(out.contexts),
    }
    model.train()
    out = model(*parity.inputs)
    weights = parity.config["loss_weights"]
    terms = prism_loss(
        out, parity.target, weights["intervention"], weights["uniform"], temperature=parity.config["uniform_t"]
    )
    terms.total.backward()
    ours |= {
        "train_logits": out.original[:, None],
        "train_intervention_logits": out.adjusted[:, None],
        "train_uniform_loss": terms.uniformity,
        "loss_pred": terms.prediction,
        "loss_intervention": terms.intervention,
        "loss_total": terms.total,
    }
    ours |= {f"grad/{name}": parameter.grad for name, parameter in model.official_named_parameters()}
    assert_agree(ours, parity, set(parity.arrays) - INPUTS)


@pytest.mark.parametrize("scan", ["reference", "chunked"])
def test_other_scans_agree(small_parity: Parity, scan: str) -> None:
    model = small_parity.model(scan).train()
    out = model(*small_parity.inputs)
    prism_loss(out, small_parity.target).total.backward()
    ours = {f"grad/{name}": p.grad for name, p in model.official_named_parameters()}
    ours["train_logits"] = out.original[:, None]
    assert_agree(ours, small_parity, {n for n in small_parity.arrays if n.startswith("grad/")} | {"train_logits"})


def test_the_paper_sizes_have_585681_parameters(shared: Path) -> None:
    from prism_model import Prism

    assert sum(p.numel() for p in Prism().parameters()) == 585_681


def test_hic_profile_agrees(shared: Path) -> None:
    with np.load(shared / "parity" / "hic" / "hic_profile.npz") as given:
        assert len(given["tss"])
        for tss, expected in zip(given["tss"], given["profile"], strict=True):
            ours = hic_profile(
                given["bin1"],
                given["bin2"],
                given["contact"],
                bin_size=int(given["bin_size"]),
                chrom_length=int(given["chrom_length"]),
                tss=int(tss),
                flank=int(given["flank"]),
            )
            assert ours.dtype == np.float64
            np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
