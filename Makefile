# What a contributor runs, in an active virtual environment; .ci/run calls the same targets. CONTRIBUTING.md says when.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python
TESTS ?=
SECONDS_LONG ?= 300
export PIP_CONSTRAINT ?= $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: help install install-torch check check-systems check-workflows format test test-all test-torch bench docs site warnings sanitize sanitize-threads campaign

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## whisq as you edit it, and every tool but torch; again after a change of native/
	$(PYTHON) -m pip install -q -e '.[dev]'

install-torch: ## torch, which runs the model on a GPU and holds numpy's arithmetic to account in the tests
	$(PYTHON) -m pip install -q -e '.[dev,gpu]'

check: ## lint, format, types, import contract, C++ format
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	clang-format --dry-run --Werror native/*.cpp native/*.h

check-systems: ## types as they are on Windows and macOS
	mypy --platform win32 --cache-dir .mypy_cache/win32
	mypy --platform darwin --cache-dir .mypy_cache/darwin

check-workflows: ## the workflows of GitHub against their schema
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: ## what `check` would complain of, mended where a tool can
	ruff check --fix .
	ruff format .
	clang-format -i native/*.cpp native/*.h

test: ## the fast tests on all cores; TESTS=tests/formats for some of them
	$(PYTHON) -m pytest -q -n auto -m "not slow" $(TESTS)

test-all: ## everything but torch, where that is not installed
	$(PYTHON) -m pytest $(TESTS)

test-torch: ## what needs torch, and only that
	$(PYTHON) -m pytest -m torch $(TESTS)

bench: ## a tenth of the kernels' benchmark; benchmarks/README.md lists the others
	$(PYTHON) benchmarks/kernels.py --quick --only-speed

docs: ## every example of README.md and docs/, and every link between pages
	$(PYTHON) -m pytest -q tests/test_readme.py tests/test_docs.py

site: ## the pages as a site in build/site, warnings as errors; the pages that come from the code are made first
	$(PYTHON) -m documentation
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

warnings: ## the core with both compilers, warnings as errors
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	for compiler in g++ clang++; do \
	    echo "native/ with $$compiler, warnings as errors"; \
	    cmake -S . -B "$$work/$$compiler" -G Ninja -DCMAKE_CXX_COMPILER="$$compiler" -DWHISQ_WERROR=ON > /dev/null; \
	    cmake --build "$$work/$$compiler" > "$$work/log" 2>&1 || { cat "$$work/log"; exit 1; }; \
	done

sanitize: ## the kernels' tests under the address and undefined-behaviour sanitizers, in an environment of their own
	.ci/sanitize address,undefined

sanitize-threads: ## the kernels' tests that use several threads, under the thread sanitizer
	.ci/sanitize thread

campaign: ## attack whisq for five minutes, the same way each time; SECONDS_LONG=3600 for longer
	$(PYTHON) -m tests.campaign --seconds $(SECONDS_LONG)
