"""Pages that are read while others write them: each is whole. How many are read: DSMEM_TORN_READS, 1 000 000."""

from __future__ import annotations

import contextlib
import multiprocessing
import os

import numpy as np
import pytest

import dsmem

READS = int(os.environ.get("DSMEM_TORN_READS", "1000000"))
SECRET = b"0bec7" * 12 + b"0b1e"
SIZE, PAGES, WRITERS = 4096, 16, 2
SECONDS = 60
spawn = multiprocessing.get_context("spawn")


def writes(place, ref, pids, first, begun, over):
    """Writes pages that have one number in all their words, until it is to end."""
    with contextlib.ExitStack() as stack:
        context = None
        if place != "local":
            context = stack.enter_context(dsmem.Context(place, secret=SECRET))
        store = stack.enter_context(dsmem.attach(ref, context))
        pages = np.empty((PAGES, SIZE // 8), "u8")
        number = first
        while not over.is_set():
            number += WRITERS
            pages[:] = number
            if number // WRITERS % 2:
                store.write_many(pids, pages)
            else:
                for pid, page in zip(pids.tolist(), pages, strict=True):
                    store.write(pid, page)
            begun.set()


@pytest.mark.timeout(3600 if READS > 1000000 else 120)
def test_no_page_is_torn(cluster, cluster_place):
    number = READS if cluster_place == "local" else min(READS, 1000000) // 100
    out = np.empty((PAGES, SIZE // 8), "u8")
    one, seen = out[0], set()
    over = spawn.Event()
    with (
        cluster.store("s", create=True, page_size=SIZE, capacity=64 * SIZE, members=8) as store,
        contextlib.ExitStack() as stack,
    ):
        pids = store.allocate_many(PAGES)
        stack.callback(over.set)
        children = []
        for first in range(WRITERS):
            begun = spawn.Event()
            child = spawn.Process(target=writes, args=(cluster_place, store.ref, pids, first, begun, over))
            child.start()
            children.append(child)
            assert begun.wait(SECONDS)
        for _ in range(0, number, 2 * PAGES):
            store.read_many(pids, out=out)
            assert (out == out[:, :1]).all()
            for pid in pids.tolist():
                store.read(pid, out=one)
                assert (one == one[0]).all()
            seen.add(int(one[0]))
        over.set()
        for child in children:
            child.join(SECONDS)
            assert child.exitcode == 0
    assert len(seen) > 1, "nothing was written meanwhile"
