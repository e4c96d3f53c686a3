"""An event loop that takes messages from two processes while it does other things.

``async for`` ends when the queue is shut down and empty. While the queue is empty the loop is free: it waits
for the queue's file descriptor together with all others.
"""

import asyncio
import multiprocessing
import os

import dsmem

COUNT, PRODUCERS = 20_000, 2
ID = os.getpid()  # part of names, so that two runs at a time don't collide


def produce(ref, number):
    with dsmem.attach(ref) as queue:
        for i in range(COUNT):
            queue.put(f"{number} {i}".encode())


async def consume(queue):
    """Return the numbers from each producer, in the order in which they came."""
    got = {number: [] for number in range(PRODUCERS)}
    async for message in queue:
        number, i = message.split()
        got[int(number)].append(int(i))
    return got


async def other_things():
    ticks = 0
    while True:
        await asyncio.sleep(0.001)
        ticks += 1
        print(f"\r{ticks} other things done", end="", flush=True)


async def run(queue):
    spawn = multiprocessing.get_context("spawn")
    producers = [spawn.Process(target=produce, args=(queue.ref, number)) for number in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    consumer, others = asyncio.create_task(consume(queue)), asyncio.create_task(other_things())
    for producer in producers:
        await asyncio.to_thread(producer.join)
        assert producer.exitcode == 0
    queue.shutdown()
    got = await consumer
    others.cancel()
    return got


def main():
    with dsmem.connect("examples") as cluster:
        queue = cluster.queue(f"messages-{ID}", create=True, producers=PRODUCERS, lifetime="creator")
        got = asyncio.run(run(queue))
        queue.unlink()
    assert got == {number: list(range(COUNT)) for number in range(PRODUCERS)}
    print(f"\n{PRODUCERS} × {COUNT} messages, those of each producer in its order")


if __name__ == "__main__":
    main()
