# The only entry point; CI calls the same targets. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-pod run test conformance soak sim setup lint bench bench-peers bench-policies bench-tcp fuzz image clean

CONFIG ?= config/examples/minimal.yaml
FUZZ_SECS ?= 30
SOAK_SECS ?= 600
TARGETS ?=
IMAGE ?= outrigger:dev
BUILDER ?= rust:1.95-bookworm
RUNTIME ?= scratch
BENCH ?= ../shared/bench
PEERS ?= haproxy,envoy,nginx,ours
ARGS ?=
VENV := $(CURDIR)/target/test-venv

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## two sidecars with mTLS between them, and two versions of a service; Ctrl-C ends it
	cargo run --release --locked -- demo

demo-pod: ## two pods (network namespaces; root), whose programs know of no proxy, and what their sidecars see; ARGS=--once
	cargo build --release --locked
	deploy/demo/pod.sh $(ARGS)

run: ## the proxy alone; CONFIG=file or directory
	cargo run --release --locked -- run --config $(CONFIG)

test: setup ## every test; installs what they need, by package name
	@if cargo nextest --version >/dev/null 2>&1; then \
	  (set -x; cargo nextest run --locked && cargo test --locked --doc); \
	else \
	  (set -x; cargo test --locked --no-fail-fast); \
	fi

conformance: ## what testssl.sh and sslyze find in our TLS; a few minutes
	@.ci/setup $(VENV) scanners
	cargo test --locked --test conformance

soak: setup ## mixed traffic while endpoints die, configurations and certificates change; SOAK_SECS=600
	SOAK_SECS=$(SOAK_SECS) cargo test --locked --test soak -- --nocapture

sim: ## overload and recovery, simulated: prints goodput, draws docs/resilience.svg
	cargo bench --locked --bench sim

setup: ## only install what the tests need
	@.ci/setup $(VENV)

lint: ## format, clippy, licences, bans, sources, documentation
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny --log-level error check licenses bans sources
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

bench: ## microbenches: routing, decide, header hygiene; TARGETS="--bench route"
	cargo bench --locked $(TARGETS)

bench-peers: target/bench-ready ## CPU, latency and memory beside HAProxy, Envoy and nginx; BENCH= PEERS= ARGS="--only h1,feat"
	OURS=$(CURDIR)/target/release/outrigger BENCH_PEERS=$(CURDIR)/benches/peers target/bench/run --peers $(PEERS) $(ARGS)

bench-policies: ## what every policy of resilience costs while none acts; ARGS="--rounds 9"
	cargo build --release --locked
	python3 benches/policies.py target/release/outrigger $(ARGS)

bench-tcp: target/bench-ready ## bytes relayed, up and down, first byte, idle connections beside the same; ARGS="--only up"
	test -x target/bench/meshload/target/release/meshload || cargo build --release --manifest-path target/bench/meshload/Cargo.toml
	OURS=$(CURDIR)/target/release/outrigger python3 benches/tcp.py target/bench $(ARGS)

# A copy, so that nothing is written outside this repository.
.PHONY: target/bench-ready
target/bench-ready:
	cargo build --release --locked
	@test -f $(BENCH)/run || { echo "make: no benchmark in $(BENCH); say BENCH=folder" >&2; exit 1; }
	mkdir -p target/bench
	cp -Rf $(BENCH)/. target/bench/
	chmod -R u+w target/bench
	@test -x target/bench/venv/bin/python3 || target/bench/install-peers

# New finds go to target/; the small committed corpus stays as it is.
fuzz: ## each fuzz target for FUZZ_SECS=30 seconds (nightly toolchain)
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	@for target in $$(cargo +nightly fuzz list); do \
	  mkdir -p target/fuzz/$$target; \
	  (set -x; cargo +nightly fuzz run $$target target/fuzz/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECS) -timeout=5 -rss_limit_mb=1024 -verbosity=0); \
	done

image: ## container image with podman or docker; IMAGE= BUILDER= RUNTIME= (base images), ARGS=
	@tool=$$(command -v podman || command -v docker) || { echo "make image: needs podman or docker" >&2; exit 1; }; \
	(set -x; "$$tool" build $(ARGS) --build-arg BUILDER=$(BUILDER) --build-arg RUNTIME=$(RUNTIME) -t $(IMAGE) .)

clean: ## remove everything that was built
	cargo clean
	rm -rf fuzz/target fuzz/artifacts
