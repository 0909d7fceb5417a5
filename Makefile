# Everything on a fresh machine: `make demo` and `make test`. Both set up .venv first, if it is not up to date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK := requirements/cpu.lock
STAMP := $(VENV)/.up-to-date
TORCH := $(shell grep '^torch==' $(LOCK))
# URL of PyTorch's CPU wheel index, where plain pip does not find the CPU build of torch.
TORCH_INDEX ?=

export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo demo-sparse browser test test-fast nightly gpu-check lint types check docs format lock clean

help: ## Say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## Make .venv with the exact versions of requirements/cpu.lock

# Torch goes first and alone: its CPU build may come from another index than the rest. Nothing is resolved
# (--no-deps): the lock is complete, and leaves out torchvision, torchaudio and torchcodec, whose builds do not
# match a CPU torch and which vLLM does not need for text.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"Python {v[0]}.{v[1]} found, 3.11 needed: make setup PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV) (about 3 minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)' 2> $(VENV)/pip.log || \
	  { cat $(VENV)/pip.log; echo "$(TORCH) was not found. Set the URL of PyTorch's CPU wheel index (its Get Started page names it): make setup TORCH_INDEX=URL"; exit 1; }
	@$(PIP) install --no-deps -r $(LOCK) 2> $(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@$(PIP) install --no-deps --no-build-isolation --editable . 2> $(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }
	@touch $(STAMP)

demo: setup ## Train the quickstart: a judge, CAPO under it and under a rule, GRPO; print the table (about 5 minutes)
	@$(BIN)/capo quickstart $(ARGS)

demo-sparse: setup ## The same where right answers are rare
	@$(BIN)/capo quickstart --regime sparse $(ARGS)

browser: ## Chromium for the tests of capo inspect, from Debian's packages (as root; without one they are skipped)
	@for name in "$$CAPO_CHROMIUM" chromium chromium-browser google-chrome; do command -v "$$name" > /dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "no Chromium: the browser tests of capo inspect will be skipped (install one as root, or set CAPO_CHROMIUM)"

# Tests of one file share their fixtures, so a file stays on one worker; tests/conftest.py sends the long ones first.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: setup browser ## Every promise once, with real engines and processes (about 8 minutes on 2 cores)
	@$(PYTEST) -m "not nightly and not gpu" --durations=15 $(ARGS)

test-fast: setup ## Unit tests alone, under a minute
	@CAPO_HYPOTHESIS_PROFILE=quick $(PYTEST) -m "not slow and not nightly and not gpu and not parity" $(ARGS)

nightly: setup browser ## What `make test` leaves out: every command of the documents, planted faults, longer runs
	@$(PYTEST) -m "nightly and not gpu" --durations=15 $(ARGS)

gpu-check: ## On one GPU, with its vLLM installed: the tests marked gpu, two runs of CAPO, one table (10 minutes)
	@$(PYTHON) bench/gpu_check.py $(ARGS)

lint: setup ## ruff: rules, complexity and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy, strict on the pure parts
	@$(BIN)/mypy

check: lint types test ## What CI runs

docs: setup ## The documents as a site of plain files, site/index.html; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: setup ## Mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## Resolve requirements/cpu.lock anew (needs uv, and TORCH_INDEX)
	uv pip compile $(if $(TORCH_INDEX),--find-links $(TORCH_INDEX)) pyproject.toml --extra cpu --extra gguf --extra dev --override requirements/overrides.txt \
	  --python 3.11 --python-platform x86_64-manylinux_2_35 --index-strategy unsafe-best-match \
	  --no-annotate --no-header -o $(LOCK)

clean: ## Remove the environment and caches; runs/ stays
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
