PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format bench lock clean

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(VENV)/.dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/check.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bridge.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tilth needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 demo"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "this Python has no venv; on Debian and Ubuntu run: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing tilth and what the demo needs into $(VENV) (about 400 MB)"
	@$(PIP) -e '.[demo]'
	@touch $@

# torch first and alone: with it installed, nothing else asks for a build with GPU libraries.
$(VENV)/.torch: $(BIN)/python constraints.txt
	@echo "installing torch (CPU) into $(VENV)"
	@$(PIP) torch
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "installing what the tests need into $(VENV) (about 2 GB)"
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache

# Renews constraints.txt from what is installed; run it in a fresh environment after `pip install -U`.
lock: $(VENV)/.bench
	@{ echo "# Versions that Tilth is tested with. Renew them with: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.txt
