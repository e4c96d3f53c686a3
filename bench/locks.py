"""The other process of test_lock.py, which takes and releases a lock as often as it is told, beside the bench."""

import os
import time


def alone(lock, number):
    """Seconds for that many pairs."""
    acquire, release = lock.acquire, lock.release
    start = time.perf_counter()
    for _ in range(number):
        acquire()
        release()
    return time.perf_counter() - start


def contender(pipe, locks, core):
    """Process: (which lock, how many pairs) comes in, and goes back when they are done."""
    os.sched_setaffinity(0, {core})
    pipe.send(None)
    while (what := pipe.recv()) is not None:
        which, number = what
        alone(locks[which], number)
        pipe.send(None)
    locks["dsmem"].close()


class Contest:
    """Two processes that want the same lock all the time, each on a core of its own."""

    def __init__(self, context, locks):
        self.pipe, other = context.Pipe()
        cores = sorted(os.sched_getaffinity(0))
        self.before = set(cores)
        self.process = context.Process(target=contender, args=(other, locks, cores[-1]))
        self.process.start()
        self.pipe.recv()
        os.sched_setaffinity(0, {cores[0]})
        self.locks = locks

    def contestant(self, which):
        """Seconds until both have done number pairs."""

        def run(number):
            start = time.perf_counter()
            self.pipe.send((which, number))
            alone(self.locks[which], number)
            self.pipe.recv()
            return (time.perf_counter() - start) / 2

        return run

    def close(self):
        self.pipe.send(None)
        self.process.join()
        os.sched_setaffinity(0, self.before)
