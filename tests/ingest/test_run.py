"""What a run writes: every kind of node, against the arrays that the sources were written from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import genostore
import ingest
from genostore import index
from genostore.errors import ConflictError, SourceError, WriteError
from genostore.staging import writer_lock

from .small import BIN, CONTIGS, EVERYTHING, TRACKS, Small, write_bigwig


def make(small: Small, sections: str = EVERYTHING, name: str = "s.zarr", **options: object) -> genostore.Store:
    store = small.folder.parent / name
    ingest.run(ingest.plan(small.catalogue(sections), store), **options)
    return genostore.open(store)


def tree(store: Path) -> dict[str, bytes]:
    """All of a store but what is private."""
    files = (p for p in store.rglob("*") if p.is_file() and ".genostore" not in p.parts)
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in files}


def track(store: genostore.Store, node: str, contig: str) -> np.ndarray:
    where = store.genome.resolve(contig)
    return store.array(node).read(slice(where.offset, where.offset + where.length))


def test_every_kind_of_node_holds_what_its_source_says(small: Small) -> None:
    store = make(small)
    assert ingest.verify(store.path).ok
    for contig in CONTIGS:
        np.testing.assert_array_equal(store.sequence(contig, soft_mask=True), small.codes(contig))
        np.testing.assert_array_equal(track(store, "tracks/K562/DNase", contig), small.dnase[contig])
        np.testing.assert_array_equal(track(store, "tracks/K562/RNA+", contig), small.rna[contig])
    assert list(store.genes["id"]) == ["G1.2", "G3", "G4", "G2"]
    assert list(store.genes["tss"]) == [100, 3_000, 0, 899]
    assert list(store.genes["split"]) == ["train", "test", "valid", "train"]
    np.testing.assert_array_equal(store.array("features/length").read(), [1.5, 3.5, np.nan, 2.5])
    np.testing.assert_array_equal(store.array("features/K562/activity").read(), [1, 0, np.nan, 6])
    np.testing.assert_array_equal(store.array("expression/CAGE/K562").read(), [np.nan, 0.5, np.nan, 10])
    assert list(store.regions("blacklist")["name"]) == ["High Signal", "End"]


def test_contacts_are_a_band_with_the_weights_of_the_source(small: Small) -> None:
    store = make(small)
    contacts = store.contacts("K562", "hic")
    for contig, matrix in small.matrix.items():
        got = contacts.matrix(contig).to_numpy()
        distance = np.abs(np.subtract.outer(*[np.arange(len(matrix))] * 2))
        np.testing.assert_array_equal(got, np.where(distance <= 10, matrix, np.nan))
    weights = store.array(f"contacts/K562/hic/{BIN}/weights/weight")
    assert weights.attributes["divisive"] is False
    np.testing.assert_array_equal(weights.read(), small.weights)
    counts = store.array(f"contacts/K562/hic/{BIN}/band").attributes["counts"]
    beyond = [np.triu(m, 11) for m in small.matrix.values()]
    assert counts == {
        "beyond_pixels": sum(np.count_nonzero(b) for b in beyond),
        "beyond_sum": float(sum(b.sum() for b in beyond)),
    }


def test_expression_from_a_signal_is_a_sum_over_the_window_of_the_tss(small: Small) -> None:
    store = make(small)
    expected = []
    for gene in store.genes.itertuples():
        values = small.dnase[gene.contig][max(gene.tss - 20, 0) : gene.tss + 20]
        expected.append(np.nansum(values, dtype=np.float64) if not np.isnan(values).all() else np.nan)
    np.testing.assert_allclose(store.array("expression/SUM/K562").read(), expected, rtol=1e-6)
    entry = store.entries["expression/SUM/K562"]
    assert entry["measured"] == np.count_nonzero(~np.isnan(expected))
    assert entry["provenance"]["options"] == {"aggregate": "sum", "flank": 20, "uncovered": "nan"}


def test_uncovered_bases_count_as_zero_when_that_is_said(small: Small) -> None:
    entry = "{assay: M, cell_type: K562, source: rna.bedgraph, aggregate: mean, flank: 20, uncovered: zero}"
    store = make(small, f"genes: {{source: genes.gtf}}\nexpression:\n  - {entry}\n")
    got = store.array("expression/M/K562").read()
    np.testing.assert_allclose(got, [0, 44 / 21, np.nan, 0], rtol=1e-6)  # the bedGraph has no chrM; G3's window is cut


def test_attributes_tell_where_values_come_from_and_nothing_of_this_machine(small: Small) -> None:
    store = make(small)
    entry = store.entries["tracks/K562/DNase"]
    assert {k: entry[k] for k in ("kind", "cell_type", "assay", "strand", "replicate", "role", "unit")} == {
        "kind": "track",
        "cell_type": "K562",
        "assay": "DNase",
        "strand": None,
        "replicate": None,
        "role": "background",
        "unit": "reads",
    }
    provenance = entry["provenance"]
    assert provenance["source"] == "dnase.bw"
    assert provenance["size"] == (small.folder / "dnase.bw").stat().st_size
    assert provenance["contigs"] == {"extra": [], "absent": []}
    assert store.entries["tracks/K562/RNA+"]["provenance"]["contigs"]["absent"] == ["chrM"]
    assert store.entries["genes"]["dropped"] == {"contig not in the assembly": 1}
    assert store.entries["features/length"]["unknown_genes"] == {"count": 1, "first": ["G9"]}
    letters = "".join(small.sequence.values()).upper()
    assert store.entries["sequence"]["counts"] | {"soft_masked": 0} == {
        "N": letters.count("N"),
        "R": letters.count("R"),
        "Y": letters.count("Y"),
        "soft_masked": 0,
    }
    everything = b"".join(tree(Path(store.path)).values()).decode("latin-1")
    assert str(small.folder) not in everything
    assert os.uname().nodename not in everything


def test_two_runs_give_the_same_bytes(small: Small) -> None:
    one, two = make(small, name="one.zarr"), make(small, name="two.zarr")
    assert tree(Path(one.path)) == tree(Path(two.path))


def test_processes_write_the_same_bytes(small: Small) -> None:
    one, two = make(small, name="one.zarr"), make(small, name="two.zarr", workers=2)
    assert tree(Path(one.path)) == tree(Path(two.path))


def test_many_shards_hold_the_same_values(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genostore.schema.POSITION_SHARD", 512)
    monkeypatch.setattr("genostore.schema.BAND_SHARD_BINS", 8)
    monkeypatch.setattr("genostore.schema.BAND_CHUNK", (8, 8))
    monkeypatch.setattr("ingest.job._RUN", 3)
    store = make(small)
    assert store.array("tracks/K562/DNase").schema.n_blocks == 18
    assert store.array(f"contacts/K562/hic/{BIN}/band").schema.n_blocks == 11
    for contig in CONTIGS:
        np.testing.assert_array_equal(store.sequence(contig, soft_mask=True), small.codes(contig))
        np.testing.assert_array_equal(track(store, "tracks/K562/DNase", contig), small.dnase[contig])
    found = ingest.verify(store.path, deep=True, against=small.folder / "catalog.yaml")
    assert found.ok, str(found)
    covered = sum(np.count_nonzero(~np.isnan(v)) for v in small.dnase.values())
    assert store.entries["tracks/K562/DNase"]["statistics"]["covered"] == covered


def test_again_does_nothing(small: Small) -> None:
    store = make(small)
    before = {p: p.stat().st_mtime_ns for p in Path(store.path).rglob("*")}
    outcome = ingest.run(ingest.plan(small.folder / "catalog.yaml", store.path))
    assert outcome.written == ()
    assert set(outcome.kept) == set(store.entries)
    after = {p: p.stat().st_mtime_ns for p in Path(store.path).rglob("*")}
    assert {p for p in after if after[p] != before.get(p)} <= {Path(store.path, ".genostore")}


def test_adding_to_the_catalogue_touches_nothing_that_is_there(small: Small) -> None:
    store = make(small, TRACKS)
    before = tree(Path(store.path))
    make(small, TRACKS + "  - {cell_type: GM12878, assay: DNase, source: dnase.bw}\n")
    after = tree(Path(store.path))
    assert {k for k in before if after[k] != before[k]} == {"index.json"}
    assert "tracks/GM12878/DNase/zarr.json" in after


def test_other_content_is_refused_and_explained_before_anything_is_written(small: Small) -> None:
    make(small)
    write_bigwig(small.folder / "other.bw", CONTIGS, small.rna)
    changed = EVERYTHING.replace("role: background", "role: foreground").replace("rna.bedgraph", "other.bw")
    changed = changed.replace("max_distance: 1000", "max_distance: 500")
    with pytest.raises(ConflictError) as caught:
        make(small, changed + "  - {name: more, source: blacklist.bed}\n")
    message = str(caught.value)
    assert message.startswith("3 nodes of")
    assert "--overwrite" in message
    assert "tracks/K562/DNase: role is 'background' there and 'foreground' here" in message
    assert "tracks/K562/RNA+: made from rna.bedgraph (sha256 " in message
    assert "made with options {'max_distance': 1000}, and these are {'max_distance': 500}" in message
    assert "regions/more" not in genostore.open(small.folder.parent / "s.zarr").entries


def test_overwrite_replaces_what_differs_and_only_that(small: Small) -> None:
    make(small)
    store = make(small, EVERYTHING.replace("role: background", "role: foreground"), overwrite=True)
    assert store.entries["tracks/K562/DNase"]["role"] == "foreground"
    assert store.entries["tracks/K562/DNase"]["generation"] == 2
    assert store.entries["tracks/K562/RNA+"]["generation"] == 1


def test_overwrite_repairs_what_is_damaged(small: Small) -> None:
    store = make(small)
    good = tree(Path(store.path))
    shard = Path(store.path, "tracks/K562/DNase/c/0")
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    store = make(small, overwrite=True)
    assert store.entries["tracks/K562/DNase"]["generation"] == 2
    assert tree(Path(store.path))["tracks/K562/DNase/c/0"] == good["tracks/K562/DNase/c/0"]
    assert ingest.verify(store.path).ok


def test_genes_are_not_replaced_under_columns_that_would_stay(small: Small) -> None:
    make(small)
    with pytest.raises(ConflictError, match=r"leave expression/CAGE/K562, .* in the order of the old ones"):
        make(small, "genes: {source: genes.gtf, biotypes: [protein_coding]}\n", overwrite=True)


def test_one_writer_a_node(small: Small) -> None:
    store = make(small, "")
    plan = ingest.plan(small.catalogue(TRACKS), store.path)
    busy = pytest.raises(ConflictError, match="another process is writing tracks/K562/DNase")
    with writer_lock(store.storage, "tracks/K562/DNase"), busy:
        ingest.run(plan)
    ingest.run(plan)


def test_a_source_that_changes_while_it_is_read_is_refused(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.nodes.track import TrackNode

    plan = ingest.plan(small.catalogue(TRACKS), small.folder.parent / "s.zarr")
    original = TrackNode.read

    def meddle(self: TrackNode, name: str, block: int) -> object:
        found = original(self, name, block)
        os.utime(small.folder / "dnase.bw", ns=(1, 1))
        return found

    monkeypatch.setattr(TrackNode, "read", meddle)
    with pytest.raises(SourceError, match=r"dnase.bw: changed while tracks/K562/DNase was made"):
        ingest.run(plan)
    assert "tracks/K562/DNase" not in genostore.open(plan.store).entries


def test_float16_and_bitround_are_recorded_with_their_measured_error(small: Small) -> None:
    entry = "  - {{cell_type: K562, assay: {0}, source: dnase.bw, {0}: {1}}}\n"
    lossy = "tracks:\n" + "".join(entry.format(*o) for o in (("dtype", "float16"), ("bitround", 4)))
    store = make(small, lossy)
    for name, relative in (("dtype", 2.0**-11), ("bitround", 2.0**-5)):
        got = np.concatenate([track(store, f"tracks/K562/{name}", c) for c in CONTIGS]).astype(np.float64)
        exact = np.concatenate([small.dnase[c] for c in CONTIGS]).astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
        error = np.nanmax(np.abs(got - exact))
        maxima = store.entries[f"tracks/K562/{name}"]["maxima"]
        assert maxima["max_absolute_error"] == error > 0
        assert 0 < maxima["max_relative_error"] <= relative
    assert store.array("tracks/K562/dtype").dtype == np.float16
    assert store.entries["tracks/K562/bitround"]["provenance"]["options"] == {"bitround": 4}


def test_float16_refuses_what_overflows_it(small: Small) -> None:
    values = {c: np.full(n, 1.0, dtype=np.float32) for c, n in CONTIGS.items()}
    values["chr2"][1_234] = 70_000
    write_bigwig(small.folder / "loud.bw", CONTIGS, values)
    entry = "tracks:\n  - {cell_type: K562, assay: x, source: loud.bw, dtype: float16}\n"
    with pytest.raises(
        SourceError, match=r"loud.bw: the value at chr2:1,234, .*70000.* overflows float16.* as float32"
    ):
        make(small, entry)
    assert "tracks/K562/x" not in genostore.open(small.folder.parent / "s.zarr").entries


def test_infinities_and_negative_zero_are_kept(small: Small) -> None:
    (small.folder / "odd.bedgraph").write_text("chr1\t0\t2\tinf\nchr1\t2\t4\t-inf\nchr1\t4\t6\t-0.0\nchr1\t6\t8\t0\n")
    store = make(small, "tracks:\n  - {cell_type: K562, assay: odd, source: odd.bedgraph, bitround: 3}\n")
    got = track(store, "tracks/K562/odd", "chr1")[:9]
    np.testing.assert_array_equal(got, [np.inf, np.inf, -np.inf, -np.inf, -0.0, -0.0, 0, 0, np.nan])
    np.testing.assert_array_equal(np.signbit(got[4:8]), [True, True, False, False])


def test_a_read_only_folder_is_an_error_that_says_so(small: Small) -> None:
    locked = small.folder.parent / "locked"
    locked.mkdir(mode=0o555)
    plan = ingest.plan(small.catalogue(TRACKS), locked / "s.zarr")
    root = os.geteuid() == 0
    if root:  # to whom every folder is writable
        os.seteuid(65_534)
    try:
        with pytest.raises(WriteError, match="no permission to write there"):
            ingest.run(plan)
    finally:
        if root:
            os.seteuid(0)


def test_a_disk_that_is_full_is_an_error_that_says_so_and_what_is_done_is_kept(small: Small) -> None:
    store = small.folder.parent / "s.zarr"
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import ingest; from genostore.errors import GenostoreError\n"
        "plan = ingest.plan(sys.argv[1], sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, resource.RLIM_INFINITY))\n"
        "try: ingest.run(plan)\n"
        "except GenostoreError as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", program, str(small.catalogue(TRACKS)), str(store)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("WriteError"), result.stdout + result.stderr
    assert "cannot write" in result.stdout
    assert "limit on the size of files" in result.stdout
    assert make(small, TRACKS).entries["tracks/K562/DNase"]["generation"] == 1


def test_a_node_left_out_of_the_index_by_a_killed_run_is_entered_again(small: Small) -> None:
    store = make(small, TRACKS)
    good = tree(Path(store.path))
    index.write(store.storage, {n: e for n, e in store.entries.items() if n != "tracks/K562/DNase"})
    (Path(store.path) / ".genostore/staging/tracks%2FK562%2FDNase").mkdir(parents=True)
    make(small, TRACKS)
    assert tree(Path(store.path)) == good
    assert not list(Path(store.path, ".genostore/staging").iterdir())
    assert index.read(store.storage) == store.entries
