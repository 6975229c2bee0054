"""Writing packs: what is to be written, shard by shard in parallel, put into its place whole.

A pack is built beside its place, under ``.<name>.partial``, with the machinery of every node
(:mod:`genostore.staging`): a killed run goes on after its last shard, and the result is the same, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genostore import index
from genostore.disk import exchange, lock, put_folder, remove_tree, sync_tree, write_file, writing
from genostore.errors import ConflictError, FormatError, QueryError, StaleError
from genostore.folder import Folder
from genostore.local import processors, share
from genostore.objects import Bucket
from genostore.pack import COPIED, Pack, PackReader, changes
from genostore.query import Ints
from genostore.schema import KEY, ArraySchema, column_array, dumps
from genostore.seal import read_root, seal
from genostore.staging import Staging, create
from genostore.storage import METADATA, PRIVATE, Storage
from genostore.store import Store, open
from genostore.upload import upload
from genostore.windows import Windows

if TYPE_CHECKING:
    import xarray as xr

# Chosen by measurement; see docs/decisions.md.
TILE_BYTES = 2**15  # of an inner chunk, the tracks and positions of one window
SMALL_TILE_BYTES = 2**12  # below which several windows share one
SHARD_BYTES = 2**25
DTYPES = ("float32", "float16")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Packing:
    """What is to be written.

    Attributes
    ----------
    windows
        Of every gene once, as wide as the query and its jitter, on the forward strand.
    jitter
        Of the query.
    dtype
        Of the signal.
    compress
        Whether values are compressed.
    """

    windows: Windows
    jitter: int
    dtype: str
    compress: bool

    @classmethod
    def of(cls, windows: Windows, dtype: str, compress: bool) -> Packing:
        """Plan the packing of windows.

        Raises
        ------
        QueryError
            If the windows are about regions, or the type is none that a pack may have.
        """
        query, store = windows.query, windows.store
        if query.regions is not None:
            raise QueryError("a pack is of windows about genes; regions cannot be packed")
        if dtype not in DTYPES:
            raise QueryError(f"dtype of a pack is {dtype!r}; it is one of {', '.join(DTYPES)}")
        genes = list(dict.fromkeys(windows.genes["id"]))
        plain = replace(
            query,
            genes=genes,
            split=None,
            fold=None,
            exclude=None,
            expression=None,
            features=None,
            resolution=1,
            jitter=0,
            orient="reference",
            cell_types=windows.cell_types,
            assays=windows.assays,
            contacts=windows.selection.contacts,
        )
        selection = store.windows(**vars(plain)).selection
        if selection.contacts is not None and selection.contacts.flank is None:
            selection = replace(selection, spare_bins=1)
        # Wider than the query, and perhaps than the contig: what lies off it is padded, as always.
        wide = replace(plain, width=query.width + 2 * query.jitter)
        reader = PackReader(store, wide, selection) if isinstance(store, Pack) else None
        return cls(Windows(store, wide, selection, reader), query.jitter, dtype, compress)

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The windows as a dataset: dimensions and coordinates of what is written."""
        from genostore.lazy import windows_dataset

        return windows_dataset(self.windows)

    @cached_property
    def schemas(self) -> dict[str, ArraySchema]:
        """Of sequence, signal and contacts, as far as they are asked for."""
        return {p: self._schema(p) for p in ("sequence", "signal", "contacts") if p in self.windows.parts}

    def _schema(self, part: str) -> ArraySchema:
        variable = self.dataset[part]
        dtype = np.dtype(self.dtype) if part == "signal" else variable.dtype
        tile, shard = layout(variable.shape, dtype.itemsize)
        return ArraySchema(
            shape=variable.shape,
            dims=tuple(str(d) for d in variable.dims),
            dtype=str(dtype),
            fill=4 if dtype == np.uint8 else float("nan"),
            chunk=tile,
            shard=shard,
            **({} if self.compress else {"level": None}),
        )

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the root's attributes say of the pack."""
        windows, store = self.windows, self.windows.store
        asked = windows.selection.contacts
        nodes = {f"tracks/{c}/{a}" for c in windows.cell_types for a in windows.assays}
        if asked is not None:
            nodes |= {f"contacts/{c}/{asked.assay}/{asked.bin_size}" for c in windows.cell_types}
        nodes |= {n for n, e in store.entries.items() if e["kind"] in COPIED}
        nodes |= {"sequence"} if "sequence" in windows.parts else set()
        what = {
            "width": windows.width - 2 * self.jitter,
            "jitter": self.jitter,
            "cell_types": windows.cell_types,
            "assays": windows.assays,
            "contacts": asdict(asked) if asked else None,
            "sequence": "sequence" in windows.parts,
            "dtype": self.dtype,
            "compress": self.compress,
            "genes": hashlib.sha256("\n".join(windows.genes["id"]).encode()).hexdigest(),
            "sources": {n: e for n, e in sources(store).items() if n in nodes},
        }
        arrays = {name: schema.to_json() for name, schema in self.schemas.items()}
        return {**what, "digest": hashlib.sha256(dumps([what, arrays])).hexdigest()}

    def read(self, part: str, block: int) -> tuple[NDArray[Any], dict[str, float]]:
        """Read one shard, and measure what its encoding changed.

        Raises
        ------
        QueryError
            If a value overflows the type of the pack.
        """
        schema = self.schemas[part]
        where = schema.slices(block)
        genes, cells = where[0], where[1] if len(where) > 2 else slice(0, 1)
        shape = tuple(s.stop - s.start for s in where)
        n = cells.stop - cells.start
        row = np.repeat(np.arange(genes.start, genes.stop), n)
        cell = np.tile(np.arange(cells.start, cells.stop), genes.stop - genes.start)
        values = self.windows.reader.read(row, cell, np.zeros(len(row), dtype=np.int64), frozenset({part}))[part]
        values = values.reshape(shape)
        if schema.dtype != "float16":
            return values, {}
        return self._narrow(values, genes.start, cells.start)

    def _narrow(self, values: NDArray[np.float32], gene: int, cell: int) -> tuple[NDArray[Any], dict[str, float]]:
        with np.errstate(over="ignore"):
            out = values.astype(np.float16)
        error = np.abs(out.astype(np.float32) - values)  # NaN where both are NaN, or both infinite
        lost = np.isinf(out) & np.isfinite(values)
        if lost.any():
            g, c, a, _ = np.argwhere(lost)[0]
            track = f"{self.windows.cell_types[cell + c]}/{self.windows.assays[a]}"
            raise QueryError(
                f"{float(values[lost][0])} of {track} about gene {self.windows.genes['id'].iloc[gene + g]} overflows "
                "float16, whose greatest value is 65,504; pack as float32"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(values == 0, 0, error / np.abs(values))
        measured = {"max_absolute_error": error, "max_relative_error": relative}
        return out, {k: float(np.fmax.reduce(v, axis=None, initial=0.0)) for k, v in measured.items()}


def layout(shape: tuple[int, ...], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut a packed array into tiles and shards.

    A tile holds what one window needs, or a part of that; only small windows share one. So a read in any order decodes
    little that it does not want, and the tiles of neighbouring windows lie side by side. Shards are cut along genes,
    and along cell types where one gene alone would be too large for one.

    Returns
    -------
    tile, shard : tuple of int
    """
    tile: list[int] = []
    size = itemsize
    for axis in reversed(range(len(shape))):
        window = axis >= 2 or axis == len(shape) - 1
        most = (TILE_BYTES if window else SMALL_TILE_BYTES) // size
        n = min(shape[axis], max(1, most))
        n = -(-shape[axis] // -(-shape[axis] // n)) if axis else n  # in equal parts
        tile.insert(0, n)
        size *= n
    shard = [-(-n // t) * t for n, t in zip(shape, tile, strict=True)]
    for axis in range(min(2, len(shape) - 1)):
        per_tile = int(np.prod(shard[axis + 1 :])) * itemsize * tile[axis]
        shard[axis] = min(shard[axis], max(1, SHARD_BYTES // per_tile) * tile[axis])
        if per_tile <= SHARD_BYTES:
            break
    return tuple(tile), tuple(shard)


def sources(store: Store) -> dict[str, dict[str, Any]]:
    """Give the nodes that a pack of this store would come from: its own, or those that it was itself cut from."""
    return dict(store.description["sources"]) if isinstance(store, Pack) else dict(store.entries)


def write_pack(
    windows: Windows,
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    compress: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path | str:
    """Materialise windows; see :meth:`genostore.windows.Windows.pack`."""
    workers = processors() if workers is None else workers
    if workers < 1:
        raise QueryError(f"workers is {workers}; it is 1 or more")
    packing = Packing.of(windows, dtype, compress)
    target = Storage.of(path)
    there = target.path("").exists() if target.local else target.read(METADATA) is not None
    up_to_date = there and _up_to_date(packing, target.root, overwrite)
    if isinstance(target, Folder):
        if not up_to_date:
            _build(packing, Path(target.root), workers, progress)
        return Path(target.root)
    if up_to_date:
        return target.root
    assert isinstance(target, Bucket)
    with tempfile.TemporaryDirectory(prefix="genostore-pack-") as scratch:
        target.put(f"{PRIVATE}/clock/pack", b"")  # refuses at once what cannot be written
        _build(packing, Path(scratch, "pack"), workers, progress)
        upload(Path(scratch, "pack"), target)
    return target.root


def _build(packing: Packing, path: Path, workers: int, progress: Progress | None) -> None:
    """Write a pack into a folder."""
    windows = packing.windows
    partial = path.with_name(f".{path.name}.partial")
    with writing(path), lock(path.with_name(f".{path.name}.lock"), f"pack {path}"):
        storage = _begin(packing, partial)
        for node, entry in windows.store.entries.items():
            if entry["kind"] in COPIED:
                _copy(packing, storage, node, entry)
        for name, values in packing.dataset.coords.items():
            _column(storage, str(name), values.to_numpy(), str(values.dims[0]), {"kind": "coordinate"}, packing)
        _write(packing, storage, workers, progress)
        _check_unchanged(packing)
        index.rebuild(storage)  # a run may have been killed between publishing a node and entering it
        remove_tree(partial / PRIVATE)
        sync_tree(partial)
        if not path.exists():
            put_folder(partial, path)
        else:
            if not exchange(partial, path):
                retired = path.with_name(f".{path.name}.retired")
                remove_tree(retired)
                path.rename(retired)
                put_folder(partial, path)
                partial = retired
            remove_tree(partial)


def _up_to_date(packing: Packing, path: str, overwrite: bool) -> bool:
    """Tell whether the pack that is there is the one that is asked for; refuse to replace it if not told to."""
    try:
        there = open(path)
    except FormatError as error:
        raise ConflictError(f"{path} is there and is no pack ({error}); choose another path") from error
    if not isinstance(there, Pack):
        raise ConflictError(f"{path} is a store and no pack; choose another path")
    if there.description["digest"] == packing.description["digest"]:
        return True
    if overwrite:
        return False
    differing = differences(there.description, packing.description)
    changed = changes(there.description["sources"], packing.description["sources"])
    kind = ConflictError if differing else StaleError
    raise kind(
        f"the pack at {path} is another: {'; '.join(differing + changed) or 'its layout differs'}; use overwrite "
        "(--overwrite) to replace it"
    )


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """Say in what the queries of two packs differ."""
    out = []
    for key in ("width", "jitter", "cell_types", "assays", "contacts", "sequence", "dtype", "compress"):
        if have.get(key) != want[key]:
            out.append(f"it has {key} {have.get(key)!r}, and {want[key]!r} is asked for")
    return out + (["it has other genes"] if have.get("genes") != want["genes"] else [])


def _begin(packing: Packing, partial: Path) -> Storage:
    """Prepare the folder, keeping what an interrupted run of the same work left."""
    root = partial / "zarr.json"
    if partial.exists():
        try:
            _, metadata = read_root(root.read_bytes(), str(partial))
            begun = metadata["attributes"][KEY]["pack"]["digest"]
        except (OSError, FormatError, KeyError):
            begun = None
        if begun == packing.description["digest"]:
            return Storage.of(partial)
        root.unlink(missing_ok=True)  # first, so that what a killed removal leaves is never continued
        remove_tree(partial)
    storage = create(partial, packing.windows.store.genome)
    _, metadata = read_root(storage.read("zarr.json") or b"", str(partial))
    metadata["attributes"][KEY] |= {"kind": "pack", "pack": packing.description}
    # By this, xarray takes the genes' columns for coordinates.
    names = [str(c) for c in packing.dataset.coords if c not in packing.dataset.dims]
    metadata["attributes"]["coordinates"] = " ".join(names)
    write_file(root, seal(metadata, "zarr.json"))
    return storage


def _write(packing: Packing, storage: Storage, workers: int, progress: Progress | None) -> None:
    """Write the shards of all parts, several at once, and publish each part when its last shard is there."""
    stagings = {p: Staging(storage, p, {"": s}, packing.description["digest"]) for p, s in packing.schemas.items()}
    stagings = {p: s for p, s in stagings.items() if index.node_attributes(storage, p) is None}
    for staging in stagings.values():
        staging.begin()
    todo = {p: s.todo() for p, s in stagings.items()}
    total = sum(s.n_blocks for s in packing.schemas.values())
    left = sum(map(len, todo.values()))

    def one(part: str, block: int) -> None:
        values, maxima = packing.read(part, block)
        stagings[part].write(block, values, maxima=maxima).wait()

    for done in _spread(workers, [(one, part, block) for part, blocks in todo.items() for block in blocks]):
        left -= done
        if progress is not None:
            progress(total - left, total)
    for staging in stagings.values():
        staging.publish({"kind": "packed", "digest": packing.description["digest"]})


def _spread(workers: int, tasks: list[tuple[Any, ...]]) -> Iterator[int]:
    """Run tasks in threads, giving the number of those that have come to an end; no more wait than are run."""
    if workers == 1:  # here, so that a debugger works
        for function, *arguments in tasks:
            function(*arguments)
            yield 1
        return
    with ThreadPoolExecutor(workers, "pack", initializer=share, initargs=(workers,)) as pool:
        pending = {pool.submit(*task) for task in tasks}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                yield len(done)
        finally:
            for future in pending:
                future.cancel()


def _check_unchanged(packing: Packing) -> None:
    """Refuse what was cut from a store that changed meanwhile."""
    store = packing.windows.store
    changed = changes(packing.description["sources"], sources(open(store.path)))
    if changed:
        raise StaleError(
            f"{store.path} changed while it was packed: {'; '.join(changed)}; open it again, and pack again"
        )


def _column(
    storage: Storage, node: str, values: NDArray[Any], dim: str, attributes: dict[str, Any], packing: Packing
) -> None:
    _columns(storage, node, {"": values}, dim, attributes, packing)


def _copy(packing: Packing, storage: Storage, node: str, entry: dict[str, Any]) -> None:
    """Take a node along; what lies along the gene axis is cut to the genes of the pack."""
    store, rows = packing.windows.store, packing.windows.selection.store_row
    attributes = {k: v for k, v in entry.items() if k not in ("generation", "crc32c", "statistics")}
    if entry["kind"] in ("feature", "expression"):
        _column(storage, node, store.array(node).read()[rows], "gene", attributes, packing)
        return
    frame = _cut(store, node, rows)
    dim = "gene" if node == "genes" else "interval"
    columns = {str(name): frame[name].to_numpy() for name in frame}
    _columns(storage, node, columns, dim, {**attributes, "n": len(frame)}, packing)


def _cut(store: Store, node: str, rows: Ints) -> Any:
    return store.genes.iloc[rows] if node == "genes" else store.regions(node.split("/")[1])


def _columns(
    storage: Storage,
    node: str,
    columns: Mapping[str, NDArray[Any]],
    dim: str,
    attributes: dict[str, Any],
    packing: Packing,
) -> None:
    """Write a node of columns, unless a run before this one did."""
    if index.node_attributes(storage, node) is not None:
        return
    text = {name: values.dtype.kind not in "iufb" for name, values in columns.items()}
    arrays = {
        name: column_array(len(values), dim, "string" if text[name] else str(values.dtype))
        for name, values in columns.items()
    }
    staging = Staging(storage, node, arrays, packing.description["digest"])
    staging.begin()
    for name, values in columns.items():
        staging.write_column(values.astype(object) if text[name] else values, name)
    staging.publish({**attributes, "digest": packing.description["digest"]})
