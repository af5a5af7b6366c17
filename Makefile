# `make demo` and `make test` do all the set-up: they need Python 3.11 or newer with pip, and git.
PYTHON ?= python3
BIN := .venv/bin
# Ray starts many processes; each would compile every import again without cached bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint format clean

demo: .venv/ready
	$(BIN)/bikd demo

test: lint
	$(BIN)/python -m pytest

# What takes minutes, such as nodes that die; no part of `make test`.
test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Set-up: everything pinned, bytecode compiled. Made again when a pin changes.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache
