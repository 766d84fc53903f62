# Each target is a thin line; what is longer is a script of its own.

.DEFAULT_GOAL := help
.PHONY: help build check up down plugin deb test test-engines test-inside test-cluster test-vm units conformance bench bench-quick bench-check soak oracle demo demo-shell demo-status demo-down clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

build: ## Build the release binary: target/release/tombolo
	@tests/run.sh build

check: ## Check format, lints, unit tests and who imports whom: fast, no root
	@tests/run.sh check

up: ## Make this host's Docker engine have tombolo (root); BUILT=FILE takes a binary that is there
	@plugin-config/up.sh

down: ## Undo `make up`; networks and containers stay (root)
	@plugin-config/down.sh

plugin: ## Build the managed plug-in, a folder for `docker plugin create`: target/plugin
	@tests/run.sh plugin

deb: ## Build the Debian package: target/deb/tombolo_*.deb
	@tests/run.sh deb

test: ## Install what tests need and run all that this machine's engine can (root)
	@tests/run.sh test

test-engines: ## Run what may differ between engines on newer ones, of Debian trixie and sid (root)
	@tests/run.sh engines

test-inside: ## Run all system tests with links that are made within their sandboxes, on the engine of Debian sid (root)
	@tests/run.sh inside

test-cluster: ## Run clusters of up to a dozen daemons: cuts, deaths, clones, floods (root)
	@tests/run.sh cluster

test-vm: ## Run what a small kernel lacks (802.1Q, ipvlan, dummy) on Debian's, in a virtual machine; TESTS="ipvlan::l2" chooses (root)
	@tests/run.sh vm

units: ## Try the Debian package and its units in a Debian that is booted with systemd (root)
	@tests/run.sh units

conformance: ## Ask of our networks what the engine asks of its own (root)
	@tests/run.sh conformance

bench: ## Measure all that docs/benchmarks.md tells, and write it; PARTS="attach bridge" chooses (root)
	@tests/run.sh bench $(PARTS)

bench-quick: ## Run a round of some of it, to see whether it runs (root)
	@tests/run.sh bench-quick

bench-check: ## See whether the benchmarks would tell a slower build from the usual one (root)
	@tests/run.sh bench-check

soak: ## Start and remove 2,000 containers and look for leaks (root)
	@tests/run.sh soak

oracle: ## Disturb three hosts whose containers talk without a pause, for ORACLE_MINUTES=30, and count what is lost (root)
	@tests/run.sh oracle

demo: ## Make three hosts on this machine, in a cluster, and show what they do; they stay (root)
	@tests/run.sh demo up

demo-shell: ## Enter a host of the demo: HOST=b; CMD="docker ps" runs that and comes back (root)
	@tests/run.sh demo-shell "$(HOST)" $(CMD)

demo-status: ## Show what runs on the demo's hosts (root)
	@tests/run.sh demo status

demo-down: ## Remove the demo (root)
	@tests/run.sh demo down

clean: ## Remove what was built
	@tests/run.sh clean
