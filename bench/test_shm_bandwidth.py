"""Claim: from pages up, what counts is memcpy. The bound is a loop of it in C, over the same memory."""

import itertools

import numpy as np
import pytest

PAGE, MANY = 4096, 64
PAGES_TARGET, LARGE_TARGET = 0.80, 0.95


@pytest.fixture(scope="module")
def page_lists(remote):
    """Of different pages, 16 MiB in all, which is more than the caches of a core hold."""
    pages = np.random.default_rng(2).permutation(remote.nbytes // PAGE)[: 64 * MANY]
    return list(pages.astype(np.uint64).reshape(64, MANY) * PAGE)


@pytest.mark.parametrize("op", ["read_many", "write_many"])
@pytest.mark.parametrize("lists", [1, 64], ids=["same", "other"])
def test_pages(race, remote, copy, python, page_lists, op, lists):
    local, shm = np.zeros(MANY * PAGE, np.uint8), remote.array()
    chosen = page_lists[:lists]
    ours, its = itertools.cycle(chosen), itertools.cycle(chosen)

    def memcpy(number):
        if op == "read_many":
            return sum(copy(local, None, shm, next(its), PAGE, 1) for _ in range(number))
        return sum(copy(shm, next(its), local, None, PAGE, 1) for _ in range(number))

    race.run(
        f"{op} {MANY} × 4 KiB, {'the same pages' if lists == 1 else 'other pages'} each time",
        "GB/s",
        {"dsmem": python("f(next(lists), local)", f=getattr(remote, op), lists=ours, local=local), "memcpy": memcpy},
        amount=MANY * PAGE / 1e9,
        target=PAGES_TARGET,
        relative=True,
    )


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("kib", [64, 256, 1024, 16384])
def test_large(race, remote, copy, python, op, kib):
    size, start = kib << 10, np.zeros(1, np.uint64)
    local, shm = np.zeros(size, np.uint8), remote.array()

    def memcpy(number):
        return (
            copy(local, None, shm, start, size, number) if op == "read" else copy(shm, start, local, None, size, number)
        )

    race.run(
        f"{op} {kib} KiB",
        "GB/s",
        {"dsmem": python("f(0, local)", f=getattr(remote, op), local=local), "memcpy": memcpy},
        amount=size / 1e9,
        target=LARGE_TARGET,
        relative=True,
    )
