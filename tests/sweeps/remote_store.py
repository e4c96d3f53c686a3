"""Rows of the sweep of remote faults for stores of pages (remote_table.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from paging import SIZE, number_of, page
from remote_faults import OUTAGE, Kind, Row, nothing, persistently

from dsmem import errors
from dsmem.membership.follow import EpochStore

PAGES = 80
MANY = 5  # pages of a call


# ---- what others do ----


def work(store: Any) -> None:
    """Pages are made, replaced and freed, more often than the store has frames."""
    ids = store.allocate_many(10)
    for first in range(0, 200, 10):
        store.write_many(ids, np.repeat(np.arange(first, first + 10, dtype="u8"), SIZE // 8))
        assert [number_of(each.tobytes()) for each in store.read_many(ids)] == list(range(first, first + 10))
    version = store.version(ids[0])
    assert store.compare_write(ids[0], version, page(7)) == version + 1
    assert number_of(store.read(ids[0])) == 7
    for pid in ids:
        store.free(pid)


def use(owner: Any) -> None:
    """There is a place, and there are frames, for a newcomer: a client that is gone has left them."""
    work(owner)
    with owner._cluster.store(owner.name) as newcomer:
        work(newcomer)


KIND = Kind("store", {"page_size": SIZE, "capacity": PAGES * SIZE, "members": 2}, nothing, use, work)


# ---- pages of the caller ----


def with_pages(store: Any) -> None:
    """Also where an op is late: a caller's time is short."""
    data = b"".join(map(page, range(1, MANY + 1)))
    store.ids = persistently(lambda: store.allocate_many(MANY)).tolist()
    store.versions = persistently(lambda: store.write_many(store.ids, data)).tolist()


def recorded(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The call, whose outcome its handle remembers: True, False, or None where it is unknown."""

    def run(store: Any) -> Any:
        store.outcome = False
        try:
            result = call(store)
        except errors.OutcomeUnknownError:
            store.outcome = None
            raise
        store.outcome = True
        return result

    return run


def told(store: Any, before: Any, after: Any) -> Iterable[Any]:
    """What may be there, by the outcome."""
    return [after] if store.outcome else [before] if store.outcome is False else [before, after]


def replaced(owner: Any, store: Any) -> None:
    """Once, or not at all, as the call has said."""
    found = owner.version(store.ids[0]) - store.versions[0], number_of(owner.read(store.ids[0]))
    assert found in told(store, (0, 1), (1, 77))


def some_replaced(owner: Any, store: Any) -> None:
    """Each once or not at all; all of them if the call says so."""
    for i, pid in enumerate(store.ids):
        found = owner.version(pid) - store.versions[i], number_of(owner.read(pid))
        assert found in [(1, 77)] + [(0, i + 1)] * (not store.outcome)


def transact(store: Any) -> None:
    with store.transaction() as tx:
        for pid in store.ids:
            tx.write(pid, page(number_of(tx.read(pid)) + 76))


def all_replaced(owner: Any, store: Any) -> None:
    """All of them once, or none, as the call has said."""
    try:
        for pid in store.ids:
            store.version(pid)
    except errors.TransportError:
        return  # it is alive, and can't end its locks: then no other client does
    found = [
        (owner.version(pid) - store.versions[i], number_of(owner.read(pid)) - i - 1) for i, pid in enumerate(store.ids)
    ]
    assert found in [[each] * MANY for each in told(store, (0, 0), (1, 76))]


def freed(owner: Any, store: Any) -> None:
    gone = False
    try:
        owner.read(store.ids[0])
    except errors.PageNotFoundError:
        gone = True
    assert gone in told(store, False, True)


def allocated(n: int) -> Callable[[Any, Any], None]:
    """None is lost unless an answer was: then those of one posting. With a coordinator the call is made again, then."""

    def settle(owner: Any, store: Any) -> None:
        missing = PAGES - owner.stat()["free"]
        lost = n if isinstance(store, EpochStore) else 0
        assert n <= missing <= n + lost if store.outcome else 0 <= missing <= n + lost

    return settle


def seen(owner: Any, result: Any, error: Any) -> None:
    if error is None:
        assert number_of(result) == 1


def all_seen(owner: Any, result: Any, error: Any) -> None:
    if error is None:
        assert [number_of(each.tobytes()) for each in result] == list(range(1, MANY + 1))


def none_wrong(owner: Any, result: Any, error: Any) -> None:
    if error is None:
        assert result["wrong"] == {} and result["changing"] == 0


def left(owner: Any, store: Any) -> None:
    """A handle that could not be closed can be, some time."""
    for _ in range(OUTAGE + 1):
        with suppress(errors.TransportError, errors.TimeoutError):
            store.close()
            break
    assert owner.stat()["handles"] == 1


def task(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The call of an asynchronous method, in a loop of its own."""

    async def run(store: Any) -> Any:
        return await call(store)

    return lambda store: asyncio.run(run(store))


def with_it(store: Any) -> None:
    with store:
        pass


def row(name: str, call: Callable[[Any], Any], **how: Any) -> Row:
    return Row("store", name, call, **{"before": with_pages, **how})


ROWS = [
    row("read", lambda s: s.read(s.ids[0]), check=seen),
    row("read_many", lambda s: s.read_many(s.ids), check=all_seen),
    row("version", lambda s: s.version(s.ids[0])),
    row("metadata", lambda s: s.metadata(s.ids[0])),
    row("write", recorded(lambda s: s.write(s.ids[0], page(77))), settle=replaced),
    row("compare_write", recorded(lambda s: s.compare_write(s.ids[0], s.versions[0], page(77))), settle=replaced),
    row("write_many", recorded(lambda s: s.write_many(s.ids, page(77) * MANY)), settle=some_replaced),
    row("transaction", recorded(transact), settle=all_replaced),
    row(
        "run",
        recorded(lambda s: s.run(lambda tx: [tx.write(p, page(77 + i)) for i, p in enumerate(s.ids)])),
        settle=all_replaced,
    ),
    row("snapshot", lambda s: s.snapshot(s.ids), check=all_seen),
    row("free", recorded(lambda s: s.free(s.ids[0])), settle=freed),
    row("allocate", recorded(lambda s: s.allocate()), before=nothing, settle=allocated(1)),
    row("allocate_many", recorded(lambda s: s.allocate_many(3)), before=nothing, settle=allocated(3)),
    row("read_async", task(lambda s: s.read_async(s.ids[0])), check=seen, brief=True),
    row("read_many_async", task(lambda s: s.read_many_async(s.ids)), check=all_seen, brief=True),
    row("version_async", task(lambda s: s.version_async(s.ids[0])), brief=True),
    row("metadata_async", task(lambda s: s.metadata_async(s.ids[0])), brief=True),
    row("write_async", recorded(task(lambda s: s.write_async(s.ids[0], page(77)))), settle=replaced, brief=True),
    row(
        "compare_write_async",
        recorded(task(lambda s: s.compare_write_async(s.ids[0], s.versions[0], page(77)))),
        settle=replaced,
        brief=True,
    ),
    row(
        "write_many_async",
        recorded(task(lambda s: s.write_many_async(s.ids, page(77) * MANY))),
        settle=some_replaced,
        brief=True,
    ),
    row(
        "run_async",
        recorded(task(lambda s: s.run_async(lambda tx: [tx.write(p, page(77 + i)) for i, p in enumerate(s.ids)]))),
        settle=all_replaced,
        brief=True,
    ),
    row("snapshot_async", task(lambda s: s.snapshot_async(s.ids)), check=all_seen, brief=True),
    row("free_async", recorded(task(lambda s: s.free_async(s.ids[0]))), settle=freed, brief=True),
    row(
        "allocate_async",
        recorded(task(lambda s: s.allocate_async())),
        before=nothing,
        settle=allocated(1),
        brief=True,
    ),
    row(
        "allocate_many_async",
        recorded(task(lambda s: s.allocate_many_async(3))),
        before=nothing,
        settle=allocated(3),
        brief=True,
    ),
    row("stat", lambda s: s.stat()),
    row("stat_async", task(lambda s: s.stat_async()), brief=True),
    row("check", lambda s: s.check(), check=none_wrong, brief=True),
    row("close", lambda s: s.close(), settle=left),
    row("with", with_it, settle=left),
]
