# `make demo`: a private answer from a real model, two processes. `make test`: every fast test. Both build into .venv.

PYTHON ?= python3
BIN := .venv/bin
TEST_CORE := target/test-core/_core.abi3.so
RUST := Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name Cargo.toml)

.PHONY: build demo test test-long test-fidelity lint bench-kernels clean
.DELETE_ON_ERROR:

build: .venv/.built

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

demo: build
	$(BIN)/cryptogen demo $(DEMO)

lint: build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	$(BIN)/ruff check python tests examples
	$(BIN)/mypy

test: build $(TEST_CORE)
	cargo test --release --quiet --workspace --exclude cryptogen-python
	CRYPTOGEN_TEST_CORE=$(CURDIR)/$(TEST_CORE) $(BIN)/pytest

test-long: build $(TEST_CORE)
	cargo test --release --workspace --exclude cryptogen-python -- --include-ignored
	CRYPTOGEN_TEST_CORE=$(CURDIR)/$(TEST_CORE) $(BIN)/pytest -m 'long or not long'

# Does any text break the shipped plan? Texts of every class at the model's full context: about half an hour.
test-fidelity: build
	$(BIN)/pytest tests/fidelity

# One thread, the machine's limits measured in the same run. Nothing else should run meanwhile.
bench-kernels:
	cargo bench --quiet --package cryptogen-ring --package cryptogen-he --bench kernels -- --quiet

clean:
	rm -rf .venv target
