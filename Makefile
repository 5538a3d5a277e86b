# gembin: `make demo` shows it, `make test` proves it. Both set up what a bare Debian or Ubuntu machine lacks.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

# rustup installs here, and a shell that has not been restarted since does not look there yet.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
GEMC := $(TARGET_DIR)/release/gemc
GEMRUN := $(TARGET_DIR)/release/gemrun

MODEL := testdata/models/story-gemma3
DEMO := $(TARGET_DIR)/demo/story.gembin
PROMPT := Write a story about a brave fox.

.PHONY: help setup build demo test clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Install what building and testing need; quiet when nothing is missing
	@.ci/setup

build: ## Build gemc and gemrun, optimised, into target/release
	@.ci/setup build
	cargo build --release --locked $$(.ci/features) -p gembin-compiler -p gembin-runtime --bins

demo: build ## Compile a small story model and let it write (PROMPT="..." for your own)
	@mkdir -p $(dir $(DEMO))
	quoted() { case $$1 in *[!A-Za-z0-9_./=-]*) printf " '%s'" "$$1" ;; *) printf ' %s' "$$1" ;; esac; }
	run() { printf '\n$$'; for word; do quoted "$$word"; done; printf '\n'; "$$@"; }
	run $(GEMC) compile $(MODEL) -o $(DEMO) --quant q8
	run $(GEMRUN) info $(DEMO) | sed -n 1,24p
	run $(GEMRUN) generate $(DEMO) --chat --prompt "$$PROMPT" --max-tokens 200 --seed 7 --stats

demo: export PROMPT := $(PROMPT)

test: setup ## Check formatting, lints, docs and run every test, with a summary
	@.ci/test

clean: ## Remove everything that was built
	@cargo clean
