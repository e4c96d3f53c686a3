"""Two elements of a segment that two processes hand to and fro: each writes one and sleeps until the other changes.

As handover.py does with bare words. Element 0 counts what the first process said, element 8 what the second answered.
"""

import os
import time

import dsmem


class Words:
    """A way (see queues.py) whose ends have only ask and answer, of n round trips each."""

    def __init__(self):
        self.at = f"words-{os.getpid()}"
        with dsmem.connect("bench") as cluster:
            cluster.segment(self.at, 16, "u4", create=True).close()

    def open(self, role):
        return Ends(dsmem.connect("bench"), self.at)

    def unlink(self):
        with dsmem.connect("bench") as cluster:
            cluster.unlink(self.at)


class Ends:
    def __init__(self, cluster, at):
        self.words = cluster.segment(at)
        self.close = cluster.close

    def ask(self, n):
        """Seconds."""
        write, wait = self.words.write, self.words.wait
        first = int(self.words.read(0)) + 1
        start = time.perf_counter()
        for value in range(first, first + n):
            write(0, value)
            wait(8, value, spin=0)
        return time.perf_counter() - start

    def answer(self, n):
        write, wait = self.words.write, self.words.wait
        first = int(self.words.read(8)) + 1
        for value in range(first, first + n):
            wait(0, value, spin=0)
            write(8, value)


def answer(end, n):
    end.answer(n)
