# Two commands do everything: `make demo` and `make test`. Both install into .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test test-slow test-faults lint types unit digits minis modes gpu teachers golden docs clean

help:
	@echo "make demo      install, train an MMARD student on the digits, evaluate it, print the table"
	@echo "make test      install, lint, type-check and run the tests that take seconds (7 to 10 minutes on two cores)"
	@echo "make test-slow the tests that take longer: whole commands, environments, processes that are killed (9 to 15 minutes)"
	@echo "make test-faults  kill runs 50 times and at every operation on a file, 10,000 fuzzed files (13 minutes)"
	@echo "make digits    the comparison of README and docs: 8 methods x 3 seeds (an hour to an hour and a half on two cores)"
	@echo "make minis     the paper's tables on the digits, two runs at a time (an hour or two), into results/"
	@echo "make modes     the same three digits runs in every mode and number format (some 15 minutes)"
	@echo "make gpu       on a GPU: the CUDA tests, then speed by mode beside the published style"
	@echo "make teachers  train the two embedded digits teachers anew"
	@echo "make golden    write the golden loss curves anew"
	@echo "make docs      generate the parts of docs/ that come from the code"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/robustdistill train -c specs/digits/demo.toml
	$(BIN)/robustdistill eval --attacks fgsm,pgd,pgd-trades,cw

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-faults: $(INSTALLED)
	ROBUSTDISTILL_FAULTS=50 ROBUSTDISTILL_FUZZ=10000 $(BIN)/python -m pytest -s tests/test_stopping.py \
		tests/test_faults.py tests/test_hostile.py tests/test_bombs.py tests/test_fuzz.py tests/test_study_cli.py

digits: $(INSTALLED)
	PATH=$(BIN):$$PATH sh specs/digits/compare.sh

minis: $(INSTALLED)
	PATH=$(CURDIR)/$(BIN):$$PATH sh specs/paper/minis.sh

modes: $(INSTALLED)
	PATH=$(CURDIR)/$(BIN):$$PATH sh specs/digits/modes.sh

gpu: $(INSTALLED)
	PATH=$(CURDIR)/$(BIN):$$PATH sh benchmarks/gpu.sh

teachers: $(INSTALLED)
	$(BIN)/python specs/digits/embed.py

golden: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden.py

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
