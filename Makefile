# What one does with this project, one target each; `make help` lists them. On a fresh machine
# with python3, gcc and make, `make run` and `make test` need nothing else: they make their own
# virtual environment in .venv, install what pyproject.toml names and build the Cython modules.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check lint types format layers unit asan bench soak coverage build clean \
        tools install

# The first interpreter that is new enough, unless PYTHON says which.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	  $$p $(NEW_ENOUGH) 2>/dev/null && { echo $$p; exit; }; done; echo python3)

VENV := .venv
BIN := $(VENV)/bin
# Tools that call others (cython-lint calls pycodestyle) find them here.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

INSTALLED := $(VENV)/.installed
BUILT := build/.extensions-built
SOURCES := $(shell find shardd bench -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
BENCH_PYX := $(shell find bench -name '*.pyx')

# One build directory for pip and for rebuilds, so that only what changed is compiled again.
BUILD_CONFIG := build/extensions.cfg
BUILD_EXTENSIONS := -W ignore -c 'from setuptools import setup; setup()' -q build_ext --inplace
BENCH_CFLAGS := -O3 -fno-strict-aliasing

ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name text; do printf '%-16s%s\n' "$$name" "$$text"; done

run: $(BUILT) ## install if need be and start the server; flags in ARGS="-p 4222 ..."
	@exec $(BIN)/shardd start $(ARGS)

test: check unit ## everything that must hold: lint, format, types, layers, all default tests

check: lint types layers ## the checks that run no test

unit: $(BUILT)
	@echo '== tests'
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff's rules, formatting, cython-lint
	@echo '== lint and format'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint shardd bench

types: $(INSTALLED) ## mypy, strict
	@echo '== types'
	$(BIN)/mypy

layers: $(INSTALLED) ## who may import whom (tests/unit/test_layers.py adds the Cython files)
	@echo '== layers'
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## rewrite the Python files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --- sanitizers: a copy of the tree, built for itself ---------------------------------------------

ASAN := build/asan
ASAN_FLAGS := -fsanitize=address,undefined
ASAN_CFLAGS := -O1 -g -fno-omit-frame-pointer $(ASAN_FLAGS) -fno-sanitize-recover=undefined
ASAN_FILES := .ci shardd bench tests docs conf pyproject.toml README.md CHANGELOG.md LICENSE Makefile
# libstdc++ stands beside libasan because libzmq throws and catches C++ exceptions. Leaks are off:
# the interpreter itself leaves memory at exit.
ASAN_ENV = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc SHARDD_TESTS_PATIENCE=5
FUZZ_RUNS ?= 20000

asan: $(INSTALLED) ## unit and property tests and the fuzz targets under ASan and UBSan
	@mkdir -p $(ASAN)
	@find $(ASAN) -type f ! -name '*.c' ! -name '*.so' ! -path '$(ASAN)/build/*' -delete
	@tar -cf - --exclude='*.so' --exclude='*.c' --exclude=__pycache__ \
	  $(wildcard $(ASAN_FILES)) | tar -xf - -C $(ASAN)
	@echo '== build with $(ASAN_FLAGS)'
	@cd $(ASAN) && CFLAGS='$(ASAN_CFLAGS)' LDFLAGS='$(ASAN_FLAGS)' \
	  $(CURDIR)/$(BIN)/python $(BUILD_EXTENSIONS) && \
	  CFLAGS='$(ASAN_CFLAGS) $(BENCH_CFLAGS)' LDFLAGS='$(ASAN_FLAGS)' \
	  $(CURDIR)/$(BIN)/cythonize -q -j1 -i -3 $(BENCH_PYX)
	@echo '== unit and property tests under ASan and UBSan'
	cd $(ASAN) && $(ASAN_ENV) $(CURDIR)/$(BIN)/python -m pytest \
	  tests/unit tests/property $(ARGS)
	@cd $(ASAN) && for target in tests/fuzz/fuzz_*.py; do \
	  test -e "$$target" || continue; \
	  module=$$(echo "$${target%.py}" | tr / .); \
	  echo "== $$module, $(FUZZ_RUNS) runs"; \
	  $(ASAN_ENV) $(CURDIR)/$(BIN)/python -m "$$module" --runs $(FUZZ_RUNS) || exit 1; \
	done

# --- longer runs ----------------------------------------------------------------------------------

bench: $(BUILT) ## measure beside nats-server, in one run
	$(BIN)/python -m bench run $(ARGS)

soak: $(BUILT) ## the tests that take minutes: load and faults together
	$(BIN)/python -m pytest -m 'slow or soak' $(ARGS)

coverage: $(BUILT) ## which Python lines the default tests reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

build: $(INSTALLED) ## source distribution and wheel, in dist/
	$(BIN)/python -m build

clean: ## remove what was built, and .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov $(VENV)
	rm -f .coverage
	find shardd bench \( -name '*.so' -o -name '*.c' \) -delete
	find shardd bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environment and extensions -------------------------------------------------------------------

install: $(BUILT) ## the environment in .venv, ready for use

tools:
	@fail() { echo "make: $$1" >&2; exit 1; }; \
	command -v $(PYTHON) >/dev/null || fail 'python3 is missing: install Python 3.11 or later'; \
	$(PYTHON) $(NEW_ENOUGH) || \
	  fail "$(PYTHON) is $$($(PYTHON) -V 2>&1), shardd needs 3.11 or later: make PYTHON=/path/to/python3"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  fail 'python3 cannot make virtual environments: install python3-venv'; \
	command -v $${CC:-gcc} >/dev/null || fail 'gcc is missing: install gcc and the C library headers'; \
	$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \
	  2>/dev/null || fail 'Python.h is missing: install python3-dev'

$(BIN)/python:
	@$(MAKE) --no-print-directory tools
	$(PYTHON) -m venv $(VENV)

$(BUILD_CONFIG): Makefile
	@mkdir -p build
	@printf '[build_ext]\nbuild_lib = %s\nbuild_temp = %s\n' \
	  '$(CURDIR)/build/lib' '$(CURDIR)/build/temp' > $@

# The build's own requirements come first, so that pip need not fetch them a second time.
$(INSTALLED): pyproject.toml | $(BIN)/python $(BUILD_CONFIG)
	@$(BIN)/python -c 'import tomllib; file = open("pyproject.toml", "rb"); \
	  print(*tomllib.load(file)["build-system"]["requires"], sep="\n")' > build/requirements.txt
	$(BIN)/pip install --quiet -r build/requirements.txt
	DIST_EXTRA_CONFIG=$(CURDIR)/$(BUILD_CONFIG) \
	  $(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

# One at a time: each build reads pyproject.toml and may copy shardd's own modules, too.
$(BUILT): $(SOURCES) pyproject.toml $(INSTALLED) | $(BUILD_CONFIG)
	DIST_EXTRA_CONFIG=$(CURDIR)/$(BUILD_CONFIG) $(BIN)/python $(BUILD_EXTENSIONS)
	@test -z '$(BENCH_PYX)' || CFLAGS='$(BENCH_CFLAGS) $(CFLAGS)' $(BIN)/cythonize -j1 -i -3 $(BENCH_PYX)
	@touch $@
