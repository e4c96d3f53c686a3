"""Traffic in threads of its own, of all kinds that a caller may have under way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np
from processes import NBYTES

import dsmem
from dsmem import errors

GONE = (errors.PeerDeadError, errors.CanceledError, errors.TransportError)


class Traffic(threading.Thread):
    """Repeats one round of ops in a thread until it fails or is told to stop."""

    def __init__(self, round_: Callable[[dsmem.Remote], object], remote: dsmem.Remote) -> None:
        super().__init__(daemon=True)
        self.round, self.remote = round_, remote
        self.rounds, self.stopped, self.ended = 0, False, 0.0
        self.error: BaseException | None = None
        self.progress = threading.Condition()
        self.start()

    def run(self) -> None:
        try:
            while not self.stopped:
                self.round(self.remote)
                with self.progress:
                    self.rounds += 1
                    self.progress.notify_all()
        except BaseException as error:
            self.error = error
        self.ended = time.monotonic()
        with self.progress:
            self.progress.notify_all()

    def see(self, more: int) -> None:
        """Returns when so many more rounds have gone well."""
        with self.progress:
            want = self.rounds + more
            good = self.progress.wait_for(lambda: self.rounds >= want or self.error, timeout=60)
        if self.error:
            raise self.error
        assert good, "the traffic has come to a halt"

    def end(self) -> None:
        self.stopped = True
        self.join(60)
        assert not self.is_alive()
        if self.error:
            raise self.error


# ---- kinds of traffic ----


def single_read(remote: dsmem.Remote) -> None:
    remote.read(0, bytearray(8))


def large_write(remote: dsmem.Remote) -> None:
    remote.write(1024, bytes(NBYTES - 1024))


def counter(remote: dsmem.Remote) -> None:
    remote.fetch_add(0, 1)


def mixed_batch(remote: dsmem.Remote) -> None:
    with remote.context.batch() as batch:
        for i in range(16):
            batch.read(remote, 64 * i, bytearray(64))
            batch.write(remote, 2048 + 64 * i, bytes(64))
            batch.fetch_add(remote, 8, 1)
            batch.compare_swap(remote, 16, 0, 0)


def many(remote: dsmem.Remote) -> None:
    remote.read_many(np.arange(200, dtype=np.uint64) * 64, np.empty((200, 64), np.uint8))


class Awaiting:
    """Rounds of ops in an event loop; when one fails, all of them must end."""

    unsettled = 0

    @staticmethod
    def counted(remote: dsmem.Remote) -> int:
        return remote.fetch_add(24, 0)

    def __call__(self, remote: dsmem.Remote) -> None:
        asyncio.run(self._rounds(remote))

    async def _rounds(self, remote: dsmem.Remote) -> None:
        while True:
            ops = [remote.fetch_add_async(24, 1) for _ in range(20)]
            ops += [remote.read_async(0, bytearray(4096)) for _ in range(5)]
            self.unsettled = len(ops)
            results = await asyncio.gather(*ops, return_exceptions=True)
            self.unsettled = 0
            for result in results:
                if isinstance(result, BaseException):
                    raise result


KINDS = (single_read, large_write, counter, mixed_batch, many)
