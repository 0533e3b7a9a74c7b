# Two commands work on a fresh machine with Python 3.11+ and make: `make check` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: check check-all test night sound zoo mutation bench docs third-party lint types clean

# What dmat says of two right kernels and of two wrong ones: two minutes.
check: $(VENV)/installed
	$(BIN)/dmat check dmat:dtilde --examples 60
	$(BIN)/dmat check --first examples/cumsum_difference.py:dtilde; test $$? -eq 1
	$(BIN)/dmat check examples/fused/mlstm.py:mlstm
	$(BIN)/dmat check --first examples/fused/wrong_carry.py:linear_attention; test $$? -eq 1

# Is the tool itself right? All its own operators pass every law; the wrong examples are accused.
check-all: $(VENV)/installed
	$(BIN)/dmat check
	$(BIN)/dmat check examples/masked_cumsum.py:dtilde
	$(BIN)/dmat check examples/cumsum_difference.py:dtilde_declared
	$(BIN)/dmat check --first examples/cumsum_difference.py:dtilde; test $$? -eq 1
	$(BIN)/dmat check --first examples/wrong_gradient.py:dtilde; test $$? -eq 1
	$(BIN)/dmat check examples/fused/mlstm.py:mlstm
	$(BIN)/dmat check --first examples/fused/wrong_carry.py:linear_attention; test $$? -eq 1
	$(BIN)/pytest -q -n 0 -m night tests/test_notebook.py

test: $(VENV)/installed
	$(BIN)/pytest -n auto

# The slow tests that `make test` leaves out (tests/night.py).
night: $(VENV)/installed
	$(BIN)/pytest -n auto -m night

# No sound style of tests/zoo is accused on fresh cases: RUNS of all laws and dtypes, a minute each.
RUNS ?= 10
sound: $(VENV)/installed
	$(BIN)/python -m tests.zoo.fresh --runs $(RUNS)

# Which law rejects which mutant, how soon, on how small a case: ten minutes.
zoo: $(VENV)/installed
	$(BIN)/python -m tests.zoo.matrix

# Every edit of the operator and of three sound kernels that a machine thinks of: an hour, for the nightly job.
mutation: $(VENV)/installed
	$(BIN)/python -m tests.mutation

# Time, memory and error of the operator beside the formulas and the floors, into docs/measured: half an hour.
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks --threads 1
	$(BIN)/python -m benchmarks speed

# docs/laws.md from the laws and the zoo, and the outputs of docs/notebook.ipynb; a test fails when one is stale.
docs: $(VENV)/installed
	$(BIN)/python -m tests.zoo.page
	$(BIN)/python -m tests.notebook

# Published functions of other packages, in a venv of their own, into docs/third-party.md: hours on two cores.
EXAMPLES ?= 200
third-party: $(VENV)/installed
	$(BIN)/python examples/third_party/check.py --examples $(EXAMPLES)

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
