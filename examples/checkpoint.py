"""A checkpoint of an array: a process that computes leaves its state in a store, is killed, and another one goes on.

The array is as many pages as it needs, and a page of its own says which step they are of. A checkpoint writes the pages
that have changed, and the step, in one transaction: one that was begun and not finished has changed nothing.
"""

import multiprocessing
import os

import numpy as np

import dsmem

PAGE, ROWS, STEPS, EACH = 4096, 16, 60, 5  # a row is a page
NAME = f"checkpoint-{os.getpid()}"


def save(store, ids, array, step):
    with store.transaction() as tx:
        for pid, row in zip(ids[1:], array, strict=True):
            tx.write(pid, row)
        tx.write(ids[0], np.full(PAGE // 8, step))


def load(store, ids):
    """All of one checkpoint, also while another one is being made."""
    pages = store.snapshot(ids).view("i8")
    return pages[1:].copy(), int(pages[0, 0])


def compute(ref, ids, steps, control):
    """Each step adds its number to the array."""
    with dsmem.attach(ref) as store:
        array, step = load(store, ids)
        control.send(step)
        while step < steps:
            step += 1
            array += step
            if step % EACH == 0:
                save(store, ids, array, step)
                control.send(step)


def main():
    spawn = multiprocessing.get_context("spawn")
    with dsmem.connect("examples") as cluster:
        store = cluster.store(NAME, page_size=PAGE, capacity=64 * PAGE, create=True, lifetime="creator")
        ids = store.allocate_many(1 + ROWS).tolist()
        control, theirs = spawn.Pipe()
        first = spawn.Process(target=compute, args=(store.ref, ids, 10**9, theirs))
        first.start()
        while control.recv() < EACH:
            pass
        first.kill()
        first.join()
        _, reached = load(store, ids)
        last = reached + STEPS
        control, theirs = spawn.Pipe()
        second = spawn.Process(target=compute, args=(store.ref, ids, last, theirs))
        second.start()
        begun = control.recv()
        second.join()
        array, step = load(store, ids)
        print(f"one was killed after step {reached}, the other went on from {begun} to {step}")
        assert begun == reached and step == last // EACH * EACH and (array == step * (step + 1) // 2).all()
        store.close()


if __name__ == "__main__":
    main()
