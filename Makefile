# Longtake's commands. `make repro` and `make test` set up all they need below this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
READY := $(VENV)/.ready-$(shell cat requirements.lock Makefile | cksum | cut -d' ' -f1)
export PYTHONDONTWRITEBYTECODE ?=
export DVC_NO_ANALYTICS := 1
# one process a core, one thread a process: two thread pools on two cores are slower than none
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

PYTHON_OK = $(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Longtake needs Python 3.11 or 3.12, this is %s: make PYTHON=python3.12" % sys.version.split()[0])'
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url

.PHONY: help setup repro recipes test test-fast lint lock images bench ui clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## the environment, from the hashed lock

$(READY):
	@$(PYTHON_OK)
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@touch $@

repro: setup  ## the whole pipeline on the sample world (RECIPE=name for another one, DATASET=name for data alone)
	@$(BIN)/python -m pipelines.repro $(if $(RECIPE),--recipe $(RECIPE)) \
	  $(foreach d,$(DATASET),--dataset $(d)) $(ARGS)

recipes: setup  ## every recipe, with what it takes: images, operations, storage
	@$(BIN)/python -m pipelines.recipes $(ARGS)

test: setup  ## every test that this machine can run
	@$(PYTEST) $(ARGS)

test-fast: setup  ## under five minutes
	@$(PYTEST) -m "not slow and not docker and not gpu" $(ARGS)

lint: setup  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint containers/Dockerfile

lock: setup  ## renew requirements.lock and the images' locks (hashes, no addresses)
	$(COMPILE) --all-extras --upgrade pyproject.toml -o requirements.lock
	@for i in data train; do \
	  $(COMPILE) --extra $$i --constraints requirements.lock pyproject.toml -o containers/$$i.lock || exit 1; done

images:  ## both images, with their sizes (BASE=IMAGE or local, REGISTRY=, TAG=, ARGS=--push)
	@$(PYTHON_OK)
	@$(PYTHON) containers/build.py $(if $(BASE),--base $(BASE)) $(if $(REGISTRY),--registry $(REGISTRY)) \
	  $(if $(TAG),--tag $(TAG)) $(ARGS)

# each says in its first line what it measures
BENCHES := extract corpus index views train methods head_memory propagation matching jf s3

bench: setup  ## the speed tables: data, training, methods, evaluations, S3 (BENCHES="name ..." for some)
	@for b in $(BENCHES); do \
	  printf '\n%s: %s\n' $$b "$$(sed -n '1s/"""//gp' bench/$$b.py)"; \
	  $(BIN)/python -m bench.$$b || exit 1; done

ui: setup  ## MLflow's pages on http://127.0.0.1:5000
	$(BIN)/mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

clean:  ## remove what the pipeline made (never the environment, never your data)
	rm -rf .cache data models metrics results report promotion runs dvc.lock
