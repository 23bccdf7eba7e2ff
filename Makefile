# The two commands of the README are `make demo` and `make test`; each works alone on a fresh clone with
# Python, make and a C++ compiler. Rust comes from cargo, or from maturin where cargo is missing.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)
RUST_SOURCES := $(wildcard rustbpe/src/*.rs) rustbpe/Cargo.toml rustbpe/Cargo.lock
PACKAGE := nanochat_pl tests benchmarks scripts slurm cli.py
CRATE := --manifest-path rustbpe/Cargo.toml

# Say what is wrong and what mends it, and fail: $(call refuse,PROBLEM,REMEDY)
refuse = { printf 'error: %s\n%s\n' "$(1)" "$(2)" >&2; exit 1; }

.PHONY: demo demo-controls test test-slow test-slurm chaos lint bench lock install clean

demo: install
	$(BIN)/python cli.py demo

demo-controls: install
	$(BIN)/python cli.py demo --controls true

test: install
	@if command -v cargo >/dev/null; then cargo test --locked --quiet $(CRATE); else echo "cargo is missing: the crate's own tests are skipped"; fi
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup

test-slow: install
	$(BIN)/python -m pytest -m "slow and not gpu and not multi_gpu" --timeout 3600

# A real SLURM of one node, from Debian's packages; the tutorial's commands run in it too.
test-slurm: install
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "SLURM's tests need root on Debian or Ubuntu; skipped"; \
	else \
		command -v srun >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge shellcheck; } && \
		REQUIRE_SLURM=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slurm or not slurm" tests/slurm; \
	fi

# Two ranks, 2,000 steps, a hundred misfortunes; prints one line of JSON.
chaos: install
	PYTHONPATH=. $(BIN)/python tests/chaos.py

lint: install
	$(BIN)/ruff format --check $(PACKAGE)
	$(BIN)/ruff check $(PACKAGE)
	$(BIN)/lint-imports
	cargo fmt --check $(CRATE)
	cargo clippy --locked --quiet --all-targets --all-features $(CRATE) -- -D warnings

bench: install
	@for file in benchmarks/*.py; do $(BIN)/python $$file; done

lock: install
	$(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
		--extra dev pyproject.toml -o requirements.lock

install: $(STAMPS)/crate

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || $(call refuse,$(PYTHON) is missing or older than 3.10,Name another: make install PYTHON=python3.12)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || \
		$(call refuse,uv could not be installed: there is no network here or no package of that version,On a login node or wherever there is network: make install)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: requirements.lock | $(STAMPS)/venv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@touch $@

$(STAMPS)/crate: $(RUST_SOURCES) $(STAMPS)/packages
	@if command -v cargo >/dev/null; \
		then VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --skip-install; \
		else $(BIN)/uv pip install --python $(BIN)/python --no-deps --editable . || \
			$(call refuse,the crate rustbpe could not be built: no cargo is here and none could be fetched,Install Rust 1.88 or newer (rustup); then: make install); fi
	@touch $@

ifeq ($(wildcard nanochat_pl/_rustbpe*.so),) # the stamp of what is gone does not count
.PHONY: $(STAMPS)/crate
endif

clean:
	rm -rf $(VENV) rustbpe/target nanochat_pl/_rustbpe*.so
