"""What a handle of a store counts of its calls, how long they take, and what a process exposes of that."""

import asyncio
import gc
import sys
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from forked import in_child
from paging import SIZE, page

import dsmem
from dsmem import _core, errors, metrics

PROPERTIES = {"page_size": SIZE, "capacity": 100 * SIZE, "members": 8}
NOTHING = dict.fromkeys(metrics.COUNTS, 0)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As in a process that has had no stores: the tests before may have used up the series."""
    monkeypatch.setattr(metrics, "_handles", {})
    monkeypatch.setattr(metrics, "_over", [])
    monkeypatch.setattr(metrics, "_ended", metrics._Ended(0, {}))
    monkeypatch.setattr(metrics, "_series", {})


@pytest.fixture
def store(cluster):
    with cluster.store("s", create=True, **PROPERTIES) as made:
        yield made


def work(store):
    """Return what of it is counted."""
    pid, *ids = [store.allocate(), *store.allocate_many(3)]
    version = store.write(pid, page(1))
    store.compare_write(pid, version, page(2))
    assert store.read(pid) == store.read(pid, bytearray(SIZE)) == page(2)
    store.version(pid)
    store.write_many(ids, page(3) * 3)
    store.read_many(ids)
    store.read_many(ids[:2])
    with store.transaction() as tx:
        tx.read(pid)
        tx.write(pid, page(4))
    store.snapshot(ids)
    store.free(pid)
    many = {"read_many": 2, "read_many_pages": 5, "write_many": 1, "write_many_pages": 3}
    single = {"read": 2, "version": 1, "write": 1, "compare_write": 1, "free": 1, "snapshot": 1, "commit": 2}
    return {**NOTHING, **single, **many, "allocate": 2, "allocate_pages": 4}


def test_what_is_counted(store):
    assert store.counts == NOTHING and store.latencies == {}
    assert work(store) == store.counts
    found = store.latencies
    assert set(found) == set(metrics.CALLS)
    for call, each in found.items():
        assert 0 < each["p50"] <= each["p99"] < 60 and 1 <= each["samples"] <= store.counts[call]


def test_calls_of_tasks(store):
    async def calls():
        pid = await store.allocate_async()
        version = await store.write_async(pid, page(1))
        await store.compare_write_async(pid, version, page(2))
        await store.read_async(pid)
        await store.version_async(pid)
        await store.write_many_async([pid], page(3))
        await store.read_many_async([pid])
        await store.snapshot_async([pid])
        await store.free_async(pid)

    asyncio.run(calls())
    once = ("read", "version", "write", "compare_write", "read_many", "read_many_pages", "write_many", "allocate")
    more = ("write_many_pages", "allocate_pages", "free", "snapshot", "commit")
    assert store.counts == {**NOTHING, **dict.fromkeys((*once, *more), 1)}
    assert set(store.latencies) == set(metrics.CALLS)


def test_pages_that_the_status_names(store):
    """Only those count that were read or written."""
    ids = store.allocate_many(3)
    store.free(ids[1])
    status = np.empty(3, "u1")
    store.write_many(ids, page(1) * 3, status=status)
    store.read_many(ids, status=status)
    assert status.astype(bool).tolist() == [False, True, False]
    found = store.counts
    assert (found["write_many"], found["write_many_pages"], found["read_many_pages"]) == (1, 2, 2)


def test_calls_that_fail(store):
    pid = store.allocate()
    with pytest.raises(errors.ConflictError):
        store.compare_write(pid, store.version(pid) + 1, page(1))
    store.free(pid)
    for call in (lambda: store.read(pid), lambda: store.write_many([pid], page(1)), lambda: store.free(pid)):
        with pytest.raises(errors.PageNotFoundError):
            call()
    found = store.counts
    assert (found["conflicts"], found["failed"]) == (1, 3)
    assert (found["compare_write"], found["read"], found["write_many"], found["free"]) == (0, 0, 0, 1)


def test_a_transaction_that_is_tried_again(store, other):
    pid = store.allocate()
    with other(store) as second:
        tries = []

        def change(tx):
            tx.read(pid)
            if not tries:
                second.write(pid, page(7))
            tries.append(1)
            tx.write(pid, page(8))

        store.run(change)
    found = store.counts
    assert len(tries) == 2 and (found["conflicts"], found["commit"]) == (1, 1)


def test_a_page_that_another_client_has_changed(store, other):
    """Where memory is mapped a write looks at the page first. Elsewhere it knows it, and is refused."""
    pid = store.allocate()
    with other(store) as second:
        store.write(pid, page(1))
        second.write(pid, page(2))
        store.write(pid, page(3))
    assert store.counts["retries"] == (0 if store._memory.remote.fabric in ("", "shm") else 1)
    assert store.counts["write"] == 2


def test_a_handle_that_is_closed(store):
    store.close()
    for name in ("counts", "latencies"):
        with pytest.raises(errors.ClosedError):
            getattr(store, name)


def test_a_child_begins_with_nothing(here):
    with here.store("s", create=True, **PROPERTIES) as store:
        pid = store.allocate()
        store.read(pid)

        def child():
            before = sum(figures.counts.total() for of, figures in metrics.of_process().items() if of.store == "s")
            store.read(pid)
            return before, store.counts["read"], store.counts["allocate"]

        assert in_child(child) == (0, 1, 0)
        assert store.counts["read"] == 1


@pytest.mark.parametrize(
    ("classes", "p50", "p99"),
    [
        ({0: 1}, 0.5e-9, 0.5e-9),  # 0 ns
        ({4: 1}, 4.5e-9, 4.5e-9),  # 4 ns
        ({36: 98, 40: 1, 44: 1}, 1152e-9, 2304e-9),  # 1024 to 1279 ns; 2048 to 2559; 4096 on
        ({36: 1, 40: 1}, 1152e-9, 2304e-9),
    ],
)
def test_percentiles(classes, p50, p99):
    found = _core.latencies_of({"read": classes})["read"]
    assert found["samples"] == sum(classes.values())
    assert (found["p50"], found["p99"]) == (pytest.approx(p50), pytest.approx(p99))


def test_the_class_of_a_time():
    """It begins with that time or before, and the next class does not."""
    for ns in (*range(20), 2**20 - 1, 2**20, 2**20 + 2**18, 10**9, 2**40):
        which = metrics._class_of(ns)
        if ns >= 4:
            power, quarter = which // 4 + 1, which % 4
            assert 2**power * (4 + quarter) <= 4 * ns < 2**power * (5 + quarter)
        else:
            assert which == ns
    assert metrics._class_of(2**60) == metrics.TIMES - 1


# ---- what a process exposes ----


def exposed(text, cluster):
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    registry.register(metrics.StoreCollector())
    found = client.generate_latest(registry).decode()
    lines = [line for line in found.splitlines() if line[0] != "#" and f'cluster="{cluster.name}"' in line]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(text)}


def test_what_a_process_exposes(here, monkeypatch):
    """Handles of one store are added up, and closed ones stay."""
    monkeypatch.setattr(metrics, "_series", {})

    def figure(name, *labels):
        wanted = [f'store="{name}"', 'fabric="shm"', *labels]
        found = exposed("dsmem_store_", here)
        return {key.partition("{")[0]: n for key, n in found.items() if all(label in key for label in wanted)}

    with here.store("s", create=True, **PROPERTIES) as store, here.store("t", create=True, **PROPERTIES):
        pid = store.allocate()
        with here.store("s") as second:
            second.read(pid)
            store.read(pid)
            assert figure("s", 'call="read"')["dsmem_store_calls_total"] == 2
        store.read(pid)
        found = figure("s", 'call="read"')
        assert found["dsmem_store_calls_total"] == 3 and found["dsmem_store_call_seconds_count"] == 2
        assert 0 < found["dsmem_store_call_seconds_sum"] < 60
        assert figure("s", 'call="allocate"')["dsmem_store_call_pages_total"] == 1
        assert figure("t", 'call="read"')["dsmem_store_calls_total"] == 0
    assert figure("s", 'call="read"')["dsmem_store_calls_total"] == 3
    beside = ("retries", "conflicts", "unknown", "failed", "repaired")
    assert all(exposed(f"dsmem_store_{name}_total", here) for name in beside)


def test_the_classes_of_a_histogram():
    """What took less than a power of two is below it, and the mean is about right."""
    upto, seconds = metrics._classes({23: 3, 24: 1, 200: 1})  # 112 to 127 ns, 128 to 159 ns, and very long
    assert upto[0] == ("1.28e-07", 3) and upto[1] == ("2.56e-07", 4)
    assert upto[-2][1] == 4 and upto[-1] == ("+Inf", 5) and seconds > 1


def total(name):
    return sum(figures.counts.total() for of, figures in metrics.of_process().items() if of.store == name)


@pytest.mark.parametrize("cycle", [False, True])
def test_a_handle_that_is_dropped(here, cycle):
    """Its figures stay, also if the collector of garbage has found it. Nothing else does."""
    with here.store("s", create=True, **PROPERTIES) as store:
        pid, before = store.allocate(), total("s")
        handle, open_ = here.store("s"), len(metrics._handles)
        handle.read(pid)
        if cycle:
            handle.itself = handle
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # unclosed
            del handle
            gc.collect()
        assert total("s") == before + 1 and len(metrics._handles) == open_ - 1


class Stub:
    """What stands for a handle. While its figures are read something else may happen."""

    def __init__(self, name, meanwhile=lambda: None):
        self.name, self._in_cluster, self._counted, self.meanwhile = name, "stub", None, meanwhile
        self._memory = SimpleNamespace(remote=SimpleNamespace(fabric=""))
        metrics.opened(self)

    def _counts(self):
        self.meanwhile()
        return {"read": 1}

    def _times(self):
        return {"read": {40: 1}}


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_handle_that_is_closed_meanwhile(name):
    """Between any two looks, as other threads, signal handlers and the collector do it: each is counted once."""
    first, last = Stub("a"), Stub(name)
    middle = Stub("a", lambda: [metrics.closed(each) for each in (first, last)])
    for _ in range(3):
        assert total("a") + total("b") == 3
    metrics.closed(middle)
    assert total("a") + total("b") == 3 and not metrics._handles and not metrics._over


def test_a_handle_that_is_closed_while_another_one_is(monkeypatch):
    """Then what adds up the first one is below on the stack: nothing waits for it, and no look sees less."""
    first, second = Stub("s"), Stub("s")
    sum_, seen = metrics._sum, []

    def summed(*each):
        if not seen:
            seen.append(0)
            metrics.closed(second)
            seen.append(total("s"))
        return sum_(*each)

    monkeypatch.setattr(metrics, "_sum", summed)
    metrics.closed(first)
    assert seen[1] == total("s") == 2
    metrics.closed(Stub("s"))
    assert total("s") == 3 and not metrics._handles


def test_a_handler_that_raises_while_a_handle_is_closed(monkeypatch):
    first, sum_ = Stub("s"), metrics._sum

    def raises(*each):
        raise KeyboardInterrupt

    monkeypatch.setattr(metrics, "_sum", raises)
    with pytest.raises(KeyboardInterrupt):
        metrics.closed(first)
    monkeypatch.setattr(metrics, "_sum", sum_)
    assert total("s") == 1
    metrics.closed(Stub("s"))
    assert total("s") == 2 and not metrics._handles


def test_a_handle_that_is_closed_while_another_thread_adds_up():
    """It does not wait. The next one adds both."""
    first = Stub("s")
    with metrics._folding:
        thread = threading.Thread(target=metrics.closed, args=(first,))
        thread.start()
        thread.join()
        assert total("s") == 1 and metrics._over == [first._counted]
    metrics.closed(Stub("s"))
    assert total("s") == 2 and not metrics._handles and not metrics._over


def test_handles_that_come_and_go(here):
    """No total is ever less than the one before."""
    with here.store("s", create=True, **PROPERTIES) as store:
        pid, ended = store.allocate(), threading.Event()

        def churn():
            for _ in range(100):
                with here.store("s") as handle:
                    handle.read(pid)
            ended.set()

        interval, thread = sys.getswitchinterval(), threading.Thread(target=churn)
        before, totals = total("s"), []
        sys.setswitchinterval(1e-5)
        try:
            thread.start()
            while not ended.is_set():
                totals.append(total("s"))
        finally:
            sys.setswitchinterval(interval)
            thread.join()
        assert totals == sorted(totals) and total("s") == before + 100


def test_many_stores(monkeypatch):
    """The first ones have series of their own, which never go. All others share one."""
    monkeypatch.setattr(metrics, "_SERIES_MOST", 3)
    for number in range(20):
        metrics.closed(Stub(f"job{number}"))
        assert sum(figures.counts.total() for figures in metrics.of_process().values()) == number + 1
    again = Stub("job2")
    assert (total("job2"), total("(other)"), len(metrics.of_process())) == (2, 17, 4)
    assert again._counted.of.store == "job2"


def test_it_is_part_of_the_package():
    assert dsmem.metrics.StoreCollector is metrics.StoreCollector
