# `make help` lists the targets. Plain venv and pip, Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
# Versions that passed the tests; `make install CONSTRAINTS=` takes the newest instead.
CONSTRAINTS ?= .ci/constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A process a core, of one thread each: threads of small networks would only wait for each other.
# A file of tests stays in one process, where what its tests share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help

.PHONY: help
help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip<26.2'
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(addprefix --constraint ,$(CONSTRAINTS))
	@touch $@

.PHONY: install
install: $(INSTALLED)  ## Make the virtual environment and install dmn into it

.PHONY: demo
demo: $(INSTALLED)  ## Train a self-explaining digit classifier, and say where to look
	$(BIN)/dmn fit --config mnist
	$(BIN)/dmn test --config mnist --ckpt_path best

.PHONY: lint
lint: $(INSTALLED)  ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(INSTALLED)  ## Check types
	$(BIN)/mypy

.PHONY: help-texts
help-texts: $(INSTALLED)  ## Write anew what `dmn COMMAND --help` prints, after a change of its options
	$(BIN)/python -m dmn.cli.help_texts dmn/cli/help

.PHONY: docs
docs: $(INSTALLED)  ## Build the documentation as a site, in site/index.html; broken links fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

.PHONY: figures
figures: $(INSTALLED)  ## List the figures of the documentation; one older than its code fails
	$(BIN)/python docs/figures.py

.PHONY: startup
startup: $(INSTALLED)  ## Measure how long importing and every `--help` take
	$(BIN)/python recipes/startup.py

.PHONY: browser
browser: $(INSTALLED)  ## Find or install the Chromium that the report's tests drive
	$(BIN)/python tests/browser.py

.PHONY: tests
tests: browser  ## Tests: of each kind enough to trust a change; no coverage, no slow ones
	$(PYTEST)

.PHONY: test
test: $(INSTALLED)  ## Lint, types and tests, side by side: what has to pass
	+@$(MAKE) --no-print-directory --keep-going --jobs=3 lint types tests

# Counting lines makes tests a third slower, and does not show what changed: so it is done here.
.PHONY: test-all
test-all: browser lint types  ## Every test at full length, with coverage, which has a floor
	$(PYTEST) --thorough --cov --cov-report=term --cov-fail-under=90

.PHONY: hooks
hooks: $(INSTALLED)  ## Check style and types before each commit, by pre-commit
	$(BIN)/uv tool install --quiet pre-commit
	"$$($(BIN)/uv tool dir --bin)/pre-commit" install

.PHONY: test-oldest
test-oldest: browser  ## Tests with the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --seed --python 3.11 .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest --resolution lowest-direct --compile-bytecode --editable '.[dev]'
	$(subst $(BIN),.venv-oldest/bin,$(PYTEST))

.PHONY: test-newest
test-newest:  ## Lint, types and tests with the newest versions that pyproject.toml allows
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

.PHONY: lock
lock: $(INSTALLED)  ## Put the newest versions into the constraints; `make test` then tries them
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --no-annotate \
		--custom-compile-command 'make lock' --output-file .ci/constraints.txt pyproject.toml

.PHONY: audit
audit: $(INSTALLED)  ## Ask PyPI which of the constraints have known vulnerabilities
	$(BIN)/uv tool run pip-audit --strict --disable-pip --no-deps --requirement .ci/constraints.txt

.PHONY: dist
dist: $(INSTALLED)  ## Build sdist and wheel into dist, and check how package indexes take them
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/uv tool run twine check --strict dist/*

.PHONY: torture
torture: browser  ## Break things at full length, and print a line a case
	$(PYTEST) -m torture --torture -r fE

.PHONY: clean
clean:  ## Remove the virtual environments and caches; runs are kept
	rm -rf $(VENV) .venv-oldest .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist site
