"""The examples of docs/prism.md run as they stand, but for a gene's name; the pages' commands and settings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from prism_model.cli import main
from prism_model.config import make_config
from prism_model.models import registry
from prism_model.seeds import PAPER_SEEDS

DOCS = Path(__file__).parents[2] / "docs"


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


@pytest.mark.parametrize("page", ["prism.md", "reproduce.md"])
def test_commands_and_settings_of_the_pages_exist(page: str) -> None:
    text = (DOCS / page).read_text()
    used = set(re.findall(r"^(?:torchrun.*-m prism_model|prism) (.*)$", text, re.MULTILINE))
    assert used
    for line in used:
        name = line.split()[0]
        command = main.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.partition("=")[0] for word in line.split() if word.startswith("--")}
        assert options <= known, (name, options - known)
    for setting in re.findall(r"`((?:model|data|train|loss|select)[a-z_.]*=[^` ]*)`", text):
        name = re.search(r"model\.n_context", setting)
        make_config("paper", None, [setting] if name is None else ["model.name=prism", setting])
    if page == "reproduce.md":
        assert f"--seeds {','.join(map(str, PAPER_SEEDS))}" in text
        assert CliRunner().invoke(main, ["convert", "--help"]).exit_code == 0
