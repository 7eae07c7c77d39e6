# make run [DATA=dir] [CLIENT_PORT=n] [FEDERATION_PORT=n] [PYTHON=python3.x]
#
# Paths are relative and in quotes throughout, so that the directory's own path may hold spaces.

DATA ?= data
CLIENT_PORT ?= 8008
FEDERATION_PORT ?= 8448
export PYTHON

.PHONY: help run test check soak docs install-embedded install-dev

help:
	@echo 'make run     a whole fleet on this machine: DATA=$(DATA) CLIENT_PORT=$(CLIENT_PORT) FEDERATION_PORT=$(FEDERATION_PORT)'
	@echo 'make test    every test, with real PostgreSQL, Redis and haproxy'
	@echo 'make check   lint, format, types, import contracts, layout'
	@echo 'make soak    the long forms of the tests'
	@echo 'make docs    write the generated documents anew'

install-embedded:
	@deploy/install.sh embedded

install-dev:
	@deploy/install.sh dev

# exec: Ctrl-C and SIGTERM reach Skep itself.
run: install-embedded
	@exec .venv/bin/python -m deploy.command.main up --data "$(DATA)" \
	  --client-port "$(CLIENT_PORT)" --federation-port "$(FEDERATION_PORT)"

test: install-dev
	@.venv/bin/python -m pytest

soak: install-dev
	@.venv/bin/python -m pytest -m soak

check: install-dev
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/python -c 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())'
	.venv/bin/python -m tests.architecture.layout

docs: install-dev
	.venv/bin/python -m deploy.command.main config schema --markdown >docs/configuration.md
	.venv/bin/python -m deploy.command.main config generate --sample >deploy/config/skep.sample.yaml
