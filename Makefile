# `make demo` and `make test` set up what they need, in .venv.

PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= demo
# What `make bench` runs: names of suites, --quick; all when left out.
BENCHMARKS ?=
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Without compiling: Python does that to what it imports, pip to all of torch, which takes longer than to unpack it.
# A new pip first: one of 2023, as some Pythons bring it, takes twice as long to find out which releases fit.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo test lint wheel bench soak audit clean
.DELETE_ON_ERROR:

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --upgrade pip
	$(BIN)/python $(INSTALL) -e ".[dev]"
	touch $@

# Simulate real-format files, ingest, verify, slice, train, evaluate, report.
demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/genostore simulate $(DEMO)/data --genes 300 --cell-types 2 --seed 0
	$(BIN)/genostore ingest $(DEMO)/data/catalog.yaml $(DEMO)/store.zarr --workers 2
	$(BIN)/genostore verify $(DEMO)/store.zarr --against $(DEMO)/data/catalog.yaml
	$(BIN)/genostore info $(DEMO)/store.zarr
	$(BIN)/genostore slice $(DEMO)/store.zarr $(DEMO)/windows.npz --split test --assays H3K27ac,DNase --expression CAGE
	$(BIN)/prism train $(DEMO)/store.zarr --out $(DEMO)/run --recipe tiny
	$(BIN)/prism evaluate $(DEMO)/run
	$(BIN)/prism report $(DEMO)/run --out $(DEMO)/report \
		--command "genostore simulate $(DEMO)/data --genes 300 --cell-types 2 --seed 0" \
		--command "genostore ingest $(DEMO)/data/catalog.yaml $(DEMO)/store.zarr --workers 2"

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Kill, corrupt, fuzz and soak as often as docs/reliability.md says, and remake its tables; under half an hour.
soak: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]" || echo "without atheris, which cannot be installed here"
	$(BIN)/python -m tests.reliability

# Known weaknesses of the pinned packages; says so where the vulnerability service cannot be reached.
audit: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit || { echo "audit skipped: pip-audit cannot be installed here"; exit 0; }; \
	test -x $(BIN)/pip-audit || exit 0; \
	$(BIN)/pip-audit --strict --timeout 10 -r constraints.txt --no-deps --disable-pip 2>audit.log; code=$$?; \
	if grep -qiE "connection|timed? ?out|resolve|unreachable|ServiceError" audit.log; then echo "audit skipped: the vulnerability service cannot be reached"; \
	elif grep -q "could not be audited" audit.log; then echo "audit skipped: the vulnerability service does not know every package"; grep "could not" audit.log; \
	else cat audit.log; rm -f audit.log; exit $$code; fi; rm -f audit.log

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Build the wheel and import it in an environment that holds nothing else.
wheel: $(READY)
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python $(INSTALL) --upgrade pip
	$(VENV)-wheel/bin/python $(INSTALL) dist/*.whl
	cd dist && ../$(VENV)-wheel/bin/python -P ../tests/wheel.py base
	$(VENV)-wheel/bin/python $(INSTALL) "$$(ls dist/*.whl)[all]"
	cd dist && ../$(VENV)-wheel/bin/python -P ../tests/wheel.py all

# Measure beside other readers, one of which wants other versions of these two than we pin.
bench: $(VENV)-bench/.ready
	$(VENV)-bench/bin/python -m benchmarks $(BENCHMARKS)

$(VENV)-bench/.ready: pyproject.toml constraints.txt
	test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	grep -vE '^(pyarrow|filelock)==' constraints.txt > $(VENV)-bench/constraints.txt
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(VENV)-bench/constraints.txt -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-wheel $(VENV)-bench $(DEMO) build dist *.egg-info
