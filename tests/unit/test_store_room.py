"""Stores for which memory nodes have no room: `dsmem serve --join --memory`.

What is decided: test_membership_room.py.
"""

import pytest
from epochs import PROPERTIES, SECRET, eventually, together

import dsmem
from dsmem import errors

LARGE = {**PROPERTIES, "capacity": "30MiB"}  # of which a copy has less than 45 MiB


@pytest.mark.parametrize("create", [True, None])
def test_a_client_is_told_that_a_node_has_no_room(tmp_path, create):
    """The coordinator does not know that: another object is there."""
    with together(tmp_path, 0) as where, where.client() as cluster, dsmem.Context("tcp", secret=SECRET) as own:
        node = where.more("--memory", "60MiB")
        eventually(lambda: len(where.up()) == 1)
        with dsmem.connect(f"{node.address}/{where.name}", context=own) as names:
            with names.store("other", create=True, **LARGE) as other:
                for _ in range(2):
                    with pytest.raises(errors.OutOfMemoryError) as raised:
                        cluster.store("db", create=create, replicas=1, **LARGE)
                    said = str(raised.value)
                    assert f"'db' was not made: the memory node at {node.address} can't make a copy: " in said
                    assert f"{60 << 20} bytes that 'dsmem serve' may give; " in said and said.endswith("more --memory")
                with pytest.raises(errors.NameNotFoundError):
                    cluster.store("db", create=False)
                other.unlink()
        cluster.store("db", create=create, replicas=1, **LARGE).close()


def test_a_store_is_made_at_a_node_that_has_room(tmp_path):
    with together(tmp_path, 0) as where, where.client() as cluster:
        where.more("--memory", "4MiB")
        large = where.more("--memory", "100MiB")
        eventually(lambda: len(where.up()) == 2)
        for name in ("a", "b"):
            with cluster.store(name, create=True, replicas=1, **LARGE) as store:
                assert [each["node"] for each in store.health()["copies"]] == [large.address]
        with pytest.raises(errors.OutOfMemoryError, match="2 memory nodes answer, of which 0 have room"):
            cluster.store("c", create=True, replicas=1, **LARGE)
        more = where.more()
        eventually(lambda: len(where.up()) == 3)
        with cluster.store("c", create=True, replicas=1, **LARGE) as store:
            assert [each["node"] for each in store.health()["copies"]] == [more.address]


def test_a_store_is_made_in_the_room_of_one_that_was_just_removed(tmp_path):
    """Its memory takes a while to be given back. Pages that were written take longer."""
    large = {**LARGE, "page_size": 4096, "capacity": "120MiB"}
    with together(tmp_path, 0) as where, where.client() as cluster:
        where.more("--memory", "200MiB")
        eventually(lambda: len(where.up()) == 1)
        for _ in range(4):
            with cluster.store("db", create=True, replicas=1, **large) as store:
                ids = store.allocate_many(20000)
                for first in range(0, len(ids), 500):
                    store.write_many(ids[first : first + 500], bytes(500 * 4096))
                store.unlink()


def test_a_store_is_made_where_the_coordinator_did_not_expect_it(tmp_path):
    """What another object holds at a node is not known to it. The second store would be there otherwise."""
    with together(tmp_path, 0) as where, where.client() as cluster, dsmem.Context("tcp", secret=SECRET) as own:
        full, free = where.more("--memory", "60MiB"), where.more()
        eventually(lambda: len(where.up()) == 2)
        with dsmem.connect(f"{full.address}/{where.name}", context=own) as names:
            with names.store("other", create=True, **LARGE) as other:
                for name in ("a", "b"):
                    with cluster.store(name, create=True, replicas=1, **LARGE) as store:
                        assert [each["node"] for each in store.health()["copies"]] == [free.address]
                        assert store.health()["epoch"] == 1
                with pytest.raises(errors.OutOfMemoryError):
                    cluster.store("c", create=True, replicas=2, **LARGE)
                other.unlink()
