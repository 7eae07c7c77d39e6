# make run [DATA=dir] [CLIENT_PORT=n] [FEDERATION_PORT=n] [PYTHON=python3.x]
#
# Paths are relative and quoted throughout, so that the path of the directory may contain spaces.

DATA ?= data
CLIENT_PORT ?= 8008
FEDERATION_PORT ?= 8448
TEST_PROCESSES ?= 2
export PYTHON

.PHONY: help run test test-fast check soak duties docs install-embedded install-dev

help:
	@echo 'make run        run a whole fleet on this machine: DATA=$(DATA) CLIENT_PORT=$(CLIENT_PORT) FEDERATION_PORT=$(FEDERATION_PORT)'
	@echo 'make test       run all tests, with real PostgreSQL, Redis and haproxy, in $(TEST_PROCESSES) processes: TEST_PROCESSES=n'
	@echo 'make test-fast  run the tests that need no fleet'
	@echo 'make check      check lint, format, types, layers of imports and layout'
	@echo 'make soak       run the long forms of the tests'
	@echo 'make duties     break each duty of the server that is done, and check that its test fails'
	@echo 'make docs       write the generated documents'

install-embedded:
	@deploy/install.sh embedded

install-dev:
	@deploy/install.sh dev

# exec: Ctrl-C and SIGTERM reach Skep itself.
run: install-embedded
	@exec .venv/bin/python -m deploy.command.main up --data "$(DATA)" \
	  --client-port "$(CLIENT_PORT)" --federation-port "$(FEDERATION_PORT)"

test: install-dev
	@.venv/bin/python -m pytest -n $(TEST_PROCESSES)

test-fast: install-dev
	@.venv/bin/python -m pytest -n $(TEST_PROCESSES) -m 'not soak and not fleet'

soak: install-dev
	@.venv/bin/python -m pytest -m soak --timeout 7200

duties: install-dev
	@.venv/bin/python -m pytest tests/duties -m 'soak or not soak' --timeout 3600

check: install-dev
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/python -c 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())'
	.venv/bin/python -m tests.architecture.layout

docs: install-dev
	.venv/bin/python -m deploy.command.main config schema --markdown >docs/configuration.md
	.venv/bin/python -m deploy.command.main config generate --sample >deploy/config/skep.sample.yaml
