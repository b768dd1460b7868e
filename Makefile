# Everything that is done with a checkout. `make help` lists the targets.
#
# Build outputs go to CARGO_TARGET_DIR, by default a cache folder outside the checkout, so that a second clone is warm.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
export CARGO_TARGET_DIR ?= $(CACHE)/meridian/target
MERIDIAN := $(CARGO_TARGET_DIR)/release/meridian

.DEFAULT_GOAL := help
.PHONY: help needs build demo test lint fmt doc bench bench-peers sim soak sabotage histories kills power clean

help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

needs: ## Installs what a build needs (as root on Debian), or names it.
	@scripts/needs

build: needs ## Builds the meridian program, optimized.
	@scripts/step "build (release)" cargo build --release --locked -p meridian-cli
	@echo "    $(MERIDIAN)"

demo: build ## Shows a three-region cluster at work, with a region cut off and healed.
	@$(MERIDIAN) demo

test: ## Formatting, lints, all tests, documentation.
	@scripts/test

lint: needs ## Formatting and lints only.
	@scripts/step "format" cargo fmt --all --check
	@scripts/step "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## Formats the code.
	@cargo fmt --all

doc: needs ## Builds the documentation of every crate.
	@RUSTDOCFLAGS="-D warnings" scripts/step "rustdoc" cargo doc --workspace --no-deps --locked
	@echo "    $(CARGO_TARGET_DIR)/doc/meridian_types/index.html"

bench: build ## Measures three emulated regions; BENCH="..." are options of `meridian bench`.
	@$(MERIDIAN) bench $(or $(BENCH),--topology three --workload ycsb-a --clients 1)

bench-peers: needs ## Measures Meridian side by side with etcd, about 5 minutes; PEERS="..." are options (PEERS=--help).
	@scripts/step "build (comparison)" cargo build --release --locked -p meridian-cli -p meridian-peers
	@$(CARGO_TARGET_DIR)/release/meridian-peers --dir $(CARGO_TARGET_DIR) $(PEERS)

sim: needs ## Simulates one cluster under faults: make sim SEED=42 (TRACE=file for every event; SIM="..." for `sim --help`).
	@cargo build -q --locked -p meridian-tests --bin sim
	@$(CARGO_TARGET_DIR)/debug/sim --seed $(or $(SEED),1) $(if $(TRACE),--trace $(TRACE)) $(SIM)

soak: needs ## Simulates seeds for a while, from a random one on: make soak MINUTES=60 (FROM=seed, SIM="...").
	@cargo build -q --locked -p meridian-tests --bin sim
	@$(CARGO_TARGET_DIR)/debug/sim --from $(or $(FROM),$$(date +%s)) --minutes $(or $(MINUTES),60) --keep-going $(SIM)

sabotage: needs ## Shows for every known-wrong behaviour how many simulated seeds it takes until a check notices it.
	@cargo build -q --locked -p meridian-tests --bin sim
	@$(CARGO_TARGET_DIR)/debug/sim --sabotage-suite --seeds 100 --rows $(or $(ROWS),3) $(SIM)

histories: needs ## Kills, cuts and pauses real processes under load, then checks the histories: make histories MINUTES=10 SEED=1.
	@cargo build -q --locked -p meridian-tests --bins
	@$(CARGO_TARGET_DIR)/debug/soak --seed $(or $(SEED),1) --minutes $(or $(MINUTES),10) $(SOAK)

kills: needs ## Kills nodes with SIGKILL under load, KILLS=200 of them, and reads every acknowledged write back (SEED=1).
	@cargo build -q --locked -p meridian-tests --bins
	@$(CARGO_TARGET_DIR)/debug/soak --seed $(or $(SEED),1) --kills $(or $(KILLS),200) --faults kill,kill-pair,kill-all --every 1500ms $(SOAK)

power: needs ## Cuts the power of the storage CYCLES=3000 times and checks what is left: real engine, real files (SEED=1).
	@cargo build -q --locked -p meridian-power
	@$(CARGO_TARGET_DIR)/debug/power --seed $(or $(SEED),1) --cycles $(or $(CYCLES),3000) $(POWER)

clean: ## Removes this workspace's build outputs, not those of its dependencies.
	@cargo clean $$(cargo metadata --no-deps --format-version 1 | grep -o '"name":"meridian-[a-z]*"' | sort -u | sed 's/.*:"\(.*\)"/-p \1/')
