# make demo | test | bench | docs | wheel | lint | format | soak | sanitize | cuda-report | gpu | clean. Everything happens inside .venv and build.
PYTHON ?= python3
TORCH ?= torch==2.13.0
SANITIZE ?= address,undefined
ARGS ?=
# what the tests need; EXTRAS=test skips those of optuna and ray, where one has no wheel
EXTRAS ?= test,optuna,ray
export SYMFAST_STRICT ?= 1
export SKBUILD_BUILD_DIR ?= build/dev
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
# a folder is newer when a module came or went, which the editable install has to learn
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/* cmake/*) $(shell find symfast -type d ! -name __pycache__)

.PHONY: demo test bench docs wheel lint format soak sanitize cuda-report gpu clean
demo: .venv/package
	$(BIN)/symfast demo $(ARGS)
test: .venv/package
	$(BIN)/pytest -n2 $(ARGS)
bench: .venv/bench
	$(BIN)/pytest benchmarks $(ARGS); code=$$?; $(BIN)/python benchmarks/readme.py; exit $$code
docs: .venv/docs
	$(BIN)/sphinx-build -q -W -b html docs build/docs && echo build/docs/index.html
wheel: .venv/torch
	bash .ci/wheel $(ARGS)
lint: .venv/dev
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy
	git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cuh' '*.cu' | xargs $(BIN)/clang-format --dry-run -Werror
format: .venv/dev
	$(BIN)/ruff check --fix && $(BIN)/ruff format
	git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cuh' '*.cu' | xargs $(BIN)/clang-format -i
soak: .venv/package
	$(BIN)/python tests/soak.py $(ARGS)
sanitize: .venv/package
	bash .ci/sanitize $(SANITIZE) $(ARGS)
cuda-report: .venv/package
	$(BIN)/python tests/emulation/machine_code.py $(ARGS)
	$(BIN)/python tests/emulation/traffic.py
gpu: .venv/package
	bash .ci/gpu $(ARGS)
clean:
	rm -rf .venv build

# torch first: the build looks for it in this environment. cmake and ninja only where there are none.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(PIP) '$(TORCH)' 'scikit-build-core>=1.0' 'pybind11>=3'
	command -v cmake >/dev/null || $(PIP) cmake
	command -v ninja >/dev/null || $(PIP) ninja
	touch $@
# With its bytecode: folders that a first import adds to would look like new sources afterwards.
.venv/package: .venv/torch $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation -e '.[$(EXTRAS)]'
	$(BIN)/python -m compileall -q symfast
	touch $@
.venv/bench .venv/dev .venv/docs: .venv/%: .venv/package
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation -e '.[$*]'
	touch $@
