"""The same ops by mpi4py: a window in shared memory (or with "tcp" over that), passive target, every call flushed.

Run as two ranks (see mpi.py). Rank 0 reads requests, one JSON object a line, from its standard input: a statement's
name and a number; it answers with the seconds that the number of executions took. Rank 1 owns the memory and sleeps.
"""

import contextlib
import json
import sys
import time
import timeit

import numpy as np
from mpi4py import MPI

NBYTES = 1 << 20
OVER_TCP = sys.argv[1:] == ["tcp"]
MANY = 64

STATEMENTS = {
    "read 8": "get(o8, 1, 0); flush(1)",
    "write 8": "put(o8, 1, 0); flush(1)",
    "read 4096": "get(o4096, 1, 0); flush(1)",
    "write 4096": "put(o4096, 1, 0); flush(1)",
    "read 1 MiB": "get(mib, 1, 0); flush(1)",
    "write 1 MiB": "put(mib, 1, 0); flush(1)",
    "fetch_add": "fetch_and_op(one, old, 1, 0); flush(1)",
    "compare_swap": "compare_and_swap(one, one, old, 1, 0); flush(1)",
    "read_many": "for o, at in pieces: get(o, 1, at)\nflush(1)",
    "write_many": "for o, at in pieces: put(o, 1, at)\nflush(1)",
    # as bench/test_shm_many.py mixes them: 24 reads, 24 writes, 16 fetch-adds
    "batch": "for o, at in pieces[:24]: get(o, 1, at)\nfor o, at in pieces[24:48]: put(o, 1, at)\n"
    "for r in olds: fetch_and_op(one, r, 1, 0)\nflush(1)",
}


def names(window):
    """What the statements use."""
    pieces = np.zeros(MANY, np.uint64)
    offsets = np.random.default_rng(1).permutation(NBYTES // 8)[:MANY] * 8
    olds = [[np.zeros(1, np.uint64), MPI.UINT64_T] for _ in range(16)]
    return {
        "get": window.Get,
        "put": window.Put,
        "flush": window.Flush,
        "fetch_and_op": window.Fetch_and_op,
        "compare_and_swap": window.Compare_and_swap,
        "o8": [np.zeros(8, np.uint8), MPI.BYTE],
        "o4096": [np.zeros(4096, np.uint8), MPI.BYTE],
        "mib": [np.ones(NBYTES, np.uint8), MPI.BYTE],
        "one": [np.ones(1, np.uint64), MPI.UINT64_T],
        "old": [np.zeros(1, np.uint64), MPI.UINT64_T],
        "olds": olds,
        "pieces": [([pieces[i : i + 1].view(np.uint8), MPI.BYTE], int(at)) for i, at in enumerate(offsets)],
    }


def measure(window):
    known = names(window)
    timers = {name: timeit.Timer(statement, globals=known) for name, statement in STATEMENTS.items()}
    print(json.dumps({"library": MPI.Get_library_version().split(",")[0]}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(timers[request["name"]].timeit(request["number"]), flush=True)


def main():
    comm = MPI.COMM_WORLD
    allocate = MPI.Win.Allocate if OVER_TCP else MPI.Win.Allocate_shared
    window = allocate(NBYTES if comm.rank else 0, 1, comm=comm)
    window.Lock_all()
    if comm.rank == 0:
        with contextlib.suppress(BrokenPipeError):
            measure(window)
        comm.send(None, 1)
    else:
        # Open MPI's waits spin; on a small machine that would be measured too. Over tcp it is this that answers.
        while not comm.Iprobe(0):
            if not OVER_TCP:
                time.sleep(0.01)
        comm.recv(source=0)
    window.Unlock_all()
    window.Free()


if __name__ == "__main__":
    main()
