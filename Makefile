# Needs make and Python 3.11 or newer; `make demo` and `make test` install the rest into .venv.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# python3 if it is new enough, else another that is.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help demo test lint clean

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

demo: $(VENV)/demo.stamp ## Make the toy category and run everything on it; ends with a report.
	$(BIN)/python scripts/make_toy.py --out=data/toy
	$(BIN)/igspad-run --data=data/toy --run=runs/demo --config=demo

test: $(VENV)/test.stamp ## Run the tests.
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/test.stamp ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean: ## Delete the environment, and what building and testing left; data and runs stay.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "no Python 3.11 or newer found: install one, or name one by make PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks its venv module: install it (Debian: python3-venv)" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

# By uv, which takes seconds where pip takes minutes; it is told what pip's variables say of indexes.
# Where it cannot (an index that only pip.conf names), pip does it. Editable, so that the environment
# never holds an older copy of the code than the folder.
define install
	@echo "installing into $(VENV), once"
	$(BIN)/python -m pip install --quiet --no-compile uv
	env $${PIP_INDEX_URL:+UV_DEFAULT_INDEX="$$PIP_INDEX_URL"} \
		$${PIP_FIND_LINKS:+UV_FIND_LINKS="$$PIP_FIND_LINKS"} \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '$(1)' \
		|| $(BIN)/python -m pip install --quiet --no-compile --editable '$(1)'
	touch $@
endef

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(call install,.)

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(call install,.[test])
