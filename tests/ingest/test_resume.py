"""A run that is killed, at whatever moment and however often, and run again gives what an undisturbed run gives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .small import EVERYTHING, TRACKS, Small, write_bigwig
from .test_run import make, tree

LENGTHS = {"chr1": 4_500_000, "chr2": 3_001, "chrM": 700}  # two shards

# Imports once, then forks a child for each run, and kills most of them.
PROGRAM = """
import json, os, signal, sys, time
import numcodecs, pandas, pyBigWig, pyfaidx, tensorstore, zarr
import ingest
import tests.warm

def start(catalogue, store, overwrite):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ingest.run(ingest.plan(catalogue, store), overwrite=overwrite)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child

def published(store):
    log = os.path.join(store, ".genostore/log.jsonl")
    return open(log).read().count('"publish"') if os.path.exists(log) else 0

catalogue, one, two, overwrite, moments = *sys.argv[1:4], sys.argv[4] == "yes", json.loads(sys.argv[5])
before = published(one)
began = time.perf_counter()
assert os.waitpid(start(catalogue, one, overwrite), 0)[1] == 0
took, count = time.perf_counter() - began, published(one) - before
before, killed = published(two), 0
for k, share in enumerate(moments):
    child = start(catalogue, two, overwrite)
    while published(two) - before < k * count / len(moments) and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.002)
    time.sleep(share * took / 4)
    try:
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    except (ProcessLookupError, ChildProcessError):
        pass
assert os.waitpid(start(catalogue, two, overwrite), 0)[1] == 0
print(killed)
"""


def disturb(catalogue: Path, one: Path, two: Path, overwrite: bool, seed: int, kills: int) -> int:
    """Ingest undisturbed into one store; into another with kills at random moments. Say how many hit."""
    moments = json.dumps([random.Random(f"{seed}/{k}").random() for k in range(kills)])
    arguments = [str(catalogue), str(one), str(two), "yes" if overwrite else "no", moments]
    command, root = [sys.executable, "-c", PROGRAM, *arguments], Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_killed_and_run_again_is_as_if_undisturbed(small: Small) -> None:
    rng = np.random.default_rng(0)
    values = {"chr1": np.repeat(rng.gamma(1, 2, 4_500), 1_000).astype(np.float32)}
    values["chr1"][rng.random(LENGTHS["chr1"]) < 0.001] = np.nan
    write_bigwig(small.folder / "dnase.bw", LENGTHS, values)
    bases = np.frombuffer(b"ACGTacgtN", dtype=np.uint8)[rng.integers(0, 9, LENGTHS["chr1"])].tobytes().decode()
    lines = "\n".join(bases[i : i + 1_000] for i in range(0, len(bases), 1_000))
    rest = "".join(f">{c}\n{small.sequence[c]}\n" for c in ("chr2", "chrM"))
    (small.folder / "genome.fa").write_text(f">chr1\n{lines}\n{rest}")
    sections = EVERYTHING[: EVERYTHING.index("contacts:")] + EVERYTHING[EVERYTHING.index("expression:") :]
    catalogue = small.catalogue(sections)
    one, two = (small.folder.parent / f"{name}.zarr" for name in ("one", "two"))
    assert disturb(catalogue, one, two, overwrite=False, seed=1, kills=5) >= 2
    assert tree(two) == tree(one)

    catalogue.write_text(catalogue.read_text().replace("role: background", "role: foreground, bitround: 5"))
    assert disturb(catalogue, one, two, overwrite=True, seed=2, kills=3) >= 1
    assert tree(two) == tree(one)
    assert json.loads((two / "index.json").read_bytes())["nodes"]["tracks/K562/DNase"]["generation"] == 2


@pytest.mark.parametrize("where", ["rename", "index", "records"])
def test_a_kill_at_the_worst_moments_of_publishing(small: Small, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    good = tree(Path(make(small, TRACKS, name="good.zarr").path))

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    target = {
        "rename": "genostore.folder.sync_tree",
        "index": "genostore.index.update",
        "records": "genostore.staging.Staging._gather",
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(target, die)
        with pytest.raises(Killed):
            make(small, TRACKS)
    assert tree(Path(make(small, TRACKS).path)) == good
