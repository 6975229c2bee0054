"""Where the numbers of a training go."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genostore.errors import QueryError
from prism_model import fit, loggers, make_config

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


def test_a_logger_without_its_package(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = make_config("laptop", None, [f"data.store={tiny_store}", *SETTINGS, "train.loggers=[wandb]"])
    with pytest.raises(QueryError, match="'wandb' needs the package wandb, which is not installed: pip install wandb"):
        fit(settings, tmp_path / "r", device="cpu", say=print)
    assert not (tmp_path / "r").exists()
    with pytest.raises(QueryError, match="no logger 'comet'; there are tensorboard, wandb"):
        loggers.check(("comet",))
