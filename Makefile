# Each target from a fresh clone, with Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: venv test demo docs lint types clean
.DELETE_ON_ERROR:

venv: $(STAMP)

$(STAMP): constraints.txt setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: no $(PYTHON); name a Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not a Python 3.11, 3.12 or 3.13 ($$($(PYTHON) --version 2>&1 | head -n 1));" \
		"name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(VENV): about two minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev,languages]'
	@touch $@

# In one process more than there are cores, at most eight. worksteal keeps most tests of a file in one process: they share
# what is costly to make. The GPU, if there is one, is for the tests of the kernels alone: see tests/conftest.py.
# PYTEST_ADDOPTS gives pytest more options; LONG_TESTS=1 tries more random examples. Bytecode is
# kept even where the environment says not to, as in many containers: each process would compile all of the package.
test: venv
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal
	if command -v nvidia-smi >/dev/null; then GPU_TESTS=1 $(BIN)/python -m pytest tests/kernels; fi

demo: venv
	$(BIN)/python examples/demo.py

# The pages of docs/ as a site in site/. Any link that leads nowhere is an error.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
