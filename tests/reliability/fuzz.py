"""Damaged files at every parser of user input: an answer or one of our errors, in bounded time and memory.

Run as a program it forks a child that works through cases; when one ends the child (a crash, a hang, memory), the next
child goes on after it. A case is made from its number alone, so any can be made again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.reliability.mutate import mutate
from tests.reliability.record import Row, run

MEMORY = 4 << 30
SECONDS = 60
_NATIVE = ("bigWig", ".cool", ".hic")  # by libraries that are not ours
Parser = Callable[[Path], None]


def parsers() -> dict[str, Parser]:
    """Read all of a file and look for nonsense; the imports are those of the program's own process."""
    import numpy as np
    import pandas as pd

    from genostore.genome import Genome
    from ingest.catalogue import load
    from ingest.sources.bed import read_bed
    from ingest.sources.bedgraph import BedGraph
    from ingest.sources.bigwig import BigWig
    from ingest.sources.fasta import Fasta
    from ingest.sources.genes import read_genes
    from ingest.sources.hic import open_contacts
    from ingest.sources.tables import read_gene_values

    genes = pd.DataFrame({"id": ["G1.2", "G2", "G3"], "name": ["one", "two", "three"]})
    genome = Genome.build("g", {"chr1": 5_000, "chr2": 3_001, "chrM": 700}, 256)

    def signal_of(source: Any) -> None:
        source.validate()
        for contig, length in list(source.extents.items())[:8]:
            assert contig
            assert length > 0
            assert not any(c in contig for c in "\0\n")
            end = min(length, 1 << 20)
            values = source.values(contig, 0, end)
            assert values.shape == (end,)
            assert values.dtype == np.float32

    def contacts(path: Path) -> None:
        source = open_contacts(path, 100)
        source.validate()
        for contig, length in list(source.contigs.items())[:8]:
            assert contig
            assert length > 0
            n = min(-(-length // 100), 2_000)
            band = source.band(contig, 0, n, 16)
            assert band.values.shape == (n, 16)
            assert band.values.dtype == source.dtype
        for weight in source.weights(source.weight_names).values():
            assert weight.values.shape == (sum(-(-x // 100) for x in source.contigs.values()),)

    def fasta(path: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            source = Fasta(path, scratch)
            for contig, length in list(source.contigs.items())[:8]:
                codes = source.codes(contig, 0, min(length, 1 << 20))
                assert codes.shape == (min(length, 1 << 20),)
                assert not (codes & ~np.uint8(15)).any()
                assert ((codes & 7) <= 4).all()

    def bed(path: Path) -> None:
        frame = read_bed(path)
        assert (frame["start"] >= 0).all()
        assert (frame["end"] >= frame["start"]).all()

    def annotation(path: Path) -> None:
        frame, *_ = (read_genes(path),)
        assert (frame["start"] >= 0).all()
        assert (frame["end"] > frame["start"]).all()
        assert frame["strand"].isin(["+", "-"]).all()
        assert not frame["id"].duplicated().any()

    def table(path: Path) -> None:
        found = read_gene_values(path, "gene", ["length", "cage"], genes)
        assert len(found.values) == len(genes)

    def catalogue(path: Path) -> None:
        found = load(path, check_files=False)
        for track in found.tracks:
            assert "/" not in track.cell_type + track.assay
            assert not track.cell_type.startswith(".")
            assert not track.assay.startswith(".")

    def region(path: Path) -> None:
        for line in path.read_bytes().decode("utf-8", "replace").rstrip("\n").split("\n"):
            found = genome.region(line)
            assert 0 <= found.start < found.end <= found.contig.length

    return {
        "chunk": chunk,
        "bigWig": lambda p: signal_of(BigWig(p)),
        ".cool": contacts,
        ".hic": contacts,
        "FASTA": fasta,
        "bedGraph": lambda p: signal_of(BedGraph(p)),
        "BED": bed,
        "GTF": annotation,
        "table": table,
        "catalogue": catalogue,
        "region": region,
    }


def chunk(path: Path) -> None:
    """Read a frame of zstd as the one chunk of a track, its checksums made right: a stranger's store may hold any.

    What is read must be what the general library makes of the frame, or an error.
    """
    import google_crc32c
    import numcodecs.zstd
    import numpy as np

    from genostore.arrays import Array, Reads, Spans
    from genostore.schema import dumps, position_array
    from genostore.storage import Storage

    def summed(data: bytes) -> bytes:
        return data + google_crc32c.value(data).to_bytes(4, "little")

    frame, schema = path.read_bytes(), position_array(4_096, 4_096, "float32", float("nan"))
    root = Path(tempfile.mkdtemp(dir=path.parent))  # of its own, so that nothing is kept of the last case
    folder = root / "tracks/A/x"
    (folder / "c").mkdir(parents=True)
    (folder / "zarr.json").write_bytes(dumps(schema.to_json()))
    where = (0).to_bytes(8, "little") + (len(frame) + 4).to_bytes(8, "little")
    (folder / "c/0").write_bytes(summed(frame) + summed(where))
    array = Array(Storage.of(root), "tracks/A/x")
    out = np.full((1, 4_096), np.nan, dtype=np.float32)
    with Reads() as reads:
        reads.spans(array, Spans(np.array([[0, 0, 4_096, 0]])), out)
    expected = np.frombuffer(numcodecs.zstd.decompress(frame), dtype="<u4")
    assert np.array_equal(out.view("<u4")[0], expected)


def seeds(folder: Path) -> None:
    """Write good files of each format."""
    import gzip

    import pandas as pd

    from ingest.sources.dothic import hictkpy
    from tests.ingest.small import BIN, CONTIGS, EVERYTHING, build_small

    small = build_small(folder)
    with hictkpy().hic.FileWriter(folder / "a.hic", CONTIGS, [BIN], tmpdir=folder) as writer:
        first = -(-CONTIGS["chr1"] // BIN)
        pixels = [(i, j, 1 + (i * j) % 7) for i in range(first) for j in range(i, min(i + 9, first))]
        writer.add_pixels(pd.DataFrame(pixels, columns=["bin1_id", "bin2_id", "count"]))
    for name in ("genome.fa", "genes.gtf", "rna.bedgraph"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), mtime=0))
    _frames(folder)
    (folder / "regions").write_text("chr1:1,000-2,000\nchr2\nchrM:5-\nchr1:0-1\n")
    small.catalogue(EVERYTHING)


def _frames(folder: Path) -> None:
    """Frames of chunks of several kinds: runs, noise, few values, one value."""
    import numcodecs.zstd
    import numpy as np

    rng = np.random.default_rng(0)
    values = {
        "runs": np.repeat(rng.gamma(1, 3, 600).astype(np.float32), rng.integers(1, 30, 600))[:4_096],
        "gaps": np.where(rng.random(4_096) < 0.5, np.nan, 1.5).astype(np.float32),
        "few": rng.choice(np.float32([0, 1, 2, 0.5, 0.25]), 4_096),
        "rounded": np.round(rng.gamma(2, 3, 4_096), 1).astype(np.float32),
        "one": np.full(4_096, 2.5, dtype=np.float32),
    }
    for name, track in values.items():
        assert len(track) == 4_096
        (folder / f"{name}.chunk").write_bytes(numcodecs.zstd.compress(track.tobytes(), 1))


def attempt(parse: Parser, path: Path) -> str:
    """Parse a file, and say what came of it."""
    from genostore.errors import GenostoreError

    try:
        parse(path)
    except GenostoreError as error:
        return "refused" if str(error) else "raw: an error without words"
    except AssertionError as error:
        import traceback

        return f"nonsense: {traceback.extract_tb(error.__traceback__)[-1].line}"
    except MemoryError:
        return "raw: MemoryError"
    except Exception as error:
        return f"raw: {type(error).__name__}: {str(error)[:90]}"
    return "read"


def fuzz(kind: str, parse: Parser, files: list[Path], count: int, seed: int, keep: Path | None = None) -> Row:
    """Parse ``count`` damaged copies of good files."""
    native = kind in _NATIVE
    row = Row("fuzz", f"damaged {kind}" + (", read by native code" if native else ""))
    data = [path.read_bytes() for path in files]
    child = os.fork()  # the good files read; what compiles on first use does so without the clock
    if child == 0:
        for path in files:
            parse(path)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"the undamaged files of {kind} do not read")
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder, files[0].name)
        while done < count:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                _work(kind, parse, data, case, range(done, count), seed, writing)
            os.close(writing)
            with os.fdopen(reading) as lines:
                outcomes = [line.rstrip("\n") for line in lines]
            status = os.waitpid(child, 0)[1]
            for outcome in outcomes:
                count_case(row, outcome, kind, done, native, keep)
                done += 1
            if os.WIFSIGNALED(status):
                count_case(row, _ended(os.WTERMSIG(status)), kind, done, native, keep, case)
                done += 1
    return row


def _ended(number: int) -> str:
    return f"hang of over {SECONDS} s" if number == signal.SIGALRM else f"crash: {signal.Signals(number).name}"


def count_case(
    row: Row,
    outcome: str,
    kind: str,
    number: int,
    native: bool = False,
    keep: Path | None = None,
    case: Path | None = None,
) -> None:
    """Enter what came of a case."""
    crash = outcome.startswith("crash")
    row.add("crash of the reader, contained in its child" if crash and native else outcome.split(":")[0])
    if outcome not in ("read", "refused") and not (crash and native):
        row.wrong += 1
    if outcome not in ("read", "refused"):
        row.notes.append(f"{kind} case {number}: {outcome}")
        if keep is not None and case is not None:
            (keep / f"{kind.strip('.')}.{number}").write_bytes(case.read_bytes())


def damaged(data: list[bytes], kind: str, number: int, seed: int) -> bytes:
    """Make a case again."""
    rng = random.Random(f"{seed}/{kind}/{number}")
    return mutate(rng.choice(data), rng)


def _work(kind: str, parse: Parser, data: list[bytes], case: Path, cases: range, seed: int, writing: int) -> None:
    """Work through cases in a child, one line each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    for number in cases:
        case.write_bytes(damaged(data, kind, number, seed))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        os.write(writing, (attempt(parse, case).replace("\n", " ") + "\n").encode())
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)


def study(counts: dict[str, int], seed: int = 0) -> list[Row]:
    """Fuzz each named parser so often; a program of its own does it."""
    return run(__spec__.name, counts, seed, "-W", "ignore")


def main() -> None:
    counts, seed = json.loads(sys.argv[1]), int(sys.argv[2])
    keep = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    every = parsers()
    rows = []
    with seeded(counts) as files:
        for kind, n in counts.items():
            rows.append(fuzz(kind, every[kind], files[kind], n, seed, keep))
            print(rows[-1].plain(), file=sys.stderr, flush=True)
    print(json.dumps([row.plain() for row in rows]))


@contextmanager
def seeded(kinds: Iterable[str]) -> Iterator[dict[str, list[Path]]]:
    """Give good files of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()  # writing them starts threads, which a fork would not survive
        if child == 0:
            seeds(Path(folder))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        yield {kind: sorted(p for p in Path(folder).iterdir() if _is(kind, p)) for kind in kinds}


def _is(kind: str, path: Path) -> bool:
    endings = {
        "chunk": (".chunk",),
        "bigWig": (".bw",),
        ".cool": (".cool",),
        ".hic": (".hic",),
        "FASTA": (".fa", ".fa.gz"),
        "bedGraph": (".bedgraph", ".bedgraph.gz"),
        "BED": (".bed",),
        "GTF": (".gtf", ".gtf.gz"),
        "table": (".csv",),
        "catalogue": (".yaml",),
        "region": ("regions",),
    }
    return path.name.endswith(endings[kind])


if __name__ == "__main__":
    main()
