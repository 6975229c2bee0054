"""The simulator: files that the field's own readers open, and the causal claims it documents."""

from __future__ import annotations

import json
from pathlib import Path

import cooler
import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
import pytest
import yaml
from click.testing import CliRunner

from genostore.errors import ConflictError, QueryError, WriteError
from ingest.simulate import Settings, draw_world, simulate
from ingest.simulate.command import simulate_command
from ingest.simulate.files import coarsen, run_lengths
from ingest.simulate.genome import merge
from ingest.simulate.signals import bin_table
from ingest.simulate.truth import table
from ingest.simulate.world import World, element_input

GENES = 60
CELLS = ["cellA", "cellB"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("plain"), genes=GENES, seed=3).parent


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("shifted"), genes=GENES, seed=3, shift=True).parent


@pytest.fixture(scope="module")
def world() -> World:
    return draw_world(Settings(genes=300, seed=1))


def test_the_fasta_is_the_sequence(plain: Path) -> None:
    expected = draw_world(Settings(GENES, seed=3)).genome
    with pyfaidx.Fasta(str(plain / "genome.fa")) as fasta:
        assert {name: len(fasta[name]) for name in fasta.keys()} == expected.contigs  # noqa: SIM118
        for name, codes in expected.sequence.items():
            text = str(fasta[name])
            assert text == np.array(list("ACGTNNNNacgt"))[codes].astype("S1").tobytes().decode()
            assert 0.1 < sum(map(str.islower, text[:200_000])) / 200_000 < 0.6
            assert text.startswith("N" * 10_000)


def test_genes_in_the_gtf_are_those_of_the_truth(plain: Path) -> None:
    columns = ["contig", "source", "feature", "start", "end", "score", "strand", "frame", "attributes"]
    gtf = pd.read_csv(plain / "genes.gtf", sep="\t", comment="#", names=columns)
    gtf["gene_id"] = gtf.attributes.str.extract(r'gene_id "([^"]+)"')
    gtf["gene_type"] = gtf.attributes.str.extract(r'gene_type "([^"]+)"')
    genes = gtf[(gtf.feature == "gene") & (gtf.gene_type == "protein_coding")].set_index("gene_id")
    assert len(genes) == GENES
    assert (gtf.gene_type == "lncRNA").any()
    truth = pd.read_csv(plain / "truth.tsv", sep="\t").drop_duplicates("gene_id").set_index("gene_id")
    tss = np.where(genes.strand == "+", genes.start - 1, genes.end - 1)
    np.testing.assert_array_equal(tss, truth.tss.loc[genes.index])
    cds = gtf[gtf.feature == "CDS"].assign(length=lambda t: t.end - t.start + 1)
    assert (cds.groupby("gene_id").length.sum() % 3 == 0).all()
    exons = gtf[(gtf.feature == "exon") & (gtf.gene_type == "protein_coding")].groupby("gene_id")
    pd.testing.assert_series_equal(exons.start.min(), genes.start.sort_index(), check_names=False)
    pd.testing.assert_series_equal(exons.end.max(), genes.end.sort_index(), check_names=False)
    utr = gtf[gtf.feature == "UTR"].assign(length=lambda t: t.end - t.start + 1)
    mrna = exons.apply(lambda t: (t.end - t.start + 1).sum(), include_groups=False)
    parts = cds.groupby("gene_id").length.sum() + utr.groupby("gene_id").length.sum()
    np.testing.assert_array_equal(mrna, parts)


def test_tracks_have_values_zeros_and_gaps(plain: Path) -> None:
    genome = draw_world(Settings(GENES, seed=3)).genome
    for cell in CELLS:
        for assay in ("H3K27ac", "DNase"):
            with pyBigWig.open(str(plain / "tracks" / f"{cell}.{assay}.bw")) as track:
                assert track.chroms() == genome.contigs
                values = track.values("chr2", 0, genome.contigs["chr2"], numpy=True)
                gaps = np.zeros(len(values), bool)
                for a, b in genome.unmappable["chr2"]:
                    gaps[a:b] = True
                np.testing.assert_array_equal(np.isnan(values), gaps)
                assert (values == 0).any()
                assert np.nanmin(values) == 0
                assert len(track.intervals("chr2")) > 5_000
                assert 0.3 < np.nanmean(values) < 5


def test_rna_is_stranded_and_follows_expression(plain: Path) -> None:
    truth = pd.read_csv(plain / "truth.tsv", sep="\t").query("cell_type == 'cellA'")
    sums = {}
    for label in ("plus", "minus"):
        with pyBigWig.open(str(plain / "tracks" / f"cellA.RNA.{label}.bw")) as track:
            where = [
                (r.contig, r.tss, r.tss + 18_000) if r.strand == "+" else (r.contig, r.tss - 18_000, r.tss + 1)
                for r in truth.itertuples()
            ]
            sums[label] = np.array([np.nansum(track.values(c, max(a, 0), b, numpy=True)) for c, a, b in where])
            assert all(value > 0 for _, _, value in track.intervals("chr1"))
    plus = (truth.strand == "+").to_numpy()
    sense = np.where(plus, sums["plus"], sums["minus"])
    antisense = np.where(plus, sums["minus"], sums["plus"])
    assert sense.sum() > 10 * antisense.sum()
    assert np.corrcoef(np.log10(1 + sense), truth.log10_expression)[0, 1] > 0.7


@pytest.mark.parametrize("bin_size", [5_000, 10_000])
def test_contacts_are_balanced_both_ways(plain: Path, bin_size: int) -> None:
    path = str(plain / "contacts" / "cellA.mcool")
    assert cooler.fileops.list_coolers(path) == ["/resolutions/5000", "/resolutions/10000"]
    clr = cooler.Cooler(f"{path}::/resolutions/{bin_size}")
    assert clr.binsize == bin_size
    bins = clr.bins()[:]
    assert bins.weight.isna().any()
    np.testing.assert_array_equal(bins.weight.isna(), bins.VC.isna())
    for weight in ("weight", "VC"):
        balanced = clr.matrix(balance=weight).fetch("chr1")
        assert np.nanmean(balanced) > 0
        np.testing.assert_array_equal(np.isnan(np.diag(balanced)), bins[bins.chrom == "chr1"][weight].isna())
    raw = clr.matrix(balance=False).fetch("chr1")
    weight = bins[bins.chrom == "chr1"].weight.to_numpy()
    off = np.triu(np.ones_like(raw), 2) + np.tril(np.ones_like(raw), -2)
    sums = np.nansum(raw * off * weight * weight[:, None], axis=0)[~np.isnan(weight)]
    assert sums.std() / sums.mean() < 0.01  # balanced: equal marginals, two diagonals aside
    pixels = clr.pixels(join=True)[:]
    assert (pixels.chrom1.astype(str) != pixels.chrom2.astype(str)).any()  # trans contacts too
    assert len(raw) > 50
    near = [np.mean(np.diag(raw, k)) for k in (1, 6, 30)]
    assert near[0] > 2 * near[1] > 4 * near[2]


def test_a_coarser_resolution_sums_the_finer(plain: Path) -> None:
    path = str(plain / "contacts" / "cellA.mcool")
    fine, coarse = (cooler.Cooler(f"{path}::/resolutions/{size}") for size in (5_000, 10_000))
    a, b = fine.matrix(balance=False).fetch("chr3"), coarse.matrix(balance=False).fetch("chr3")
    a = np.pad(np.triu(a), (0, len(a) % 2))
    folded = a.reshape(len(a) // 2, 2, len(a) // 2, 2).sum(axis=(1, 3))
    np.testing.assert_array_equal(np.triu(b), np.triu(folded + folded.T - np.diag(np.diag(folded))))


def test_the_catalogue_names_what_is_there(plain: Path) -> None:
    catalogue = yaml.safe_load((plain / "catalog.yaml").read_text())
    assert catalogue["version"] == 1
    entries = [e for key in ("features", "tracks", "contacts", "expression", "regions") for e in catalogue[key]]
    assert all((plain / e["source"]).is_file() for e in [*entries, catalogue["genes"]])
    roles = {(t["cell_type"], t["assay"]): t.get("role") for t in catalogue["tracks"]}
    assert roles == {
        **{(cell, "H3K27ac"): "foreground" for cell in CELLS},
        **{(cell, "DNase"): "background" for cell in CELLS},
        ("cellA", "RNA"): None,
    }
    features = pd.read_csv(plain / "features.csv")
    assert set(catalogue["features"][0]["columns"]) < set(features.columns)
    assert features.drop(columns=["gene_id", "gene_name"]).notna().all(axis=None)
    assert catalogue["splits"] == {"test": ["chr5"], "valid": ["chr4"]}


def test_expression_is_the_sum_of_its_causes(plain: Path) -> None:
    truth = pd.read_csv(plain / "truth.tsv", sep="\t")
    added = truth.filter(regex="^add_").sum(axis=1)
    np.testing.assert_allclose(truth.log10_expression, added.clip(lower=0), atol=1e-5)
    given = pd.read_csv(plain / "expression.tsv", sep="\t").set_index("gene_id")[CELLS].stack(future_stack=True)
    np.testing.assert_array_equal(given.notna(), truth.measured)
    value = np.log10(1 + given.to_numpy())[truth.measured]
    np.testing.assert_allclose(value, truth.log10_expression[truth.measured], atol=1e-5)


def test_equal_seeds_give_equal_bytes_whatever_the_further_cell_types(plain: Path, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again", genes=GENES, cell_types=1, seed=3).parent
    named = {"catalog.yaml", "expression.tsv", "truth.tsv", "truth.json"}  # these tell of all cell types
    files = [p.relative_to(again) for p in again.rglob("*") if p.is_file() and p.name not in named]
    assert len(files) == 9
    for name in files:
        assert (plain / name).read_bytes() == (again / name).read_bytes(), name
    twice = [draw_world(Settings(GENES, seed=3)).expression for _ in range(2)]
    np.testing.assert_array_equal(*twice)


def test_a_shift_changes_dnase_and_contacts_of_held_out_contigs_alone(plain: Path, shifted: Path) -> None:
    same = ["genome.fa", "genes.gtf", "features.csv", "expression.tsv", "tracks/cellA.H3K27ac.bw"]
    for name in [*same, "tracks/cellA.RNA.plus.bw", "blacklist.bed"]:
        assert (plain / name).read_bytes() == (shifted / name).read_bytes(), name
    for contig in ("chr1", "chr4", "chr5"):
        held_out = contig != "chr1"
        tracks = [pyBigWig.open(str(d / "tracks" / "cellB.DNase.bw")) for d in (plain, shifted)]
        a, b = (t.intervals(contig) for t in tracks)
        for track in tracks:
            track.close()
        assert (a != b) == held_out
        uri = "contacts/cellB.mcool::/resolutions/5000"
        for weight in (False, "weight", "VC"):
            x, y = (cooler.Cooler(f"{d / uri}").matrix(balance=weight).fetch(contig) for d in (plain, shifted))
            assert np.array_equal(x, y, equal_nan=True) != held_out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_background_goes_with_expression_until_it_is_shifted(seed: int) -> None:
    for shift in (False, True):
        truth = table(draw_world(Settings(300, seed=seed, shift=shift)))
        held_out = truth.split != "train"
        r = [truth[m].background_state.corr(truth[m].log10_expression) for m in (~held_out, held_out)]
        assert r[0] > 0.25
        assert abs(r[1]) < 0.15 if shift else r[1] > 0.2
        agree = (truth.background_state == 1) == (truth.hidden_activity == 1)
        assert abs(agree[~held_out].mean() - 0.9) < 0.05
        assert abs(agree[held_out].mean() - (0.5 if shift else 0.9)) < 0.1
        assert (truth.environment == np.where(held_out & shift, "shifted", "training")).all()


def test_a_shift_can_reverse_the_background() -> None:
    plain, reversed_ = (table(draw_world(s)) for s in (Settings(300), Settings(300, shift=True, shift_agreement=0.1)))
    held_out = plain.split != "train"
    assert plain[held_out].background_state.corr(plain[held_out].log10_expression) > 0.2
    assert reversed_[held_out].background_state.corr(reversed_[held_out].log10_expression) < -0.2
    agree = (reversed_.background_state == 1) == (reversed_.hidden_activity == 1)
    assert abs(agree[held_out].mean() - 0.1) < 0.1
    assert (reversed_.environment == np.where(held_out, "shifted", "training")).all()
    same = ["background_state", "environment"]  # all else is one world
    pd.testing.assert_frame_equal(plain.drop(columns=same), reversed_.drop(columns=same))
    pd.testing.assert_frame_equal(plain[~held_out], reversed_[~held_out])


def test_the_causes_explain_expression_and_the_state_adds_nothing(world: World) -> None:
    truth = table(world)
    y = truth.log10_expression.to_numpy()
    causes = np.column_stack(
        [
            truth.element_activity,
            truth.hidden_activity,
            truth.add_motifs,
            truth.add_features,
            truth.background_state,
            np.ones(len(y)),
        ]
    )
    kept = y > 0  # the cut at 0 is not linear
    size, *_ = np.linalg.lstsq(causes[kept], y[kept], rcond=None)
    effects = world.settings.effects
    np.testing.assert_allclose(size[0], effects.element, atol=0.03)
    np.testing.assert_allclose(size[1], effects.activity, atol=0.04)
    np.testing.assert_allclose(size[2:4], 1, atol=0.25)
    assert abs(size[4]) < 0.06


def test_elements_reach_by_distance_alone(world: World) -> None:
    gene = world.genome.genes.iloc[40]
    elements = world.elements[world.elements.contig == gene.contig]
    distance = (elements.position - gene.tss).abs()
    expected = (np.exp(-distance.to_numpy() / 500)[:, None] * world.element_activity[elements.index]).sum(axis=0)
    found = element_input(world.genome, world.elements, world.element_activity, 500)[40]
    np.testing.assert_allclose(found, expected)


def test_signals_show_what_they_should(plain: Path) -> None:
    truth = pd.read_csv(plain / "truth.tsv", sep="\t")
    means = {"H3K27ac": [], "DNase": [], "hic": []}
    opened = {
        (cell, assay): pyBigWig.open(str(plain / "tracks" / f"{cell}.{assay}.bw"))
        for cell in CELLS
        for assay in ("H3K27ac", "DNase")
    }
    contacts = {cell: cooler.Cooler(str(plain / f"contacts/{cell}.mcool::/resolutions/5000")) for cell in CELLS}
    for row in truth.itertuples():
        for assay in ("H3K27ac", "DNase"):
            values = opened[row.cell_type, assay].values(row.contig, row.tss - 1_000, row.tss + 1_000, numpy=True)
            means[assay].append(np.nan if np.isnan(values).all() else np.log1p(np.nanmean(values)))
        bin_start = row.tss // 5_000 * 5_000
        own = contacts[row.cell_type].matrix(balance="weight").fetch(f"{row.contig}:{bin_start}-{bin_start + 5_000}")
        means["hic"].append(own[0, 0])
    for track in opened.values():
        track.close()
    seen = truth.assign(**means).corr(numeric_only=True)
    assert seen.H3K27ac.element_activity > 0.7
    assert abs(seen.H3K27ac.background_state) < 0.25
    assert seen.DNase.background_state > 0.5
    assert seen.hic.background_state > 0.7
    assert seen.H3K27ac.log10_expression > 0.4


def test_planted_motifs_are_in_the_sequence(world: World) -> None:
    consensus = {m.name: m.consensus for m in world.settings.motifs}
    same = []
    for site in world.genome.motif_sites.itertuples():
        codes = world.genome.sequence[site.contig][site.start : site.end] & 7
        codes = codes if site.strand == "+" else 3 - codes[::-1]
        written = "".join("ACGT"[code] for code in codes)
        same.append(np.mean([a == b for a, b in zip(written, consensus[site.motif], strict=True)]))
    assert abs(np.mean(same) - world.settings.motif_fidelity) < 0.02
    counted = world.genome.motif_sites.groupby("gene").size().reindex(range(300), fill_value=0)
    np.testing.assert_array_equal(counted, world.genome.motif_counts.sum(axis=1))


def test_a_further_cell_type_leaves_the_others_as_they_are() -> None:
    two, three = (draw_world(Settings(GENES, cell_types=n)) for n in (2, 3))
    np.testing.assert_array_equal(two.expression, three.expression[:, :2])
    np.testing.assert_array_equal(two.state, three.state[:, :2])


def test_truth_json_says_that_the_state_causes_nothing(plain: Path) -> None:
    truth = json.loads((plain / "truth.json").read_text())
    assert truth["causal_effect_of_background_state"] == 0
    assert ["background state", "expression"] not in truth["causal_graph"]
    assert truth["settings"]["genes"] == GENES
    assert len(truth["elements"][0]) == len(truth["elements_columns"])


def test_a_full_directory_is_refused_and_overwritten_when_asked(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text("mine")
    with pytest.raises(ConflictError, match="not empty"):
        simulate(tmp_path, genes=40)
    assert (tmp_path / "catalog.yaml").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConflictError, match="is a file"):
        simulate(tmp_path / "file", genes=40)
    assert simulate(tmp_path, genes=40, cell_types=1, overwrite=True).read_text().startswith("# Simulated")


def test_promoter_activity_sees_the_background(tmp_path: Path) -> None:
    catalogue = simulate(tmp_path, genes=40, promoter_activity=True)
    entries = yaml.safe_load(catalogue.read_text())["features"][1:]
    assert [e["cell_type"] for e in entries] == CELLS
    assert all((tmp_path / e["source"]).is_file() for e in entries)
    truth = pd.read_csv(tmp_path / "truth.tsv", sep="\t").set_index("gene_id")
    given = pd.read_csv(tmp_path / "promoter_activity.csv").set_index("gene_id")
    for cell in CELLS:
        of_cell = truth[truth.cell_type == cell].assign(promoter_activity=given[cell])
        row = of_cell.iloc[7]
        means = []
        for assay in ("H3K27ac", "DNase"):
            with pyBigWig.open(str(tmp_path / "tracks" / f"{cell}.{assay}.bw")) as track:
                means.append(np.nan_to_num(track.values(row.contig, row.tss - 500, row.tss + 500, numpy=True)).mean())
        assert row.promoter_activity == pytest.approx(np.sqrt(means[0] * means[1]), abs=1e-3)
        r = of_cell[["promoter_activity", "element_activity", "background_state"]].corr().promoter_activity
        assert r.element_activity > 0.4
        assert r.background_state > 0.05


def test_what_cannot_be_simulated_is_said() -> None:
    with pytest.raises(QueryError, match="39 genes: at least 40"):
        Settings(genes=39)
    with pytest.raises(QueryError, match="27 cell types"):
        Settings(cell_types=27)
    with pytest.raises(QueryError, match="seed -1"):
        Settings(seed=-1)
    with pytest.raises(QueryError, match=r"agreement is 0\.2"):
        Settings(agreement=0.2)
    with pytest.raises(QueryError, match=r"shift_agreement is 1\.2"):
        Settings(shift_agreement=1.2)


def test_an_unwritable_directory_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="could not write the simulation"):
        simulate(tmp_path / "file" / "below", genes=40)


def test_the_command(tmp_path: Path) -> None:
    out = str(tmp_path / "demo")
    result = CliRunner().invoke(simulate_command, [out, "--genes", "40", "--cell-types", "1", "--shift"])
    assert result.exit_code == 0, result.output
    assert "genostore ingest" in result.output
    assert "shifted on held-out" in (tmp_path / "demo" / "catalog.yaml").read_text()
    refused = CliRunner().invoke(simulate_command, [out, "--genes", "3"])
    assert refused.exit_code == 2
    refused = CliRunner().invoke(simulate_command, [out, "--shift-agreement", "0.1"])
    assert "give --shift too" in refused.output


def test_helpers() -> None:
    values = np.array([np.nan, 1, 1, 0, np.nan, np.nan, 0], np.float32)
    starts, ends, runs = run_lengths(values)
    assert (starts.tolist(), ends.tolist(), runs.tolist()) == ([1, 3, 6], [3, 4, 7], [1, 0, 0])
    assert merge(np.array([(5, 9), (0, 2), (2, 3), (6, 7)])).tolist() == [[0, 3], [5, 9]]
    fine, coarse = (bin_table({"a": 25, "b": 10}, size) for size in (10, 20))
    assert len(fine) == 4
    pixels = pd.DataFrame({"bin1_id": [0, 0, 1, 2], "bin2_id": [0, 1, 3, 3], "count": [1, 2, 3, 4]})
    assert coarsen(pixels, fine, coarse, 20).to_numpy().tolist() == [[0, 0, 3], [0, 2, 3], [1, 2, 4]]
