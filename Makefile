# Every target works on a fresh checkout: what it needs it installs into .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# pip, ruff and mypy keep one core busy each: the native modules are compiled beside them.
MAKEFLAGS += -j2
# A hundred processes import the same files: these are compiled once, whatever the caller prefers.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test lint types pytest fuzz build bench bench-results gpu-check dist format clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPP = $(shell find csrc kernels tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
BUILD_NATIVE = $(BIN)/python setup.py -q build_native --inplace
INSTALL_INPUTS := pyproject.toml setup.py MANIFEST.in constraints-test.txt

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Without a GPU the cuda backend is not compiled: it takes longer than all the rest, and cannot run.
demo: $(VENV)/.installed-deps  ## Install what the demo needs and run it; pictures go to demo/
	@C2F_BUILD=$(or $(C2F_BUILD),$(if $(wildcard /dev/nvidia0),auto,cpu)) $(BUILD_NATIVE) \
	  || { echo "No fast kernels (the reason stands above): the demo runs on the reference."; \
	    C2F_BUILD=none $(BUILD_NATIVE); }
	$(BIN)/c2f demo -o demo

test: lint types pytest  ## Lint, types, every test, and each benchmark body once

lint: $(VENV)/.installed-dev  ## ruff, clang-format, and the rules no linter knows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo clang-format; $(BIN)/clang-format --dry-run -Werror $(CPP)
	@# Exit 1 of grep is "nothing found", which is what we want; 2 is an error.
	@refuse() { local rule=$$1; shift; local rc=0; grep -rnE "$$@" || rc=$$?; \
	  if [ $$rc -ne 1 ]; then echo "$$rule" >&2; exit 1; fi; }; \
	refuse "no torch headers in kernels/ or csrc/" '#include *[<"](torch|ATen|c10)' kernels csrc; \
	refuse "no fast-math" -e '-ffast-math|-Ofast|--use_fast_math|-funsafe-math' kernels csrc cmake CMakeLists.txt; \
	refuse "no .item() in c2fcore/ops: ops never wait for the device" '\.item\(\)' c2fcore/ops

types: $(VENV)/.installed-dev  ## mypy, strict, on c2fcore
	$(BIN)/mypy

# A backend that is missing is a failure here, not a skip. A file's tests stay in one process, as they
# share what is costly to make; PYTEST_ARGS=-n0 runs all in one (for --pdb, or to see which hangs).
pytest: C2F_BUILD := $(or $(C2F_BUILD),$(if $(shell command -v nvcc),cuda))
pytest: $(VENV)/.installed-dev build  ## Run the tests, and the benchmark bodies once each
	C2F_REQUIRE=cpu $(BIN)/pytest tests benchmarks --benchmark-disable -n auto --maxprocesses=8 \
	  --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Without a GPU cuda runs in the emulator of the tests, triton by their machine for PTX: SEEDS=1000:1100.
BACKEND ?= cpu
SEEDS ?= 1000:3000
SIDE ?= 60
fuzz: C2F_BUILD := $(or $(C2F_BUILD),$(if $(wildcard /dev/nvidia0),auto))
fuzz: $(VENV)/.installed-dev build  ## Random geometry against the reference (BACKEND=, SEEDS=FIRST:END, SIDE=)
	@test=test_drawn.py; export C2F_SEEDS=$(SEEDS) C2F_SIDE=$(SIDE); \
	case $(BACKEND)$(wildcard /dev/nvidia0) in \
	  triton) test=test_triton_ptx.py ;; \
	  cuda) export C2F_CUDA_ON_HOST=$$(PYTHONPATH=tests $(BIN)/python -c \
	    'import emulator_build; print(emulator_build.path_of("_cuda_on_host"))') ;; \
	esac; \
	$(BIN)/pytest tests/$$test -k drawn --backend $(BACKEND) -n auto --maxprocesses=5

build: $(VENV)/.installed  ## Compile the native modules in place (only what changed; warnings are errors)
	@C2F_BUILD=$(or $(C2F_BUILD),cpu) CMAKE_ARGS="-DC2F_WERROR=ON $(CMAKE_ARGS)" $(BUILD_NATIVE)

bench: $(VENV)/.installed-dev build  ## Run the benchmarks
	$(BIN)/pytest benchmarks $(PYTEST_ARGS)

# Needs no .venv and no network: the Python whose torch sees the GPU, .venv's if there is one.
# Parts of it: make gpu-check ONLY=install,tests BUDGET=300 OUT=folder; ONLY=bench BUDGET=1500. In two
# turns: ONLY=install,tests,sanitize,bench-warm BUDGET=420, then ONLY=bench SKIP=install,bench-warm.
# C2F_COMMIT=... says what is measured where there is no git.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-check:  ## Tests, sanitizers and benchmarks on a GPU within ten minutes (ONLY=, BUDGET=, OUT=)
	@$(GPU_PYTHON) benchmarks/gpu_check.py $(if $(ONLY),--only $(ONLY)) $(if $(SKIP),--skip $(SKIP)) \
	  $(if $(BUDGET),--budget $(BUDGET)) $(if $(OUT),--out $(OUT))

# What is committed under benchmarks/results for this machine class; meant to take about 12 minutes
# on 2 quiet cores. A failure is a row, and not the end of the run.
RESULTS := benchmarks/results
BENCH_PEERS := unfold,fold,interpolate-loop,roi-align,grid-sample,kornia,opencv
QUICK := --no-charts --rounds 6 --budget 3
bench-results: $(VENV)/.installed-dev build  ## Measure all that is committed again: rows, charts, tables
	$(PIP) install -q -c constraints-test.txt kornia opencv-python-headless
	device=$(RESULTS)/$$($(BIN)/python -c 'from c2fcore.bench.provenance import device_slug as f; print(f())'); \
	mkdir -p $$device; rm -f $$device/{network,ops,scale,training}.jsonl; \
	$(BIN)/python benchmarks/demands.py --rounds 5 --out $(RESULTS) || true; \
	$(BIN)/c2f bench $(QUICK) --zooms 1 || true; \
	$(BIN)/c2f bench $(QUICK) --zooms 2,3,4 --no-memory || true; \
	$(BIN)/c2f bench $(QUICK) --zooms 1 --n 8,16,64 --no-memory || true; \
	$(BIN)/c2f bench $(QUICK) --zooms 1 --sizes 896,1024 --no-memory || true; \
	$(BIN)/c2f bench --no-charts --coarse fcn_hrnet_w18 --zooms 1,2,4 --ways reference,cpu,engine --warmup 1 \
	  --rounds 3 --no-memory || true; \
	$(BIN)/c2f bench --no-charts --op all --sizes 1024 --zooms 1,2,4 --rounds 7 \
	  --ways reference,reference-shared,cpu,$(BENCH_PEERS) || true; \
	$(BIN)/c2f bench --no-charts --scale --ways cpu --rounds 3 || true; \
	$(BIN)/python benchmarks/bench_training_windows.py --out $$device/training.jsonl || true; \
	$(BIN)/c2f bench --charts $$device
	$(BIN)/python benchmarks/readme_tables.py

format: $(VENV)/.installed-dev  ## Rewrite the sources in house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

dist: $(VENV)/.installed-dev  ## sdist and wheel in dist/
	$(BIN)/python -m build

clean:  ## Remove build results (not .venv)
	rm -rf build dist *.egg-info demo c2fcore/*.so c2fcore/_build_info.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "c2fcore needs Python 3.10 or newer; say which: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make environments (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The build requirements stand in the environment, so that later builds are incremental and offline.
# Native modules are left to `build`: it knows which compiler options are wanted.
$(VENV)/.installed: $(INSTALL_INPUTS) | $(BIN)/python
	$(PIP) install -q -c constraints-test.txt setuptools wheel pybind11 cmake ninja
	C2F_BUILD=none $(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

# c2fcore is there already: by its name pip adds what it needs, and leaves compiled modules alone.
$(VENV)/.installed-deps: $(VENV)/.installed
	@echo "Installing into $(VENV): PyTorch with its CUDA libraries is some 5 GB, which takes minutes."
	$(PIP) install -q -c constraints-test.txt c2fcore
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-deps
	$(PIP) install -q -c constraints-test.txt 'c2fcore[dev,models,train,scene,plot,cuda13]'
	@# The oldest Triton that the kernels are for, beside the one of this torch: test_triton_oldest.py.
	$(PIP) install -q --no-deps --upgrade --target $(VENV)/triton-oldest \
	  "triton==3.6.0; platform_system == 'Linux' and python_version < '3.15'"
	@touch $@
