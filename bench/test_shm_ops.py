"""Claim: single ops on another process's memory cost what a function call from Python costs."""

import mmap

import numpy as np
import pytest

COPY_TARGETS = {8: 0.11, 4096: 0.21}  # µs
ATOMIC_TARGET = 0.10


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("size", COPY_TARGETS)
def test_copy(race, remote, python, by_mpi, op, size):
    buffer = np.zeros(size, np.uint8)
    plain = mmap.mmap(-1, 1 << 20)  # shared memory of the standard library's making
    view, array = memoryview(plain), np.frombuffer(plain, np.uint8)
    local = memoryview(bytearray(size))
    slices = {"read": "local[:] = shm[0:n]", "write": "shm[0:n] = local"}
    race.run(
        f"{op} {size} B",
        "µs",
        {
            "dsmem": python("f(0, buffer)", f=getattr(remote, op), buffer=buffer),
            **by_mpi(f"{op} {size}"),
            "memoryview": python(slices[op], local=local, shm=view, n=size),
            "numpy": python(slices[op], local=buffer, shm=array, n=size),
        },
        target=COPY_TARGETS[size],
    )


def test_fetch_add(race, remote, python, by_mpi):
    ours = python("f(0, 1)", f=remote.fetch_add)
    race.run("fetch_add", "µs", {"dsmem": ours, **by_mpi("fetch_add")}, target=ATOMIC_TARGET)


def test_compare_swap(race, remote, python, by_mpi):
    ours = python("f(8, 1, 1)", f=remote.compare_swap)
    race.run("compare_swap", "µs", {"dsmem": ours, **by_mpi("compare_swap")}, target=ATOMIC_TARGET)
