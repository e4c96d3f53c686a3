#!/usr/bin/env bash
# Runs on a machine with an RDMA device: the conformance suite on verbs, plainly and through fault, in one interpreter.
set -uo pipefail
exec .venv/bin/python -m pytest tests/conformance --fabric verbs --fabric fault+verbs -q -p no:cacheprovider --timeout 120
