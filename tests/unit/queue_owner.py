"""An owner of a queue, in a process of its own: it has put ten messages, and does nothing more."""

import multiprocessing
import os
import signal

import halt

import dsmem

SECRET = b"9e0e" * 16  # a key: nothing to stretch
SECONDS = 60

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


def own(pipe, fabric):
    with dsmem.Context(fabric, secret=SECRET) as context, dsmem.connect(context=context) as cluster:
        with cluster.queue("q", create=True, producers=2, capacity_bytes=4096, max_message=1500) as queue:
            queue.put_many([b"%d" % n for n in range(10)])
            pipe.send(queue.ref)
            pipe.recv()


class Owner:
    """The process; on entry, the reference of its queue."""

    def __init__(self, fabric):
        self.pipe, theirs = processes.Pipe()
        with theirs:
            self.process = processes.Process(target=own, args=(theirs, fabric))
            self.process.start()

    def stop(self):
        """SIGSTOP, done on return."""
        halt.stop(self.process.pid)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def __enter__(self):
        assert self.pipe.poll(SECONDS)
        self.ref = self.pipe.recv()
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.join()
        self.pipe.close()
