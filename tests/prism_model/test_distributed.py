"""Two processes that ``torchrun`` starts: the training of one with the double batch, and each sample scored once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prism_model import Predictor, fit, make_config
from prism_model.baselines import baseline_predictions
from prism_model.metrics import scores
from prism_model.weights import load_any

SETTINGS = [
    "data.width=256",
    "model.name=caduceus-signals",
    "model.d_model=8",
    "model.n_layer=1",
    "model.d_state=4",
    "train.epochs=2",
    "train.loggers=[]",
    "train.lr=0.01",
]
PROGRAM = """
import sys
from pathlib import Path
from prism_model import fit, make_config
from prism_model.evaluate import evaluate
out, *settings = sys.argv[1:]
said = []
fit(make_config("laptop", None, settings), out, device="cpu", say=said.append)
evaluate(out, "valid", device="cpu")
print("said:", said, flush=True)
"""


def test_two_processes_are_one_with_the_double_batch(tiny_store: Path, tmp_path: Path) -> None:
    """58 samples to train; of the 23 to validate the processes get 12 and 11."""
    (tmp_path / "program.py").write_text(PROGRAM)
    settings = [f"data.store={tiny_store}", *SETTINGS]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "program.py"), str(tmp_path / "two"), *settings, "train.batch_size=8"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sync_dist" not in done.stderr
    assert "8 steps of 2 processes" in done.stdout
    assert done.stdout.count("finished at step 8") == 1
    one = fit(make_config("laptop", None, [*settings, "train.batch_size=16"]), tmp_path / "one", device="cpu", say=len)

    def log(run: Path) -> pd.DataFrame:
        table = pd.read_csv(run / "log.csv")
        return table[table["valid/original_mse"].notna()]

    for column in ("step", "valid/original_mse", "valid/original_pearson"):
        np.testing.assert_allclose(log(tmp_path / "two")[column], log(one)[column], rtol=2e-4)
    mine, theirs = load_any(one).state_dict(), load_any(tmp_path / "two").state_dict()
    for name, value in mine.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-2, atol=2e-4, err_msg=name)

    table = pd.read_parquet(tmp_path / "two/predictions/valid.parquet")
    predictor = Predictor(tmp_path / "two", device="cpu")
    expected = predictor(predictor.data.windows("valid"))
    assert table["gene"].tolist() == expected["gene"].tolist()  # each once, in order
    np.testing.assert_allclose(table["original"], expected["original"], rtol=1e-5)
    everything = json.loads((tmp_path / "two/metrics/valid.json").read_text())["scores"]
    data = predictor.data
    ridge = baseline_predictions(data, data.windows("train"), data.windows("valid"))["ridge"]
    assert everything["ridge"]["all"] == pytest.approx(scores(expected["observed"], ridge), rel=1e-5)
    scored = everything["original"]["all"]
    assert scored == pytest.approx(scores(expected["observed"], expected["original"]), rel=1e-5)
