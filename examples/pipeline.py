"""A pipeline: one process makes records, another one squares them, and this one adds them up.

Each queue has one producer and one consumer. A record is eight bytes, and put_many and get_many move a whole array of
them in one call. After shutdown() a consumer takes what is left, and then gets ShutDownError.
"""

import multiprocessing
import os

import numpy as np

import dsmem

COUNT, BATCH = 1_000_000, 1000
ID = os.getpid()  # part of names, so that two runs at a time don't collide


def make(numbers):
    with dsmem.attach(numbers) as out:
        for start in range(0, COUNT, BATCH):
            out.put_many(np.arange(start, start + BATCH, dtype="u8").reshape(-1, 1))
        out.shutdown()


def square(numbers, squares):
    records = np.empty((BATCH, 1), "u8")
    with dsmem.attach(numbers) as source, dsmem.attach(squares) as out:
        try:
            while True:
                n = source.get_many(out=records)  # at least one, up to BATCH
                out.put_many(records[:n] ** 2)
        except dsmem.errors.ShutDownError:
            out.shutdown()


def main():
    spawn = multiprocessing.get_context("spawn")
    # A reference finds the queue in any process of this host; the names go when this process ends.
    with dsmem.connect("examples") as cluster:
        numbers = cluster.queue(f"numbers-{ID}", create=True, lifetime="creator")
        squares = cluster.queue(f"squares-{ID}", create=True, lifetime="creator")
        workers = [
            spawn.Process(target=make, args=(numbers.ref,)),
            spawn.Process(target=square, args=(numbers.ref, squares.ref)),
        ]
        for worker in workers:
            worker.start()
        records, total, count = np.empty((BATCH, 1), "u8"), 0, 0
        try:
            while True:
                n = squares.get_many(out=records)
                total += int(records[:n].sum())
                count += n
        except dsmem.errors.ShutDownError:
            pass
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        numbers.unlink()
        squares.unlink()
    assert count == COUNT and total == (COUNT - 1) * COUNT * (2 * COUNT - 1) // 6
    print(f"{count} squares, their sum is {total}")


if __name__ == "__main__":
    main()
