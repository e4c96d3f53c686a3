#!/usr/bin/env bash
# Runs on a machine with an RDMA device. Usage: inside.sh [--full | --bench [OPTION…]]
#   no argument  the conformance suite, plainly and through fault, segments, queues, synchronisation and clocks on verbs, then
#                what only verbs has (tests/softroce), in one interpreter, since under emulation its imports take ten
#                seconds. Of these files, the tests that run on a fabric: their names have its name. Through fault, of the
#                objects only what takes a plan of faults: fault+shm and the conformance suite have the rest
#   --full       all of them through fault, too
#   --bench      the benches, with these options of bench/softroce.py. On their own: their contestants spin with a real-time
#                priority, and on a busy host that takes longer than a test run should wait
# Wants build/softroce_core (ci/softroce compiles it).
set -uo pipefail
bench() {
    .venv/bin/python bench/softroce.py --core build/softroce_core --out "$DSMEM_SOFTROCE_OUT/bench.json" \
        --commit "$DSMEM_COMMIT" "$@"
}
case ${1-} in
--bench)
    shift
    bench "$@"
    ;;
*)
    chosen='verbs and (not fault+verbs or conformance or faults or lost) or softroce'
    [ "${1-}" != --full ] || chosen='verbs or softroce'
    .venv/bin/python -m pytest tests/conformance tests/softroce/test_*.py tests/sync \
        tests/unit/test_{segment,queue,queue_faults,clock,batched_calls,interrupts}.py \
        --fabric verbs --fabric fault+verbs -k "$chosen" -q --timeout 120
    ;;
esac
