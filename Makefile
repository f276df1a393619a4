# Requirements: Python 3.11 or later, git and make.
#   make demo         compare codecs on bundled photographs and generated music, then generate with omni-small
#   make test         run the tests; `make test ARGS="tests/cli/test_cli.py -x"` runs some
#   make fuzz         edit files at random and read them, a million times; `make fuzz MUTANTS=1000` per reader is shorter
#   make bench        compare the speed with that of peers, on a quiet machine; `make bench ARGS=payloads` runs some
#   make lint         check style, format and types; `make format` fixes style and format
#   make docs         build the documentation into site/; `make docs-serve` shows it while you edit
VENV ?= .venv
PYTHON ?= python3
OUT ?= demo
ARGS ?= -n 2
MUTANTS ?= 18000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODECS := image/jpeg,image/webp,image/avif,image/jpeg2000,image/png,natural-ntc,natural-fsq,audio/opus,audio/vorbis,audio/mp3,audio/flac,digits-rvq

.PHONY: install demo test fuzz bench lint format docs docs-serve clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "this needs Python 3.11 or later, got " + sys.version)'
	@echo "setting up $(VENV): about two minutes and 5 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: install
	$(BIN)/tokenloom compare data=demo 'codecs=[$(CODECS)]' out=$(OUT)
	$(BIN)/tokenloom evaluate omni-small 'rows=[samples]' out=$(OUT)

# One thread per process: two workers already fill two cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS) tests/test_fuzz.py --mutants $(MUTANTS)

bench: ARGS =
bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/support/typed.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Silences a notice of mkdocs-material about the next version of MkDocs.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: install
	$(BIN)/mkdocs build --strict

docs-serve: install
	$(BIN)/mkdocs serve

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
