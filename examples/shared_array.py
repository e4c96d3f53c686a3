"""An array in shared memory that one process changes, and of which others read whole versions.

``segment.array`` is the memory itself, without a copy: use it if readers may see half of a change. ``snapshot()``
copies one version, which has all changes of a commit or none. Readers never make a writer wait.
"""

import multiprocessing
import os
import time

import numpy as np

import dsmem

SHAPE, VERSIONS = (256, 256), 2000
ID = os.getpid()  # part of names, so that two runs at a time don't collide


def simulate(ref):
    """Do the steps of a simulation. In a whole version all elements are equal."""
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
