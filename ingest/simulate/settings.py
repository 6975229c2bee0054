"""What a simulated world is made of: sizes, effect sizes, and the random streams that draw it."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field

import numpy as np

from genostore.errors import QueryError

MRNA_FEATURES = (
    "UTR5LEN_log10zscore",
    "CDSLEN_log10zscore",
    "INTRONLEN_log10zscore",
    "UTR3LEN_log10zscore",
    "UTR5GC",
    "CDSGC",
    "UTR3GC",
    "ORFEXONDENSITY",
)
"""The eight mRNA half-life features of Xpresso, in the order of its table."""

CONTIG_SHARES = {"chr1": 0.26, "chr2": 0.22, "chr3": 0.20, "chr4": 0.16, "chr5": 0.16}
"""The contigs, and the share of the genes that each carries."""

SPLITS = {"test": ("chr5",), "valid": ("chr4",)}
"""The held-out contigs; the rest trains."""

MIN_GENES = 40


@dataclass(frozen=True)
class Motif:
    """A transcription factor's binding motif, planted near transcription start sites.

    Attributes
    ----------
    name
        Its name in the truth.
    consensus
        The most likely base of every position; each is drawn with probability ``Settings.motif_fidelity``.
    effect
        What one site adds to log10(1 + expression).
    every_other
        Whether only the first, third, fifth ... cell types express the factor; in the others the effect is 0.
    mean_sites
        The mean of the Poisson number of sites a gene has, cut at three.
    """

    name: str
    consensus: str
    effect: float
    every_other: bool
    mean_sites: float


@dataclass(frozen=True)
class Effects:
    """What each cause adds to log10(1 + expression), before it is cut at 0.

    Attributes
    ----------
    intercept
        The level of a gene without any cause.
    element
        For one unit of H3K27ac element activity at the TSS.
    reach
        An element's effect falls with its distance d from the TSS as exp(-d / reach), in bp.
    features
        For one unit of the named mRNA feature.
    activity
        For the neighbourhood's hidden activity, which is +1 or -1.
    state
        For the neighbourhood's background chromatin state. It is 0: the state is not a cause.
    noise
        The standard deviation of what nothing explains.
    """

    intercept: float = 0.45
    element: float = 0.28
    reach: float = 2_000.0
    features: dict[str, float] = field(default_factory=lambda: {"UTR3LEN_log10zscore": -0.08, "ORFEXONDENSITY": 0.03})
    activity: float = 0.30
    state: float = 0.0
    noise: float = 0.18


@dataclass(frozen=True)
class Settings:
    """The whole description of a simulated world; equal settings give equal files.

    Attributes
    ----------
    genes
        Protein-coding genes; the genome's length follows, 30 kb a gene.
    cell_types
        How many cell types, named ``cellA``, ``cellB`` and so on.
    seed
        Seeds every random stream.
    shift
        Deal the background state of the held-out contigs otherwise: a second environment.
    agreement
        The share of neighbourhoods whose background state follows their hidden activity, where not shifted.
    shift_agreement
        The same where shifted: 0.5 breaks the correlation with expression, less reverses it.
    promoter_activity
        Write the release's ninth feature too, one of each cell type, which sees H3K27ac and DNase.
    gene_spacing, genes_a_neighbourhood
        Layout, in bp and genes.
    motif_fidelity
        The probability of the consensus base in a planted site.
    effects, motifs
        The causes of expression.
    """

    genes: int = 300
    cell_types: int = 2
    seed: int = 0
    shift: bool = False
    agreement: float = 0.9
    shift_agreement: float = 0.5
    promoter_activity: bool = False
    gene_spacing: int = 30_000
    genes_a_neighbourhood: int = 3
    motif_fidelity: float = 0.88
    effects: Effects = field(default_factory=Effects)
    motifs: tuple[Motif, ...] = (
        Motif("ACT1", "TGACGTCATAGC", 0.20, False, 0.8),
        Motif("REP1", "AGCTTACCGGAA", -0.22, False, 0.8),
        Motif("CTS1", "GGATCAAAGCTT", 0.30, True, 0.8),
    )

    def __post_init__(self) -> None:
        if self.genes < MIN_GENES:
            raise QueryError(
                f"a simulation of {self.genes} genes: at least {MIN_GENES} are needed, "
                "so that every contig has a few neighbourhoods"
            )
        if not 1 <= self.cell_types <= 26:
            raise QueryError(f"a simulation of {self.cell_types} cell types: from 1 to 26 can be named")
        if self.seed < 0:
            raise QueryError(f"a simulation with seed {self.seed}: seeds are whole numbers from 0")
        if not 0.5 <= self.agreement <= 1:
            raise QueryError(f"agreement is {self.agreement}: expected a share between 0.5 (none) and 1 (always)")
        if not 0 <= self.shift_agreement <= 1:
            raise QueryError(
                f"shift_agreement is {self.shift_agreement}: expected a share between 0 (reversed) and 1; 0.5 is none"
            )

    @property
    def cell_type_names(self) -> list[str]:
        """``cellA``, ``cellB`` ..."""
        return [f"cell{chr(ord('A') + i)}" for i in range(self.cell_types)]

    @property
    def held_out(self) -> tuple[str, ...]:
        """The contigs of the validation and the test split."""
        return tuple(contig for contigs in SPLITS.values() for contig in contigs)

    def motif_effects(self) -> np.ndarray:
        """What one site of each motif adds, ``(motif, cell_type)`` float64."""
        on = np.arange(self.cell_types) % 2 == 0
        return np.array([m.effect * (on if m.every_other else np.ones_like(on)) for m in self.motifs])

    def stream(self, *names: object) -> np.random.Generator:
        """A generator of its own for one purpose.

        Streams are independent, so that a change in one part of the world (``shift``, a further cell type)
        leaves the draws of every other part as they are.
        """
        return np.random.default_rng([self.seed, *(zlib.crc32(str(name).encode()) for name in names)])

    def as_dict(self) -> dict:
        """The settings as plain values, for the truth."""
        return asdict(self)


def split_of(contig: str) -> str:
    """``train``, ``valid`` or ``test``."""
    return next((name for name, contigs in SPLITS.items() if contig in contigs), "train")
