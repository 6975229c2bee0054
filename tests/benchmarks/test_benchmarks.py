"""The benchmarks run, compare what they time, and catch a contender that gives other values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import genostore
from benchmarks import chunks, data, gpu, incumbent, lazy, opening, packed, report, resident
from benchmarks.__main__ import SUITES, run
from benchmarks.data import Bench
from benchmarks.harness import Bar, Disagreement, Read, Result, Row, Stream, compare, split
from prism_model import Prism, PrismConfig

pytestmark = pytest.mark.filterwarnings("default")  # what other readers warn of is not ours to mend
PARTS = split(12, 3)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), data.TINY)


def values(which: np.ndarray) -> np.ndarray:
    out = np.repeat(which.astype(np.float32), 6).reshape(-1, 2, 3)
    out[:, 1, 2] = np.nan
    return out


def stream(which: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    for samples in np.array_split(which[::-1], 2):  # in an order of its own
        yield samples, torch.from_numpy(np.nan_to_num(values(samples)))


def test_equal_contenders_are_timed_in_the_same_repeats() -> None:
    rows = compare("w", [Read("a", values), Read("b", values)], PARTS, 4, "us")
    assert [row.contender for row in rows] == ["a", "b"]
    assert rows[0].times == 1.0
    assert all(len(row.seconds) == row.repeats == 2 for row in rows)


def test_streams_are_compared_by_sample() -> None:
    given = Read("a", lambda which: np.nan_to_num(values(which)))
    assert len(compare("w", [given, Stream("b", stream)], PARTS, 4, "us")) == 2


def test_a_wrong_value_is_caught() -> None:
    def wrong(which: np.ndarray) -> np.ndarray:
        out = values(which)
        out[1, 0, 0] += 1
        return out

    with pytest.raises(Disagreement, match=r"b gives other values at 1 of 24 places, the first at \(1, 0, 0\)"):
        compare("w", [Read("a", values), Read("b", wrong)], PARTS, 4, "us")


def test_a_gap_read_as_zero_is_caught() -> None:
    with pytest.raises(Disagreement, match="nan"):
        compare("w", [Read("a", values), Read("b", lambda w: np.nan_to_num(values(w)))], PARTS, 4, "us")


def test_a_contender_that_gives_what_it_gave_before_is_caught() -> None:
    with pytest.raises(Disagreement, match="sum to"):
        compare("w", [Read("a", values), Read("b", lambda which: values(PARTS[0]))], PARTS, 4, "us")


def test_a_stream_that_gives_a_sample_twice_is_caught() -> None:
    def twice(which: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        samples = np.r_[which[:-1], which[0]]
        yield samples, torch.from_numpy(np.nan_to_num(values(samples)))

    with pytest.raises(Disagreement, match="each of the 4 once"):
        compare("w", [Stream("a", stream), Stream("b", twice)], PARTS, 4, "us")


def test_windows_do_not_overlap() -> None:
    for extent, width, n in ((10_000, 100, 100), (10_050, 100, 100), (10_000, 100, 20), (999, 333, 3)):
        starts = np.sort(data.disjoint(np.random.default_rng(0), extent, width, n))
        assert len(starts) == n
        assert starts[0] >= 0
        assert starts[-1] + width <= extent
        assert (np.diff(starts) >= width).all()
    with pytest.raises(ValueError, match="do not fit"):
        data.disjoint(np.random.default_rng(0), 1_000, 100, 11)


def names(result: Result) -> set[str]:
    return {row.contender for row in result.rows}


@pytest.mark.parametrize("work", [lazy.RANDOM_2KB, lazy.RANDOM_200KB, *lazy.OTHERS, *lazy.FULL], ids=str)
def test_the_full_run_has_windows_enough(work: lazy.Work) -> None:
    assert len(lazy.draw(work, data.FULL)) == work.batch * (work.repeats + 1)


def test_lazy(bench: Bench) -> None:
    result = lazy.run(bench)
    assert {row.work.split(",")[0] for row in result.rows} == {"run-length", "dense", "sparse"}
    assert {"genostore", "pyBigWig loop", "TensorStore, one batch", "numpy.memmap, uncompressed"} <= names(result)
    assert ("figwig, 2 threads" in names(result)) == (find_spec("figwig") is not None)


def test_packed_and_resident(bench: Bench) -> None:
    result = packed.run(bench)
    assert names(result) >= {"genostore, packed", "memmap, float32"}
    assert [bar.bar for bar in result.bars][-1] == 0.5
    result = resident.run(bench)
    assert names(result) >= {"genostore, resident", "memmap, float32"}


def test_incumbent(bench: Bench) -> None:
    result = incumbent.run(bench)
    (bar,) = result.bars
    assert bar.measured == result.rows[1].times


def test_open(bench: Bench) -> None:
    result = opening.run(bench)
    assert [bar.bound for bar in result.bars] == ["at most", "at most"]
    assert {row.contender for row in result.rows} == {"10 tracks", "30 tracks"}


def test_chunks(bench: Bench, tmp_path: Path) -> None:
    lines = list(chunks.table(bench, tmp_path, repeats=1))
    assert [line.split(" | ")[0].strip("| ") for line in lines if "on disk" in line] == list(chunks.NODES)
    assert sum("2 kb, batch 64" in line and line.count(" / ") == len(chunks.SIZES) for line in lines) == 4
    for size in chunks.SIZES:
        array = genostore.open(tmp_path / f"{size}.zarr").array("tracks/A/t0")
        assert array.schema.chunk == (size,)
        np.testing.assert_array_equal(array.read(), bench.store.array(f"tracks/{data.CELL}/t0").read())


def test_gpu_suite_says_what_it_skips_and_its_code_runs_on_a_processor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [skip.why for skip in gpu.run(bench).skipped] == ["no CUDA device here"] * 3
    device = torch.device("cpu")
    assert gpu.copy_rate(device, device, 2**20) > 0
    config = PrismConfig(signal_size=gpu.TRACKS, feature_size=0, center_length=64, d_model=8, n_layer=1)
    share, seconds = gpu.waiting(bench, Prism(config, scan="reference"), 64, 2, 2)
    assert 0 <= share < 1
    assert seconds > 0


def test_report(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("lazy", [Row("w", "genostore", 2.0, "us", 1.0, 3), Row("w", "other", 8.0, "us", 4.0, 3)])
    result.bar("w", "other", 3, stretch=5)
    result.bar("w", "absent", 3)
    result.bar("another size", "other", 3)
    assert [(bar.met, bar.reaches(5)) for bar in result.bars] == [(True, False)]
    assert [skip.why for skip in result.skipped] == ["absent is not installed"]
    assert Bar("w", "x", "at most", 0.3, 0.2, "s").met
    report.show(result)
    assert "yes, not the stretch" in capsys.readouterr().out
    settings: dict[str, object] = {"size": "tiny", "clock": "wall", "threads": 2}
    written = json.loads(report.write(result, tmp_path, settings).read_text())
    assert written["bars"][0]["met"] is True
    text = report.markdown([result], settings)
    assert "| w | 2 | 4.00 times |" in text
    assert "| lazy | w | other | at least 3 times; stretch 5 | 4 times | yes, not the stretch |" in text


def test_inputs_of_another_size_are_refused(bench: Bench) -> None:
    with pytest.raises(SystemExit, match="another size"):
        Bench(bench.folder, data.QUICK)


def test_every_suite_has_a_module(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SUITES == ("lazy", "packed", "resident", "incumbent", "ingest", "open", "gpu")
    assert [result.suite for result in run(["gpu"], bench)] == ["gpu"]
