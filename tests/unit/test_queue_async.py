"""Queues in event loops: a waiting task hears of a close, leaves when cancelled, watches no descriptor of others."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

import dsmem
from dsmem import errors


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


async def waiting(queue, tasks):
    """Until so many tasks wait."""
    while (
        sum(len(futures) for futures in [*queue._readers._futures.values(), *queue._writers._futures.values()]) < tasks
    ):
        await asyncio.sleep(0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_close_ends_the_waits_of_tasks(here, elsewhere):
    with here.queue("q", create=True, capacity_bytes=4096, max_message=1500) as q:
        while True:
            try:
                q.put_nowait(bytes(1500))
            except errors.FullError:
                break
        with dsmem.attach(q.ref) as reader:
            q.get_many()

            async def run():
                getting = [asyncio.create_task(reader.get_async()) for _ in range(2)]
                await waiting(reader, 2)
                if elsewhere:
                    await asyncio.get_running_loop().run_in_executor(None, reader.close)
                else:
                    reader.close()
                return await asyncio.gather(*getting, return_exceptions=True)

            q.close()
            assert [type(one) for one in asyncio.run(run(), debug=True)] == [errors.ClosedError] * 2


def test_a_closed_queue_watches_no_descriptor_that_was_used_again(here):
    """The number is another file's at once; its reader stays."""
    with here.queue("q", create=True) as q, dsmem.attach(q.ref) as reader:

        async def run():
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(reader.get_async())
            await waiting(reader, 1)
            before = set(descriptors())
            reader.close()
            freed = before - set(descriptors())
            pairs = [os.pipe() for _ in range(len(freed) + 1)]
            heard = asyncio.Event()
            for source, sink in pairs:
                loop.add_reader(source, heard.set)
                heard.clear()
                with pytest.raises(errors.ClosedError):
                    await task
                os.write(sink, b"x")
                await asyncio.wait_for(heard.wait(), 30)
                assert loop.remove_reader(source)
                os.close(source)
                os.close(sink)

        asyncio.run(run())


def test_one_handle_in_two_loops(here):
    """Both get what comes, in debug mode, too: futures are set in their own loop."""
    n = 50
    with here.queue("q", create=True) as q:
        got = []

        async def run():
            for _ in range(n):
                got.append(await q.get_async())

        threads = [threading.Thread(target=asyncio.run, args=(run(),), kwargs={"debug": True}) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(2 * n):
            q.put(bytes([i]))
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert sorted(got) == [bytes([i]) for i in range(2 * n)]


def test_a_small_message_does_not_wait_for_the_room_of_a_large_one(here):
    with here.queue("q", create=True, capacity_bytes=4096, max_message=2000) as q:

        async def run():
            while True:
                try:
                    q.put_nowait(bytes(300))
                except errors.FullError:
                    break
            for first, second in ((2000, 300), (300, 2000)):
                tasks = {size: asyncio.create_task(q.put_async(bytes(size))) for size in (first, second)}
                await waiting(q, 2)
                q.get()
                q.get()  # room for the small one
                await asyncio.wait_for(asyncio.shield(tasks[300]), 30)
                assert not tasks[2000].done()
                while not tasks[2000].done():
                    if not q.empty():
                        q.get()
                    await asyncio.sleep(0)
                assert len(q.get_many()) > 0
                while True:
                    try:
                        q.put_nowait(bytes(300))
                    except errors.FullError:
                        break

        asyncio.run(run(), debug=True)


def test_a_cancelled_task_leaves_nothing(here):
    with here.queue("q", create=True) as q:

        async def run():
            q.fileno()
            before = descriptors()
            for _ in range(3):
                tasks = [asyncio.create_task(q.get_async()) for _ in range(2)]
                await waiting(q, 2)
                tasks[0].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await tasks[0]
                q.put(b"for the other one")
                assert await asyncio.wait_for(tasks[1], 30) == b"for the other one"
                assert set(descriptors()) <= set(before)  # the garbage of other tests may end meanwhile
                assert not q._readers._futures and not q._readers._descriptors

        asyncio.run(run())


@pytest.mark.parametrize("way", ["get", "put"])
def test_a_loop_that_was_closed_under_its_tasks_is_forgotten(here, way):
    """Its descriptor, and the length for which its task wanted room; asyncio.run() would have cancelled the task."""
    with here.queue("q", create=True, capacity_bytes=4096, max_message=1500) as q:
        while way == "put":
            try:
                q.put_nowait(bytes(300))
            except errors.FullError:
                break
        waiters = q._readers if way == "get" else q._writers
        counts = []
        for _ in range(4):
            loop = asyncio.new_event_loop()
            task = loop.create_task(q.get_async() if way == "get" else q.put_async(bytes(200)))
            loop.run_until_complete(waiting(q, 1))
            counts.append(len(descriptors()))
            loop.close()
            task._log_destroy_pending = False
        assert max(counts) == counts[0]
        assert not waiters.lengths()
    assert not waiters._descriptors and not waiters._futures
