"""Configurations: recipes, files, overrides, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from genostore.errors import NotFoundError, QueryError
from prism_model import Prism, PrismConfig
from prism_model.config import RunConfig, TrainConfig, make_config
from prism_model.settings import from_plain, read_yaml, write_yaml
from prism_model.train import learning_rate, parameter_groups


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    overrides = ["model.encoder_signals=[1, 2]", "data.cell_types=[K562]", "data.contacts=null"]
    config = make_config("paper", None, overrides)
    write_yaml(tmp_path / "c.yaml", config)
    assert from_plain(RunConfig, read_yaml(tmp_path / "c.yaml")) == config
    assert config.model.encoder_signals == (1, 2)
    assert config.data.cell_types == ("K562",)
    assert config.data.contacts is None


def test_a_file_over_a_recipe_and_an_override_over_both(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("recipe: paper\ntrain: {lr: 1e-3, batch_size: 4}\nloss: {alpha: 0}\n")
    config = make_config("laptop", tmp_path / "c.yaml", ["train.batch_size=2", "seed=22"])
    assert (config.recipe, config.seed) == ("paper", 22)
    assert (config.train.lr, config.train.batch_size, config.train.steps) == (1e-3, 2, 50_000)
    assert config.loss.alpha == 0.0
    assert make_config("paper", {}, ["train.epochs=3"]).train.steps is None


def test_problems_are_listed_together() -> None:
    overrides = ["model.n_contxt=2", "train.lr=fast", "data.orient=left", "train.batch_size=2.5", "loss=3"]
    with pytest.raises(QueryError) as caught:
        make_config("laptop", None, overrides)
    text = str(caught.value)
    for part in (
        "an unknown key 'model.n_contxt' (did you mean 'n_context'",
        "train.lr = 'fast', expected float",
        "data.orient = 'left', expected 'reference' or 'gene'",
        "train.batch_size = 2.5, expected int",
        "loss = 3, expected a mapping",
    ):
        assert part in text
    with pytest.raises(QueryError, match="give epochs or steps"):
        make_config("laptop", None, ["train.steps=5", "train.epochs=5"])
    with pytest.raises(QueryError, match=r"model.d_model must be positive|d_model must be positive"):
        make_config("laptop", None, ["model.d_model=0"])
    with pytest.raises(QueryError, match="expected key=value"):
        make_config("laptop", None, ["train.lr"])
    with pytest.raises(NotFoundError, match="recipe 'papre' is unknown: did you mean 'paper'"):
        make_config("papre")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=.nan", "lr must be > 0, not nan"),
        ("train.lr_end=-1", "lr_end must be >= 0, not -1"),
        ("train.betas=[2, 0.9]", "betas must be >= 0 and < 1, not 2"),
        ("train.betas=[0.9]", "expected a list of 2 float"),
        ("train.epochs=0", "epochs must be >= 1, not 0"),
        ("train.steps=0", "steps must be >= 1, not 0"),
        ("train.validations=.inf", "validations must be > 0, not inf"),
        ("train.save_steps=0", "save_steps must be >= 1, not 0"),
        ("train.patience=0", "patience must be >= 1, not 0"),
        ("data.width=0", "width must be >= 1, not 0"),
        ("data.jitter=-3", "jitter must be >= 0, not -3"),
        ("data.cell_types=[]", "cell_types are none"),
        ("loss.alpha=.nan", "alpha must be >= 0, not nan"),
        ("loss.temperature=0", "temperature must be > 0, not 0"),
        ("seed=-1", "seed must be >= 0 and <= 4294967295, not -1"),
    ],
)
def test_numbers_out_of_bounds_are_refused(override: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        make_config("laptop", None, [override])


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train: {lr: 0.1}\nloss: {alpha: 1}\ntrain: {clip: 2}\n")
    with pytest.raises(QueryError, match=r"the key 'train' comes twice\s+in.*line 3"):
        make_config("laptop", path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QueryError, match="are no text"):
        make_config("laptop", path)


def test_a_file_that_would_execute_does_not(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(QueryError, match="no YAML"):
        make_config("laptop", path)
    with pytest.raises(QueryError, match="cannot be read"):
        make_config("laptop", tmp_path / "none.yaml")
    path.write_text("- 1\n")
    with pytest.raises(QueryError, match="expected a mapping"):
        make_config("laptop", path)


def test_the_paper_recipe() -> None:
    config = make_config("paper")
    assert config.model == PrismConfig()
    m = config.model
    assert (m.n_context, m.averaging, m.encoder_signals, m.center_length) == (2, "hidden", "all", 2_000)
    assert asdict(config.loss) == {"alpha": 1.0, "beta": 1.0, "temperature": 2.0}
    t = config.train
    assert (t.lr, t.betas, t.weight_decay, t.clip) == (5e-4, (0.9, 0.95), 1e-6, 1.0)
    assert (t.batch_size, t.steps, t.validations, t.precision) == (8, 50_000, 2.0, "bf16-mixed")
    assert (config.select, config.data.width, config.data.orient) == ("original", 2_000, "reference")


def test_the_paper_schedule() -> None:
    train = make_config("paper").train

    def rate(step: int) -> float:
        return learning_rate(step, 50_000, train)

    assert rate(0) == pytest.approx(1e-5)
    assert rate(2_500) == pytest.approx((1e-5 + 5e-4) / 2)
    assert rate(5_000) == pytest.approx(5e-4)
    assert rate(27_500) == pytest.approx(3e-4)
    assert rate(50_000) == pytest.approx(1e-4)
    assert rate(60_000) == pytest.approx(1e-4)
    short = TrainConfig(warmup=0.1, epochs=None, steps=100)
    assert learning_rate(10, 100, short) == pytest.approx(short.lr)


def test_the_optimiser_groups() -> None:
    model = Prism()
    decayed, plain = parameter_groups(model, 1e-6)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-6, 0.0)
    of_plain = {id(p) for p in plain["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in of_plain}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        batch_norm = isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.BatchNorm1d)
        spared = name.endswith(("bias", "A_log", ".D")) or batch_norm
        assert (id(parameter) in of_plain) == spared, name
    assert not any("norm.weight" in name for name in names)
