# make demo   set up, then the main job on 5x5 Latin squares
# make test   set up, then lint, types, import contracts and tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo text test gpu chaos soak fuzz setup
.DEFAULT_GOAL := demo

setup: $(VENV)/.ready

# The lock is a constraints file: the same versions everywhere, and torch from wherever pip finds it,
# so a machine with a CPU wheel configured gets that one and others the CUDA build.
$(VENV)/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "proseco needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev,fast]'
	@touch $@

demo: setup
	$(BIN)/proseco run configs/runs/demo.yaml
	$(BIN)/proseco show configs/runs/demo.yaml

text: setup
	$(BIN)/proseco run configs/runs/text.yaml
	$(BIN)/proseco show configs/runs/text.yaml

# Two tests at once, of which at most one starts a cluster; those marked long are left to `make chaos`.
test: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadscope

# What a GPU must do as a CPU does, and how fast it is: runs/gpu/gpu.html. Skips with a sentence where there is none.
gpu: setup
	$(BIN)/python -m tests.gpu.check --device cuda --out runs/gpu

# Kills a run on Ray at every fault point and at ten moments; about forty minutes on two cores.
chaos: setup
	$(BIN)/python -m pytest -m long
	rm -rf runs/chaos
	$(BIN)/python -m tests.chaos.harness --executor ray --folder runs/chaos

# 200,000 rows on Ray while replicas, driver, controller and head are killed at random; a few minutes on two cores.
soak: setup
	$(BIN)/python -m tests.chaos.soak --folder runs/soak

# At least 20,000 cases over everything that reads what comes from outside; about ten minutes on one core of its own. `make test` runs
# a few dozen of each.
fuzz: setup
	$(BIN)/python -m tests.fuzz
