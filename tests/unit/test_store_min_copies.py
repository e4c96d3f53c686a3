"""Handles of stores that change pages only while enough copies count."""

import asyncio

import pytest
from doubts import last, never
from epochs import PROPERTIES, eventually, together
from paging import number_of, page
from test_store_epochs import CHANGES, lose_an_answer

import dsmem
from dsmem import errors
from dsmem.store import Store


def calls(store, pid, ids):
    """What changes pages."""

    def change(tx):
        tx.write(pid, page(9))

    yield lambda: store.write(pid, page(9))
    yield lambda: store.compare_write(pid, store.version(pid), page(9))
    yield lambda: store.write_many(ids, page(9) * len(ids))
    yield lambda: asyncio.run(store.write_async(pid, page(9)))
    yield lambda: store.run(change)
    yield lambda: store.run(lambda tx: tx.allocate())
    yield store.allocate
    yield lambda: store.allocate_many(3)
    yield lambda: store.run(lambda tx: tx.free(ids[0]))
    yield lambda: store.free(pid)


@pytest.mark.parametrize("extents", [1, 2])
def test_changes_are_refused_until_there_are_enough(tmp_path, extents):
    """Another handle goes on with one copy; reads do, too."""
    properties = {**PROPERTIES, "replicas": 2, "extents": extents}
    with together(tmp_path, 2) as where, where.client() as cluster, where.client() as other:
        store = cluster.store("db", create=True, min_copies=2, **properties)
        content = other.store("db")
        pid, *ids = store.allocate_many(9).tolist()
        store.write_many(ids, page(1) * len(ids))
        assert store.write(pid, page(1)) == store.version(pid)
        where.nodes[1].kill()
        content.write(pid, page(2))
        for call in calls(store, pid, ids):
            with pytest.raises(errors.TooFewCopiesError, match="1 of 2 copies count, and 2 are demanded"):
                call()
        assert [number_of(raw) for raw in store.read_many([pid, *ids])] == [2, *[1] * len(ids)]
        assert content.stat()["free"] == 100 - 1 - len(ids)
        where.more()
        eventually(lambda: store.health()["open"] and not store.health()["missing"])
        for call in calls(store, pid, ids):
            call()
        assert [number_of(raw) for raw in content.read_many(ids[1:])] == [9] * (len(ids) - 1)
        store.close()
        content.close()


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("kind", [*CHANGES, "write_many"])
def test_the_answer_to_a_change_is_lost(tmp_path, monkeypatch, kind, is_made):
    """It may have been made by fewer copies than are demanded, so it is not acknowledged."""
    with together(tmp_path, 2) as where, where.client() as cluster:
        with cluster.store("db", create=True, replicas=2, min_copies=2, **PROPERTIES) as store:
            pid = store.allocate()
            version = store.write(pid, page(1))
            doubt = (lambda: last(store, pid)) if is_made else (lambda: never(store, pid))
            at = CHANGES.get(kind, (Store, "write_many"))
            lose_an_answer(monkeypatch, *at, is_made, doubt, where.node_of(store, 1))
            with pytest.raises(errors.OutcomeUnknownError if is_made else errors.TooFewCopiesError):
                {
                    "write": lambda: store.write(pid, page(2)),
                    "compare_write": lambda: store.compare_write(pid, version, page(2)),
                    "commit": lambda: store.run(lambda tx: tx.write(pid, page(2))),
                    "write_many": lambda: store.write_many([pid], page(2)),
                }[kind]()
            assert number_of(store.read(pid)) == (2 if is_made else 1)


def test_what_is_no_number_of_copies(tmp_path):
    """A handle that is refused keeps no place."""
    with together(tmp_path, 2) as where, where.client() as cluster:
        for number, replicas in ((3, 2), (0, 2), (2, 1), (2, None), (1.5, 2), ("2", 2), (1 << 32, 2)):
            with pytest.raises(errors.InvalidArgumentError, match="min_copies"):
                cluster.store("db", create=True, min_copies=number, replicas=replicas, **PROPERTIES)
        with pytest.raises(errors.InvalidArgumentError, match="min_copies"):
            cluster.store("db", create=None, min_copies=2, **PROPERTIES)
        assert cluster.list() == []
        cluster.store("db", create=True, replicas=1, **{**PROPERTIES, "members": 1}).close()
        for _ in range(3):
            with pytest.raises(errors.InvalidArgumentError, match="could never be changed"):
                cluster.store("db", min_copies=2)
        with cluster.store("db", min_copies=1) as store:
            store.write(store.allocate(), page(1))


def test_without_a_coordinator(cluster_name):
    """A change needs all copies anyway."""
    with dsmem.connect(cluster_name) as cluster:
        with cluster.store("db", create=True, min_copies=1, **PROPERTIES) as store:
            store.write(store.allocate(), page(1))
        with pytest.raises(errors.InvalidArgumentError, match="could never be changed"):
            cluster.store("db", min_copies=2)
        cluster.unlink("db")
