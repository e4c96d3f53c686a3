#!/usr/bin/env bash
# Runs on each of two hosts with a link between them: on the first the tests of tests/hosts, on the second what they ask.
# The last of them ends the second host. Wants DSMEM_SOFTROCE_HOST, the host's number, and netdev, its device (device.sh).
# Usage: two.sh [--short]: some of each kind, for every change
set -uo pipefail
export DSMEM_TEST_SECONDS=180 # instead of 60: on a loaded host guests are given little time
if [ "$DSMEM_SOFTROCE_HOST" = 2 ]; then
    .venv/bin/python tests/hosts/other.py 10.1.0.2:7000 verbs >"$DSMEM_SOFTROCE_OUT/log" 2>&1
    exit
fi
cd tests/hosts || exit
case ${1-} in
--short)
    tests=(
        test_hosts_conformance.py::test_{write_then_read,compare_swap,fetch_add_wraps,many,batch_of_all_ops,async}
        test_hosts_conformance.py::test_{large_transfer,outcomes_of_a_batch,stale_descriptor}
        test_hosts_objects.py::test_a_{queue,queue_whose_consumer_is_here,lock}
        'test_hosts_objects.py::test_a_lock_goes_on_whose_holder_at_the_other_host_is_gone[verbs-killed]'
        test_hosts_stores.py
        test_hosts_faults.py::test_bench
        'test_hosts_faults.py::test_each_op_has_an_outcome_that_is_true['{verbs,tcp}-cut']'
        'test_hosts_faults.py::test_a_link_that_loses_and_delays[verbs-delay 5ms 5ms loss 2%]'
        test_hosts_faults.py::test_a_host_that_dies_without_a_word
    )
    ;;
*) tests=(test_hosts_{conformance,objects,stores,faults}.py) ;;
esac
echo "host 1 is up" # its imports say nothing and take minutes on a loaded host
# The limit is of a test; the first one waits for the other host.
DSMEM_OTHER_HOST="10.1.0.1 10.1.0.2 $netdev" ../../.venv/bin/python -m pytest "${tests[@]}" -q --timeout 400 --durations 5
