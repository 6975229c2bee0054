"""The paper's figures for chromosomes 22 and X (``fold_11``), to be printed beside one's own.

(Yang et al., ICLR 2026, arXiv 2602.21550, table 1 and its ablation; baselines by Su et al., arXiv 2502.13991.) They
are for the published 18,377 genes, CAGE, 2,000 bases for Prism; figures of other data are not comparable to them.
"""

from __future__ import annotations

from collections.abc import Sequence

SCORES = ("mse", "mae", "pearson")

PUBLISHED: dict[str, dict[str, tuple[float | None, float | None, float | None]]] = {
    "Enformer": {"K562": (0.2920, 0.4056, 0.7961), "GM12878": (0.2889, 0.4185, 0.8327)},
    "HyenaDNA": {"K562": (0.2265, 0.3497, 0.8425), "GM12878": (0.2217, 0.3562, 0.8729)},
    "Mamba": {"K562": (0.2241, 0.3416, 0.8412), "GM12878": (0.2145, 0.3446, 0.8788)},
    "Caduceus": {"K562": (0.2197, 0.3327, 0.8475), "GM12878": (0.2124, 0.3436, 0.8819)},
    "Caduceus + signals": {"K562": (0.1959, 0.3187, 0.8630), "GM12878": (0.1942, 0.3269, 0.8928)},
    "EPInformer": {"K562": (0.2140, 0.3291, 0.8473), "GM12878": (0.1975, 0.3246, 0.8907)},
    "MACS3 regions": {"K562": (0.2195, 0.3455, 0.8435), "GM12878": (0.2340, 0.3654, 0.8634)},
    "Seq2Exp hard": {"K562": (0.1863, 0.3074, 0.8682), "GM12878": (0.1890, 0.3199, 0.8916)},
    "Seq2Exp soft": {"K562": (0.1856, 0.3054, 0.8723), "GM12878": (0.1873, 0.3137, 0.8951)},
    "Prism, 2 kb": {"K562": (0.1789, None, 0.8751), "GM12878": (0.1759, None, 0.9016)},
}
"""Mean squared error, mean absolute error, Pearson's r, a cell type; None = not found in print."""


def comparable(expression: str | None, fold: str | None, split: str, cell_types: Sequence[str]) -> list[str]:
    """The cell types of a score to which published figures belong; their data must still be the published ones."""
    if (expression, fold, split) != ("CAGE", "fold_11", "test"):
        return []
    known = PUBLISHED["Prism, 2 kb"]
    return [cell for cell in cell_types if cell in known]
