"""Users of a region or an object, each in a thread of its own, that keep account of what they are told of their ops."""

import asyncio
import contextlib
import os
import threading
import time

import numpy as np

from dsmem import errors

SECONDS = int(os.environ.get("DSMEM_TEST_SECONDS", "60"))  # for what must not hang
SHARED = 0  # the word that all add to; the word of a writer is the one of its number
LONG = 1 << 15  # bytes of what is read as a whole, from LONG on
QUIET = b"\xa5" * LONG  # they are these
FAILED = (errors.TransportError, errors.PeerDeadError, errors.CanceledError, errors.TimeoutError)


def memory():
    """What is in their region at first."""
    return np.frombuffer(bytearray(LONG) + QUIET, "u1")


class User(threading.Thread):
    """Repeats its op until it is stopped."""

    timeout = SECONDS

    def __init__(self):
        super().__init__(daemon=True)
        self.rounds = self.good = 0
        self.stopped, self.failure, self.changed = False, None, threading.Condition()

    def once(self):
        """Whether the op has succeeded; all else that may come out of it is accounted for."""
        raise NotImplementedError

    def run(self):
        try:
            while not self.stopped:
                self.passed(self.once())
        except BaseException as failure:
            with self.changed:
                self.failure = failure
                self.changed.notify_all()

    def passed(self, is_good=False):
        with self.changed:
            self.rounds += 1
            self.good += is_good
            self.changed.notify_all()

    def see(self, what, more=2):
        """Returns when so many more "rounds" have ended, or "good" ones; what is under way now counts."""
        with self.changed:
            want = getattr(self, what) + more
            done = self.changed.wait_for(lambda: getattr(self, what) >= want or self.failure, SECONDS)
        self.told()
        assert done, f"no more {what} of {type(self).__name__}"

    def told(self):
        if self.failure:
            raise self.failure


@contextlib.contextmanager
def at_work(users):
    """Inside the block they are, and all is well at its beginning."""
    for user in users:
        user.start()
    try:
        for user in users:
            user.see("good")
        yield
    finally:
        for user in users:
            user.stopped = True
        for user in users:
            user.join(SECONDS)
            assert not user.is_alive()
    for user in users:
        user.told()


def limit(users, timeout):
    """From here on all that is under way has this timeout."""
    for user in users:
        user.timeout = timeout
    for user in users:
        user.see("rounds")


# ---- ops ----


class Adder(User):
    """Its op adds, so what it is told can be counted."""

    def __init__(self, remote, at):
        super().__init__()
        self.remote, self.results, self.unknown = remote, [], 0

    def batch(self, **options):
        batch = self.remote.context.batch(continue_on_error=True, **options)
        return batch, lambda: [batch.fetch_add(self.remote, SHARED, 1) for _ in range(20)]

    def told_of(self, batch, results):
        for code, result in zip(batch.statuses.tolist(), results, strict=True):
            if not code:
                self.results.append(result.value)
            self.unknown += code == errors.OutcomeUnknownError.code
        return not batch.statuses.any()


class One(Adder):
    def once(self):
        try:
            self.results.append(self.remote.fetch_add(SHARED, 1, timeout=self.timeout))
        except errors.OutcomeUnknownError:
            self.unknown += 1
        except FAILED:
            pass
        else:
            return True
        return False


class Many(Adder):
    def once(self):
        batch, add = self.batch(timeout=self.timeout)
        with batch:
            results = add()
        return self.told_of(batch, results)


class Awaiting(Adder):
    def once(self):
        batch, add = self.batch()
        results = []

        async def await_them():
            async with batch:
                results.extend(add())

        with contextlib.suppress(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(await_them(), self.timeout))
        return bool(results) and self.told_of(batch, results)  # without results it was late before it began


class Writer(User):
    """It writes one number after the other, so the last one that has arrived can be told."""

    def __init__(self, remote, at):
        super().__init__()
        self.remote, self.at, self.number = remote, at, 0
        self.possible = {0}

    def once(self):
        self.number += 1
        try:
            self.remote.write(8 * self.at, self.number.to_bytes(8, "little"), timeout=self.timeout)
        except errors.OutcomeUnknownError:
            self.possible.add(self.number)
        except FAILED:
            pass
        else:
            self.possible = {self.number}
            return True
        return False


class Reader(User):
    """It reads what does not change, and far more than a packet."""

    def __init__(self, remote, at):
        super().__init__()
        self.remote = remote

    def once(self):
        out = bytearray(LONG)
        try:
            self.remote.read(LONG, out, timeout=self.timeout)
        except FAILED:
            return False
        assert out == QUIET
        return True


KINDS = (One, Many, Awaiting, Writer, Reader)


def users_of(remote):
    """One of each kind, of a region with memory()."""
    return [kind(remote, at) for at, kind in enumerate(KINDS)]


def check(users, words):
    """What they were told is true of the words."""
    adders = [user for user in users if isinstance(user, Adder)]
    results = [result for user in adders for result in user.results]
    assert len(results) == len(set(results)) and max(results) < words[SHARED]
    assert len(results) <= words[SHARED] <= len(results) + sum(user.unknown for user in adders)
    for user in users:
        if isinstance(user, Writer):
            assert words[user.at] in user.possible


# ---- objects ----


def at_last(call, tried=lambda: None):
    """What the call returns when it succeeds; tried() is called after each failure."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return call()
        except FAILED:
            if time.monotonic() > end:
                raise
        tried()


class Putter(User):
    """It puts one number after the other into a queue."""

    def __init__(self, queue):
        super().__init__()
        self.queue, self.put = queue, 0

    def once(self):
        try:
            self.queue.put(b"%d" % (self.put + 1), timeout=self.timeout)
        except errors.FullError:
            return False
        except FAILED as error:
            self.put += error.placed
            return False
        self.put += 1
        return True


class Taker(User):
    """It takes what comes, in the process that owns the memory."""

    def __init__(self, queue):
        super().__init__()
        self.queue, self.taken = queue, []

    def once(self):
        try:
            self.taken.append(int(self.queue.get(timeout=0.1)))
        except errors.EmptyError:
            return False
        return True


class Locker(User):
    """It counts in a plain element of a segment, which is safe only under the lock."""

    def __init__(self, lock, segment):
        super().__init__()
        self.lock, self.segment, self.count = lock, segment, 0

    def once(self):
        try:
            if not self.lock.acquire(timeout=self.timeout):
                return False
        except FAILED:
            return False
        value = at_last(lambda: int(self.segment.read(0)), self.passed)
        at_last(lambda: self.segment.write(0, value + 1), self.passed)
        self.count += 1
        at_last(self.lock.release, self.passed)
        return True
