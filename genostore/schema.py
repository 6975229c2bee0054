"""The format on disk, version 1, as validated dataclasses. ``docs/format.md`` is its text.

Nothing here touches a disk: metadata go in and out as the JSON of Zarr v3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from genostore.errors import FormatError
from genostore.genome import Contig, Genome

FORMAT_VERSION = 1
KEY = "genostore"  # the one attribute key that the format uses, on the root and on every node

# Chosen by measurement; see docs/decisions.md.
ALIGNMENT = 16_384  # contigs start at multiples of it, and every inner chunk on `position` divides it
POSITION_CHUNK = 4_096  # positions that one read decodes: 16 KiB of float32
POSITION_SHARD = 4_194_304  # positions that one writer writes at once: 16 MiB of float32
BAND_CHUNK = (128, 128)
BAND_SHARD_BINS = 8_192
ZSTD_LEVEL = 1
SIGNAL_LEVEL = -1  # of tracks: matches as of level 1, and literals as they are

# Beyond what any genome needs; metadata that ask for more are damaged, or made to exhaust memory.
_LONGEST = 1 << 44
_LARGEST_CHUNK = 1 << 30
_MOST_BLOCKS = 1 << 26

_NAME = re.compile(r"[A-Za-z0-9_+\-][A-Za-z0-9._+\-]*")
_PATH = re.compile(rf"{_NAME.pattern}(?:/{_NAME.pattern})*")


def check_name(name: str, what: str) -> str:
    """Return a name that may become a folder of the store.

    Raises
    ------
    FormatError
        If it holds anything but letters, digits and ``. _ + -``, or begins with a dot.
    """
    if not _NAME.fullmatch(name):
        raise FormatError(
            f"{what} {name!r} cannot be a name in a store; names are of letters, digits and . _ + - "
            "and do not begin with a dot"
        )
    return name


def check_node(path: str) -> str:
    """Return the path of a node or array, each part of which is a name as :func:`check_name` has it.

    Raises
    ------
    FormatError
        If a part is not, so that no path of a store or a command leads out of the store.
    """
    if not _PATH.fullmatch(path):
        raise FormatError(f"{path!r} is no path of a store; its parts are names of letters, digits and . _ + -")
    return path


def track_name(assay: str, strand: str | None = None, replicate: int | None = None) -> str:
    """Name of a track's array under its cell type: ``RNA+``, ``DNase.rep2``, ``H3K27ac``."""
    return assay + (strand or "") + (f".rep{replicate}" if replicate is not None else "")


@dataclass(frozen=True)
class RootSchema:
    """The root's attributes: what every reader needs before it reads anything else."""

    assembly: str
    contigs: tuple[Contig, ...]
    alignment: int
    writer: str
    version: int = FORMAT_VERSION

    @property
    def genome(self) -> Genome:
        """The genome axis."""
        return Genome(self.assembly, self.contigs, self.alignment)

    def to_json(self) -> dict[str, Any]:
        """Give the root group's ``zarr.json``."""
        return group_metadata({"kind": "store", **asdict(self), "contigs": [asdict(c) for c in self.contigs]})

    @classmethod
    def from_json(cls, metadata: Mapping[str, Any], where: str) -> RootSchema:
        """Read and validate the root's ``zarr.json``.

        Raises
        ------
        FormatError
            If it is not a genostore root, of another version, or breaks a rule of the format.
        """
        attributes = metadata.get("attributes", {}).get(KEY)
        if not isinstance(attributes, Mapping):
            raise FormatError(f"{where} is a Zarr group but not a genostore store: no {KEY!r} attribute")
        check_version(attributes, where)
        try:
            contigs = tuple(Contig(c["name"], c["length"], c["offset"]) for c in attributes["contigs"])
            root = cls(
                attributes["assembly"],
                contigs,
                attributes["alignment"],
                attributes["writer"],
                attributes["version"],
            )
        except (KeyError, TypeError) as error:
            raise FormatError(f"the root attributes of {where} are incomplete: {error!r}") from error
        root.validate(where)
        return root

    def validate(self, where: str) -> None:
        """Check offsets and lengths of the contigs against each other."""
        if self.alignment < 1:
            raise FormatError(f"{where}: alignment is {self.alignment}, not a positive number of bases")
        end = 0
        for c in self.contigs:
            if c.length < 1 or c.offset != -(-end // self.alignment) * self.alignment:
                raise FormatError(f"{where}: contig {c} does not follow the one before it on the genome axis")
            end = c.offset + c.length


def check_version(attributes: Mapping[str, Any], where: str) -> None:
    """Refuse what another version of the format wrote.

    Raises
    ------
    FormatError
        Naming the version found and the version understood.
    """
    version = attributes.get("version")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{where} is of format version {version}, and this genostore reads version {FORMAT_VERSION}; "
            "open it with the genostore that wrote it, or ingest it again"
        )


def group_metadata(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give the ``zarr.json`` of a group, with our attributes if any."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {KEY: dict(attributes)} if attributes is not None else {},
    }


@dataclass(frozen=True)
class ArraySchema:
    """One Zarr v3 array: shape, type, fill value and chunks.

    Attributes
    ----------
    shape, dims
        One name a dimension.
    dtype
        A numpy name, or ``"string"``.
    fill
        What an absent shard stands for.
    chunk
        What a read decodes.
    shard
        What a writer writes at once, a multiple of ``chunk``; None for no sharding.
    level
        Of zstd; None for values that are not compressed.
    """

    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str
    fill: float | int | str
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None = None
    level: int | None = field(default=ZSTD_LEVEL)

    def validate(self) -> None:
        """Refuse what no array of a genome is, before anything of its size is allocated.

        Raises
        ------
        ValueError
            Saying what is out of bounds.
        """
        extents = (self.shape, self.dims, self.chunk, self.block)
        if len({len(e) for e in extents}) != 1 or not self.shape:
            raise ValueError(f"shape {self.shape}, names {self.dims} and chunks {self.chunk} are of several lengths")
        if not all(type(n) is int and 0 <= n < _LONGEST for e in (self.shape, self.chunk, self.block) for n in e):
            raise ValueError(f"shape {self.shape}, chunks {self.chunk} or shards {self.block} are out of bounds")
        if 0 in self.chunk or any(b % c for b, c in zip(self.block, self.chunk, strict=True)):
            raise ValueError(f"shards {self.block} are no multiples of chunks {self.chunk}")
        if self.dtype != "string" and math.prod(self.chunk) * np.dtype(self.dtype).itemsize > _LARGEST_CHUNK:
            raise ValueError(f"chunks of {self.chunk} {self.dtype} are larger than {_LARGEST_CHUNK:,} bytes")
        if self.n_blocks > _MOST_BLOCKS:
            raise ValueError(f"{self.n_blocks:,} stored objects are more than {_MOST_BLOCKS:,}")

    @property
    def block(self) -> tuple[int, ...]:
        """Extent of one stored object: the shard, or the chunk where there are no shards."""
        return self.shard or self.chunk

    @property
    def compressed(self) -> bool:
        """Whether values are compressed."""
        return self.level is not None

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Stored objects along each dimension."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    @property
    def n_blocks(self) -> int:
        """Number of stored objects when none is empty."""
        return math.prod(self.grid)

    def slices(self, block: int) -> tuple[slice, ...]:
        """Extent of stored object number ``block`` (C order), clipped to the shape."""
        where = np.unravel_index(block, self.grid)
        return tuple(
            slice(int(i) * b, min((int(i) + 1) * b, n)) for i, b, n in zip(where, self.block, self.shape, strict=True)
        )

    def key(self, block: int) -> str:
        """Path of stored object number ``block`` inside the array."""
        return "/".join(["c", *(str(int(i)) for i in np.unravel_index(block, self.grid))])

    def to_json(self, attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give the array's ``zarr.json``."""
        string = self.dtype == "string"
        data: dict[str, Any] = (
            {"name": "vlen-utf8", "configuration": {}}
            if string
            else {"name": "bytes", "configuration": {"endian": "little"}}
        )
        codecs: list[dict[str, Any]] = [
            data,
            *([{"name": "zstd", "configuration": {"level": self.level, "checksum": False}}] if self.compressed else []),
            {"name": "crc32c"},
        ]
        if self.shard is not None:
            sharding = {
                "chunk_shape": list(self.chunk),
                "codecs": codecs,
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        fill = "NaN" if isinstance(self.fill, float) and math.isnan(self.fill) else self.fill
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.block)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": codecs,
            "attributes": {KEY: dict(attributes)} if attributes is not None else {},
            "dimension_names": list(self.dims),
            "storage_transformers": [],
        }

    @classmethod
    def from_json(cls, metadata: Mapping[str, Any], where: str) -> ArraySchema:
        """Read an array's ``zarr.json``; refuses what the format does not use."""
        try:
            block = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
            codecs, chunk, shard = metadata["codecs"], block, None
            if codecs[0]["name"] == "sharding_indexed":
                chunk, shard = tuple(codecs[0]["configuration"]["chunk_shape"]), block
                codecs = codecs[0]["configuration"]["codecs"]
            names = [c["name"] for c in codecs]
            if [n for n in names if n != "zstd"] != [names[0], "crc32c"] or names[0] not in ("bytes", "vlen-utf8"):
                raise FormatError(f"array {where} has codecs {', '.join(names)}; they are bytes, zstd (or not), crc32c")
            level = codecs[1]["configuration"]["level"] if "zstd" in names else None
            fill = metadata["fill_value"]
            schema = cls(
                shape=tuple(metadata["shape"]),
                dims=tuple(metadata["dimension_names"]),
                dtype=metadata["data_type"],
                fill=math.nan if fill == "NaN" else fill,
                chunk=chunk,
                shard=shard,
                level=level,
            )
            schema.validate()
            return schema
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FormatError(f"the metadata of array {where} are not of this format: {error!r}") from error


def position_array(length: int, alignment: int, dtype: str, fill: float | int) -> ArraySchema:
    """Schema of an array along the genome axis (``sequence`` and the tracks).

    Parameters
    ----------
    length
        Of the genome axis, in positions.
    alignment
        The store's; the inner chunk divides it.
    dtype, fill
        Of the array.
    """
    chunk = math.gcd(POSITION_CHUNK, alignment)
    # A small genome is one shard, and no larger than it needs to be.
    shard = min(POSITION_SHARD, -(-length // chunk) * chunk)
    shard = max(chunk, shard // chunk * chunk)
    level = SIGNAL_LEVEL if dtype.startswith("float") else ZSTD_LEVEL
    return ArraySchema((length,), ("position",), dtype, fill, (chunk,), (shard,), level)


def band_array(n_bins: int, n_offsets: int, dtype: str) -> ArraySchema:
    """Schema of a band of contacts, ``band[i, d] = M[i, i + d]``.

    Parameters
    ----------
    n_bins
        Bins of the whole genome.
    n_offsets
        Diagonals kept, the main one included.
    dtype
        The source's own type of count.
    """
    rows = min(BAND_CHUNK[0], n_bins)
    columns = min(BAND_CHUNK[1], n_offsets)
    shard = (
        min(BAND_SHARD_BINS // rows * rows, -(-n_bins // rows) * rows),
        -(-n_offsets // columns) * columns,
    )
    return ArraySchema((n_bins, n_offsets), ("bin", "offset"), dtype, 0, (rows, columns), shard)


def column_array(n: int, dim: str, dtype: str) -> ArraySchema:
    """Schema of a column (one value a gene, bin or interval), stored as one chunk."""
    fill: float | int | str = "" if dtype == "string" else 0
    if dtype.startswith("float"):
        fill = math.nan
    return ArraySchema((n,), (dim,), dtype, fill, (max(n, 1),))


def dumps(value: Any) -> bytes:
    """Serialise metadata, always to the same bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def summary(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a node's attributes to what ``index.json`` repeats: all but the list of its shards and the checksum."""
    return {k: v for k, v in attributes.items() if k not in ("shards", "metadata_crc32c")}
