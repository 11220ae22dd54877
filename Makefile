# make help lists the commands. Each one sets up .venv first; where that is up to date it costs nothing.
SHELL := /bin/sh
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STATE := $(CURDIR)/.genrec
PYTHON ?=
PRESET ?=
GENREC_RAW ?=
IMAGES ?=
MODEL ?=
KILLS ?= 200
INPUTS ?= 100000
SOAK ?=
UPGRADE ?=
NAME ?=
OPTIONS ?=
SHOWN ?= $(STATE)
UI_PORT ?= 3000
MLFLOW_PORT ?= 5000
PAGES_PORT ?= 3001
DEMO_PORT ?= 8080

export PRESET
export GENREC_RAW
export UI_PORT
export MLFLOW_PORT
export PAGES_PORT
export DEMO_PORT
export MLFLOW_DISABLE_TELEMETRY = true
export DAGSTER_DISABLE_TELEMETRY = yes
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION = false

.DEFAULT_GOAL := help
.PHONY: help setup run test test-pythons test-slow screenshots lint ui mlflow bench gpu-check soak fuzz images test-images lock audit package clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with the pinned packages, unless it is up to date
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/setup

run: setup ## materialise the whole graph: GENREC_RAW=folder-or-url PRESET=sample|auto|beauty|beauty-best|beauty-gpu
	@"$(BIN)/python" -m genrec_dagster.run

test: setup ## the default tests, in two processes
	@"$(BIN)/python" -m pytest -n 2 --dist loadfile

test-pythons: setup ## what predicts and serves, on Python 3.12 and 3.13 and with the lowest versions, where the machine has them
	@BIN="$(BIN)" sh .ci/pythons

test-slow: setup ## the long tests; the one of the UI needs Debian's chromium
	@"$(BIN)/python" -m pytest -m slow

screenshots: setup ## take README's pictures from the real UIs of the last make run, or SHOWN=folder; needs Debian's chromium
	@GENREC_SHOWN="$(SHOWN)" GENREC_PICTURES="$(CURDIR)/.github/images" "$(BIN)/python" -m pytest -m slow tests/browser/test_pictures.py

lint: setup ## ruff, mypy and the contracts of imports
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"
	@"$(BIN)/lint-imports"

ui: setup ## the Dagster UI on http://127.0.0.1:3000 (UI_PORT), with MLflow, reports and the demo page beside it
	@exec "$(BIN)/python" -m genrec_dagster.ui

mlflow: setup ## the MLflow UI alone, on http://127.0.0.1:5000 (MLFLOW_PORT)
	@mkdir -p "$(STATE)/mlflow/artifacts"
	@MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///$(STATE)/mlflow/mlflow.db}" \
	  exec "$(BIN)/mlflow" server --host 127.0.0.1 --port $(MLFLOW_PORT) --workers 1 \
	  --default-artifact-root "file://$(STATE)/mlflow/artifacts"

bench: setup ## one benchmark: NAME=decode OPTIONS="--beams 100"; without NAME the usual ones, in turn, on the newest run's model
	@"$(BIN)/python" -m tests.benchmarks $(NAME) $(OPTIONS)

gpu-check: setup ## compare model, losses and k-means on a CUDA device with the CPU, and time trainings: OPTIONS="--artifacts DIR"
	@"$(BIN)/python" -m tests.benchmarks gpu $(OPTIONS)

soak: setup ## kill parts of the running system at random, KILLS times, and check what is left each time: SOAK="--s3"
	@"$(BIN)/python" -m tests.benchmarks.soak --kills $(KILLS) $(SOAK)

fuzz: setup ## feed INPUTS malformed inputs to the doors (text, CSV, HTTP, tables) of the newest model, or MODEL=folder
	@"$(BIN)/python" -m tests.benchmarks.fuzz --inputs $(INPUTS) $(if $(MODEL),--model_dir "$(MODEL)")

images: ## build the images, by docker or by buildah and podman: IMAGES="inference serve torchserve dagster"
	@python3 docker/images.py build $(IMAGES)

test-images: setup ## run the images on the newest exported model, or MODEL=folder
	@"$(BIN)/python" docker/images.py test $(IMAGES) $(if $(MODEL),--model_dir "$(MODEL)")

lock: setup ## pin every package that make and the images install, after pyproject.toml changed; UPGRADE=--upgrade takes newer ones
	@UV="$(BIN)/uv" sh docker/locks/lock $(UPGRADE)

audit: setup ## known vulnerabilities of the locked packages; needs PyPI
	@"$(BIN)/pip-audit" --strict --disable-pip --no-deps $(foreach lock,$(wildcard docker/locks/*.txt),--requirement $(lock)) \
	  $(foreach advisory,$(shell sed -n 's/^\([A-Z][^ ]*\) .*/\1/p' docker/audit-ignored.txt),--ignore-vuln $(advisory))

package: setup ## build the wheel and the sdist into dist, and check what the registry would check
	@rm -rf dist
	@"$(BIN)/python" -m build
	@"$(BIN)/twine" check --strict dist/*

clean: ## remove .venv; what was built in .genrec stays
	rm -rf "$(VENV)"
