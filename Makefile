# make help
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
SHARDED := torchrec fbgemm-gpu-cpu tensordict pyvers pyre-extensions typing-inspect orjson
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE  # each process of the tests would compile the same modules anew
export RECSYS_DATA ?= $(if $(wildcard ../shared/data),$(abspath ../shared/data),data)

.DEFAULT_GOAL := help
.PHONY: help install train test lint format bench bench-peers clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## make .venv with the pinned versions

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recsys needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --no-deps $(SHARDED)  # without them, all but trainer=sharded
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip takes one. Packages' templates fail.
	@touch $@

train: install  ## train, evaluate and export DeepFM on the built-in shop
	$(BIN)/python scripts/train.py model=deepfm

test: install lint  ## lint, types, import contracts, doctests and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install  ## measure speed and memory on this machine
	$(BIN)/python scripts/benchmark.py

bench-peers: install $(PEERS)/.installed  ## DeepCTR-Torch and Surprise on the same rows, in an environment of their own
	$(BIN)/python scripts/benchmark.py peers $(if $(wildcard $(RECSYS_DATA)/ml-100k/folds.parquet),folds)

$(PEERS)/.installed: constraints.txt Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --constraint constraints.txt deepctr-torch==0.3.0 scikit-surprise==1.1.5 torch
	@touch $@

clean:  ## remove the environment, caches and encoded stores (keeps outputs/)
	rm -rf $(VENV) $(PEERS) .cache build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
