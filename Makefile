# Short names for what is plain cargo underneath. `make run` and `make test` work on a machine that has nothing but Rust and make:
# tools/prepare installs the C compiler and cmake that the build needs.

CARGO ?= cargo
.DEFAULT_GOAL := help
.PHONY: help run test conformance fuzz check fmt doc bench hitless systemd load dist pgo prepare

help: ## lists these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# The dev profile: dependencies are optimised, and the program stands in half the time that `--release` takes.
run: prepare ## builds the gateway and starts its demonstration (ends with Ctrl-C)
	$(CARGO) run --locked --bin portcullis -- demo

test: ## all tests, with every feature on
	@tools/prepare test
	$(CARGO) test --locked --all-features

conformance: prepare ## the public suite for HTTP/2, which is built first
	$(CARGO) install --locked --quiet --root target/tools --version 0.2.5 httpwg-cli
	HTTPWG=$(CURDIR)/target/tools/bin/httpwg $(CARGO) test --locked --all-features --test it -- --ignored --nocapture the_public_suite_passes

FUZZ_SECONDS ?= 20
fuzz: ## what reads bytes of strangers, under coverage guidance: FUZZ_SECONDS (20) for each reader
	@tools/prepare fuzz
	FUZZ_SECONDS=$(FUZZ_SECONDS) tools/fuzz

check: prepare ## format, lints (those of the fuzz targets, too), documentation, licences and advisories
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	@# Nothing is linked, so libFuzzer itself, which is C++, is not built.
	CUSTOM_LIBFUZZER_PATH=./libfuzzer.a $(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib --all-features
	@if ! command -v cargo-deny >/dev/null 2>&1; then \
	    echo "cargo-deny is not installed: licences and advisories were not looked at"; exit 0; fi; \
	$(CARGO) deny --locked check bans licenses sources || exit; \
	if $(CARGO) deny --locked fetch db; then $(CARGO) deny --locked check advisories; \
	else echo "the database of advisories cannot be fetched: advisories were not looked at"; fi

fmt: ## formats the code
	$(CARGO) fmt

doc: prepare ## builds the documentation of the code
	$(CARGO) doc --locked --no-deps --lib --open

bench: prepare ## microbenchmarks
	$(CARGO) bench --locked --benches

hitless: prepare ## upgrades and reloads under load: three minutes in which nothing may fail
	load-tests/hitless.sh

systemd: prepare ## the service under a real systemd, in a container: needs root and debootstrap
	$(CARGO) build --locked --all-features --bin portcullis --example drill
	load-tests/systemd.sh

load: prepare ## compares with nginx, HAProxy, Envoy, Traefik, Caddy and bare Pingora, one core each
	@tools/prepare load
	load-tests/compare.sh

dist: prepare ## the program as it is shipped: target/dist/portcullis
	$(CARGO) build --locked --profile dist --features mimalloc --bin portcullis

pgo: prepare ## as dist, and optimised by a profile of real load
	load-tests/pgo.sh

prepare:
	@tools/prepare build
