"""The registry: every architecture trains, is saved, read back and scored alike, and so does a user's own module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prism_model
from genostore import Batch
from genostore.errors import ConflictError, FormatError, NotFoundError, QueryError
from prism_model import ModelConfig, Predictor, Prism, PrismConfig, fit, make_config
from prism_model.baselines import baseline_predictions
from prism_model.evaluate import evaluate
from prism_model.models import registry
from prism_model.settings import from_plain, read_yaml, to_plain, write_yaml
from prism_model.train import RunConfig, parameter_groups

NAMES = ("prism", "caduceus", "caduceus-signals", "mamba", "cnn", "attention", "ridge")
SMALL = {
    "cnn": ["model.d_model=8", "model.n_layer=2"],
    "attention": ["model.d_model=8", "model.n_layer=1", "model.n_head=2", "model.n_halving=3"],
    "ridge": [],
}
SCANNING = ["model.d_model=8", "model.n_layer=1", "model.d_state=4"]


def config(store: Path, name: str, *overrides: str) -> RunConfig:
    sizes = SMALL.get(name, SCANNING)
    common = [f"data.store={store}", "data.width=256", "train.lr=0.01", "train.epochs=2", f"model.name={name}"]
    return make_config("laptop", None, [*common, *sizes, *overrides])


def quiet(line: str) -> None:
    """Takes the lines that a run says."""


def test_the_names() -> None:
    assert registry.names() == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_and_is_read_back(name: str, tiny_store: Path, tmp_path: Path) -> None:
    run = fit(config(tiny_store, name), tmp_path / "r", device="cpu", say=quiet)
    card = json.loads((run / "checkpoints/best/model.json").read_text())
    assert card["model"] == name
    scores = evaluate(run, "valid", device="cpu", baselines=False)["scores"]
    assert set(scores) == ({"original", "adjusted"} if name == "prism" else {"original"})
    assert scores["original"]["all"]["mse"] == pytest.approx(card["info"]["scores"]["valid/original_mse"], rel=1e-5)
    predictor = Predictor(run, device="cpu")
    assert predictor.data.channels == ([] if name == "caduceus" else ["H3K27ac", "DNase", "hic"])
    assert predictor.config.model.signal_size == (0 if name == "caduceus" else 3)
    if name in ("prism", "caduceus", "caduceus-signals", "mamba"):
        assert Prism.from_run(run).config.name == name
    else:
        with pytest.raises(FormatError, match=f"of kind '{name}', not Prism"):
            Prism.from_run(run)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_every_model_round_trip(name: str, tmp_path: Path) -> None:
    before = make_config("laptop", None, [f"model.name={name}"])
    write_yaml(tmp_path / "c.yaml", before)
    assert from_plain(RunConfig, read_yaml(tmp_path / "c.yaml")) == before
    assert read_yaml(tmp_path / "c.yaml")["model"]["name"] == name
    assert make_config("laptop", tmp_path / "c.yaml") == before


def test_settings_belong_to_one_model() -> None:
    for override, key in (("model.name=cnn", "model.d_state=4"), ("model.name=caduceus", "model.n_context=2")):
        with pytest.raises(QueryError, match=f"unknown key '{key.partition('=')[0]}'"):
            make_config("laptop", None, [override, key])
    with pytest.raises(NotFoundError, match="no model 'cn': did you mean 'cnn'"):
        make_config("laptop", None, ["model.name=cn"])
    with pytest.raises(QueryError, match="d_model is 10, no multiple of twice n_head, 8"):
        make_config("laptop", None, ["model.name=attention", "model.d_model=10"])
    with pytest.raises(QueryError, match="'cnn' takes CnnConfig, not PrismConfig"):
        registry.build(PrismConfig(name="cnn"))
    assert "n_context" not in to_plain(make_config("paper", None, ["model.name=caduceus-signals"]))["model"]


def test_the_state_space_baselines_are_prism_without_its_parts() -> None:
    made = {name: registry.build(make_config("paper", None, [f"model.name={name}"]).model) for name in NAMES[:4]}
    prism, signals, mamba = (made[name] for name in ("prism", "caduceus-signals", "mamba"))
    encoder = {name for name in prism.state_dict() if name.startswith("encoder.")}
    assert set(prism.state_dict()) - set(signals.state_dict()) == encoder
    assert set(signals.state_dict()) - set(made["caduceus"].state_dict()) == {"signal_in.weight", "signal_in.bias"}
    assert len(mamba.backbone.layers[0].mixer.directions) == 1
    sequence, features = torch.eye(4)[torch.randint(0, 4, (1, 2_000))], torch.randn(1, 9)
    assert made["caduceus"](sequence, None, features).adjusted is None


@pytest.mark.parametrize("name", ["cnn", "attention", "ridge"])
@pytest.mark.parametrize("length", [256, 301])
def test_what_models_do_with_their_inputs(name: str, length: int) -> None:
    """A batch's samples do not mix; far positions and features count; wrong inputs are named."""
    torch.manual_seed(0)
    settings = replace(config(Path("x"), name).model, signal_size=2, feature_size=3, center_length=200)
    model = registry.build(settings).eval()
    if name == "ridge":
        model.weight.normal_()
    g = torch.Generator().manual_seed(1)
    sequence = torch.eye(4)[torch.randint(0, 4, (3, length), generator=g)]
    signals, features = torch.randn(3, length, 2, generator=g), torch.randn(3, 3, generator=g)
    with torch.no_grad():
        together = model(sequence, signals, features).original
        assert together.shape == (3,)
        alone = torch.cat([model(sequence[i : i + 1], signals[i : i + 1], features[i : i + 1])[0] for i in range(3)])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(sequence, signals, features + 1).original, together)
        changed = signals.clone()
        changed[:, length // 2] += 5
        assert not torch.allclose(model(sequence, changed, features).original, together)
    for bad in ((sequence, signals[..., :1], features), (sequence, signals, None), (sequence, None, features)):
        with pytest.raises(QueryError, match="made for 2 signals and 3 features"):
            model(*bad)


def test_ridge_is_the_baseline(tiny_store: Path, tmp_path: Path) -> None:
    run = fit(config(tiny_store, "ridge"), tmp_path / "r", device="cpu", say=quiet)
    predictor = Predictor(run, device="cpu")
    data = predictor.data
    test = data.windows("test")
    expected = baseline_predictions(data, data.windows("train"), test)["ridge"]
    np.testing.assert_allclose(predictor(test)["original"], expected, rtol=1e-5)
    assert len((run / "log.csv").read_text().splitlines()) == 2


class MyNet(nn.Module):
    """What a user may bring: two of the inputs, a plain tensor out."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 1)

    def forward(self, signals: Tensor, sequence: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(signals)).mean(1))
        return out


class TakesTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 1)

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.last(batch.contacts.mean(1, keepdim=True))
        return out[:, 0]


@pytest.mark.parametrize("made", [MyNet, TakesTheBatch])
def test_a_module_of_ones_own(made: type[nn.Module], tiny_store: Path, tmp_path: Path) -> None:
    run = fit(config(tiny_store, "prism"), tmp_path / "r", model=made(), device="cpu", say=quiet)
    assert read_yaml(run / "config.yaml")["model"]["module"] == made.__name__
    with pytest.raises(QueryError, match=rf"a module|{made.__name__} of the user's own.*model={made.__name__}\(\)"):
        Predictor(run, device="cpu")
    predictor = Predictor(run, device="cpu", model=made())
    valid = json.loads((run / "checkpoints/best/model.json").read_text())["info"]["scores"]["valid/original_mse"]
    table = predictor(predictor.data.windows("valid"))
    assert float(((table["observed"] - table["original"]) ** 2).mean()) == pytest.approx(valid, rel=1e-4)


def test_a_module_that_asks_for_what_there_is_not() -> None:
    class Strange(nn.Module):
        def forward(self, sequence: Tensor, methylation: Tensor) -> Tensor:
            return sequence

    with pytest.raises(QueryError, match=r"Strange.forward takes sequence, methylation.*some of sequence, signals"):
        fit(make_config("tiny", None, ["data.store=x"]), "unused", model=Strange())


@pytest.mark.parametrize("given", [torch.zeros(3, 2), torch.zeros(1), torch.zeros(()), (torch.zeros(3),)])
def test_a_module_that_gives_no_prediction_a_sample(given: Any) -> None:
    class Strange(nn.Module):
        def forward(self, sequence: Tensor) -> Any:
            return given

    with pytest.raises(QueryError, match=r"Strange gives .* for 3 samples, expected \(3,\), \(3, 1\) or a Prism"):
        registry.Own(Strange())(torch.zeros(3, 10, 4))


@dataclass(frozen=True)
class MyConfig(ModelConfig):
    name: str = "mynet"
    width: int = 4


@pytest.fixture
def _registered() -> Iterator[None]:
    before = dict(registry._MODELS)
    prism_model.register(MyConfig, lambda c: MyNet(c.width))
    yield
    registry._MODELS.clear()
    registry._MODELS.update(before)


@pytest.mark.usefixtures("_registered")
def test_a_registered_module(tiny_store: Path, tmp_path: Path) -> None:
    settings = make_config(
        "tiny",
        None,
        [f"data.store={tiny_store}", "data.width=256", "train.epochs=1", "model.name=mynet", "model.width=6"],
    )
    run = fit(settings, tmp_path / "r", device="cpu", say=quiet)
    assert Predictor(run, device="cpu").model.module.first.out_features == 6
    assert "mynet" in registry.names()
    with pytest.raises(ConflictError, match="a model 'mynet' already"):
        prism_model.register(replace_name(MyConfig), MyNet)
    with pytest.raises(QueryError, match=r"unknown key 'model.widht' .did you mean 'width'"):
        make_config("tiny", None, ["model.name=mynet", "model.widht=6"])


def replace_name(cls: Any) -> Any:
    return dataclass(frozen=True)(type("Other", (cls,), {}))


def test_a_model_brought_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def load(self) -> None:
            registry._MODELS["brought"] = registry.Entry(MyConfig, MyNet)

    monkeypatch.setattr(registry, "entry_points", lambda group, name: [Point()] if name == "brought" else [])
    try:
        assert registry.config_class("brought") is MyConfig
    finally:
        registry._MODELS.pop("brought", None)


def test_every_parameter_is_in_one_group() -> None:
    for name in NAMES[:-1]:
        model = registry.build(make_config("laptop", None, [f"model.name={name}"]).model)
        groups = parameter_groups(model, 0.1)
        members = [id(p) for group in groups for p in group["params"]]
        assert sorted(members) == sorted(id(p) for p in model.parameters())
        spared = {id(p) for p in groups[1]["params"]}
        assert all(id(p) in spared for key, p in model.named_parameters() if key.endswith("bias"))


def test_a_branch_that_a_model_lacks(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="the model cnn has no adjusted branch"):
        fit(config(tiny_store, "cnn", "select=adjusted"), tmp_path / "r", say=quiet)
