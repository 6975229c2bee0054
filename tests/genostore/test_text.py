from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from genostore.schema import column_array, dumps
from genostore.text import decode, encode


@pytest.mark.parametrize("texts", [["a", "", "\u00df\u20ac"], ["", "", ""], [f"G{i:05d}" for i in range(1_000)]])
def test_columns_of_text_are_those_of_zarr_python(texts: list[str], tmp_path: Path) -> None:
    values = np.array(texts, dtype=object)
    stored = encode(values)
    assert decode(stored, len(texts)).tolist() == texts
    (tmp_path / "c").mkdir()
    (tmp_path / "c/0").write_bytes(stored)
    (tmp_path / "zarr.json").write_bytes(dumps(column_array(len(texts), "gene", "string").to_json()))
    assert zarr.open_array(tmp_path, mode="r")[:].tolist() == texts
    if any(texts):  # it stores no column of empty texts, and we do
        zarr.open_array(tmp_path, mode="r+")[:] = values
        assert (tmp_path / "c/0").read_bytes() == stored
