"""Text at our own parsers, changed towards what runs new lines of code (atheris, where it is installed)."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.reliability import fuzz
from tests.reliability.record import Row, run

INSTALLED = importlib.util.find_spec("atheris") is not None
INSTRUMENTED = ("genostore.genome", "ingest.catalogue", "ingest.sources")


def guided(kind: str, parse: fuzz.Parser, files: list[Path], count: int, seed: int) -> Row:
    """Parse ``count`` texts that grow from good files."""
    row = Row("fuzz", f"{kind} that a search for new lines of code damaged")
    with tempfile.TemporaryDirectory() as folder:
        corpus, case = Path(folder, "corpus"), Path(folder, files[0].name)
        corpus.mkdir()
        for path in files:
            (corpus / path.name).write_bytes(path.read_bytes())
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _search(parse, corpus, case, count, seed, writing)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for number, outcome in enumerate(lines):
                fuzz.count_case(row, outcome.rstrip("\n"), kind, number)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status or row.tried < count:
            row.wrong += 1
            row.notes.append(f"{kind}: ended by {status} after {row.tried} cases, at {case.read_bytes()[:200]!r}")
    return row


def _search(parse: fuzz.Parser, corpus: Path, case: Path, count: int, seed: int, writing: int) -> None:
    """Run in a child, which ends here; an outcome a line."""
    import atheris

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)

    def one(data: bytes) -> None:
        case.write_bytes(data)
        outcome = fuzz.attempt(parse, case).replace("\n", " ")
        if outcome not in ("read", "refused"):
            outcome += f" of {data[:400]!r}"  # nothing makes the case again
        os.write(writing, f"{outcome}\n".encode())

    limits = (f"-rss_limit_mb={fuzz.MEMORY >> 20}", f"-timeout={fuzz.SECONDS}", "-max_len=65536")
    atheris.Setup(["fuzz", f"-runs={count}", f"-seed={seed + 1}", *limits, str(corpus)], one)
    atheris.Fuzz()
    os._exit(0)


def study(counts: dict[str, int], seed: int = 0) -> list[Row]:
    """Try each named parser so often; a program of its own does it."""
    return run(__spec__.name, counts, seed, "-W", "ignore")


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        every = fuzz.parsers()
    counts, seed = json.loads(sys.argv[1]), int(sys.argv[2])
    rows = []
    with fuzz.seeded(counts) as files:
        for kind, n in counts.items():
            rows.append(guided(kind, every[kind], files[kind], n, seed))
            print(rows[-1].plain(), file=sys.stderr, flush=True)
    print(json.dumps([row.plain() for row in rows]))


if __name__ == "__main__":
    main()
