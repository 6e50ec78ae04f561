# Every task. `make help` lists them; each makes what it needs, and is quick the second time.

PYTHON ?= python3
development := tools/penguindome_tools/development
prepare := @$(PYTHON) $(development)/environment.py
python := .venv/bin/python
pytest := $(python) -m pytest --numprocesses 2 --dist worksteal

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run test test-all test-packages test-system test-pythons lint format bench lock wheelhouse deb pacman clean

help: ## list the tasks
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do printf 'make %-14s %s\n' "$$name" "$$text"; done

run: ## watch this machine: server and client in a scratch root, until ctrl-C (ONCE=1: one report; STORE=sqlite|mongodb)
	$(prepare) run venv $(if $(filter mongodb,$(STORE)),mongod)
	@$(python) -m penguindome_tools.demonstration $(if $(filter-out 0,$(ONCE)),--once) $(if $(STORE),--store $(STORE))

test: ## run the tests, with coverage (ARGS="tests/unit -k times": some of them)
	$(prepare) tests venv mongod packages
	@$(pytest) --cov --cov-report=term $(ARGS)

test-all: ## run the tests with the long ones: soaks, whole matrices, 20,000 queries
	$(prepare) tests venv mongod packages
	@PENGUINDOME_TEST_ALL=1 $(pytest) --timeout 1200 --cov --cov-report=term $(ARGS)

test-packages: ## build the packages, and install, upgrade and purge them on clean systems (a part of `make test`)
	$(prepare) tests venv packages
	@$(pytest) $(or $(ARGS),tests/packages)

test-system: ## boot a server and clients of Debian and pacman, and watch them work (a part of `make test`)
	$(prepare) tests venv packages
	@$(pytest) $(or $(ARGS),tests/system)

test-pythons: ## run the tests on every Python from 3.10 to 3.14 that this machine has
	$(prepare) tests venv mongod packages
	@$(python) -m penguindome_tools.development.pythons $(ARGS)

lint: ## check style, types, imports and shell scripts
	$(prepare) lint venv
	@$(python) -m penguindome_tools.development.lint

format: ## put Python files into the style that lint wants
	$(prepare) venv
	@.venv/bin/ruff check --quiet --fix-only
	@.venv/bin/ruff format

bench: ## measure, and print the figures (ARGS=--help: which)
	$(prepare) tests venv mongod
	@$(python) -m penguindome_tools.bench $(ARGS)

wheelhouse: ## collect the locked wheels of every supported Python, which the packages carry
	$(prepare) venv
	@$(python) -m penguindome_tools.packaging.wheelhouse

deb: ## build the Debian packages of client and server into dist/ (ARGS=--help: options)
	$(prepare) deb pacman venv
	@$(python) -m penguindome_tools.packaging.deb $(ARGS)

pacman: ## build the packages of Arch for client and server into dist/ (ARGS=--help: options)
	$(prepare) deb pacman venv
	@$(python) -m penguindome_tools.packaging.pacman $(ARGS)

lock: ## write tools/locks/ anew from pyproject.toml (UPGRADE=1: newest versions)
	@$(PYTHON) $(development)/locks.py $(if $(UPGRADE),--upgrade)

clean: ## remove all that the other tasks made
	@rm -rf .venv .cache .import_linter_cache build dist *.egg-info
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
