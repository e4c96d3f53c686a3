"""Remote ops in event loops: the loop never waits for them, and rests when nothing is pending."""

import asyncio
import contextlib
import os
import threading

import pytest

import dsmem
from dsmem._core import map_file

SECRET = b"a secret of thirty-two bytes, yes"


@pytest.fixture
def region():
    with dsmem.Context("shm", secret=SECRET) as owner, owner.allocate(4096) as memory:
        yield memory


def attached(region, plan=""):
    context = dsmem.Context(f"fault+shm://{plan}", secret=SECRET, peer_timeout=3600)
    return context, context.attach(region.descriptor)


def readable(loop):
    """What the loop would wake for at once."""
    return loop._selector.select(0)


@pytest.mark.parametrize("plan", ["", "?delay=*:5ms", "?fail=2", "?delay=2:20ms&fail=2"])
def test_a_loop_rests_after_its_ops(region, plan):
    context, remote = attached(region, plan)

    async def run():
        loop = asyncio.get_running_loop()
        for n in range(4):
            ops = [remote.fetch_add_async(8 * k, 1) for k in range(n + 1)]
            await asyncio.gather(*ops, return_exceptions=True)
            await asyncio.sleep(0)
        assert readable(loop) == []

    asyncio.run(run())
    remote.close()
    context.close()


@pytest.mark.parametrize("fabrics", ["shm,tcp", "tcp,shm"])
def test_ops_on_any_of_several_fabrics(fabrics):
    with (
        dsmem.Context("tcp", secret=SECRET, listen="127.0.0.1") as owner,
        owner.allocate(64) as memory,
        dsmem.Context(fabrics, secret=SECRET, listen="127.0.0.1") as user,
        user.attach(memory.descriptor) as remote,
    ):

        async def run():
            return await asyncio.gather(*(remote.fetch_add_async(0, 1) for _ in range(5)))

        assert sorted(asyncio.run(run())) == [0, 1, 2, 3, 4]


def test_many_at_once(region):
    context, remote = attached(region, "?delay=*:1ms")

    async def run():
        return await asyncio.gather(*(remote.fetch_add_async(0, 1) for _ in range(3000)))

    assert sorted(asyncio.run(run())) == list(range(3000))
    remote.close()
    context.close()


def test_an_op_that_never_completes_ends_with_its_context(region):
    context, remote = attached(region, "?drop=1")

    async def run():
        op = remote.fetch_add_async(0, 1)
        while not int.from_bytes(bytes(region)[:8], "little"):
            await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(op), 0.001)
        context.close()
        with pytest.raises(dsmem.errors.OutcomeUnknownError):
            await op
        assert readable(asyncio.get_running_loop()) == []

    asyncio.run(run())


def test_two_loops_hear_of_their_own_ops(region):
    context, remote = attached(region, "?delay=*:1ms")
    found = []

    async def run():
        for _ in range(50):
            found.extend(await asyncio.gather(*(remote.fetch_add_async(0, 1) for _ in range(4))))

    threads = [threading.Thread(target=asyncio.run, args=(run(),), kwargs={"debug": True}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(400))
    remote.close()
    context.close()


def test_a_loop_keeps_no_number_of_a_closed_context(region):
    """A context is closed while a loop of another thread is busy, and the next one gets its file descriptors."""
    context, remote = attached(region)
    begun, replaced = threading.Event(), threading.Event()
    found = []

    async def run():
        await remote.fetch_add_async(0, 1)
        begun.set()
        replaced.wait()
        op = second.fetch_add_async(0, 1)
        await asyncio.sleep(0)  # what the loop was asked to do meanwhile
        found.append(await asyncio.wait_for(op, 10))
        found.append(len(readable(asyncio.get_running_loop())))

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    begun.wait()
    remote.close()
    context.close()
    context, second = attached(region)
    replaced.set()
    thread.join()
    assert found == [1, 0]
    second.close()
    context.close()


def test_a_remote_is_closed_though_a_loop_is_gone_with_its_op(region):
    context, remote = attached(region)

    async def begin():
        remote.fetch_add_async(0, 1)

    asyncio.run(begin())
    while not remote.closed:
        with contextlib.suppress(dsmem.errors.BusyError):  # until the op is complete
            remote.close()
    context.close()


def test_a_mapped_op_without_a_loop_is_not_begun():
    fd = os.memfd_create("mapped")
    os.ftruncate(fd, 4096)
    with map_file(fd, 4096) as remote:
        with pytest.raises(RuntimeError):
            remote.fetch_add_async(0, 1)
        assert remote.fetch_add(0, 0) == 0
    os.close(fd)


class Interrupted(asyncio.SelectorEventLoop):
    """A loop in which a signal's handler raises, once: as it may anywhere."""

    raises = False

    def call_soon(self, *arguments, **options):
        if self.raises:
            self.raises = False
            raise InterruptedError
        return super().call_soon(*arguments, **options)


def test_a_handler_that_raises_loses_no_completion(region):
    context, remote = attached(region)
    loop = Interrupted()
    told = []
    loop.set_exception_handler(lambda loop, what: told.append(type(what["exception"])))

    async def run():
        await remote.fetch_add_async(0, 1)
        first, *others = [remote.fetch_add_async(0, 1) for _ in range(10)]  # complete, and no task has been told
        first.add_done_callback(told.append)
        waiting = asyncio.ensure_future(asyncio.wait_for(asyncio.gather(*others), 10))
        loop.raises = True
        return await waiting

    try:
        assert loop.run_until_complete(run()) == list(range(2, 11))
    finally:
        loop.close()
    assert told == [InterruptedError]
    remote.close()
    context.close()
