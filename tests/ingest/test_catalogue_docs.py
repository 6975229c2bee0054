"""The reference says what the code does: its keys, its examples and its errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from genostore.errors import CatalogueError
from ingest.catalogue import (
    Assembly,
    Catalogue,
    ColumnSplit,
    Contacts,
    ContigSplit,
    ExpressionSignal,
    ExpressionTable,
    Features,
    Genes,
    Regions,
    Track,
    load,
)

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "catalogue.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.M | re.S)
WRONG, RIGHT = [b for b in BLOCKS if "asay" in b], [b for b in BLOCKS if "asay" not in b]


def section(title: str) -> str:
    """The text below a heading, to the next one."""
    match = re.search(rf"^###? `?{title}`?\n(.*?)(?=^##)", TEXT, flags=re.M | re.S)
    assert match is not None, title
    return match[1]


def rows(text: str) -> dict[str, str]:
    """Key -> default, of the tables whose first column holds keys."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[-1])
    return found


@pytest.mark.parametrize(
    ("title", "models"),
    [
        ("Sections", [Catalogue]),
        ("assembly", [Assembly]),
        ("genes", [Genes]),
        ("features", [Features]),
        ("splits", [ContigSplit, ColumnSplit]),
        ("tracks", [Track]),
        ("contacts", [Contacts]),
        ("expression", [ExpressionTable, ExpressionSignal]),
        ("regions", [Regions]),
    ],
)
def test_every_key_is_described_and_no_other(title: str, models: list[type[BaseModel]]) -> None:
    common = rows(section("Keys of every entry with a file"))
    described = rows(section(title))
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    assert described.keys() - common.keys() == fields.keys() - common.keys()
    for name, cell in described.items():
        if cell == "needed":
            assert fields[name].is_required(), name
        elif cell.startswith(("`", "2,")):
            assert str(fields[name].default).lower() == cell.strip("`").replace(",", ""), name


@pytest.mark.parametrize("block", RIGHT)
def test_examples_load(block: str, tmp_path: Path) -> None:
    text = block
    if not block.startswith("version"):
        text = "version: 1\nassembly: {name: hg38, fasta: hg38.fa}\n" + block
        if not block.startswith("genes"):
            text += "genes: {source: genes.gtf}\n"
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    load(path, check_files=False)


def test_the_report_is_as_shown(tmp_path: Path) -> None:
    (text,) = WRONG
    for name in ("hg38.fa.gz", "genes.gtf", "ENCFF414OGC.bigWig", "a.hic"):
        (tmp_path / name).write_text("")
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load(path)
    assert str(caught.value).replace(str(tmp_path), "/data") in TEXT
