"""What stores of ever more tracks, and of ever more contigs, cost to make and to ask; as figures and as a plot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from click.testing import CliRunner

import genostore
import ingest
from genostore.cli import genostore as program
from tests.reliability.properties import write_signal

TRACKS, CONTIGS = (10, 100, 1_000), (25, 600, 20_000)
COLUMNS = {
    "ingest": "ingest, s",
    "more": "one track more, ms",
    "size": "on disk, MB",
    "index": "index.json, MB",
    "open": "open, ms",
    "list": "list of tracks, ms",
    "window": "a window, ms",
    "info": "info, ms",
}


def timed(task: Callable[[], Any], times: int = 1) -> float:
    """Median processor time of a task, in milliseconds."""
    seen = []
    for _ in range(times):
        began = time.process_time()
        task()
        seen.append(time.process_time() - began)
    return 1_000 * median(seen)


def sources(folder: Path, lengths: dict[str, int], tracks: int) -> Path:
    """Write a genome, a bigWig of a few steps a contig, and a catalogue that has it so often."""
    folder.mkdir()
    (folder / "g.fa").write_text("".join(f">{c}\n{('ACGT' * n)[:n]}\n" for c, n in lengths.items()))
    steps = {c: [(i, i + 10, float(i)) for i in range(0, min(n, 200), 20)] for c, n in lengths.items()}
    write_signal(folder / "t.bw", lengths, steps)
    lines = "".join(f"  - {{cell_type: C{i}, assay: x, source: t.bw}}\n" for i in range(tracks))
    (folder / "c.yaml").write_text(f"version: 1\nassembly: {{name: g, fasta: g.fa, alignment: 256}}\ntracks:\n{lines}")
    return folder / "c.yaml"


def measure(folder: Path, lengths: dict[str, int], tracks: int) -> dict[str, float]:
    """Make a store by ``ingest.run``, add a track, and ask."""
    catalogue, path = sources(folder, lengths, tracks), folder / "s.zarr"
    seconds = timed(lambda: ingest.run(ingest.plan(catalogue, path))) / 1_000
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6
    more = timed(lambda: ingest.add(path, folder / "t.bw", cell_type="more", assay="x"))
    store = genostore.open(path)
    array, contig = store.track("C0", "x"), next(iter(store.contigs))
    assert len(store.tracks) == tracks + 1
    assert array.read(slice(0, 30))[20] == 20
    assert store.genome.region((contig, 0, 30)).contig.length == lengths[contig]

    def info() -> None:
        assert CliRunner().invoke(program, ["info", str(path)]).exit_code == 0

    return {
        "ingest": seconds,
        "more": more,
        "size": size,
        "index": (path / "index.json").stat().st_size / 1e6,
        "open": timed(lambda: genostore.open(path), 5),
        "list": timed(lambda: genostore.open(path).tracks, 5),
        "window": timed(lambda: array.read(slice(0, 500)), 50),
        "info": timed(info, 3),
    }


def growth(
    folder: Path, tracks: tuple[int, ...] = TRACKS, contigs: tuple[int, ...] = CONTIGS
) -> dict[str, dict[int, dict[str, float]]]:
    """Measure ever larger stores: of tracks on one contig of 20,000 bases, of one track on contigs of 1,000."""
    measure(folder / "first", {"c1": 1_000}, 1)  # what compiles on first use
    return {
        "tracks": {n: measure(folder / f"t{n}", {"c1": 20_000}, n) for n in tracks},
        "contigs": {n: measure(folder / f"c{n}", {f"s{i}": 1_000 for i in range(n)}, 1) for n in contigs},
    }


def rendered(figures: dict[str, dict[Any, dict[str, float]]]) -> str:
    """Give the figures as a table."""
    out = ["| store | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for what, sizes in figures.items():
        for n, seen in sizes.items():
            out.append(f"| {int(n):,} {what} | " + " | ".join(f"{seen[c]:.3g}" for c in COLUMNS) + " |")
    return "\n".join(out)


def draw(figures: dict[str, dict[Any, dict[str, float]]], path: Path) -> None:
    """Plot them, on logarithmic axes, beside a line of what is linear."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = {"s": ["ingest"], "MB": ["size", "index"], "ms": ["more", "open", "list", "window", "info"]}
    with mpl.rc_context({"svg.hashsalt": "growth", "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots(len(figures), len(panels), sharex="row")
        for row, (what, sizes) in zip(axes, figures.items(), strict=True):
            counts = [int(n) for n in sizes]
            for axis, (unit, names) in zip(row, panels.items(), strict=True):
                values = {name: [seen[name] for seen in sizes.values()] for name in names}
                for name, line in values.items():
                    axis.plot(counts, line, "o-", ms=3, label=COLUMNS[name].split(",")[0])
                top = max(line[0] for line in values.values())
                axis.plot(counts, [top * n / counts[0] for n in counts], ":", color="grey", label="linear")
                axis.set(xscale="log", yscale="log", xlabel=what, ylabel=unit, xticks=counts)
                axis.set_xticks(counts, [f"{n:,}" for n in counts])
                axis.set_ylim(top=20 * axis.get_ylim()[1])  # room for the legend
                axis.minorticks_off()
                axis.legend(frameon=False, fontsize=6, ncols=2)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
