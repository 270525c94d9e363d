# `make help` lists what there is. Everything builds into .venv.

PYTHON ?= python3
BIN := .venv/bin
TEST_CORE := target/test-core/_core.abi3.so
RUST := Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name Cargo.toml)

.PHONY: build help demo check lint fmt test test-attacks test-long test-fidelity docs bench-kernels clean
.DELETE_ON_ERROR:

build: .venv/.built ## the package, installed in place in .venv (the default)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.venv/.created:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check 'maturin>=1.7,<2'
	touch $@

# maturin needs VIRTUAL_ENV; the package is installed in place, so Python changes need no build.
.venv/.built: .venv/.created pyproject.toml $(RUST)
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --release --extras test
	touch $@

# The same core with a log of truncation shares, for the bit-for-bit test; never installed.
$(TEST_CORE): .venv/.built
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo build --release --package cryptogen-python --features pyo3/extension-module,insecure-trace
	mkdir -p $(dir $@)
	cp target/release/lib_core.so $@

demo: build ## a private answer from a real model, two processes; DEMO="--tokens 4" for options
	$(BIN)/cryptogen demo $(DEMO)

check: lint test ## what has to hold before a commit: lint, then every fast test

lint: build ## cargo fmt, clippy, ruff, mypy, and the stubs of the core; nothing is changed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	@! LC_ALL=C.UTF-8 grep -rnE --include='*.rs' '^.{101}' crates | grep -E ': *//| // ' || { echo 'comments end at column 100'; exit 1; }
	$(BIN)/ruff check python tests examples
	$(BIN)/mypy
	$(BIN)/stubtest --concise cryptogen._core

fmt: build ## formats Rust and Python, and sorts imports
	cargo fmt --all
	$(BIN)/ruff check --quiet --select I --fix python tests examples
	$(BIN)/ruff format python tests examples

test: build $(TEST_CORE) ## every fast test
	cargo test --release --quiet --workspace --exclude cryptogen-python
	CRYPTOGEN_TEST_CORE=$(CURDIR)/$(TEST_CORE) $(BIN)/pytest

# What `make test` runs of them says nothing if it passes; here every attack prints its figures.
test-attacks: ## minutes: parties that deviate, each attack of SECURITY.md with its figures
	cargo test --release --package cryptogen-attacks -- --include-ignored --nocapture
	cargo test --release --package cryptogen-he --package cryptogen-ot -- deviating --nocapture

test-long: build $(TEST_CORE) ## all tests: minutes more, real models, kill and restart
	cargo test --release --workspace --exclude cryptogen-python -- --include-ignored
	CRYPTOGEN_TEST_CORE=$(CURDIR)/$(TEST_CORE) $(BIN)/pytest -m 'long or not long'

# Does any text break the shipped plan? Texts of every class at the model's full context: about half an hour.
test-fidelity: build ## half an hour: does any text break the shipped plan?
	$(BIN)/pytest tests/fidelity

# The tables of docs/guide/ranges.md take half an hour: `cryptogen bench ranges --docs`. Plots need matplotlib.
docs: build ## Rust documentation without a warning; tables and plots anew from benches/
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude cryptogen-python --no-deps --quiet
	$(BIN)/pip install --quiet --disable-pip-version-check 'matplotlib>=3.8'
	$(BIN)/python -m cryptogen.bench.table
	$(BIN)/python -m cryptogen.bench.paper_tables

# One thread, the machine's limits measured in the same run. Nothing else should run meanwhile.
bench-kernels: ## speed of the kernels beside what the machine can do
	cargo bench --quiet --package cryptogen-ring --package cryptogen-he --bench kernels -- --quiet

clean: ## removes .venv and target
	rm -rf .venv target
