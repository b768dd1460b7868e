# Everything that is done with a checkout. `make help` lists the targets.
#
# Build outputs go to CARGO_TARGET_DIR, by default a cache folder outside the checkout, so that a second clone is warm.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
export CARGO_TARGET_DIR ?= $(CACHE)/meridian/target
MERIDIAN := $(CARGO_TARGET_DIR)/release/meridian

.DEFAULT_GOAL := help
.PHONY: help needs build demo test lint fmt doc bench clean

help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

clean: ## Removes this workspace's build outputs, not those of its dependencies.
	@cargo clean $$(cargo metadata --no-deps --format-version 1 | grep -o '"name":"meridian-[a-z]*"' | sort -u | sed 's/.*:"\(.*\)"/-p \1/')
