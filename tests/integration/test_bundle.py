"""The published bundle's layout, written small: its catalogue, the contacts in its profiles, what a model is given."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from click.testing import CliRunner

import genostore
import ingest
from genostore.errors import ConflictError, SourceError
from ingest.bundle.catalogue import bundle
from ingest.bundle.command import bundle_command
from ingest.bundle.layout import MRNA_FEATURES
from ingest.bundle.profiles import BIN, FLANK, pseudocount, recover_contacts, row_of
from prism_model import Predictor, Prism, PrismConfig, RunConfig, fit, hic_profile, make_config, official, signals
from prism_model.adopt import adopt
from prism_model.cli import main
from prism_model.data import PAPER_FEATURES, Data
from prism_model.evaluate import evaluate
from prism_model.seeds import evaluate_seeds

CONTIGS = {"chr1": 130_000, "chr3": 23_000, "chr22": 41_000}
GENES = [  # contig, tss, strand
    *(("chr1", tss, "+-"[i % 2]) for i, tss in enumerate((900, 20_000, 51_234, 64_999, 128_500))),
    *(("chr3", tss, "-") for tss in (5_000, 17_500)),
    *(("chr22", tss, "+") for tss in (9_999, 33_000)),
]
IDS = [f"ENSG{i:011d}" for i in range(len(GENES))]
NAMES = [f"GENE{i}" for i in range(len(GENES))]
ABC = {
    "K562": "K562_DNase_ENCFF257HEE_hic_4DNFITUOMFUQ_1MB_ABC_nominated/DNase_ENCFF257HEE_Neighborhoods",
    "GM12878": "GM12878_DNase_ENCFF020WZB_hic_4DNFI1UEG1HD_1MB_ABC_nominated/DNase_ENCFF020WZB_Neighborhoods",
    "H1": "H1_ABC/Neighborhoods",
}
ENCODING = {
    "K562": "K562_DNase_ENCFF257HEE_2kb_4DNFITUOMFUQ_enhancer_promoter_encoding.h5",
    "GM12878": "GM12878_DNase_ENCFF020WZB_2kb_4DNFI1UEG1HD_promoter_enhancer_encoding.h5",
    "H1": "H1_promoter_enhancer_encoding.h5",
}
ACCESSIONS = {
    "K562": ("ENCFF465GBD", "ENCFF414OGC"),
    "GM12878": ("ENCFF798KYP", "ENCFF960FMM"),
    "H1": ("ENCFF771GNB", "ENCFF232GUZ"),
}


def bigwig(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(CONTIGS.items()))
        for contig, n in CONTIGS.items():
            starts = np.arange(0, n - 100, 150)
            file.addEntries(
                [contig] * len(starts),
                starts.tolist(),
                (starts + 100).tolist(),
                rng.gamma(1.0, 2.0, len(starts)).tolist(),
            )


def matrix(contig: str, cell: str) -> np.ndarray:
    """Balanced contacts of a contig, symmetric, with a bin that has none."""
    n = -(-CONTIGS[contig] // BIN)
    rng = np.random.default_rng([n, len(cell)])
    square = np.triu(rng.gamma(2.0, 5.0, (n, n)))
    square[rng.random((n, n)) < 0.2] = 0
    square = np.triu(square) + np.triu(square, 1).T
    if contig == "chr22":
        square[33_000 // BIN] = square[:, 33_000 // BIN] = 0  # this TSS has no profile
    return square


def profile(contig: str, tss: int, cell: str) -> np.ndarray:
    square = matrix(contig, cell)
    left, right = np.triu_indices(len(square))
    return hic_profile(left, right, square[left, right], BIN, CONTIGS[contig], tss, FLANK)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of nine genes and three cell types."""
    root = tmp_path_factory.mktemp("GeneExp")
    rng = np.random.default_rng(0)
    parts = root / "promo_enhan_inter"
    (root / "hg38").mkdir()
    (root / "chr_length.json").write_text('{"hg38": {"chr1": 130000, "chr3": 23000, "chr22": 41000}}')
    with (root / "hg38/hg38.ml.fa").open("w") as file:
        for contig, n in CONTIGS.items():
            file.write(f">{contig}\n" + "".join(rng.choice(list("ACGTN"), n)) + "\n")
    (root / "hg38/blacklist.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # never read
    table = pd.DataFrame({"ENSID": IDS, "Gene stable ID": IDS, "Gene name": NAMES})
    for column in MRNA_FEATURES:
        table[column] = rng.normal(size=len(IDS))
    for cell in ("K562", "GM12878"):
        table[f"{cell}_CAGE_128*3_sum"] = rng.gamma(1.0, 50.0, len(IDS))
        table[f"Actual_{cell}"] = rng.normal(size=len(IDS))
    parts.mkdir()
    table.to_csv(parts / "GM12878_K562_18377_gene_expr_fromXpresso.csv", index=False)
    folds = pd.DataFrame({"ENSID": IDS, "Gene name": NAMES})
    split = {"chr1": "train", "chr3": "valid", "chr22": "test"}
    for k in range(1, 13):
        folds[f"fold_{k}"] = [split[c] if k == 11 else "train" for c, _, _ in GENES]
    folds.to_csv(parts / "leave_chrom_out_crossvalidation_split_18377genes.csv", index=False)
    for cell, (mark, open_) in ACCESSIONS.items():
        bigwig(parts / "H3K27ac" / cell / f"{mark}.bigWig", rng)
        bigwig(parts / "DNase-seq" / cell / f"{open_}.bigWig", rng)
        (parts / ABC[cell]).mkdir(parents=True)
        listed = pd.DataFrame(
            {
                "symbol": NAMES if cell == "H1" else IDS,
                **{key: [gene[i] for gene in GENES] for i, key in enumerate(("chr", "tss", "strand"))},
                "H3K27ac.RPM.TSS1Kb": rng.gamma(1.0, 1.0, len(IDS)),
                "DHS.RPM.TSS1Kb": rng.gamma(1.0, 1.0, len(IDS)),
            }
        )
        if cell == "GM12878":
            listed.loc[1, "tss"] += 7
        listed.to_csv(parts / ABC[cell] / "GeneList.txt", sep="\t", index=False)
        with h5py.File(parts / ENCODING[cell], "w") as file:
            file["ensid"] = np.array([g.encode() for g in IDS[:-1]])
        (parts / "HiC" / cell).mkdir(parents=True)
        for contig in CONTIGS:
            with h5py.File(parts / "HiC" / cell / f"hic_feat_{contig}.h5", "w") as file:
                for on, tss, _ in GENES:
                    if on == contig:
                        file.create_dataset(f"{contig}_{tss}", data=profile(contig, tss, cell), compression="gzip")
    bigwig(parts / "CAGE/H1/H1_CAGE_CNhs13964.bw", rng)
    return root


@pytest.fixture(scope="module")
def store(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ingested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENOSTORE_CACHE", str(out / "cache"))
        done = CliRunner().invoke(bundle_command, [str(published), str(out)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "1 genes have another TSS in the gene list of GM12878 than in that of K562" in done.output
        assert "K562: the release uses 8 genes; 1 more are in the gene list" in done.output
        ingest.run(ingest.plan(out / "catalog.yaml", out / "prism.zarr"))
        report = ingest.verify(out / "prism.zarr", deep=True, against=out / "catalog.yaml")
        assert report.ok, str(report)
    return out / "prism.zarr"


@pytest.mark.parametrize("cell", ["K562", "GM12878"])
def test_a_model_is_given_what_the_release_gives_it(store: Path, published: Path, cell: str) -> None:
    config = make_config("paper", None, [f"data.store={store}", f"data.cell_types=[{cell}]"])
    data = Data(config.data)
    assert data.channels == ["H3K27ac", "DNase", "hic"]
    assert data.roles == ["foreground", "background", "background"]
    assert tuple(data.features) == PAPER_FEATURES  # nine, in the release's order
    assert (data.config.expression, data.config.fold, data.config.width) == ("CAGE", "fold_11", 2_000)
    splits = {split: list(data.windows(split).genes["id"]) for split in ("train", "valid", "test")}
    assert [len(s) for s in splits.values()] == [5, 2, 2]

    windows = data.windows()
    batch = windows.read(np.arange(len(windows)))
    parts = published / "promo_enhan_inter"
    table = pd.read_csv(parts / "GM12878_K562_18377_gene_expr_fromXpresso.csv")
    listed = pd.read_csv(parts / ABC[cell] / "GeneList.txt", sep="\t")
    np.testing.assert_allclose(batch.target, np.log10(1 + table[f"{cell}_CAGE_128*3_sum"]), rtol=1e-6)
    np.testing.assert_allclose(batch.features[:, :8], table[list(MRNA_FEATURES)], rtol=1e-6)
    activity = np.sqrt(listed["H3K27ac.RPM.TSS1Kb"] * listed["DHS.RPM.TSS1Kb"])
    np.testing.assert_allclose(batch.features[:, 8], activity, rtol=1e-6)
    together = signals(next(iter(data.loader(windows, len(windows))))).numpy()
    tracks = {a: pyBigWig.open(str(next((parts / a / cell).glob("*")))) for a in ("H3K27ac", "DNase-seq")}
    empty = 0
    for row, (contig, tss, _) in enumerate(GENES):
        with h5py.File(parts / "HiC" / cell / f"hic_feat_{contig}.h5") as file:
            theirs = file[f"{contig}_{tss}"][FLANK - 1_000 : FLANK + 1_000]
        empty += bool(np.isnan(theirs).any())
        np.testing.assert_allclose(together[row, :, 2], np.nan_to_num(np.log10(1 + theirs)), rtol=1e-6, atol=1e-7)
        start, stop = max(tss - 1_000, 0), min(tss + 1_000, CONTIGS[contig])
        for i, file in enumerate(tracks.values()):
            mine = together[row, start - tss + 1_000 : stop - tss + 1_000, i]
            np.testing.assert_array_equal(mine, np.nan_to_num(file.values(contig, start, stop, numpy=True)))
    assert empty  # a TSS without contacts of its own
    for file in tracks.values():
        file.close()


def test_h1_is_keyed_by_symbol_and_labelled_by_its_bigwig(store: Path, published: Path) -> None:
    opened = genostore.open(store)
    batch = opened.windows(cell_types=["H1"], expression="CAGE", features=["promoter_activity"], assays=[]).read([0, 8])
    listed = pd.read_csv(published / "promo_enhan_inter" / ABC["H1"] / "GeneList.txt", sep="\t").iloc[[0, 8]]
    np.testing.assert_allclose(
        batch.features[:, 0], np.sqrt(listed["H3K27ac.RPM.TSS1Kb"] * listed["DHS.RPM.TSS1Kb"]), rtol=1e-6
    )
    with pyBigWig.open(str(published / "promo_enhan_inter/CAGE/H1/H1_CAGE_CNhs13964.bw")) as file:
        total = np.nansum(file.values("chr1", 900 - 192, 900 + 192, numpy=True))
    assert batch.target[0] == pytest.approx(np.log10(1 + total), rel=1e-6)
    entry = opened.entries["tracks/H1/DNase"]
    assert entry["provenance"]["accession"] == "ENCFF232GUZ"


def test_a_released_checkpoint_is_evaluated_on_it(store: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    official.write(tmp_path / "seed2.ckpt", Prism(PrismConfig(d_model=16, n_layer=1, d_state=4)).state_dict())
    arguments = ["convert", str(tmp_path / "seed2.ckpt"), "--out", str(tmp_path / "run"), "--store", str(store)]
    done = CliRunner().invoke(main, [*arguments, "--set", "data.cell_types=[K562]"])
    assert done.exit_code == 0, done.output
    scores = evaluate(tmp_path / "run", "test", device="cpu", baselines=False, averaging="both")["scores"]
    assert list(scores) == ["original", "adjusted", "adjusted_prediction"]
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert predictor(predictor.data.windows("test"))["gene"].tolist() == IDS[-2:]
    for override, message in (
        ("data.features=[]", "takes 9 features, and"),
        ("model.n_context=4", "model.n_context=4: the weights settle this"),
        ("train.lr=1", "train.lr=1: the weights settle this"),
    ):
        done = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "x"), *arguments[4:], "--set", override])
        assert done.exit_code == 1
        assert message in done.output
    with pytest.raises(ConflictError, match="keeps no state of a training to go on with"):
        fit(RunConfig(), tmp_path / "run", resume=True, device="cpu")


def test_released_checkpoints_of_several_seeds_are_scored_together(store: Path, tmp_path: Path) -> None:
    for seed in (22, 2):
        torch.manual_seed(seed)
        model = Prism(PrismConfig(d_model=16, n_layer=1, d_state=4))
        settings = ["data.cell_types=[K562]", f"seed={seed}", "model.averaging=prediction"]
        adopt(model, tmp_path / f"released/seed-{seed}", store, settings)
    summary = evaluate_seeds(tmp_path / "released", "test", device="cpu", baselines=False)
    assert summary["seeds"] == [2, 22]
    assert summary["averaging"] == "prediction"
    assert list(summary["scores"]) == ["original", "adjusted", "adjusted_hidden"]
    assert summary["scores"]["original"]["all"]["mse"]["sd"] > 0
    assert summary["published"]["Prism, 2 kb"] == {"K562": (0.1789, None, 0.8751)}


def test_the_official_profiles_give_their_contacts_back(shared: Path, tmp_path: Path) -> None:
    """Six profiles that the release's code computed: to contacts, to a .cool, and back."""
    import cooler

    with np.load(shared / "parity/hic/hic_profile.npz") as parity:
        official_profiles, tss, length = parity["profile"], parity["tss"], int(parity["chrom_length"])
    with h5py.File(tmp_path / "hic_feat_chr9.h5", "w") as file:
        for at, values in zip(tss, official_profiles, strict=True):
            file[f"chr9_{at}"] = values
    n = recover_contacts({"chr9": tmp_path / "hic_feat_chr9.h5"}, {"chr8": 12_345, "chr9": length}, tmp_path / "c.cool")
    assert n == 6
    pixels = cooler.Cooler(str(tmp_path / "c.cool")).pixels()[:]
    assert pixels["count"].dtype == np.float64
    pairs = pixels["bin1_id"] - 3, pixels["bin2_id"] - 3, pixels["count"]
    for at, values in zip(tss, official_profiles, strict=True):
        np.testing.assert_allclose(hic_profile(*pairs, BIN, length, int(at), FLANK), values, rtol=1e-6, atol=1e-9)


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    good = np.full(2 * FLANK, 3.0) + pseudocount(np.abs(np.arange(2 * FLANK) - FLANK))
    bins, contacts = row_of(good, 200_000, 10**6, "p")
    assert (bins[0], bins[-1]) == (20, 59)
    np.testing.assert_allclose(contacts, 3.0, rtol=1e-9)
    crooked = good.copy()
    crooked[FLANK + 4_999] += 0.1
    with pytest.raises(SourceError, match=r"p is no profile of 5,000 bp bins.*within bin 40"):
        row_of(crooked, 200_000, 10**6, "p")
    with pytest.raises(SourceError, match=r"expected .200000,"):
        row_of(good[:-1], 200_000, 10**6, "p")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["chr1_200000"], file["chr1_205000"] = good, good + 1
    with pytest.raises(SourceError, match="two profiles disagree on the contact"):
        recover_contacts({"chr1": tmp_path / "a.h5"}, {"chr1": 10**6}, tmp_path / "c.cool")
    with pytest.raises(SourceError, match="'chr1_200000' is no data set chr2_<tss>"):
        recover_contacts({"chr2": tmp_path / "a.h5"}, {"chr2": 10**6}, tmp_path / "c.cool")


def test_what_is_no_bundle_is_refused(published: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no cell type with H3K27ac and DNase-seq"):
        bundle(tmp_path, tmp_path / "out")
    with pytest.raises(ConflictError, match="exists"):
        bundle(published, store.parent)
    with pytest.raises(SourceError, match="that of H1 does not; there are GM12878, K562"):
        bundle(published, tmp_path / "out", tss_of="H1")
    notes = bundle(published, tmp_path / "out", hic="4dn", tss_of="GM12878")
    text = (tmp_path / "out/catalog.yaml").read_text()
    assert "source: 4dn:4DNFI1UEG1HD" in text
    assert any("H1: no folder tells the accession of its .hic" in note for note in notes)
