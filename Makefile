# The interface of this repository: venv, run, test, bench, lint. `make help` lists all targets.

# Debian's own interpreter first: the distribution keeps it secure, and every user may run it.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

BUILD_PACKAGES := gcc libsystemd-dev pkg-config python3-dev python3-venv
# What tests run beside the project's own programs: where it cannot be installed, they are skipped and say so.
TEST_PACKAGES := fish zsh debootstrap libvirt-clients libvirt-daemon-system lvm2 man-db qemu-system-x86 strace systemd-container udev

.PHONY: help venv run test soak lint lint-docstrings bench bench-check nightly release requirements clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.run ## build .venv with the console scripts virtlockd and lockctl

$(VENV)/.requirements: requirements/build.txt requirements/run.txt
	@scripts/system-packages $(BUILD_PACKAGES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --requirement requirements/build.txt
	$(PIP) install --require-hashes --no-build-isolation --requirement requirements/run.txt
	@touch $@

# The way of an acquire is compiled, which takes half a minute; pyproject.toml names its modules.
$(VENV)/.run: $(VENV)/.requirements pyproject.toml $(foreach room,wire linux locks engines/* daemon daemon/*,$(wildcard lockd/$(room)/*.py))
	@# What was compiled of modules that are gone, or are to be left uncompiled now, would still be found first.
	@rm -f *__mypyc.*.so && find lockd -name '*.so' -delete
	$(PIP) install --no-build-isolation --no-deps --editable .
	@# A daemon that is compiled beforehand starts, and takes over, in half the time.
	$(BIN)/python -m compileall -q lockd
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(PIP) install --require-hashes --no-build-isolation --requirement requirements/dev.txt
	@touch $@

run: $(VENV)/.run ## show the main job: a disk is locked, looked at, refused to others, and released
	@scripts/demo $(BIN)

# Many tests wait more than they compute: two processes for each processor keep all of them busy.
WORKERS ?= $(shell expr 2 \* $$(nproc))

# What make install installs is built first: the tests that call it beside each other find it ready.
test: $(VENV)/.dev build/wheels man completions ## run all tests, several at once (WORKERS=two for each processor)
	@scripts/system-packages $(TEST_PACKAGES) || true
	$(BIN)/pytest --numprocesses $(WORKERS) --no-loadscope-reorder

CALLS ?= 1000000
SEED ?=

UPGRADES ?= 1000

MINUTES ?= 60

VERSION ?=

soak: $(VENV)/.dev ## random calls to both daemons, compared (CALLS=1000000 SEED=random); live upgrades under load (UPGRADES=1000)
	@scripts/system-packages $(TEST_PACKAGES) || true
	LOCKD_UPGRADES=$(UPGRADES) $(BIN)/pytest tests/handover/test_load.py
	$(BIN)/python -m tests.differential.soak $(CALLS) $(SEED)

lint: $(VENV)/.dev ## ruff, mypy --strict, documentation of public functions, changes/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m scripts.check_news
	@$(MAKE) --no-print-directory lint-docstrings

nightly: $(VENV)/.dev ## look for rare errors for an hour or more (MINUTES=60 SEED=random); prints how to repeat each round, and what was done
	@scripts/system-packages $(TEST_PACKAGES) || true
	$(BIN)/python -m scripts.nightly --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

release: $(VENV)/.dev ## a commit, a tag and the files to publish: VERSION=1.2.3; see docs/releasing.md
	$(BIN)/python -m scripts.release $(VERSION)

lint-docstrings: $(VENV)/.dev ## whether public functions document parameters, results and exceptions
	$(BIN)/python -m scripts.check_docstrings lockd

bench: $(VENV)/.run build/load build/floor ## measure lockd beside virtlockd and a bare C server; writes docs/benchmarks.*
	@scripts/system-packages libvirt-daemon-system || true
	$(BIN)/python -m benchmarks --output docs

bench-check: $(VENV)/.run build/load build/floor ## under 30 s: fails where lockd has become grossly slow
	$(BIN)/python -m benchmarks --check

# Static: the load generator is one process for each guest, and a static one is quickly made and small.
build/%: benchmarks/%.c benchmarks/protocol.h
	@mkdir -p build
	$(CC) -std=gnu11 -O2 -Wall -Wextra -static -pthread -o $@ $<

requirements: ## write requirements/*.txt anew from requirements/*.in (needs pip-tools)
	cd requirements && for set in build run dev; do \
	    pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
	        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
	        --output-file=$$set.txt $$set.in; \
	done

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist *.so lockd/*/*.so lockd/*/*/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis

include install.mk
