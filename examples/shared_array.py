"""An array in shared memory that one process changes and others look at, each time at one whole version of it.

``segment.array`` is the memory itself, without a copy: good for what may be half changed. ``snapshot()`` copies one
version: all of what was written between two commits or nothing. Readers make no writer wait.
"""

import multiprocessing
import os
import time

import numpy as np

import dsmem

SHAPE, VERSIONS = (256, 256), 2000
ID = os.getpid()  # in names, so that this may run twice at a time


def simulate(ref):
    """Steps of something: in a whole version all elements are the same."""
    with dsmem.attach(ref) as field:
        for _ in range(VERSIONS):
            with field.writing() as array:
                array += 1.0
            time.sleep(0.0002)


def main():
    spawn = multiprocessing.get_context("spawn")
    with dsmem.connect("examples") as cluster:
        field = cluster.segment(f"field-{ID}", SHAPE, "f8", create=True, versioned=True, lifetime="creator")
        writer = spawn.Process(target=simulate, args=(field.ref,))
        writer.start()
        seen = []
        while (not seen or seen[-1] < VERSIONS) and writer.exitcode in (None, 0):
            _, array = field.snapshot()
            assert (array == array[0, 0]).all(), "half of one version and half of another"
            seen.append(int(array[0, 0]))
        writer.join()
        assert writer.exitcode == 0 and seen == sorted(seen)
        field.unlink()
    print(f"{len(seen)} snapshots of {len(np.unique(seen))} versions, every one of them whole")


if __name__ == "__main__":
    main()
