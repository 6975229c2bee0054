"""The examples of docs/prism.md run as they stand, but for a gene's name; the pages' commands and settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prism_model.cli import main
from prism_model.config import make_config
from prism_model.models import registry
from prism_model.seeds import PAPER_SEEDS
from prism_model.settings import from_plain, parse_overrides
from prism_model.studies.adjustment import AdjustmentStudy
from prism_model.studies.background import BackgroundStudy
from prism_model.studies.length import LengthStudy
from prism_model.studies.shift import ShiftStudy

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_examples_of_the_guide_run(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    (tmp_path / "prism.zarr").symlink_to(tiny_store)
    first, second = re.findall(r"```python\n(.*?)```", (DOCS / "prism.md").read_text(), re.DOTALL)
    assert len([line for line in first.splitlines() if line]) <= 25
    space: dict[str, object] = {"__name__": "example"}
    exec(compile(first.replace('"MYC"', '"gene1"'), "first", "exec", dont_inherit=True), space)
    assert "G001" in capsys.readouterr().out
    exec(compile(second, "second", "exec", dont_inherit=True), space)
    assert make_config("laptop", None, ["model.name=mine"]).model.name == "mine"
    assert "mine" in registry.names()


PAGES = ("README.md", *(f"docs/{name}.md" for name in ("prism", "reproduce", "explain", "real_data", "object_stores")))
PAGES += tuple(str(path.relative_to(ROOT)) for path in sorted((DOCS / "studies").glob("*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_pages_would_start(page: str) -> None:
    text = (ROOT / page).read_text()
    used = re.findall(r"^(?:torchrun .* -m prism_model|python mine.py|prism) (.*)$", re.sub(r"\\\n", "", text), re.M)
    assert used
    for line in used:
        command, words = main, shlex.split(re.sub(r"\[(-.*?)\]", r"\1", line), comments=True)
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        given = command.make_context("", words).params  # refuses unknown options, and names required ones
        overrides = [o for o in given.get("overrides", ()) if "=mine" not in o]
        make_config(given.get("recipe", "tiny"), None, overrides)
        if "design" in given:
            from_plain(designs()[command.name], parse_overrides(given["design"]))


def designs() -> dict[str, type]:
    return {s.name: s.design_type for s in (LengthStudy, BackgroundStudy, AdjustmentStudy, ShiftStudy)}


@pytest.mark.parametrize("page", ["prism.md", "reproduce.md"])
def test_the_settings_of_the_pages_exist(page: str) -> None:
    text = (DOCS / page).read_text()
    for setting in re.findall(r"`((?:model|data|train|loss|select)[a-z_.]*=[^` ]*)`", text):
        name = re.search(r"model\.n_context", setting)
        make_config("paper", None, [setting] if name is None else ["model.name=prism", setting])
    if page == "reproduce.md":
        assert f"--seeds {','.join(map(str, PAPER_SEEDS))}" in text
        assert CliRunner().invoke(main, ["convert", "--help"]).exit_code == 0
