# The one door. `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps deps-test build lab demo demo-live test test-vm check fmt clippy deny unit conformance bench bench-live performance \
	hairpin soak fuzz recording clean need-root

# Where cargo builds, as cargo and the tests see it too.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# What a demo writes; configs/demo.yaml names the directory.
DEMO := target/demo
# Seconds of the hairpin test of `make hairpin` and `make soak`.
HAIRPIN_SECONDS ?= $(or $(CGNAT_HAIRPIN_SECONDS),60)
SOAK_SECONDS ?= 3600
# Random events of `make soak` in each of its worlds, of which there are more than ten, and their seed.
SOAK_EVENTS ?= 1000000
SOAK_SEED ?= $(shell date +%s)
# Seconds of NAT time that `make soak` gives 2,000 subscribers of the program itself.
SOAK_SPECIFICATION_SECONDS ?= 600
# Seconds that `make fuzz` spends on each target.
FUZZ_SECONDS ?= 60
# Coverage for libFuzzer, with a stable compiler.
FUZZ_FLAGS := -Cpasses=sancov-module -Ccodegen-units=1 $(addprefix -Cllvm-args=-sanitizer-coverage-,\
	level=4 inline-8bit-counters pc-table trace-compares)

# Debian and Ubuntu packages: to build, and further ones to test.
BUILD_PACKAGES := gcc libc6-dev pkg-config libdpdk-dev dpdk libpcap-dev libclang-dev clang
TEST_PACKAGES := $(shell sed 's/\#.*//' tests/PACKAGES)
CARGO_DENY := 0.20

CARGO := cargo
LOCKED := --locked --workspace

help: ## list these targets
	@echo "make TARGET, with TARGET one of:"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
		| awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

# $(call install,packages): nothing is asked of the network unless one is missing.
define install
	if ! command -v cargo >/dev/null; then \
		echo "There is no Rust toolchain: install rustup (https://rustup.rs); it then fetches the" \
			"version in rust-toolchain.toml by itself." >&2; exit 1; \
	fi; \
	if ! command -v dpkg-query >/dev/null; then \
		echo "This is not Debian or Ubuntu, so nothing was installed. Needed are what these" \
			"packages hold: $(1)" >&2; exit 0; \
	fi; \
	missing=(); \
	for package in $(1); do \
		state=$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null || true); \
		[[ $$state == installed ]] || missing+=($$package); \
	done; \
	if [[ $${#missing[@]} -eq 0 ]]; then exit 0; fi; \
	echo "Missing packages: $${missing[*]}"; \
	root=(); \
	if [[ $$(id -u) -ne 0 ]]; then \
		if ! command -v sudo >/dev/null; then \
			echo "Installing them needs root and there is no sudo. As root:" \
				"apt-get install $${missing[*]}" >&2; exit 1; \
		fi; \
		root=(sudo); \
	fi; \
	quiet=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y); \
	"$${root[@]}" "$${quiet[@]}" update || echo "The package lists could not be refreshed." >&2; \
	if ! "$${root[@]}" "$${quiet[@]}" install --no-install-recommends $${missing[*]}; then \
		echo "apt-get could not install all of: $${missing[*]}" \
			"(its reason is above)" >&2; exit 1; \
	fi
endef

deps: ## install what a build needs, if it is missing
	@$(call install,$(BUILD_PACKAGES))

# cargo-deny runs for seconds, so it is compiled without optimisation: that takes half the time.
deps-test: ## install what the tests need, if it is missing
	@$(call install,$(BUILD_PACKAGES) $(TEST_PACKAGES))
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "cargo-deny is missing; building it takes some minutes"; \
		env -u CARGO_TARGET_DIR $(CARGO) install --debug cargo-deny --locked --version '^$(CARGO_DENY)'; \
	fi

build: deps ## release build of cgnat, and of what counts its instructions
	$(CARGO) build $(LOCKED) --release --bin cgnat --bin hot-path

lab: deps ## release build of everything, with the benches and what else the laboratory has
	$(CARGO) build $(LOCKED) --release --bins

demo: build ## translate a recording of real traffic; needs no root, huge pages or network card
	@mkdir -p $(DEMO)
	$(TARGET)/release/cgnat run configs/demo.yaml --seed 1 --stats-file $(DEMO)/stats.json
	@echo
	@echo "Translated captures, to be read with tcpdump -nr or wireshark:"
	@echo "  $(DEMO)/external-out.pcap   what subscribers sent, as the Internet sees it"
	@echo "  $(DEMO)/internal-out.pcap   what came back, as subscribers see it"
	@echo "Statistics: $(DEMO)/stats.json. What they came from: tests/captures/README.md."

demo-live: need-root deps-test lab ## curl, dig, ping and iperf3 through the NAT, live (root)
	$(TARGET)/release/demo-live

need-root:
	@if [[ $$(id -u) -ne 0 ]]; then \
		echo "This needs root: it makes network namespaces, veths and packet sockets. Run" \
			"\`sudo env PATH=\"\$$PATH\" make $(MAKECMDGOALS)\`. Without root there are" \
			"\`make demo\` and \`make check\`." >&2; exit 1; \
	fi

# $(call run-tests,log,kind,arguments): runs tests and adds up what each test program printed. A
# test that is ignored is a failure, and so is one that is left out where kind is `all`.
define run-tests
	mkdir -p $(TARGET); status=0; \
	$(CARGO) test $(LOCKED) --no-fail-fast $(3) 2>&1 | tee $(TARGET)/$(1) || status=$$?; \
	awk -v kind=$(2) '/^test result:/ { for (i = 2; i <= NF; i++) { \
			if ($$i ~ /^passed/) p += $$(i - 1); if ($$i ~ /^failed/) f += $$(i - 1); \
			if ($$i ~ /^ignored/) n += $$(i - 1); if ($$i ~ /^filtered/) o += $$(i - 1) } } \
		END { printf "\n%d passed, %d failed", p, f; \
			if (n > 0) printf ", %d IGNORED", n; \
			if (kind == "rootless") printf ", %d left out because they need root", o; \
			else if (kind == "all" && o > 0) printf ", %d LEFT OUT", o; \
			print ""; \
			exit p == 0 || n > 0 || (kind == "all" && o > 0) }' $(TARGET)/$(1) || status=1; \
	exit $$status
endef

test: need-root deps-test fmt clippy deny build ## everything that CI runs; nothing is skipped (root)
	@$(call run-tests,test.log,all,)

test-vm: need-root deps-test build ## the part of `make test` on network cards bound to vfio-pci, in a virtual machine; fetches a kernel (root)
	@$(call run-tests,vm.log,some,-p cgnat-tests --test vm -- --nocapture --test-threads 1)

check: deps-test fmt clippy deny build ## the part of `make test` that needs no root
	@$(call run-tests,check.log,rootless,-- --skip root_)

fmt: ## is the code formatted?
	$(CARGO) fmt --all --check

clippy: deps ## lints, each a failure
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings

deny: deps-test ## licences, sources and advisories of the dependencies
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources
	@if timeout 120 $(CARGO) deny --locked fetch db >/dev/null 2>&1; then \
		echo "$(CARGO) deny --locked check --disable-fetch advisories"; \
		$(CARGO) deny --locked check --disable-fetch --hide-inclusion-graph advisories; \
	else \
		echo "advisories: NOT CHECKED, the advisory database cannot be reached from here"; \
	fi

bench: need-root deps-test lab ## the worker's loop beside DPDK's testpmd, of tables of 1 to 16 million mappings, flows that come and go, two workers; needs 3.25 GiB of huge pages (root)
	@$(call install,dpdk-dev)
	$(TARGET)/release/bench all $(if $(COMPARE),--compare $(COMPARE)) --out $(TARGET)/bench/core.json

bench-live: need-root deps-test lab ## the kernel's NAT and cgnat in turn over veths, 4 minutes (root)
	$(TARGET)/release/bench-live --output $(TARGET)/bench/live.json

performance: lab ## docs/performance.md from what `make bench` and `make bench-live` measured
	$(TARGET)/release/bench document --from $(TARGET)/bench/core.json --live $(TARGET)/bench/live.json

conformance: deps build ## every clause of the RFCs through the real program; a table at the end
	$(CARGO) test --locked -p cgnat-tests --test conformance

hairpin: need-root deps-test build ## hairpinning between workers while mappings expire, 60 s (root)
	@export CGNAT_HAIRPIN_SECONDS=$(HAIRPIN_SECONDS); \
	$(call run-tests,hairpin.log,some,hairpin -- --nocapture)

soak: need-root build ## random events against the specification, in memory and for ten minutes through the program; leases, exhaustion and attacks for minutes, hairpinning for an hour (root)
	CGNAT_EVENTS=$(SOAK_EVENTS) CGNAT_SEED=$(SOAK_SEED) CGNAT_FUZZ=2000000 \
		$(CARGO) test $(LOCKED) --release -p cgnat-core --test specification --test fuzz -- --nocapture agree mutations
	CGNAT_SPECIFICATION_SECONDS=$(SOAK_SPECIFICATION_SECONDS) CGNAT_SEED=$(SOAK_SEED) \
		$(CARGO) test $(LOCKED) -p cgnat-tests --test replay_specification -- --nocapture two_thousand
	@export CGNAT_SOAK=1; $(call run-tests,soak.log,some,--test netns_leases --test netns_exhaustion --test netns_attacks -- --nocapture --test-threads 1)
	@$(MAKE) hairpin HAIRPIN_SECONDS=$(SOAK_SECONDS)

fuzz: deps ## look for inputs that break a parser or the NAT, 60 s for each target
	@command -v c++ >/dev/null || { echo "libFuzzer needs a C++ compiler: apt-get install g++" >&2; exit 1; }
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --locked --release --manifest-path tests/fuzz/Cargo.toml \
		--target x86_64-unknown-linux-gnu --target-dir $(TARGET)/fuzz
	@for seeds in tests/fuzz/seeds/*; do \
		name=$$(basename $$seeds); mkdir -p $(TARGET)/fuzz/corpus/$$name; \
		echo "== $$name, $(FUZZ_SECONDS) s"; \
		CGNAT_FUZZ_TARGET=$$name $(TARGET)/fuzz/x86_64-unknown-linux-gnu/release/cgnat-fuzz \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -detect_leaks=0 -print_final_stats=1 \
			-artifact_prefix=$(TARGET)/fuzz/found-$$name- $(TARGET)/fuzz/corpus/$$name $$seeds \
			2>&1 | grep -E "panicked|^SUMMARY|Test unit|stat::(number|new)|DONE" -A1; \
		[[ $${PIPESTATUS[0]} -eq 0 ]] || { echo "$$name: what broke it is $(TARGET)/fuzz/found-$$name-*" >&2; exit 1; }; \
	done

recording: need-root deps-test lab ## record tests/captures anew from real programs (root)
	$(TARGET)/release/record-capture

clean: ## remove what was built
	$(CARGO) clean
	rm -rf $(DEMO)
