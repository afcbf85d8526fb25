# Every target does its own set-up in .venv; all it takes is Python 3.11 or newer and make.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)
INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint sanitize browser format clean

help: ## Show what there is to make
	@echo "make demo    the main job on real data, no file needed: prints the verdict, writes report.html"
	@echo "make test    every check: ruff, mypy, pytest"
	@echo "make lint    ruff and mypy only"
	@echo "make sanitize  the compiled loops' tests with gcc's address and undefined-behaviour sanitizers"
	@echo "make format  let ruff rewrite the sources"
	@echo "make clean   remove .venv and what the other targets made"

demo: $(VENV)/.demo ## Train, calibrate and judge a small network on handwritten digits
	@$(BIN)/focalcal demo --output-dir focalcal-demo

# One thread for PyTorch: on tensors as small as the tests' more of them only wait for each other. Two processes
# instead; the one that has no tests left takes over half of the other's.
test: lint sanitize browser ## Run every check; the tests come last
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Reading beyond an array, undefined arithmetic: what no comparison of results would show. The vectors of 64
# bytes are made of shorter ones here, so that they are tested on processors without AVX-512 too.
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize: $(VENV)/.test
	@if ! command -v gcc >/dev/null; then echo "make sanitize: skipped, it needs gcc"; exit 0; fi; \
	rm -rf build/sanitize && \
	CC=gcc FOCALCAL_CFLAGS="-O0 -g $(SANITIZE) -DFOCALCAL_EMULATE_AVX512" FOCALCAL_LDFLAGS="$(SANITIZE)" \
		$(BIN)/python setup.py --quiet build --build-base build/sanitize --build-lib build/sanitize/lib && \
	LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 FOCALCAL_EXAMPLES=15 \
		PYTHONPATH=build/sanitize/lib $(BIN)/python -m pytest -p no:cacheprovider -k "not real" tests/test_compiled*.py

# The pages are tested in a real browser. Where it can be neither found nor installed, their tests are skipped.
browser:
	@command -v chromium chromium-browser google-chrome chrome >/dev/null || \
	{ echo "Installing Chromium (once) ..."; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } >/dev/null 2>&1 || \
	  echo "make browser: no Chromium, and apt-get could not install it: the tests of pages are skipped"; }

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) focalcal-demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp for each set of extras: the second run installs nothing.
$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: pyproject.toml constraints.txt setup.py $(wildcard src/focalcal/kernels/c/*) | $(BIN)/python
	@echo "Installing focalcal[$*] into $(VENV) (once) ..."
	@$(INSTALL) --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "focalcal needs Python 3.11 or newer, and none was found." >&2; \
		echo "Install it, or say where it is: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "focalcal needs Python 3.11 or newer, got $$($(PYTHON) --version 2>&1) from PYTHON=$(PYTHON)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
