#!/usr/bin/env bash
# Runs on each of two hosts with a link between them: on the first the tests of tests/hosts, on the second what they ask.
# The last of them ends the second host. Wants DSMEM_SOFTROCE_HOST, the host's number, and netdev, its device (device.sh).
set -uo pipefail
if [ "$DSMEM_SOFTROCE_HOST" = 2 ]; then
    .venv/bin/python tests/hosts/other.py 10.1.0.2:7000 verbs >"$DSMEM_SOFTROCE_OUT/log" 2>&1
    exit
fi
until [ -s "$DSMEM_SOFTROCE_OUT/other/log" ]; do
    [ ! -e "$DSMEM_SOFTROCE_OUT/other/ended" ] || { echo "the other host has not started: see its console.log" && exit 1; }
    sleep 1
done
DSMEM_OTHER_HOST="10.1.0.1 10.1.0.2 $netdev" .venv/bin/python -m pytest \
    tests/hosts/test_hosts_{conformance,objects,faults}.py -q --timeout 120 --durations 5
