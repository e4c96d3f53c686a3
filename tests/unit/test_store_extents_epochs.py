"""What the core makes of the copies of a store of several extents that have survived: they are recovered together,
clients open those of an epoch, also if extents have different numbers of them, and copies are made again.

tests/c/test_store_sim.c has what clients may leave, and tests/model/joint.pml why a transaction is whole.
"""

import contextlib
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import store_nodes
from paging import number_of, page
from store_nodes import PROPERTIES, SECONDS, client, heads, made, store_of, where

from dsmem import _core, errors
from dsmem.membership.rest import DOUBT
from dsmem.memory import Memory
from dsmem.names import copies

spawn = multiprocessing.get_context("spawn")
EXTENTS, REPLICAS = 3, 2
ALL = [(extent, copy) for extent in range(EXTENTS) for copy in range(REPLICAS)]
SHAPE = ("page_size", "pages", "members", "replicas")


nodes, cluster = store_nodes.nodes, store_nodes.cluster


@contextlib.contextmanager
def remotes_of(cluster, places, name="s"):
    """The memory of these copies of extents."""
    with contextlib.ExitStack() as stack:
        found = []
        for extent, copy in places:
            at = copies.Place(extent, copy, (extent + copy) % 3)
            memory = cluster._names.node(at.node).attach(at.called(name), "store", False)
            found.append(stack.enter_context(memory).remote)
        yield tuple(found)


def written(cluster, count):
    with made(cluster, REPLICAS, extents=EXTENTS) as store:
        pids = store.allocate_many(count).tolist()
        for number, pid in enumerate(pids, 1):
            store.write(pid, page(number))
        return pids


def faults(store):
    return [fault for first in range(0, 102, 51) for fault in store._check(first, 51)]


LEFT = [
    [(0, 0), (1, 0), (2, 0)],
    [(0, 1), (1, 1), (2, 1)],
    [(0, 1), (1, 0), (1, 1), (2, 0)],
    [(0, 0), (0, 1), (1, 1), (2, 1), (2, 0)],
    [(0, 1), (0, 0), (1, 0), (1, 1), (2, 1), (2, 0)],
]


@pytest.mark.parametrize("left", LEFT)
def test_any_copies_of_each_extent_become_a_store(cluster, left):
    pids = written(cluster, 60)
    with remotes_of(cluster, left) as remotes:
        shuffled = sorted(remotes, key=lambda remote: -left[remotes.index(remote)][0])
        assert set(_core.store_recover(tuple(shuffled), 1).values()) == {0}
        for epoch in (1, 2):
            with store_of(*remotes) as store, store_of(*remotes) as other:
                assert [number_of(store.read(pid)) for pid in pids] == list(range(epoch, epoch + 60))
                values = np.repeat(np.arange(epoch + 1, epoch + 61, dtype="u8"), PROPERTIES["page_size"] // 8)
                other.write_many(pids, values)
                more = store.allocate_many(42).tolist()
                assert not {*more} & {*pids} and store.stat()["free"] == 0
                with pytest.raises(errors.StoreFullError):
                    other.allocate_many(2)
                for pid in more:
                    other._free(pid)
                assert store.stat()["free"] == 42 and faults(store) == []
            assert set(_core.store_recover(remotes, epoch + 1).values()) == {0}


def test_only_the_copies_of_an_epoch_are_opened(cluster):
    written(cluster, 3)
    left = [(0, 1), (1, 0), (1, 1), (2, 0)]
    with remotes_of(cluster, ALL) as every, remotes_of(cluster, left) as at:
        _core.store_recover(at, 4)
        assert [_core.store_look(one)["epoch"] for one in every] == [0, 4, 4, 4, 4, 0]
        wrong = [
            every,
            at[:3],
            at[1:],
            (*at, at[3]),
            (at[0], at[0], *at[1:]),
            (at[0], at[2], at[1], at[3]),
            (at[1], at[2], at[0], at[3]),
            (at[0], at[1], at[3]),
            (at[0], at[1], at[2], every[5]),
        ]
        for some in wrong:
            with pytest.raises(errors.MismatchError):
                _core.Store(some)
        with store_of(*at) as store:
            assert (store.stat()["replicas"], store.stat()["extents"]) == (REPLICAS, EXTENTS)


def test_what_can_not_be_recovered_is_refused(cluster):
    """An extent of which no copy is there, or copies of two stores."""
    written(cluster, 3)
    with cluster.store("other", create=True, replicas=REPLICAS, extents=EXTENTS, **PROPERTIES):
        with remotes_of(cluster, ALL) as at, remotes_of(cluster, [(2, 0)], "other") as other:
            with pytest.raises(errors.MismatchError, match="extent 1"):
                _core.store_recover((*at[:2], *at[4:]), 1)
            with pytest.raises(errors.MismatchError):
                _core.store_recover((*at[:4], *other), 1)
            with pytest.raises(errors.MismatchError, match="twice"):
                _core.store_recover((*at, at[3]), 1)
            assert [_core.store_look(one)["epoch"] for one in at] == [0] * 6
            _core.store_recover(at, 7)
            with pytest.raises(errors.InvalidArgumentError, match="epoch 7"):
                _core.store_recover(at[1:], 6)


# -- a transaction that is under way --


def change_all(address, plan, name, pids, number, pipe):
    """Make a transaction of all pages, of which ops fail; say what came of it, and end without giving back anything."""
    with client(address, f"fault+tcp://?{plan}") as (cluster, own), cluster.store(name) as store:
        with store.transaction() as tx:
            for pid in pids:
                tx.write(pid, page(number))
            first = own.stats["posts"] + 1
            try:
                tx.__exit__(None, None, None)
                made = True
            except (errors.TransportError, errors.PeerDeadError, errors.TimeoutError, errors.ConflictError):
                made = False
            except errors.OutcomeUnknownError:
                made = None
            pipe.send((made, first, own.stats["posts"]))
            pipe.close()
            os.kill(os.getpid(), signal.SIGKILL)


def changed(address, plan, name, pids, number):
    here, there = spawn.Pipe(False)
    child = spawn.Process(target=change_all, args=(address, plan, name, pids, number, there))
    child.start()
    there.close()
    assert here.poll(SECONDS)
    said = here.recv()
    child.join(SECONDS)
    assert child.exitcode == -signal.SIGKILL
    return said


@pytest.mark.parametrize("fault", ["fail={n}-{end}", "failafter={n}&fail={next}-{end}"])
def test_a_transaction_is_whole_in_all_extents(nodes, cluster, cluster_name, fault):
    """Wherever its client dies, and whatever copies are left; also if a recovery had others before."""
    address = where(nodes, cluster_name)
    found, first, last = set(), 0, 0
    for turn in range(7):
        name, chance = f"s{turn}", random.Random(turn)
        with cluster.store(name, create=True, replicas=REPLICAS, extents=EXTENTS, **PROPERTIES) as store:
            pids = store.allocate_many(6).tolist()
            for pid in pids:
                store.write(pid, page(1))
        n = first + (last - first) * turn // 6
        plan = fault.format(n=n, next=n + 1, end=n + 2000) if turn else ""
        made, begins, ends = changed(address, plan, name, pids, 2)
        if not turn:
            first, last = begins, ends
        for epoch in (1, 2):  # nothing was opened in between
            left = [(x, k) for x in range(EXTENTS) for k in chance.choice([(0,), (1,), (0, 1), (1, 0)])]
            with remotes_of(cluster, left, name) as remotes:
                _core.store_recover(remotes, epoch)
        with remotes_of(cluster, left, name) as remotes, store_of(*remotes) as store:
            have = {number_of(store.read(pid)) for pid in pids}
            assert have in ({1}, {2}) and (made is None or have == {1 + made})
            found |= have
            for pid in pids:
                store.write(pid, page(3))
    assert found == {1, 2}


# -- a copy that is made again --


@contextlib.contextmanager
def new_copy(cluster, source, copy, at):
    """Memory for a copy of the extent at a node that has none."""
    there = _core.store_look(source)
    shape = tuple(there[each] for each in SHAPE)
    extents, extent = there["extents"], there["extent"]

    def form(view):
        _core.store_format(view, *shape, copy, there["id"], extents, extent, there["spread"])

    name, nbytes = f"new+e{extent}+{copy}", _core.store_nbytes(*shape, extents)
    with cluster._names.node(at).make(name, "store", nbytes, form, None, "name", lambda memory: memory) as memory:
        assert isinstance(memory, Memory)
        yield memory.remote


def image(remote):
    raw = bytearray(remote.nbytes)
    remote.read(0, raw)
    return bytes(raw)


def test_a_copy_of_an_extent_is_made_again(cluster):
    """While clients write, of an extent that has one copy, beside one that has two."""
    pids = written(cluster, 60)
    left = [(0, 0), (0, 1), (1, 1), (2, 0)]
    with remotes_of(cluster, left) as at, new_copy(cluster, at[2], 0, 0) as target:
        _core.store_recover(at, 1)
        with pytest.raises(errors.MismatchError, match="of one extent"):
            _core.StoreFill(at[0], target)
        fill = _core.StoreFill(at[2], target)
        own = [pid for pid in pids if (pid & ((1 << 40) - 1)) % EXTENTS == 1]
        with store_of(*at) as store:
            assert fill.round(1 << 30)["copied"] == len(own) == 20
            for pid in [*set(pids) - set(own), *own[:2]]:
                store.write(pid, page(100))
            assert fill.round(1 << 30) == {"copied": 2, "left": 0, "damaged": 0, "passed": 34, "done": True}
            store.write(own[0], page(101))
        _core.store_recover(at, 2)
        assert fill.finish(at[2])["copied"] == 1
        fill.close()
        assert heads(image(at[2])) == heads(image(target))
        whole = (*at[:2], target, at[2], at[3])
        _core.store_recover(whole, 2)
        with store_of(*whole) as store:
            found = [number_of(store.read(pid)) for pid in own]
            assert found == [101, 100, *(pids.index(pid) + 1 for pid in own[2:])]
            store.write_many(pids, np.zeros((60, PROPERTIES["page_size"] // 8), "u8"))
            assert faults(store) == []


UNEVEN = [(0, 0), (0, 1), (1, 0), (2, 0)]


def damage(remote, number):
    """Write over a part of the frame of a page that says the number, in one copy."""
    raw = bytearray(remote.nbytes)
    remote.read(0, raw)
    at = bytes(raw).find(page(number))
    if at >= 0:
        remote.write(at + 100, b"\xff" * 8)
    return at >= 0


def test_pages_are_repaired_where_some_extents_have_one_copy(cluster):
    pids = written(cluster, 12)
    with remotes_of(cluster, UNEVEN) as remotes:
        _core.store_recover(remotes, 1)
        first = next(number for number in range(1, 13) if damage(remotes[0], number))
        with store_of(*remotes) as store:
            order = sorted(pids, key=lambda pid: pid == pids[first - 1])  # that of the page with two copies is the last
            assert sorted(number_of(row.tobytes()) for row in store.read_many(order)) == list(range(1, 13))
        alone = next(number for number in range(1, 13) if damage(remotes[2], number))
        with store_of(*remotes) as store:
            for call in (lambda: store.read(pids[alone - 1]), lambda: store.read_many(pids)):
                with pytest.raises(errors.CorruptError):
                    call()


def written_with(address, plan, pids, number):
    """What a write of many pages says, of which the last was freed; and at which op it begins and ends."""
    with client(address, f"fault+tcp://?{plan}") as (cluster, own), remotes_of(cluster, UNEVEN) as remotes:
        with store_of(*remotes) as store:
            store.write_many(pids[:-1], page(number) * (len(pids) - 1))
            assert all(store.version(pid) for pid in pids[:-1])
            begun = own.stats["posts"]
            with pytest.raises(errors.DsmemError) as caught:
                store.write_many(pids, page(number + 1) * len(pids))
            return begun, own.stats["posts"], caught.value


def test_no_page_is_in_doubt_that_is_known_to_be_written(nodes, cluster, cluster_name):
    """An answer is lost, also in an extent with one copy: its page says at once that it was written."""
    pids = written(cluster, 10)
    with remotes_of(cluster, UNEVEN) as remotes:
        _core.store_recover(remotes, 1)
        with store_of(*remotes) as store:
            store._free(pids[-1])
    address = where(nodes, cluster_name)
    begun, ended, _ = written_with(address, "", pids, 20)
    for op in range(begun + 1, ended + 1):
        *_, error = written_with(address, f"failafter={op}", pids, 20 + op)
        made_now = {pid for pid, version in zip(pids, error._versions, strict=True) if version}
        assert not made_now & set(np.frombuffer(error._doubts, DOUBT)["pid"].tolist()), op
