"""Hi-C contacts: a band of the matrix, balanced when read, as matrices or as profiles of one bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from genostore import index
from genostore.arrays import Array, Group, Reads
from genostore.errors import NotFoundError, QueryError, nearest
from genostore.genome import Contig, Genome, RegionLike
from genostore.storage import Storage

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contacts:
    """What to read of the contacts of each window.

    Attributes
    ----------
    assay
        Name of the contacts in the store, such as ``"hic"``.
    bin_size
        In bases; may be left out where the store has one.
    weight
        Name of the balancing weights; None for raw counts.
    kind
        ``"profile"``: the contacts of the anchor's bin with each bin of the window (virtual 4C).
        ``"matrix"``: of each bin with each.
    flank
        Bases on either side of the anchor to cover instead of the window.
    """

    assay: str
    bin_size: int | None = None
    weight: str | None = None
    kind: Literal["profile", "matrix"] = "profile"
    flank: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("profile", "matrix"):
            raise QueryError(f"kind of contacts is {self.kind!r}; it is 'profile' or 'matrix'")
        if self.flank is not None and self.flank < 1:
            raise QueryError(f"flank of contacts is {self.flank}; it is a positive number of bases")


class ContactMap:
    """The contacts of one cell type at one bin size.

    Parameters
    ----------
    storage, node
        Where the store lies, and ``contacts/<cell_type>/<assay>/<bin_size>`` in it.
    genome
        Of the store.
    """

    def __init__(self, storage: Storage, node: str, genome: Genome) -> None:
        self.storage, self.node, self.genome = storage, node, genome
        self.bin_size = int(node.rsplit("/", 1)[1])
        self._group = Group.of(storage, node)
        self.band = Array(storage, f"{node}/band", self._group)
        self.n_bins, self.n_offsets = self.band.schema.shape
        self._offsets = genome.bin_offsets(self.bin_size)
        self._biases: dict[str, Floats] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ContactMap, (self.storage, self.node, self.genome)

    def __repr__(self) -> str:
        return (
            f"<ContactMap {self.node}: {self.n_bins:,} bins, up to {self.max_distance:,} bases apart, "
            f"weights {self.weights or 'none'}>"
        )

    @property
    def max_distance(self) -> int:
        """Greatest distance of two bins' starts that is stored, in bases."""
        return (self.n_offsets - 1) * self.bin_size

    @property
    def attributes(self) -> dict[str, Any]:
        """Provenance and convention of the contacts."""
        return index.node_attributes(self.storage, self.node) or {}

    @property
    def weights(self) -> list[str]:
        """Names of the balancing weights."""
        return list(self.attributes.get("weights", ()))

    def first_bin(self, contig: Contig) -> int:
        """Number of a contig's first bin."""
        return self._offsets[contig.name]

    def biases(self, weight: str | None) -> Floats | None:
        """What a raw count is multiplied by, for each of its two bins; NaN for a filtered bin.

        Parameters
        ----------
        weight
            Name of the weights; None for raw counts.

        Returns
        -------
        numpy.ndarray or None
            ``(n_bins,)`` float64: the weights, or their reciprocals where they are divisive.
        """
        if weight is None:
            return None
        if weight not in self._biases:
            if weight not in self.weights:
                raise NotFoundError(f"{self.node} has no weights {weight!r}; {nearest(weight, self.weights)}")
            array = Array(self.storage, f"{self.node}/weights/{weight}", self._group)
            values = array.read().astype(np.float64)
            if array.attributes["divisive"]:
                with np.errstate(divide="ignore"):
                    values = 1.0 / values
            values[~np.isfinite(values)] = np.nan
            self._biases[weight] = values
        return self._biases[weight]

    def matrix(self, region: RegionLike, weight: str | None = None) -> xr.DataArray:
        """Give the symmetric matrix of the bins that a region touches.

        Parameters
        ----------
        region
            As for :meth:`genostore.Genome.region`.
        weight
            Name of the balancing weights; None for raw counts.

        Returns
        -------
        xarray.DataArray
            ``(bin1, bin2)`` float64, the coordinates being the bins' starts in bases. NaN beyond the stored band
            and, with a weight, for filtered bins.
        """
        where = self.genome.region(region)
        first, last = where.start // self.bin_size, -(-where.end // self.bin_size)
        low = self.first_bin(where.contig)
        reach = min(last - first, self.n_offsets)
        band = self.band.read(slice(low + first, low + last), slice(0, reach))
        biases = self.biases(weight)
        values = balance(unfold(band), None if biases is None else biases[low + first : low + last])
        starts = np.arange(first, last) * self.bin_size
        return self._array(values, ("bin1", "bin2"), {"bin1": starts, "bin2": starts}, where.contig, weight)

    def profile(self, contig: str, position: int, flank: int, weight: str | None = None) -> xr.DataArray:
        """Give the contacts of the bin of one position with the bins about it (virtual 4C).

        Parameters
        ----------
        contig, position
            Of the viewpoint, 0-based.
        flank
            Bases on either side; the bins that ``[position - flank, position + flank)`` touches are given.
        weight
            Name of the balancing weights; None for raw counts.

        Returns
        -------
        xarray.DataArray
            ``(bin,)`` float64, the coordinate being the bins' starts in bases. NaN off the contig, beyond the
            stored band and, with a weight, where a bin is filtered.
        """
        where = self.genome.region((contig, position, position + 1))
        first = (position - flank) // self.bin_size
        n = -(-(position + flank) // self.bin_size) - first
        values = self.profiles(
            np.array([where.contig.offset]),
            np.array([position]),
            np.array([first]),
            n,
            {where.contig.offset: where.contig},
            weight,
        )[0]
        starts = (first + np.arange(n)) * self.bin_size
        return self._array(values, ("bin",), {"bin": starts}, where.contig, weight)

    def profiles(
        self,
        contig_offset: NDArray[np.int64],
        position: NDArray[np.int64],
        first: NDArray[np.int64],
        n: int,
        contigs: dict[int, Contig],
        weight: str | None,
    ) -> Floats:
        """Give the profiles of many viewpoints.

        Parameters
        ----------
        contig_offset, position
            ``(B,)``: the contig of each viewpoint, by its offset on the genome axis, and where it lies there.
        first, n
            ``(B,)`` bin of the contig at which each profile starts, and how many bins it has.
        contigs
            By offset.
        weight
            Name of the balancing weights; None for raw counts.

        Returns
        -------
        numpy.ndarray
            ``(B, n)`` float64.
        """
        blocks: list[tuple[NDArray[Any], int, int, int, int]] = []
        with Reads() as reads:
            for offset, at, start in zip(contig_offset.tolist(), position.tolist(), first.tolist(), strict=True):
                contig = contigs[offset]
                view, low = at // self.bin_size, self.first_bin(contig)
                a, b = max(start, 0, view - self.n_offsets + 1), min(start + n, contig.n_bins(self.bin_size))
                b = max(min(b, view + self.n_offsets), a)
                top, reach = min(a, view), max(view - a, b - 1 - view, 0) + 1
                block = self.band.empty((view + 1 - top, reach))
                reads.block(self.band, (slice(low + top, low + view + 1), slice(0, reach)), block)
                blocks.append((block, view, top, a, b))
        out = np.full((len(blocks), n), np.nan)
        biases = self.biases(weight)
        for row, (block, view, top, a, b) in enumerate(blocks):
            bins = np.arange(a, b)
            low = self.first_bin(contigs[int(contig_offset[row])])
            values = block[np.minimum(bins, view) - top, np.abs(bins - view)].astype(np.float64)
            if biases is not None:
                values = values * biases[low + view] * biases[low + bins]
            out[row, a - int(first[row]) : b - int(first[row])] = values
        return out

    def matrices(
        self,
        contig_offset: NDArray[np.int64],
        first: NDArray[np.int64],
        n: int,
        contigs: dict[int, Contig],
        weight: str | None,
    ) -> Floats:
        """Give the matrices of many windows of ``n`` bins, ``(B, n, n)`` float64; NaN off the contig."""
        reach = min(n, self.n_offsets)
        bands = np.full((len(first), n, reach), np.nan)
        blocks: list[tuple[int, int, int, NDArray[Any]]] = []
        with Reads() as reads:
            for offset, start in zip(contig_offset.tolist(), first.tolist(), strict=True):
                contig = contigs[offset]
                a, b = max(start, 0), max(min(start + n, contig.n_bins(self.bin_size)), start, 0)
                low = self.first_bin(contig)
                block = self.band.empty((b - a, reach))
                reads.block(self.band, (slice(low + a, low + b), slice(0, reach)), block)
                blocks.append((a - start, b - start, low + start, block))
        out = np.empty((len(first), n, n))
        biases = self.biases(weight)
        for band, matrix, (a, b, low, block) in zip(bands, out, blocks, strict=True):
            band[a:b] = block
            matrix[...] = unfold(band)
            matrix[:, b:] = matrix[b:, :] = np.nan  # off the contig
            if biases is not None:
                here = np.full(n, np.nan)
                here[a:b] = biases[low + a : low + b]
                matrix[...] = balance(matrix, here)
        return out

    def _array(
        self,
        values: Floats,
        dims: tuple[str, ...],
        coords: dict[str, Any],
        contig: Contig,
        weight: str | None,
    ) -> xr.DataArray:
        import xarray as xr

        attributes = {"contig": contig.name, "bin_size": self.bin_size, "weight": weight or "none (raw)"}
        return xr.DataArray(values, coords, dims, name=self.node.split("/")[2], attrs=attributes)


def unfold(band: NDArray[Any]) -> Floats:
    """Unfold ``band[i, d] = M[i, i + d]`` of n bins to the symmetric ``(n, n)`` matrix; NaN beyond the band."""
    n, reach = band.shape
    out = np.full((n, n), np.nan)
    rows, offsets = np.nonzero(np.arange(n)[:, None] + np.arange(reach)[None, :] < n)
    out[rows, rows + offsets] = band[rows, offsets]
    out[rows + offsets, rows] = band[rows, offsets]
    return out


def balance(values: Floats, biases: Floats | None) -> Floats:
    """Multiply an ``(n, n)`` matrix of raw counts by the ``(n,)`` biases of its bins."""
    return values if biases is None else values * biases[:, None] * biases[None, :]
