# Two commands on a fresh machine with Python 3.11, pip and make:
#   make demo   the main job, on real photographs
#   make test   ruff, mypy and the CPU tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

OLDEST_TRITON := 3.6.0
# Its interpreter takes whole arrays for numbers, which numpy refuses from 2.4 on.
NUMPY_OF_OLDEST_TRITON := 2.3.5

.PHONY: demo test test-oldest-triton clean

demo: $(READY)
	$(BIN)/iopipe demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not gpu and not dali and not s3 and not fuzz_long"

# The kernels once more, with the oldest Triton that is supported, beside the pinned one.
test-oldest-triton: $(READY)
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
		--target "$$folder" "triton==$(OLDEST_TRITON)" "numpy==$(NUMPY_OF_OLDEST_TRITON)" && \
	export PYTHONPATH="$$folder" && \
	$(BIN)/python -c 'import triton; assert triton.__version__ == "$(OLDEST_TRITON)"' && \
	$(BIN)/pytest -m "not gpu" -W "ignore:Conversion of an array:DeprecationWarning" tests/kernels

# torch comes first and pinned: any other spelling may bring gigabytes of CUDA libraries.
# mosaicml-streaming comes without what it asks for (cloud clients, old numpy): tests use its
# shard writer alone.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps "$$(grep '^mosaicml' constraints.txt)"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
