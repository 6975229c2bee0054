"""Run against an installed wheel: `python wheel.py base` without the extras, `python wheel.py all` with them."""

import importlib
import subprocess
import sys
from pathlib import Path

import genostore

assert ".venv-wheel" in genostore.__file__ or "site-packages" in genostore.__file__, genostore.__file__
heavy = [m for m in ("torch", "dask", "matplotlib") if m in sys.modules]
assert not heavy, f"import genostore brought {heavy}"

program = str(Path(sys.executable).parent / "genostore")
for package in ("ingest", "prism_model") if sys.argv[1] == "all" else ():
    importlib.import_module(package)
done = subprocess.run([program, "ingest", "catalog.yaml", "store.zarr"], capture_output=True, text=True, check=False)
assert done.returncode == 1, done
assert "Traceback" not in done.stderr, done.stderr
told = "pip install 'genostore[all]'" if sys.argv[1] == "base" else "catalog.yaml"
assert told in done.stderr, done.stderr
print(f"wheel ({sys.argv[1]}): {genostore.__version__} of {Path(genostore.__file__).parent}")
