"""What `prism explain` writes: browser tracks, the table of mutations, the numbers, the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genostore.errors import QueryError
from prism_model.explain import Explanation, mutations
from prism_model.runs import write_json


def write_explanation(
    explanation: Explanation, out: str | Path, contigs: Mapping[str, int], formats: Sequence[str]
) -> Path:
    """Write everything of an explanation to a folder.

    Parameters
    ----------
    explanation
        Of a gene or region.
    out
        The folder, made where absent; files of an earlier explanation are replaced.
    contigs
        Names and lengths of the assembly's contigs, for the bigWigs.
    formats
        Of the tracks: ``bigwig``, ``bedgraph``.

    Returns
    -------
    pathlib.Path
        The folder: ``attribution.NAME.bw`` and ``.bedgraph`` of the sequence and each signal, ``mutagenesis.bw`` (what
        is lost by a substitution), ``mutations.tsv``, ``explanation.json`` and ``explanation.png``.
    """
    from genostore.plot import save
    from prism_model.explain_draw import draw_explanation

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, (start, values) in tracks(explanation).items():
        label = f"{explanation.name} {explanation.cell_type} {name}"
        if "bigwig" in formats:
            write_bigwig(out / f"{name}.bw", contigs, explanation.contig, start, values)
        if "bedgraph" in formats:
            write_bedgraph(out / f"{name}.bedgraph", label, explanation.contig, start, values)
    if explanation.mutagenesis is not None:
        mutations(explanation).to_csv(out / "mutations.tsv", sep="\t", index=False, float_format="%.6g")
    write_json(out / "explanation.json", numbers(explanation))
    save(draw_explanation(explanation), out / "explanation.png")
    return out


def tracks(explanation: Explanation) -> dict[str, tuple[int, NDArray[np.float64]]]:
    """Name to first position and values."""
    start = explanation.start
    made = {"attribution.sequence": (start, explanation.sequence)}
    made |= {f"attribution.{name}": (start, values) for name, values in explanation.signals.items()}
    if explanation.mutagenesis is not None:
        made["mutagenesis"] = (explanation.mutagenesis.start, explanation.mutagenesis.importance)
    return made


def numbers(explanation: Explanation) -> dict[str, object]:
    """The single numbers of an explanation, with the sums of its tracks."""
    named = ("name", "gene", "contig", "start", "end", "anchor", "strand", "cell_type", "branch")
    sums = {"sequence": float(explanation.sequence.sum())}
    sums |= {name: float(values.sum()) for name, values in explanation.signals.items()}
    return {
        **{key: getattr(explanation, key) for key in named},
        "prediction": explanation.prediction,
        "observed": explanation.observed,
        "reference": explanation.reference,
        "gap": explanation.gap,
        "contributions": sums | explanation.features,
    }


def write_bedgraph(path: Path, label: str, contig: str, start: int, values: NDArray[np.float64]) -> None:
    """Write runs of equal values, 0-based and half-open, with a track line; NaN is left out."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'track type=bedGraph name="{label}" autoScale=on\n')
        for low, high, value in _runs(values):
            file.write(f"{contig}\t{start + low}\t{start + high}\t{value:.7g}\n")


def write_bigwig(path: Path, contigs: Mapping[str, int], contig: str, start: int, values: NDArray[np.float64]) -> None:
    """Write runs of equal values; the header names all contigs.

    Raises
    ------
    genostore.errors.QueryError
        When pyBigWig is not installed.
    """
    try:
        import pyBigWig
    except ImportError as error:
        raise QueryError(
            "bigWigs need pyBigWig, which is not installed: pip install 'genostore[explain]', or ask for bedgraph alone"
        ) from error
    file = pyBigWig.open(str(path), "w")
    try:
        file.addHeader(list(contigs.items()))
        runs = _runs(values)
        if runs:
            low, high, value = (list(column) for column in zip(*runs, strict=True))
            file.addEntries(
                [contig] * len(runs), [start + i for i in low], ends=[start + i for i in high], values=value
            )
    finally:
        file.close()


def _runs(values: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    """Runs of equal float32 values; those of NaN are left out."""
    short = np.asarray(values, dtype=np.float32)
    first = np.flatnonzero(np.r_[True, short[1:] != short[:-1]]) if len(short) else np.empty(0, dtype=np.int64)
    last = np.r_[first[1:], len(short)]
    return [(int(a), int(b), float(short[a])) for a, b in zip(first, last, strict=True) if not np.isnan(short[a])]
