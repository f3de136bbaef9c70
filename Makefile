# The ways to build and try leasehold; `make` lists them.

# The folder of what is built once: the control plane, the examples, cargo-deny.
export LEASEHOLD_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/leasehold

# Built with `cargo install`: a cache of one version.
cargo_deny_version := 0.20.2
cargo_deny := $(LEASEHOLD_CACHE)/cargo-deny-$(cargo_deny_version)/bin/cargo-deny
cargo_mutants_version := 27.1.0
cargo_mutants := $(LEASEHOLD_CACHE)/cargo-mutants-$(cargo_mutants_version)/bin/cargo-mutants
cargo_cyclonedx_version := 0.5.9
cargo_cyclonedx := $(LEASEHOLD_CACHE)/cargo-cyclonedx-$(cargo_cyclonedx_version)/bin/cargo-cyclonedx
cargo_fuzz_version := 0.13.2
cargo_fuzz := $(LEASEHOLD_CACHE)/cargo-fuzz-$(cargo_fuzz_version)/bin/cargo-fuzz

# What `make static` builds for: this machine's, unless told.
target ?= $(shell uname -m)-unknown-linux-gnu
# Where `make static` leaves it.
static_binary := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/$(target)/release/leasehold
# The name of that processor among container images.
image_arch := $(subst aarch64,arm64,$(subst x86_64,amd64,$(firstword $(subst -, ,$(target)))))
# A comma between the arguments of a call would separate them.
comma := ,
# Static; relocations packed; without the index of stack frames, for there are no symbols to name them by; and no path of
# the machine that it is built on.
static_flags = -C target-feature=+crt-static -C link-arg=-Wl$(comma)-z$(comma)pack-relative-relocs -C link-arg=-Wl$(comma)--no-eh-frame-hdr \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo --remap-path-prefix=$(CURDIR)=/leasehold

# Runs a command, and says what it is and how long it took.
define stage
	@printf '\n==> %s\n' '$(1)' >&2; began=$$(date +%s); \
	$(2) || { printf '==> failed: %s\n' '$(1)' >&2; exit 1; }; \
	printf '==> %s s: %s\n' "$$(($$(date +%s) - began))" '$(1)' >&2
endef

.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: tools examples ## All tests, on a real API server (the first time builds it: 4 minutes)
	$(call stage,lint the charts and run their unit tests,tests/charts/check.sh)
	$(call stage,the election alone: unit tests and 20000 simulated schedules,cargo test --locked --no-default-features --profile sim --lib --test simulation)
	$(call stage,build leasehold and its tests,cargo test --locked --workspace --no-run)
	$(call stage,run the tests,cargo test --locked --workspace)
	$(call stage,visit every state of the election within a bound,$(model) quick)

# The election by itself, optimised, with its checks and its switches.
simulation := cargo test --locked --no-default-features --profile sim --test simulation

.PHONY: sim
sim: ## The election under simulated faults, on all cores: N=1000000 schedules, or SEED=n with its trace, made small by SHRINK=1
	LEASEHOLD_SIM_SEED=$(SEED) LEASEHOLD_SIM_N=$(N) LEASEHOLD_SIM_SHRINK=$(SHRINK) $(simulation) every_invariant_holds -- --nocapture

.PHONY: rules
rules: ## What the simulator says to each broken rule of the election: a table, or RULE=name with the trace, SHRINK=1
	LEASEHOLD_SIM_RULE=$(RULE) LEASEHOLD_SIM_SHRINK=$(SHRINK) $(simulation) $(if $(RULE),one_wrong_rule,wrong_rules) -- --nocapture

model := cargo run --locked --profile sim -p leasehold-model --

.PHONY: model
model: ## The model checker, to the bound of proof.md: SETUP=name for one setup, FAULTS=n and DEPTH=seconds for another bound
	SETUP="$(SETUP)" FAULTS=$(FAULTS) DEPTH=$(DEPTH) $(model)

.PHONY: model-rules
model-rules: ## The shortest path on which the model checker finds each broken rule of the election: a table, or RULE=name
	RULE=$(RULE) $(model) rules

.PHONY: mutants
mutants: $(cargo_mutants) ## Small changes to the election and the membership, one at a time: which does no test notice? FILE=election/seen.rs for one file (hours)
	$(call stage,mutations of the pure rooms,LEASEHOLD_SIM_N=$(or $(N),2000) $(cargo_mutants) mutants $(if $(FILE),-f 'src/$(FILE)',-f 'src/election/*.rs' -f 'src/membership/*.rs') -e src/election/broken.rs -e src/membership/name.rs --no-default-features --profile mutants -C=--lib -C=--test=simulation --timeout 120 -o $(or $(CARGO_TARGET_DIR),target) -- -- election membership every_invariant)

.PHONY: fuzz
fuzz: $(cargo_fuzz) ## Fuzzes all that parses bytes from outside, a minute a target: SECONDS_EACH=600, TARGET=name for one
	$(call stage,build the targets (the first time 6 min on two cores),$(cargo_fuzz) build --sanitizer none $(TARGET))
	$(call stage,fuzz,CARGO_FUZZ=$(cargo_fuzz) fuzz/run.sh $(or $(SECONDS_EACH),60) $(TARGET))

.PHONY: chaos
chaos: tools ## Sidecars, two API servers and etcd under faults of every kind: MINUTES=10, SEED=n for the same schedule
	LEASEHOLD_CHAOS_MINUTES=$(or $(MINUTES),10) LEASEHOLD_CHAOS_SEED=$(SEED) cargo test --locked --test chaos no_two_pods -- --nocapture

.PHONY: soak
soak: tools static ## A hundred sidecars for an hour, faults on: memory, descriptors and threads of each: MINUTES=60, SEED=n
	LEASEHOLD_SOAK_MINUTES=$(or $(MINUTES),60) LEASEHOLD_CHAOS_SEED=$(SEED) LEASEHOLD_BINARY=$(static_binary) cargo test --locked --test chaos -- --ignored --nocapture

.PHONY: bench
bench: tools ## How long a hand-off takes on a real API server, and what a pod weighs: N=200 for more rounds
	$(call stage,build the release,cargo build --locked --release --bin leasehold)
	$(call stage,measure,$(if $(wildcard /dev/shm),TMPDIR=/dev/shm) LEASEHOLD_BENCH_N=$(N) LEASEHOLD_BINARY=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release/leasehold cargo bench --locked --profile dev --bench hand_off)
	$(call stage,a hundred members$(comma) and a thousand,LEASEHOLD_BINARY=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release/leasehold cargo test --locked --test members -- --ignored --nocapture --test-threads=1)

.PHONY: compare
compare: tools ## The same faults on leasehold and on client-go's elector: ROUNDS=5 TIMES=short FAULT=silent
	$(call stage,compare,LEASEHOLD_COMPARE_ROUNDS=$(ROUNDS) LEASEHOLD_COMPARE_TIMES=$(TIMES) LEASEHOLD_COMPARE_FAULT=$(FAULT) cargo test --locked --test compare -- --exact compare --ignored --nocapture)

.PHONY: charts
charts: ## The Helm charts: lint, unit tests, and against the sidecar and a real API server
	$(call stage,lint the charts and run their unit tests,tests/charts/check.sh)
	$(call stage,hold them against the sidecar and an API server,cargo test --locked --test charts)

.PHONY: static
static: ## The release as one static file, the same bytes wherever it is built
	$(call stage,build the static release,RUSTFLAGS="$(static_flags)" cargo build --locked --release --bin leasehold --target $(target))

.PHONY: image
image: static ## The container image of that file: target/image/leasehold-ARCH.tar (an OCI archive)
	$(call stage,build the image,tests/image/build.sh $(static_binary) $(image_arch) $(or $(CARGO_TARGET_DIR),target)/image)

.PHONY: reproducible
reproducible: static ## Builds the static release again, elsewhere, and compares
	$(call stage,compare with a second build,tests/image/reproducible.sh $(static_binary))

.PHONY: sbom
sbom: $(cargo_cyclonedx) ## What the program is made of, as CycloneDX: target/image/leasehold.cdx.json
	$(call stage,list what the program is made of,tests/image/sbom.sh $(cargo_cyclonedx) $(target) $(or $(CARGO_TARGET_DIR),target)/image)

.PHONY: e2e
e2e: static ## Scenarios on a real Kubernetes of one node and more, as root: TEST=name for one of them
	$(call stage,the scenarios on a real node,tests/e2e/run.sh $(static_binary) $(TEST))

.PHONY: node
node: static ## A real Kubernetes of one node, as root; prints the line that kubectl and helm need
	tests/node/node.sh up $$(tests/node/images.sh leasehold $(static_binary))

.PHONY: node-down
node-down: ## Takes that away
	tests/node/node.sh down

.PHONY: check
check: $(cargo_deny) ## Formatting, clippy, and what the dependencies may be
	$(call stage,formatting,cargo fmt --all --check)
	$(call stage,clippy,cargo clippy --locked --workspace --all-targets -- -D warnings)
	$(call stage,clippy: the tests that run by themselves,cargo clippy --locked --test e2e --test simulation -- -D warnings)
	$(call stage,licences and sources of the dependencies,$(cargo_deny) --locked check licenses bans sources)

.PHONY: tools
tools: ## The programs that the tests need: etcd, kube-apiserver, kubectl, Helm, client-go's elector
	$(call stage,the programs that the tests run,tests/control-plane/tools.sh etcd kube-apiserver kubectl helm helm-unittest prometheus-operator clientgo >/dev/null)

.PHONY: examples
examples: ## Everything in examples/, with the toolchains of this machine
	$(call stage,what the examples are run from,tests/examples/build.sh >/dev/null)

.PHONY: tools-path
tools-path: ## The folder that holds etcd, kube-apiserver and kubectl (with make -s: only that)
	@tests/control-plane/tools.sh

$(cargo_deny):
	$(call stage,build cargo-deny $(cargo_deny_version) (usually 3 min on two cores, once),cargo install cargo-deny --version $(cargo_deny_version) --locked --root $(LEASEHOLD_CACHE)/cargo-deny-$(cargo_deny_version))

$(cargo_mutants):
	$(call stage,build cargo-mutants $(cargo_mutants_version) (usually 2 min on two cores, once),cargo install cargo-mutants --version $(cargo_mutants_version) --locked --root $(LEASEHOLD_CACHE)/cargo-mutants-$(cargo_mutants_version))

$(cargo_cyclonedx):
	$(call stage,build cargo-cyclonedx $(cargo_cyclonedx_version) (usually 1 min on two cores, once),cargo install cargo-cyclonedx --version $(cargo_cyclonedx_version) --locked --root $(LEASEHOLD_CACHE)/cargo-cyclonedx-$(cargo_cyclonedx_version))

$(cargo_fuzz):
	$(call stage,build cargo-fuzz $(cargo_fuzz_version) (usually 1 min on two cores, once),cargo install cargo-fuzz --version $(cargo_fuzz_version) --locked --root $(LEASEHOLD_CACHE)/cargo-fuzz-$(cargo_fuzz_version))
