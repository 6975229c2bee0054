"""Where the numbers of a training go."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from genostore.errors import QueryError
from prism_model import fit, loggers, make_config
from prism_model.seeds import fit_seeds
from prism_model.settings import to_plain

SETTINGS = ["data.width=256", "model.name=cnn", "model.d_model=4", "model.n_layer=1", "train.epochs=1"]


def test_tensorboard_is_written_by_default(tiny_store: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = make_config("laptop", None, [f"data.store={tiny_store}", *SETTINGS])
    assert settings.train.loggers == ("tensorboard",)
    run = fit(settings, tmp_path / "r", device="cpu", say=lambda line: None)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"train/total", "valid/original_mse", "lr"} <= set(events.Tags()["scalars"])
    csv = {row.split(",")[1] for row in (run / "log.csv").read_text().splitlines()[1:]}
    assert {str(e.step) for e in events.Scalars("train/total")} <= csv


def records(path: Path) -> Iterator[Any]:
    """What Weights & Biases keeps of a run until it is sent."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    with closing(store._fp):
        while (data := store.scan_data()) is not None:
            record = Record()
            record.ParseFromString(data)
            yield record


def plain(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_weights_and_biases_offline(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of its own for each seed, with settings and numbers; and nothing is sent anywhere."""
    import wandb

    outside = socket.create_server(("127.0.0.1", 0))
    outside.setblocking(False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{outside.getsockname()[1]}")
    for name in ("no_proxy", "NO_PROXY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    settings = make_config("laptop", None, [f"data.store={tiny_store}", *SETTINGS, "train.loggers=[wandb]"])
    with outside:
        try:
            runs = fit_seeds(settings, tmp_path / "r", (2, 22), device="cpu", say=lambda line: None)
            mine = wandb.init(mode="offline", dir=tmp_path)
            with pytest.warns(UserWarning, match="a wandb run already in progress"):
                fit(settings, tmp_path / "in", device="cpu", say=lambda line: None)
            assert wandb.run is mine  # a user's own run is left to the user
        finally:
            wandb.teardown()
        with pytest.raises(BlockingIOError):
            outside.accept()
        with pytest.raises(OSError, match="timed out"):
            urllib.request.urlopen("http://example.org", timeout=0.1)
        outside.accept()[0].close()  # who goes out is seen
    assert not (tmp_path / "elsewhere").exists()  # all of a run is in its folder

    for seed, run in zip((2, 22), runs, strict=True):
        (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
        kept = list(records(path))
        (begun,) = [r.run for r in kept if r.WhichOneof("record_type") == "run"]
        assert (begun.project, begun.display_name) == ("prism", f"seed-{seed}")
        config = plain(begun.config.update)
        expected = json.loads(json.dumps(to_plain(settings)))
        assert config["seed"] == seed
        assert config["train"] == expected["train"]
        assert config["model"]["d_model"] == 4
        assert config["data"]["expression"] == "CAGE"  # as it was resolved from the store
        rows = [plain(r.history.item) for r in kept if r.WhichOneof("record_type") == "history"]
        table = [row.split(",") for row in (run / "log.csv").read_text().splitlines()]
        for name in ("train/total", "valid/original_mse", "lr"):
            at = table[0].index(name)
            logged = [float(row[at]) for row in table[1:] if row[at]]
            assert [row[name] for row in rows if name in row] == pytest.approx(logged)
        (ended,) = [r.exit for r in kept if r.WhichOneof("record_type") == "exit"]
        assert ended.exit_code == 0


def test_a_logger_without_its_package(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = make_config("laptop", None, [f"data.store={tiny_store}", *SETTINGS, "train.loggers=[wandb]"])
    with pytest.raises(QueryError, match="'wandb' needs the package wandb, which is not installed: pip install wandb"):
        fit(settings, tmp_path / "r", device="cpu", say=print)
    assert not (tmp_path / "r").exists()
    with pytest.raises(QueryError, match="no logger 'comet'; there are tensorboard, wandb"):
        loggers.check(("comet",))
