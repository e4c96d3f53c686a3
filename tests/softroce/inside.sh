#!/usr/bin/env bash
# Runs on a machine with an RDMA device: the conformance suite on verbs, plainly and through fault, then what only verbs
# has (tests/softroce). One interpreter for all: under emulation it takes ten seconds to import what they need.
set -uo pipefail
exec .venv/bin/python -m pytest tests/conformance tests/softroce/test_*.py \
    'tests/unit/test_interrupts.py::test_interrupted_while_many_are_registered[verbs-1]' --fabric verbs --fabric fault+verbs -q --timeout 120 "$@"
