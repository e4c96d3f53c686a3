"""What the tests of waiting tasks share."""

import asyncio
import time

import pytest
from halt import thread_count as threads

LIMIT = 60.0  # seconds until a wait that hangs is a failure: under emulation on a loaded host these take 25


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Of any test: the next one counts those that there are."""
    before = threads()
    yield
    while threads() > before:
        time.sleep(0.001)


async def turns(n):
    for _ in range(n):
        await asyncio.sleep(0)


async def until_alone(before):
    """The helper has seen that no task waits."""
    while threads() > before:
        await asyncio.sleep(0.001)
