"""Official checkpoints: nothing executes, every key is accounted for, and the way back."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genostore.errors import NotFoundError, QueryError, SourceError
from prism_model import Prism, PrismConfig, official, weights

from .conftest import Parity

SMALL = PrismConfig(signal_size=2, d_model=16, n_layer=2, d_state=4, n_context=3, encoder_width=4, center_length=64)


def checkpoint(path: Path, change: Any = None) -> Path:
    """An official checkpoint of a small model, its state changed as asked."""
    torch.manual_seed(0)
    official.write(path, Prism(SMALL).state_dict())
    if change is not None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)
    return path


MIXER = "model.caduceus.backbone.layers.0.mixer.mamba_fwd."


def reshape(content: dict[str, Any], key: str, *shape: int) -> None:
    content["state_dict"][key] = content["state_dict"][key].reshape(shape)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("context_activation", ["sigmoid", "softmax"])
def test_sizes_come_from_the_shapes(tmp_path: Path, context_activation: str) -> None:
    path = checkpoint(tmp_path / "official.ckpt")
    model = Prism.from_official(path, center_length=64, context_activation=context_activation)
    assert model.config == PrismConfig(**{**vars(SMALL), "context_activation": context_activation})
    assert not model.training


def test_round_trip(small_parity: Parity, tmp_path: Path) -> None:
    before = torch.load(small_parity.path, weights_only=True)["state_dict"]
    official.write(tmp_path / "back.ckpt", small_parity.model().state_dict())
    after = torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"]
    assert sorted(after) == sorted(before)
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
        assert value.dtype == after[key].dtype, key


def test_names_are_those_of_the_checkpoint(small_parity: Parity) -> None:
    keys = set(torch.load(small_parity.path, weights_only=True)["state_dict"])
    named = dict(small_parity.model().official_named_parameters())
    assert {f"model.{name}" for name in named} <= keys
    assert len(named) == len(list(small_parity.model().parameters()))


def test_a_pickle_that_would_run_a_command_does_not(tmp_path: Path) -> None:
    import os
    import subprocess

    witness = tmp_path / "executed"
    command = f"touch {witness}"
    for hostile in (Hostile(os.system, command), Hostile(subprocess.call, ["touch", str(witness)]), Hostile(eval, "1")):
        path = checkpoint(tmp_path / "evil.ckpt")
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        data = next(name for name in members if name.endswith("data.pkl"))
        members[data] = pickle.dumps({"state_dict": {"model.x": hostile}, "hyper_parameters": hostile})
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(SourceError, match="refused, and nothing was executed"):
            Prism.from_official(path)
        assert not witness.exists()


def test_objects_of_other_packages_are_neither_imported_nor_built(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] = {"config": Foreign(1), "list": [Foreign(2)], "ordered": OrderedDict(a=Foreign(3))}
    torch.save(content, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    Foreign.built = 0
    model = Prism.from_official(path, center_length=64)
    assert Foreign.built == 0
    assert model.config.n_context == 3


class Foreign:
    """Stands for OmegaConf's classes in the hyper-parameters of the release."""

    built = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        Foreign.built += 1


def test_every_key_is_accounted_for(tmp_path: Path) -> None:
    head = "model.pToExpr.4.bias"
    in_proj = "model.caduceus.backbone.layers.1.mixer.mamba_rev.in_proj.weight"
    cases = {
        f"{head} is missing": lambda c: c["state_dict"].pop(head),
        "model.extra is not part of the model": lambda c: c["state_dict"].update({"model.extra": torch.zeros(1)}),
        r"pToExpr.4.bias is \(3,\), expected \(1,\)": lambda c: c["state_dict"].update({head: torch.zeros(3)}),
        f"{in_proj} differ, and are tied": lambda c: c["state_dict"][in_proj].add_(1),
        "has no weight 'model.signal_input_layer.weight'": lambda c: c["state_dict"].pop(
            "model.signal_input_layer.weight"
        ),
        r"mamba_fwd.A_log is \(128,\), expected 2 dimensions": lambda c: reshape(c, MIXER + "A_log", 128),
        r"mamba_fwd.dt_proj.weight is \(\), expected 2": lambda c: c["state_dict"].update(
            {MIXER + "dt_proj.weight": torch.ones(())}
        ),
        r"signal_input_layer.weight is \(0, 2\)": lambda c: c["state_dict"].update(
            {"model.signal_input_layer.weight": torch.zeros(0, 2)}
        ),
        r"the head takes 16 numbers and the features, not 5 .model.pToExpr.0.weight": lambda c: c["state_dict"].update(
            {"model.pToExpr.0.weight": torch.zeros(16, 5)}
        ),
        "pToExpr.4.bias holds values that are not finite": lambda c: c["state_dict"][head].fill_(torch.nan),
        "pToExpr.4.bias is of int64, expected float32": lambda c: c["state_dict"].update(
            {head: torch.zeros(1, dtype=torch.int64)}
        ),
        "pToExpr.4.bias is of float64, expected float32": lambda c: c["state_dict"].update(
            {head: torch.zeros(1, dtype=torch.float64)}
        ),
        r"of shape \(60000, 60000\) is stored as 1 numbers": lambda c: c["state_dict"].update(
            {head: torch.zeros(1).expand(60_000, 60_000)}
        ),
        "has no state_dict": lambda c: c.pop("state_dict"),
        "no tensors.*model.note": lambda c: c["state_dict"].update({"model.note": "text"}),
    }
    for message, change in cases.items():
        with pytest.raises(SourceError, match=message):
            Prism.from_official(checkpoint(tmp_path / "a.ckpt", change))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(SourceError, match="there is no checkpoint at"):
        Prism.from_official(path)
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(SourceError, match="not a zip archive, but a bare pickle"):
        Prism.from_official(path)
    for content, what in (
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"hi", "b'hi'"),
    ):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=what):
            Prism.from_official(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(SourceError, match=r"zip without a data\.pkl"):
        Prism.from_official(path)
    whole = checkpoint(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="the beginning of one; fetch it again"):
        Prism.from_official(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(255 - b for b in whole[middle : middle + 4]) + whole[middle + 4 :])
    with pytest.raises(SourceError, match="is damaged: Bad CRC-32"):
        Prism.from_official(path)


def test_models_that_the_official_code_cannot_load() -> None:
    official.check_loadable(SMALL)
    official.check_loadable(replace(SMALL, n_context=0, encoder_signals=(1,)))  # without an encoder it sees nothing
    official.check_loadable(replace(SMALL, encoder_signals=(0, 1)))
    for change, message in (
        ({"bidirectional": False}, "one direction"),
        ({"signal_size": 0, "n_context": 0}, "takes no signals"),
        ({"encoder_signals": (1,)}, r"the channels \(1,\) alone"),
        ({"norm_eps": 1e-6}, "epsilon of 1e-06"),
    ):
        with pytest.raises(QueryError, match=message):
            official.check_loadable(replace(SMALL, **change))


def test_our_checkpoints_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Prism(SMALL)
    weights.save(tmp_path / "best", model, {"step": 3})
    modes = {path.stat().st_mode for path in (tmp_path / "best").iterdir()}
    assert len(modes) == 1  # who may read the one file may read the other
    again = Prism.from_run(tmp_path / "best")
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    official_file = checkpoint(tmp_path / "official.ckpt")
    with pytest.raises(NotFoundError, match="prism convert"):
        Prism.from_run(official_file)
    with pytest.raises(NotFoundError, match="holds no model"):
        Prism.from_run(tmp_path)
