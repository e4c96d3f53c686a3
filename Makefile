# Every target sets itself up: system packages (ci/deps, where it may install them) and a virtual environment in .venv.
# make demo FILE=/path/to/file     PYTHON=python3.12 make test
.DEFAULT_GOAL := help
.PHONY: help venv demo test softroce bench docs lint format sanitize nightly clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

venv:
	@ci/deps build || echo 'going on with what is there'
	@ci/venv

## make demo      two processes share a file, a segment, a queue and a lock, two hosts names; a store outlives a node; FILE= names another file
demo: venv
	@.venv/bin/dsmem demo $(if $(FILE),'$(FILE)')
	@echo
	@.venv/bin/python examples/two_hosts.py

## make test      all tests that this machine can run; says what it left out
test: venv
	@ci/test

## make softroce  the suite on verbs: in a guest with SoftRoCE, or on this host's RDMA device
softroce: venv
	@ci/deps softroce
	@ci/softroce

## make bench     the tables of docs/BENCHMARKS.md
bench:
	@ci/deps build bench || echo 'going on with what is there'
	@ci/venv bench
	@ci/bench

## make docs      docs/ as a site with the API reference, in build/site
docs:
	@ci/deps build || echo 'going on with what is there'
	@ci/venv docs
	@ci/docs

## make lint      formatters, type checkers and compilers' warnings
lint: venv
	@ci/deps lint
	@ci/lint

## make format    what the formatters of make lint can fix
format: venv
	@.venv/bin/ruff check --quiet --fix . && .venv/bin/ruff format --quiet .
	@find csrc tests/c tests/modeldev tests/wallclock bench -name '*.[ch]' | xargs .venv/bin/clang-format -i

## make sanitize  the C core under address, undefined and thread sanitizers
sanitize:
	@ci/deps sanitize
	@ci/sanitize

## make nightly   a hundred million messages through queues whose processes are killed, and mutations of the sources: hours
nightly: venv
	@ci/nightly

## make clean     removes what the other targets made, but for downloaded packages
clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .benchmarks
	find dsmem tests bench -name __pycache__ -prune -exec rm -rf {} +
	find dsmem -name '*.so' -delete
