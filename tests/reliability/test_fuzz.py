"""Damaged input gets an answer or one of our errors; a sample of the full run, and what it once found."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from genostore.errors import CatalogueError, SourceError
from ingest.catalogue import load
from ingest.sources.bedgraph import BedGraph
from ingest.sources.bigwig import BigWig
from ingest.sources.genes import read_genes
from ingest.sources.tables import read_table
from tests.ingest.small import CONTIGS, TRACKS, build_small
from tests.reliability.fuzz import study

COUNTS = {"region": 20, "catalogue": 20, "BED": 12, "GTF": 12, "table": 12, "bedGraph": 12, "FASTA": 10}
NATIVE = {"bigWig": 20, ".hic": 8, ".cool": 5, "chunk": 100}


@pytest.mark.parametrize("counts", [COUNTS, NATIVE], ids=["text", "native"])
def test_damaged_input_is_read_or_refused(counts: dict[str, int]) -> None:
    for row in study(counts, seed=2):
        assert row.good, row.notes
        assert row.tried == counts[row.what.removeprefix("damaged ").split(",")[0]]


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (352, b"\xff", "list of contigs"),  # bytes of a key: ended the interpreter
        (356, b"\x09", "list of contigs"),  # bytes of a value: ended the interpreter
        (360, b"\xff\xff\xff", "list of contigs"),  # number of contigs: ended the interpreter
        (376, b"\x02", "list of contigs"),  # leaf or not
        (388, b"\x00\x00\x00\x00", "list of contigs"),  # a contig of no bases
        (380, b"chr2", "list of contigs"),  # a name twice
        (380, b"\xff", "list of contigs"),  # no text: an error of pyBigWig's own came through
        (6, b"\x01\x10", "truncated"),  # zoom levels that are not there: ended the interpreter
    ],
)
def test_bigwig_headers_that_once_ended_the_interpreter(tmp_path: Path, at: int, value: bytes, said: str) -> None:
    build_small(tmp_path)
    good = (tmp_path / "dnase.bw").read_bytes()
    assert struct.unpack_from("<Q", good, 8) == (344,)
    (tmp_path / "bad.bw").write_bytes(good[:at] + value + good[at + len(value) :])
    with pytest.raises(SourceError, match=said):
        BigWig(tmp_path / "bad.bw").validate()
    assert BigWig(tmp_path / "dnase.bw").contigs == CONTIGS


def test_text_that_once_raised_an_error_of_python(tmp_path: Path) -> None:
    (tmp_path / "blank.csv").write_bytes(b" ")
    with pytest.raises(SourceError, match="without rows"):
        read_table(tmp_path / "blank.csv", {"gene": "gene"})
    (tmp_path / "far.bedgraph").write_bytes(b"chr1\t0\t99999999999999999999\t1\n")
    with pytest.raises(SourceError, match="line 1 has a position that no genome has"):
        BedGraph(tmp_path / "far.bedgraph").validate()


def test_what_a_search_for_new_lines_of_code_found(tmp_path: Path) -> None:
    for strand in ("", "+-"):  # each is a part of "+-", and once passed for a strand
        (tmp_path / "a.gtf").write_text(f'chr1\tx\tgene\t1\t9\t.\t{strand}\t.\tgene_id "g";\n')
        with pytest.raises(SourceError, match=f"gene 'g' has strand '{re.escape(strand)}', so it has no TSS"):
            read_genes(tmp_path / "a.gtf")
    other = 'chr1\tx\tgene\t1\t9\t.\t+\t.\tgene_id "g";\nchr1\tx\ttranscript\t2\t9\t.\t{}\t.\tgene_id "g";\n'
    for strand, first in (("-", 0), (".", 0), ("+", 1)):  # a transcript of no strand, or another, tells no TSS
        (tmp_path / "a.gtf").write_text(other.format(strand))
        assert read_genes(tmp_path / "a.gtf", tss="canonical")["tss"].tolist() == [first]
    small = build_small(tmp_path)
    catalogue = small.catalogue(TRACKS.replace("dnase.bw", "~no.such.user/dnase.bw"))
    with pytest.raises(CatalogueError, match=r"~no\.such\.user/dnase\.bw"):  # an error of Python's came through
        load(catalogue)


CRASH = """
import ctypes, sys
from genostore.contained import contained, note
def work():
    note("some/file.bw")
    if sys.argv[1] == "crash": ctypes.string_at(0)
    if sys.argv[1] == "kill": import os, signal; os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "exit": sys.exit(7)
contained(work)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a program's work runs in a child on Linux alone")
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("crash", 1, "error: some/file.bw: the library that reads this file crashed (SIGSEGV)"),
        ("kill", 137, "error: killed, as systems do when memory runs out"),
        ("exit", 7, ""),
        ("nothing", 0, ""),
    ],
)
def test_a_crash_of_native_code_is_told_with_the_files_name(how: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, how], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(said) if said else done.stderr == ""


@pytest.mark.parametrize("restart", [True, False], ids=["restarts", "dies as it starts"])
def test_workers_that_die_are_told(tmp_path: Path, restart: bool) -> None:
    small, died = build_small(tmp_path), tmp_path / "died"
    script, root, environment = tmp_path / "script.py", Path(__file__).parents[2], dict(os.environ)
    script.write_text(
        "import sys, ingest.workers\n"
        "from tests.reliability import deadly\n"
        "if __name__ == '__main__':\n"
        f"    ingest.workers._ALONE = {'60s' if restart else '2s'!r}\n"
        "    deadly.run(*sys.argv[1:])\n"
    )
    if restart:
        environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"  # not 3: each is a process to start anew
    else:
        preload = tmp_path / "preload.py"
        preload.write_text(f"import os\nif os.path.exists({str(died)!r}): os._exit(1)\n")
        environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] = repr([str(preload)])
    done = subprocess.run(
        [sys.executable, str(script), str(small.catalogue()), str(tmp_path / "s.zarr"), str(died)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**environment, "PYTHONPATH": str(root)},
    )
    wanted = "dnase.bw: worker processes died, several times, while they made tracks/K562/DNase of it"
    if not restart:
        wanted = "no worker process is left to make "
    assert wanted in done.stdout, done.stdout + done.stderr[-2_000:]
