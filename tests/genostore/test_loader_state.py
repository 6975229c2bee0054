"""Where a loader stands, what ends it, and what it costs: state, workers, ranks, errors, memory."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from genostore.errors import QueryError, StaleError
from genostore.loader import Workers, budget
from genostore.staging import remove
from tests.alone import alone

from .conftest import Toy

Batches = list[list[int]]


def indices(loader: object) -> Batches:
    return [b.index.tolist() for b in loader]  # type: ignore[attr-defined]


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("genostore-read")]


def test_a_pass_that_was_left_is_over_and_a_state_goes_on(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(3, shuffle=True, seed=1)
    epochs = [indices(loader) for _ in range(3)]
    loader.set_epoch(0)
    for number, _ in enumerate(loader):
        if number == 2:
            break
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    assert indices(loader) == epochs[1]
    assert loader.state_dict()["epoch"] == 2  # that of the pass to come
    assert loader.state_dict()["yielded"] == 0
    loader.load_state_dict(state)
    loader.set_epoch(0)  # as a loop over epochs does on its way
    assert [*indices(loader), *indices(loader)] == [*epochs[0][3:], *epochs[1]]
    loader.load_state_dict(state)
    loader.set_epoch(2)
    assert indices(loader) == epochs[2]


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
def test_order_is_the_same_for_any_threads_budget_and_resume(toy: Toy, shuffle: object) -> None:
    windows = toy.open().windows(width=20, jitter=4)
    options = {"shuffle": shuffle, "seed": 3}
    options |= {"block": 2, "buffer": 3} if shuffle == "blocks" else {}
    expected = indices(windows.loader(2, threads=0, **options))
    assert sorted(chain(*expected)) == list(range(20))
    for more in ({"threads": 3, "prefetch": 4}, {"memory": 40 * 2**20}, {"resident": "ram"}):
        assert indices(windows.loader(2, **more, **options)) == expected
    for stop in range(0, 10, 3):
        again = windows.loader(2, **options)
        again.load_state_dict({**again.state_dict(), "yielded": stop})
        assert indices(again) == expected[stop:]


def test_workers_count_what_they_give(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(3, shuffle=True, threads=1)
    epochs = [indices(loader) for _ in range(3)]
    loader.set_epoch(0)
    workers = loader.workers(2, persistent_workers=True)
    assert isinstance(workers, DataLoader)
    assert indices(workers) == epochs[0]
    seen = []
    for batch in workers:
        seen.append(batch.index.tolist())
        if len(seen) == 2:
            break
    state = workers.state_dict()
    assert (state["epoch"], state["yielded"]) == (1, 2)
    assert indices(workers) == epochs[2]  # what was read ahead of the break is forgotten
    workers.load_state_dict(state)
    assert seen + indices(workers) == epochs[1]
    workers.set_epoch(0)
    assert indices(workers) == epochs[0]
    assert indices(Workers(loader, 0)) == epochs[1]


RANKS = """
import os, sys, genostore, torch.distributed as dist
dist.init_process_group("gloo")
some, every = (genostore.open(sys.argv[1]).windows(genes=g, width=20) for g in (sys.argv[3].split(","), None))
lines = []
for name, options in {"every": {"shuffle": True}, "true": {"shuffle": True},
                      "blocks": {"shuffle": "blocks", "block": 2, "buffer": 2},
                      "ram": {"shuffle": True, "resident": "ram"}}.items():
    loader = (every if name == "every" else some).loader(3, seed=4, **options)
    for epoch in range(2):
        lines.append(" ".join([name, str(epoch), *(str(i) for b in loader for i in b.index.tolist())]))
with open(f"{sys.argv[2]}/{dist.get_rank()}", "w") as out:
    out.write("\\n".join(lines))
dist.destroy_process_group()
"""


def test_torchrun_ranks_are_disjoint_and_equal(toy: Toy, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANKS)
    genes = ",".join(toy.genes["id"].iloc[[0, 1, 2, 4, 6]]) + "," + toy.genes["id"].iloc[7]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    command += [str(toy.path), str(tmp_path), genes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GENOSTORE_RESIDENT": str(tmp_path / "memory")}
    subprocess.run(command, check=True, capture_output=True, timeout=240, env=environment)
    ranks = [[line.split() for line in (tmp_path / str(r)).read_text().splitlines()] for r in (0, 1)]
    epochs = {}
    for a, b in zip(*ranks, strict=True):
        assert a[:2] == b[:2]
        assert len(a) == len(b)
        assert sorted(map(int, a[2:] + b[2:])) == list(range(20 if a[0] == "every" else 12))
        epochs[a[0], a[1]] = a[2:], b[2:]
    assert epochs["true", "0"] == epochs["ram", "0"] != epochs["true", "1"]
    assert not list((tmp_path / "memory").iterdir())


def test_the_remainder_of_ranks_is_left_out(toy: Toy) -> None:
    windows = toy.open().windows(width=20)  # 20 samples, of which 3 ranks read 18
    for epoch in range(3):
        read = []
        for rank in range(3):
            loader = windows.loader(4, shuffle=True, rank=rank, world=3)
            loader.set_epoch(epoch)
            read.append(list(chain(*indices(loader))))
        assert [len(r) for r in read] == [6, 6, 6]
        assert len(set(chain(*read))) == 18


def test_a_forked_worker_is_told_to_spawn(toy: Toy) -> None:
    script = """
        import sys, genostore
        from torch.utils.data import DataLoader
        loader = genostore.open(sys.argv[1]).windows(width=20).loader(3)
        next(iter(loader))
        try:
            list(DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context="fork"))
        except genostore.errors.ForkError as error:
            print(error)
    """
    assert "multiprocessing_context='spawn'" in alone(script, toy.path)


def test_a_track_that_goes_is_told_once_and_leaves_no_thread(own_toy: Toy) -> None:
    loader = own_toy.open().windows(width=20, assays=["DNase"]).loader(1, memory=33 * 2**20)
    loader.budget = budget.Budget(1, loader.budget.sizes, 1, 2, 2)
    iterator = iter(loader)
    next(iterator)
    remove(own_toy.open().storage, "tracks/A/DNase")
    with pytest.raises(StaleError, match="tracks/A/DNase") as told:
        list(iterator)
    assert told.value.__notes__[0].startswith("while batch ")
    del told
    assert list(iterator) == []
    assert not readers()


def test_leaving_the_loop_ends_the_threads(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(1, threads=3)
    for _ in loader:
        assert readers()
        break
    assert not readers()

    def fail() -> None:
        for _ in loader:
            raise RuntimeError("of the model")

    with pytest.raises(RuntimeError, match="of the model") as caught:
        fail()
    del caught
    assert not readers()


def test_an_interrupt_ends_it_promptly(toy: Toy) -> None:
    script = f"""
import signal, genostore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
loader = genostore.open({str(toy.path)!r}).windows(width=400).loader(2)
print("ready", flush=True)
while True:
    for batch in loader:
        pass
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.5)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        try:
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert time.monotonic() - began < 20  # of a busy machine; it takes a few milliseconds
    assert said.decode().rstrip().endswith("KeyboardInterrupt")
    assert child.returncode == -signal.SIGINT


def test_a_budget_too_small_names_the_least(toy: Toy) -> None:
    windows = toy.open().windows(width=600)
    with pytest.raises(QueryError, match=r"one batch of 20 windows wants .* give memory=") as caught:
        windows.loader(20, memory=1_000_000)
    least = int(str(caught.value).split("memory=")[1].split()[0])
    loader = windows.loader(20, memory=least)
    assert loader.budget.peak == least
    assert (loader.budget.load, loader.budget.threads) == (1, 0)
    with pytest.raises(QueryError, match="give memory="):
        windows.loader(20, memory=least - 1)
    with pytest.raises(QueryError, match="a shuffle buffer of 2 batches"):
        windows.loader(8, memory=least // 2, shuffle="blocks", block=4, buffer=4)
    for wrong in (0, -3, 1.5, "1GB", True):
        with pytest.raises(QueryError, match="it is a number of bytes"):
            windows.loader(20, memory=wrong)


def test_a_larger_budget_is_used() -> None:
    sizes = budget.Sizes(read=100_000, working=1_000, made=50_000)
    plans = [
        budget.plan(m, sizes, 64, threads=2, prefetch=2, together=1, batches=1_000) for m in range(2**26, 2**28, 2**23)
    ]
    for a, b in pairwise(plans):
        assert a.peak <= b.peak
        assert (a.depth, a.load) <= (b.depth, b.load)
    assert plans[-1].depth == 4
    whole = budget.plan(2**30, sizes, 8, threads=2, prefetch=2, together=5, batches=1_000)
    assert whole.load % 5 == 0


MEMORY = """
import sys, numpy as np, pandas as pd, genostore, torch
torch.set_num_threads(1)
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
store = genostore.open(sys.argv[1])
start = np.random.default_rng(0).integers(0, 3_000_000, 6_000)
regions = pd.DataFrame({"contig": "chr1", "start": start, "end": start + 2_000})
windows = store.windows(regions=regions, width=2_000, assays=["a", "b"])
for batch in windows.loader(2, rank=0, world=1000):  # what is imported, compiled and opened once
    pass
open("/proc/self/clear_refs", "w").write("5")
before = peak()
loader = windows.loader(64, shuffle=True, memory=int(sys.argv[2]), threads=2)
total = 0.0
for batch in loader:
    total += float(batch.signal[0, 0, 0])
print(peak() - before, loader.budget.peak)
"""


@pytest.fixture(scope="module")
def two_tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three million bases."""
    from genostore.genome import Genome
    from genostore.staging import create

    from .conftest import write_positions

    path = tmp_path_factory.mktemp("budget") / "store.zarr"
    genome = Genome.build("toy", {"chr1": 3_010_000}, 16_384)
    storage, rng = create(path, genome), np.random.default_rng(0)
    codes = {"chr1": rng.integers(0, 4, 3_010_000).astype(np.uint8)}
    write_positions(storage, genome, "sequence", codes, 4, {"kind": "sequence"})
    for assay in ("a", "b"):
        values = {"chr1": np.repeat(rng.random(301_000, dtype=np.float32), 10)}
        attributes = {"kind": "track", "cell_type": "K", "assay": assay, "strand": None, "role": None}
        write_positions(storage, genome, f"tracks/K/{assay}", values, np.nan, attributes)
    return path


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs /proc")
@pytest.mark.parametrize("mib", [42, 80])
def test_the_budget_is_kept(two_tracks: Path, mib: int) -> None:
    script = [sys.executable, "-c", textwrap.dedent(MEMORY), str(two_tracks), str(mib * 2**20)]
    grown, planned = map(int, subprocess.run(script, check=True, capture_output=True, text=True).stdout.split())
    assert planned <= mib * 2**20
    assert grown <= 1.15 * mib * 2**20


def test_lightning_resumes_in_the_middle_of_an_epoch(toy: Toy, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Counts(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: Batches = []

        def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
            self.seen.append(batch.index.tolist())
            return self.weight * 1.0

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def run(steps: int, state: Path | None = None) -> Batches:
        module = Counts()
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = toy.open().windows(width=20).loader(3, shuffle=True, seed=6)
        trainer.fit(module, loader, ckpt_path=state)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.seen

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        whole = run(16)
        assert run(10) + run(16, tmp_path / "10.ckpt") == whole
    assert whole[:7] != whole[7:14]
