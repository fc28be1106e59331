# make demo    everything on one laptop: environment, rooms, GRPO, evaluation, pictures (about 5 minutes after install)
# make test    lint, types and tests, in the same environment
# make test-long      the tests that take half a minute each: signals, several processes (minutes)
# make test-browser   the pages in a real browser; fails where there is none
# make claim   the paper's claim in miniature, three seeds (an hour and a half on 2 cores)
# make assets  train the shipped tiny models again

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Waiting threads that spin slow each other down on few cores.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-long test-browser check claim assets bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/rft3d demo

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes, a file in one of them; one thread each, or four would share two cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

test-long: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m long

test-browser: $(VENV)/.installed-test
	RFT3D_BROWSER_REQUIRED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/browser

claim: $(VENV)/.installed
	$(BIN)/python bench/claim.py

assets: $(VENV)/.installed
	$(BIN)/python assets/make.py

bench: $(VENV)/.installed
	$(BIN)/python bench/iou.py
	$(BIN)/python bench/rewards.py
	$(BIN)/python bench/data.py
	$(BIN)/python bench/prepare.py
	$(BIN)/python bench/score.py
	$(BIN)/python bench/fullsize.py
	$(BIN)/python bench/grpo_step.py --quick

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
