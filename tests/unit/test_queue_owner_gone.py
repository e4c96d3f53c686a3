"""A queue in memory of another process, mapped here, whose owner is killed."""

import asyncio
import pickle
import subprocess
import sys
import threading

import pytest

import dsmem
from dsmem import errors

OWNER = """
import pickle, sys, dsmem
context = dsmem.Context("shm", secret=b"s" * 32)
queue = dsmem.connect(context=context).queue("q", capacity_bytes=8192, max_message=2048, producers="many", create=True)
queue.put(b"left")
print(pickle.dumps(queue.ref).hex(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["get", "get_many", "get_async", "put"])
def test_a_queue_whose_owner_is_killed(how):
    """What is there can be taken. Then nothing waits for more, and no number is given for what there is."""
    command = [sys.executable, "-c", OWNER]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner,
        dsmem.Context("shm", secret=b"s" * 32) as context,
        dsmem.attach(pickle.loads(bytes.fromhex(owner.stdout.readline())), context=context) as queue,
    ):
        told = []
        queue.consume()

        def wait():
            try:
                if how == "put":
                    while True:
                        queue.put(bytes(1024))
                if how == "get_async":
                    asyncio.run(queue.get_async())
                else:
                    getattr(queue, how)()
            except errors.PeerDeadError as error:
                told.append(error)

        if how != "put":
            assert queue.qsize() == 1 and queue.get(timeout=60) == b"left"
        waiter = threading.Thread(target=wait)
        waiter.start()
        owner.kill()
        waiter.join()
        assert len(told) == 1
        if how == "put":
            assert queue.qsize() > 0 and queue.get() == b"left"
            with pytest.raises(errors.PeerDeadError):
                while True:
                    queue.get_many()
        for call in (queue.qsize, queue.empty, queue.full, queue.get_nowait, lambda: queue.counts):
            with pytest.raises(errors.PeerDeadError):
                call()
