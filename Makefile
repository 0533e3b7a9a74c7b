# Two commands work on a fresh machine with Python 3.11+ and make: `make check` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: check test sound lint types clean

# Is the tool itself right? Its own operators pass every law; the two wrong examples are accused.
check: $(VENV)/installed
	$(BIN)/dmat check
	$(BIN)/dmat check examples/masked_cumsum.py:dtilde
	$(BIN)/dmat check examples/cumsum_difference.py:dtilde_declared
	$(BIN)/dmat check --first examples/cumsum_difference.py:dtilde; test $$? -eq 1
	$(BIN)/dmat check --first examples/wrong_gradient.py:dtilde; test $$? -eq 1

test: $(VENV)/installed
	$(BIN)/pytest -n auto

# No sound style of tests/zoo is accused: every dtype and every example, 20 minutes on two cores.
sound: $(VENV)/installed
	DMAT_SOUND=1 $(BIN)/pytest -n auto tests/test_zoo.py -k sound

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
