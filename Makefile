# `make demo` shows the project at work, `make test` guards it. Both do their own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Built engines, downloads and generated models: outside the tree, so that they outlive it.
ifeq ($(shell id -u),0)
export LLM_CACHE ?= /var/cache/baremetal-llm
else
export LLM_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/baremetal-llm
endif
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# A scenario on zero hosts must fail, and no role may lean on injected facts.
export ANSIBLE_HOST_PATTERN_MISMATCH := error
export ANSIBLE_INJECT_FACT_VARS := false

SCENARIOS ?= default trixie versions gpu container_toolkit repository firewall fleet gateway
# Killed runs, Debian's own driver built by DKMS, other branches of it, the real vLLM (6 GB), containers, faults under load,
# the gateway's database broken, upgraded and taken back, in a container, two gateways, certificates by ACME: some minutes each.
LONG_SCENARIOS ?= interrupted gpu_driver driver_branches vllm multihost containers containers_gateway faults postgresql gateway_faults gateway_upgrade two_gateways acme

.PHONY: help venv demo demo-stop test test-all lint unit sanity molecule lock

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## A fresh machine, site.yml, tokens streamed through the whole chain (run again: the same machine)
	@SECONDS=0; requirements/install.sh demo; DEMO_VENV_SECONDS=$$SECONDS python demo/run.py

demo-stop: ## Remove the demo's machine (downloads and built engines stay)
	@requirements/install.sh demo
	@python demo/run.py --stop

test: lint unit sanity molecule ## Everything that guards the project

test-all: test ## The tests, the long scenarios, then the demo twice: the second run must change nothing
	@$(MAKE) molecule SCENARIOS="$(LONG_SCENARIOS)"
	@$(MAKE) demo-stop demo
	@python demo/run.py --expect-unchanged

lint: venv ## ansible-lint (production), yamllint, ruff, mypy
	ANSIBLE_HOST_PATTERN_MISMATCH=ignore ansible-lint --offline --profile production  # it has no inventory
	yamllint --strict .
	ruff check .
	mypy plugins demo tests

unit: venv ## Unit tests of all Python
	tests/tools.sh
	ANSIBLE_COLLECTIONS_PATH=.collections PYTHONPATH=.collections pytest

sanity: venv ## ansible-test sanity, on a copy of what git would commit
	tests/sanity.sh

molecule: venv ## Fresh machines, from check mode to removal (SCENARIOS=default for one)
	tests/tools.sh
	tests/machine/engine.sh
	for scenario in $(SCENARIOS); do tests/scenario.sh $$scenario; done

lock: venv ## Lock the Python requirements again, of the controller and of the hosts
	for purpose in uv demo test; do \
	  uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 requirements/$$purpose.in -o requirements/$$purpose.txt; \
	done
	# of the hosts: the version in a file's name is the one that its entry in roles/common/vars/lock.yml has; an older one has an .in of its own, and stays
	cd roles/common/files/python; for locked in *.txt; do \
	  name=$${locked%-*}; python=3.10; limits=; \
	  [ ! -e $${locked%.txt}.in ] || continue; \
	  case $$name in vllm-*) python=3.11 ;; esac; \
	  for kind in overrides excludes; do [ ! -e $$name.$$kind ] || limits="$$limits --$$kind $$name.$$kind"; done; \
	  uv pip compile --quiet --universal --generate-hashes --python-version $$python $$limits --custom-compile-command "make lock" $$name.in -o $$locked; \
	done

venv: ## The Python environment that the tests use, .venv
	@requirements/install.sh test
