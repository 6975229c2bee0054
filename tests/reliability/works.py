"""Works that are killed half-way, on a disk and on S3, and what must hold of what they leave."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.places import Disk

CATALOGUE = """\
genes: {source: genes.gtf}
tracks:
  - {cell_type: K562, assay: DNase, source: dnase.bw, role: background}
contacts:
  - {cell_type: K562, assay: hic, source: hic.cool, bin_size: 100, max_distance: 1000}
expression:
  - {assay: CAGE, source: table.csv, gene_id: gene, columns: {K562: cage}, transform: log10p1}
"""
TRACK = "tracks/K562/DNase"
Step = Callable[[Path], Any]


@dataclass(frozen=True)
class Work:
    """Something that is killed half-way.

    Attributes
    ----------
    prepare
        Makes what is there before, in an empty folder.
    act
        Does the work, or goes on with it.
    check
        Raises if what a killed run left is not whole.
    result
        What must be the same at the end, bytes by name.
    """

    prepare: Step
    act: Step
    check: Step
    result: Callable[[Path], dict[str, bytes]]


def works(place: Disk, names: Collection[str]) -> dict[str, Work]:
    """Those of these names; importing late, and here, keeps it in the program's own process, once for all children."""
    import cooler  # noqa: F401
    import dask.array  # noqa: F401

    import genostore
    import genostore.lazy
    import genostore.packing
    import ingest
    from genostore import staging
    from genostore.errors import CorruptionError, StaleError
    from tests import warm  # noqa: F401
    from tests.ingest.small import build_small

    def files(folder: Path) -> None:
        (folder / "files").mkdir()
        build_small(folder / "files").catalogue(CATALOGUE)

    def base(folder: Path) -> None:
        files(folder)
        run(folder)

    def store(folder: Path) -> str:
        return place.url(folder, "s.zarr")

    def run(folder: Path, overwrite: bool = False) -> None:
        ingest.run(ingest.plan(folder / "files/catalog.yaml", store(folder)), overwrite=overwrite)

    def changed(folder: Path) -> None:
        base(folder)
        catalogue = folder / "files/catalog.yaml"
        text = catalogue.read_text().replace("role: background", "role: foreground, bitround: 5")
        catalogue.write_text(text.replace("max_distance: 1000", "max_distance: 500"))

    def add(folder: Path) -> None:
        ingest.add(store(folder), folder / "files/rna.bedgraph", cell_type="H1", assay="RNA", strand="+")

    def pack(folder: Path) -> None:
        windows = genostore.open(store(folder)).windows(cell_types=["K562"], assays=["DNase"], width=200, jitter=10)
        windows.pack(place.url(folder, "p.zarr"), overwrite=True)

    def remove(folder: Path) -> None:
        opened = genostore.open(store(folder))
        if TRACK in opened.entries or opened.storage.there(TRACK):
            staging.remove(opened.storage, TRACK)

    def collect(folder: Path) -> None:
        staging.collect(genostore.open(store(folder)).storage, grace=0)

    def retired(folder: Path) -> None:
        changed(folder)
        run(folder, overwrite=True)
        remove(folder)

    def whole(folder: Path) -> None:
        """Everything that the store shows reads without error, or is told to be replaced."""
        if "zarr.json" not in place.objects(folder, "s.zarr"):
            return
        opened = genostore.open(store(folder))
        for node, entry in opened.entries.items():
            try:
                if entry["kind"] in ("genes", "regions"):
                    _ = opened.genes if node == "genes" else opened.regions(node.split("/")[1])
                elif entry["kind"] == "contacts":
                    opened.contacts("K562", "hic", 100).matrix("chr1", weight="weight")
                else:
                    values = opened.array(node).read()
                    if entry["kind"] == "track":
                        stated = entry["statistics"]["covered"]
                        assert int((values == values).sum()) == stated, f"{node}: {stated} values expected"
            except StaleError:
                pass
            except CorruptionError as error:  # in a bucket nothing is swapped in one step
                if opened.storage.local or "is listed but not there" not in str(error):
                    raise

    def packed(folder: Path) -> None:
        whole(folder)
        if "zarr.json" in place.objects(folder, "p.zarr"):
            genostore.open(place.url(folder, "p.zarr")).windows(cell_types=["K562"], width=200).read([0, 1])

    def shown(folder: Path, name: str = "s.zarr") -> dict[str, bytes]:
        return {key: raw for key, raw in place.objects(folder, name).items() if not key.startswith(".genostore/")}

    def left(folder: Path) -> dict[str, bytes]:
        logs = (".genostore/log", ".genostore/locks/")
        every = place.objects(folder, "s.zarr")
        return shown(folder) | {key: b"" for key in every if key.startswith(".genostore/") and not key.startswith(logs)}

    found = {
        "ingest": Work(files, run, whole, shown),
        "add": Work(base, add, whole, shown),
        "overwrite": Work(changed, lambda f: run(f, overwrite=True), whole, shown),
        "pack": Work(base, pack, packed, lambda f: shown(f, "p.zarr")),
        "rm": Work(base, remove, whole, shown),
        "gc": Work(retired, collect, whole, left),
    }
    return found | ({"training": training()} if "training" in names else {})


def training() -> Work:
    """A small model, two epochs on a simulated store."""
    import prism_model.loggers  # noqa: F401
    from prism_model import Prism, runs
    from prism_model.config import make_config
    from prism_model.train import fit
    from prism_model.weights import BEST

    def prepare(folder: Path) -> None:
        import ingest
        from ingest.simulate import simulate

        simulate(folder / "files", genes=40, cell_types=1, seed=0)
        ingest.run(ingest.plan(folder / "files/catalog.yaml", folder / "s.zarr"))

    def act(folder: Path) -> None:
        import torch

        torch.set_num_threads(1)
        resume = (folder / "run" / runs.CONFIG).exists()
        config = make_config("tiny", None, (f"data.store={folder / 's.zarr'}", "train.epochs=2"))
        fit(config, folder / "run", resume=resume, device="cpu", say=str)

    def check(folder: Path) -> None:
        if (folder / "run" / BEST / "model.json").exists():
            Prism.from_run(folder / "run")

    def result(folder: Path) -> dict[str, bytes]:
        kept = ("log.csv", "checkpoints/best/model.safetensors", "checkpoints/best/model.json")
        return {name: (folder / "run" / name).read_bytes() for name in kept}

    return Work(prepare, act, check, result)
