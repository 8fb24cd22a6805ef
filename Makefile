# The book's commands. Each creates .venv and installs what it needs, once.
PYTHON ?= python3
DEVICE ?= cpu
NBVAL ?= $(if $(filter cpu,$(DEVICE)),--nbval,--nbval-lax)
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
TEST_READY := $(VENV)/.test-ready
JB := $(VENV)/bin/jupyter-book

.DEFAULT_GOAL := help
.PHONY: help book test lab play mybook pdf notebooks format clean

help:  ## this list
	@echo "Sparse attention, measured. Commands:"
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## */  make \1|/' \
	  | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

book: $(READY)  ## build the book from its stored outputs; warnings are errors
	@$(JB) build . --all -W -n --keep-going -q
	@echo "The book: open _build/html/index.html in a browser"

test: $(TEST_READY)  ## style, unit, property and browser tests, every notebook output
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check sparse_attn tests tools
	SPARSE_ATTN_DEVICE=$(DEVICE) OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 \
	  --dist loadfile --no-loadscope-reorder
	SPARSE_ATTN_DEVICE=$(DEVICE) $(PY) -m pytest -p no:cacheprovider \
	  $(NBVAL) --nbval-current-env --nbval-sanitize-with tests/nbval.cfg book

lab: $(READY)  ## JupyterLab on the chapters
	@$(VENV)/bin/jupyter lab book

play: $(READY)  ## the playground alone, live on this device
	@$(PY) tools/play.py

pdf: $(TEST_READY) book  ## the whole book as one PDF, printed by Chromium
	@$(PY) tools/pdf.py

mybook: $(READY)  ## run every chapter on this device and build your own edition
	@$(PY) tools/mybook.py

notebooks: $(READY)  ## for authors: run changed chapters and store their outputs
	@SPARSE_ATTN_DEVICE=$(DEVICE) $(PY) tools/notebooks.py

format: $(TEST_READY)  ## for authors: format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format sparse_attn tests tools

clean:  ## remove what was built, keep .venv
	rm -rf _build

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "Python 3.11 or newer is needed, this is " + sys.version.split()[0] \
	  + ": call make PYTHON=python3.11 (or newer)")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -r requirements.txt
	@touch $@

$(TEST_READY): $(READY)
	$(PY) -m pip install -q -e '.[test]'
	@touch $@
