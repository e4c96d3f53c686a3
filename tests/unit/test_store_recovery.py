"""What the core makes of the copies of a store that have survived: _core.store_recover(), and opening some of them.

tests/c/test_store_sim.c has what clients may leave; here no client is in the middle of a call.
"""

import contextlib
import signal

import pytest
import store_nodes
from paging import number_of, page
from store_nodes import check_equal, client, made, store_of, where

import dsmem
from dsmem import _core, errors
from dsmem.names.copies import copy_name

nodes, cluster = store_nodes.nodes, store_nodes.cluster

FAULTS = ("fail={n}", "failafter={n}", "fail={n}-{end}", "failafter={n}&fail={next}-{end}")
OUTAGE = 40  # ops; more than a call tries again


@contextlib.contextmanager
def remotes_of(cluster, *copies):
    """The memory of some copies."""
    with contextlib.ExitStack() as stack:
        found = [cluster._names.node(k).attach(copy_name("s", k), "store", False) for k in copies]
        for memory in found:
            stack.enter_context(memory)
        yield tuple(memory.remote for memory in found)


def written(cluster, count, replicas=3):
    with made(cluster, replicas=replicas) as store:
        pids = store.allocate_many(count).tolist()
        for number, pid in enumerate(pids, 1):
            store.write(pid, page(number))
        return pids


@pytest.mark.parametrize("left", [(0, 1), (0, 2), (1, 2), (2, 1), (0,), (1,), (2,)])
def test_any_copies_become_a_store(cluster, left):
    pids = written(cluster, 70)
    with remotes_of(cluster, *left) as remotes:
        found = _core.store_recover(remotes, 1)
        assert set(found.values()) == {0}
        with store_of(*remotes) as store:
            assert [number_of(store.read(pid)) for pid in pids] == list(range(1, 71))
            for number, pid in enumerate(pids, 101):
                store.write(pid, page(number))
            more = store.allocate_many(30).tolist()
            assert not {*more} & {*pids}
            assert store.stat()["free"] == 0
        with store_of(*remotes) as store:
            assert [number_of(store.read(pid)) for pid in pids] == list(range(101, 171))


def test_only_the_copies_of_an_epoch_are_opened(cluster):
    written(cluster, 3)
    with remotes_of(cluster, 0, 1, 2) as (first, second, third):
        with pytest.raises(errors.MismatchError):
            _core.Store((first, second))
        _core.store_recover((second, third), 4)
        assert [_core.store_look(at)["epoch"] for at in (first, second, third)] == [0, 4, 4]
        others = (first, second, third), (first, second), (second, first), (second,), (second, second), (third, second)
        for wrong in others:
            with pytest.raises(errors.MismatchError):
                _core.Store(wrong)
        with store_of(second, third) as store:
            assert store.stat()["replicas"] == 3


def test_what_can_not_be_recovered_is_refused(cluster):
    written(cluster, 3, replicas=2)
    with cluster.store("other", create=True, page_size=256, capacity=256, replicas=1), remotes_of(cluster, 0, 1) as at:
        with cluster._names.node(0).attach("other", "store", False) as memory:
            with pytest.raises(errors.MismatchError):
                _core.store_recover((at[0], memory.remote), 1)
        for epoch, copies, kind in [
            (0, at, errors.InvalidArgumentError),
            (1, (), errors.InvalidArgumentError),
            (1, (at[0], at[0]), errors.MismatchError),
        ]:
            with pytest.raises(kind):
                _core.store_recover(copies, epoch)
        _core.store_recover(at, 7)
        with pytest.raises(errors.InvalidArgumentError, match="epoch 7"):
            _core.store_recover(at, 6)
        assert set(_core.store_recover(at, 7).values()) == {0}
        with store_of(*at):
            pass
    check_equal(cluster, 2)


def test_a_handle_is_opened_again_with_copies_of_its_store_alone(cluster, nodes):
    """Neither while a call is in it, nor with pages of another size."""
    written(cluster, 1)
    with remotes_of(cluster, 0, 1, 2) as remotes, store_of(*remotes) as store:

        class Closing:
            def __iter__(self):
                assert not store._reopen(remotes)
                return iter([])

        store.read_many(Closing())
        with cluster.store("other", page_size=1 << 20, capacity="4MiB", create=True) as other:
            with pytest.raises(errors.CorruptError):
                store._reopen((other._memory.remote,))
            other.unlink()


def test_a_handler_does_not_wait_for_the_call_that_it_has_interrupted(cluster, nodes, cluster_name):
    pids = written(cluster, 1)
    found = []
    slowly = client(where(nodes, cluster_name), "fault+tcp://?delay=*:20ms")
    with slowly as (slow, _), remotes_of(slow, 0, 1, 2) as remotes:
        with store_of(*remotes) as store:

            def again(*_):
                with pytest.raises(errors.BusyError) as info:
                    store._reopen(remotes)
                found.append(info.value)

            before = signal.signal(signal.SIGALRM, again)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                while not found:
                    assert number_of(store.read(pids[0])) == 1
            finally:
                signal.signal(signal.SIGALRM, before)


def test_a_mapped_store_is_not_recovered(cluster_name):
    with dsmem.connect(cluster_name) as here, here.store("s", capacity="64KiB", create=True) as store:
        with here._names.attach("s", "store", False) as memory, pytest.raises(errors.UnsupportedError):
            _core.store_recover((memory.remote,), 1)
        store.unlink()


def test_a_handle_is_opened_again_in_another_epoch(cluster):
    pids = written(cluster, 5)
    with remotes_of(cluster, 0, 1, 2) as at, store_of(*at) as store:
        assert number_of(store.read(pids[0])) == 1
        _core.store_recover(at[1:], 1)
        assert store._reopen(at[1:])
        assert [number_of(store.read(pid)) for pid in pids] == [1, 2, 3, 4, 5]
        store.write(pids[0], page(9))
        with store_of(*at[1:]) as other:
            assert number_of(other.read(pids[0])) == 9


def head_offset(remote, pid):
    """docs/protocols/pages.md."""
    raw = bytearray(192)
    remote.read(0, raw)
    slots, chunks = int.from_bytes(raw[68:72], "little"), int.from_bytes(raw[88:96], "little")
    return -(-(192 + 16 * slots + 8 * chunks) // 64) * 64 + 8 * (pid & ((1 << 40) - 1))


def set_head(remote, pid, head):
    remote.write(head_offset(remote, pid), head)


def next_head(head):
    """Of a change that this copy alone has."""
    return (int.from_bytes(head, "little") + (1 << 24)).to_bytes(8, "little")


def head_of(remote, pid):
    head = bytearray(8)
    remote.read(head_offset(remote, pid), head)
    return bytes(head)


def recovered(nodes, cluster_name, plan, epoch):
    """Whether it succeeded, and the numbers of its first op and its last."""
    with client(where(nodes, cluster_name), f"fault+tcp://?{plan}") as (cluster, own), remotes_of(cluster, 1, 2) as at:
        first = own.stats["posts"] + 1
        try:
            _core.store_recover(at, epoch)
        except (errors.TransportError, errors.TimeoutError, errors.PeerDeadError) as error:
            assert not isinstance(error, errors.CanceledError)
            return False, first, own.stats["posts"]
        return True, first, own.stats["posts"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_recovery_that_fails_is_begun_again(nodes, cluster, cluster_name, fault):
    """Whatever op of it fails, or loses its answer, or all do from one on."""
    pids = written(cluster, 5)
    with remotes_of(cluster, 1, 2) as at:
        with cluster.store("s") as store:
            for number, pid in enumerate(pids, 11):
                store.write(pid, page(number))
        after = [head_of(at[0], pid) for pid in pids]
        done, first, last = recovered(nodes, cluster_name, "", 1)
        assert done
        epoch = 1
        for n in range(first, last + 1, max(1, (last - first) // 5)):
            for pid, head in zip(pids[:3], after, strict=False):
                set_head(at[epoch % 2], pid, next_head(head))
            plan = fault.format(n=n, next=n + 1, end=n + OUTAGE)
            done, *_ = recovered(nodes, cluster_name, plan, epoch + 1)
            assert done or recovered(nodes, cluster_name, "", epoch + 2)[0]
            epoch += 2
            assert [[head_of(one, pid) for pid in pids] for one in at] == [after, after]
            with store_of(*at) as store:
                assert [number_of(store.read(pid)) for pid in pids] == [11, 12, 13, 14, 15]
