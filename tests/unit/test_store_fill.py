"""A copy of a store that is made again at another memory node, while clients write: _core.StoreFill.

tests/c/test_store_fill.c changes the store between any two of its ops.
"""

import contextlib
import multiprocessing
import signal

import pytest
import store_nodes
from names_server import process_that_serves
from paging import SIZE, number_of, page
from store_nodes import PROPERTIES, SECONDS, SECRET, client, eventually, heads, made, store_of, where

import dsmem
from dsmem import _core, errors
from dsmem.memory import Memory
from dsmem.names.copies import copy_name

nodes, cluster = store_nodes.nodes, store_nodes.cluster

LOCKED = 5 << 52  # by the client in slot 4; it holds for a head without a version, too
PAGES = 100
spawn = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def memory_of(cluster, copy, at=None, name="s"):
    with cluster._names.node(copy if at is None else at).attach(copy_name(name, copy), "store", False) as memory:
        yield memory.remote


@contextlib.contextmanager
def new_copy(cluster, source, copy, at):
    """Memory for a copy of the store at a node that has none."""
    there = _core.store_look(source)
    shape = tuple(there[each] for each in ("page_size", "pages", "members", "replicas"))
    name, nbytes = f"new+{copy}", _core.store_nbytes(*shape)

    def form(view):
        _core.store_format(view, *shape, copy, there["id"])

    with cluster._names.node(at).make(name, "store", nbytes, form, None, "name", lambda memory: memory) as memory:
        assert isinstance(memory, Memory)
        yield memory.remote


@contextlib.contextmanager
def filling(source, target):
    fill = _core.StoreFill(source, target)
    try:
        yield fill
    finally:
        fill.close()


def whole_round(fill, most_bytes=1 << 20):
    while not (found := fill.round(most_bytes))["done"]:
        pass
    return found


def image(remote):
    raw = bytearray(remote.nbytes)
    remote.read(0, raw)
    return bytes(raw)


def check_same(*remotes):
    images = [image(remote) for remote in remotes]
    first, frames = heads(images[0])
    assert all(heads(raw)[0] == first for raw in images)
    for head in first:
        at = frames + (head & 0xFFFFFF) * (64 + SIZE)
        assert head >> 52 or len({raw[at : at + 64 + SIZE] for raw in images}) == 1


@pytest.fixture
def filled(cluster):
    """A store of two copies at nodes 0 and 1, its pages, the copies, and what fills another second copy at node 2."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(made(cluster))
        pids = store.allocate_many(70).tolist()
        for number, pid in enumerate(pids[:60], 1):
            store.write(pid, page(number))
        source = stack.enter_context(memory_of(cluster, 0))
        target = stack.enter_context(new_copy(cluster, source, 1, 2))
        yield store, pids, source, target, stack.enter_context(filling(source, target))


def finish(fill, source, target, epoch=1):
    """As a coordinator does it once no client has access."""
    _core.store_recover((source,), epoch)
    found = fill.finish(source)
    _core.store_recover((source, target), epoch)
    check_same(source, target)
    return found


def test_a_round_copies_what_has_changed(filled):
    store, pids, source, target, fill = filled
    assert whole_round(fill) == {"copied": 60, "left": 0, "damaged": 0, "passed": PAGES, "done": True}
    assert whole_round(fill)["copied"] == 0
    for pid in pids[10:13]:
        store.write(pid, page(200))
    store.free(pids[20])
    store.write(pids[65], page(201))
    assert whole_round(fill)["copied"] == 4
    store.write(pids[10], page(202))
    store.close()
    assert finish(fill, source, target)["copied"] == 1
    with store_of(source, target) as both:
        assert number_of(both.read(pids[10])) == 202
        both.write(pids[11], page(203))
    _core.store_recover((target,), 2)
    with store_of(target) as alone:  # the copies of before are gone
        assert [number_of(alone.read(pid)) for pid in pids[:4]] == [1, 2, 3, 4]
        assert [number_of(alone.read(pids[i])) for i in (10, 11, 65, 69)] == [202, 203, 201, 0]
        with pytest.raises(errors.PageNotFoundError):
            alone.read(pids[20])
        alone.write(pids[30], page(204))
        assert number_of(alone.read(pids[30])) == 204


def test_a_round_ends_after_most_bytes(filled):
    _, _, _, _, fill = filled
    calls = []
    while not calls or not calls[-1]["done"]:
        calls.append(fill.round(1))
    assert len(calls) >= 1 and [each["copied"] for each in calls][-1] == 60
    assert sum(each["done"] for each in calls) == 1
    passed = [each["passed"] for each in calls]
    assert passed == sorted(passed) and passed[-1] == PAGES


def head_of_page(remote, pid):
    raw = bytearray(192)
    remote.read(0, raw)
    chunks = int.from_bytes(raw[88:96], "little")
    return -(-(192 + 16 * PROPERTIES["members"] + 8 * chunks) // 64) * 64 + 8 * (pid & (1 << 40) - 1)


def test_a_page_that_is_locked_is_left_to_the_next_round(filled):
    store, pids, source, target, fill = filled
    offset = head_of_page(source, pids[3])
    head = source.fetch_add(offset, 0)
    lock = LOCKED | head & ~((1 << 24) - 1)
    assert source.compare_swap(offset, head, lock) == head
    found = whole_round(fill)
    assert (found["copied"], found["left"]) == (59, 1)
    with pytest.raises(errors.CorruptError, match="no recovery"):
        fill.finish(source)
    assert source.compare_swap(offset, lock, head) == lock
    store.close()
    assert finish(fill, source, target)["copied"] == 1


def test_a_page_that_is_damaged_is_copied_at_the_end(filled):
    store, pids, source, target, fill = filled
    head = source.fetch_add(head_of_page(source, pids[3]), 0)
    at = heads(image(source))[1] + (head & 0xFFFFFF) * (64 + SIZE)
    source.write(at + 64 + 8, bytes(8))
    found = whole_round(fill)
    assert (found["copied"], found["left"]) == (59, 1)
    store.close()
    assert finish(fill, source, target) == {"copied": 1, "left": 0, "damaged": 1, "passed": PAGES, "done": True}
    with store_of(source, target) as both:
        assert number_of(both.read(pids[4])) == 5
        with pytest.raises(errors.CorruptError):
            both.read(pids[3])


def test_what_it_refuses(filled, cluster):
    _, _, source, target, fill = filled
    with pytest.raises(errors.MismatchError):
        _core.StoreFill(source, source)
    with pytest.raises(TypeError):
        _core.StoreFill(source, None)
    with cluster.store("other", create=True, page_size=256, capacity=256, replicas=1):
        with memory_of(cluster, 0, name="other") as other:
            with pytest.raises(errors.MismatchError):
                _core.StoreFill(other, target)
            with pytest.raises(errors.MismatchError):
                fill.finish(other)
    for wrong in 0, -1, 1 << 64, "1", None:
        with pytest.raises(errors.InvalidArgumentError):
            fill.round(wrong)
    with pytest.raises(errors.InvalidArgumentError, match="before"):
        fill.__init__(source, target)
    assert whole_round(fill)["copied"] == 60
    fill.close()
    fill.close()
    for call in (lambda: fill.round(1), lambda: fill.finish(source)):
        with pytest.raises(errors.ClosedError):
            call()


def test_a_copy_that_replaces_the_source(filled, cluster):
    """It has the same number. Of two that both have an epoch, or none, neither is a new one."""
    _, _, source, _, _ = filled
    with new_copy(cluster, source, 0, 2) as target:
        with pytest.raises(errors.MismatchError):
            _core.StoreFill(source, target)
        _core.store_recover((source,), 1)
        with filling(source, target) as fill:
            assert whole_round(fill)["copied"] == 60
            fill.finish(source)
            _core.store_recover((target,), 1)
        check_same(source, target)
        for pair in (source, target), (target, source), (target, target):
            with pytest.raises(errors.MismatchError):
                _core.StoreFill(*pair)


def test_a_remote_that_is_closed_is_refused(filled):
    _, _, _, target, fill = filled
    target.close()
    with pytest.raises(errors.ClosedError):
        fill.round(1)


def test_a_signal_handler_that_raises_ends_a_call(filled):
    """The next one goes on."""
    store, _, source, target, fill = filled

    def strike(number, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, strike)
    struck = 0
    try:
        for i in range(50):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 * (i + 1))
                whole_round(fill)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptedError:
                struck += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    store.close()
    finish(fill, source, target)


def test_the_source_is_lost(cluster_name):
    """It goes on from another one, which has the same frames."""
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(process_that_serves(SECRET, "--grace", "0")) for _ in range(4)]
        address = where([at.removeprefix("tcp://") for _, at in served], cluster_name)
        cluster, _ = stack.enter_context(client(address, peer_timeout=5))
        with made(cluster, replicas=3) as store:
            pids = store.allocate_many(70).tolist()
            for number, pid in enumerate(pids, 1):
                store.write(pid, page(number))
        first, second = [stack.enter_context(memory_of(cluster, copy)) for copy in (0, 1)]
        _core.store_recover((first, second), 1)
        target = stack.enter_context(new_copy(cluster, first, 2, 3))
        fill = stack.enter_context(filling(first, target))
        assert whole_round(fill)["copied"] == 70
        with store_of(first, second) as store:
            store.write(pids[0], page(100))
        process, gone = served[0]
        process.kill()
        process.wait()
        with pytest.raises(
            (errors.TransportError, errors.PeerDeadError, errors.TimeoutError), match=gone.removeprefix("tcp://")
        ):
            fill.round(1 << 20)
        _core.store_recover((second,), 2)
        assert fill.finish(second)["copied"] == 1
        _core.store_recover((second, target), 2)
        check_same(second, target)
        with store_of(second, target) as store:
            store.write(pids[1], page(101))
        _core.store_recover((target,), 3)
        with store_of(target) as alone:
            assert [number_of(alone.read(pid)) for pid in pids] == [100, 101, *range(3, 71)]


def write_on(address, pids, told, stop):
    """Write growing numbers, and say which were acknowledged; beside them allocate pages, write and free them."""
    number = 0
    with client(address) as (cluster, _), cluster.store("s") as store:
        mine = []
        while not stop.value:
            number += 1
            for i, pid in enumerate(pids):
                told[2 * i + 1] = number  # may be there from now on
                store.write(pid, page(number))
                told[2 * i] = number
            mine.append(store.allocate())
            store.write(mine[-1], page(number))
            if len(mine) > 4:
                store.free(mine.pop(0))


def has_moved(told, before):
    if told[-2] <= before + 2:
        raise LookupError


def check_that_the_dead_are_gone(cluster):
    """Nothing that they have sent is executed any more: all places are taken, theirs among them."""
    with contextlib.ExitStack() as stack:
        for _ in range(PROPERTIES["members"]):
            stack.enter_context(eventually(lambda: cluster.store("s"), errors.TooManyMembersError))


@pytest.mark.parametrize("killed", [False, True])
def test_clients_write_meanwhile(cluster, nodes, killed):
    address = where(nodes, cluster.name)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(made(cluster))
        pids = store.allocate_many(8).tolist()
        told, stop = [spawn.RawArray("Q", 8) for _ in range(2)], spawn.RawValue("i")
        own = pids[:4], pids[4:]
        writers = [spawn.Process(target=write_on, args=(address, own[i], told[i], stop)) for i in (0, 1)]
        for writer in writers:
            writer.start()
            stack.callback(writer.kill)
        source = stack.enter_context(memory_of(cluster, 0))
        target = stack.enter_context(new_copy(cluster, source, 1, 2))
        fill = stack.enter_context(filling(source, target))
        for _ in range(5):
            before = [each[-2] for each in told]
            for each, old in zip(told, before, strict=True):
                eventually(lambda each=each, old=old: has_moved(each, old), LookupError)
            whole_round(fill, 4096)
        stop.value = not killed
        if killed:
            for writer in writers:
                writer.kill()
        for writer in writers:
            writer.join(SECONDS)
            assert writer.exitcode == (-signal.SIGKILL if killed else 0)
        store.close()
        check_that_the_dead_are_gone(cluster)
        finish(fill, source, target)
        _core.store_recover((target,), 2)
        with store_of(target) as alone:
            for i, pid in enumerate(pids):
                have = told[i // 4]
                assert have[2 * (i % 4)] <= number_of(alone.read(pid)) <= have[2 * (i % 4) + 1]
                alone.write(pid, page(7))


def test_a_store_in_files_is_refused(cluster_name):
    with dsmem.connect(cluster_name) as local, local.store("s", create=True, page_size=256, capacity=256) as store:
        assert store.allocate()
        with local._names.attach("s", "store", True) as memory, local._names.attach("s", "store", True) as other:
            with pytest.raises(errors.UnsupportedError, match="in a file"):
                _core.StoreFill(memory.remote, other.remote)


def begun_again(nodes, cluster_name, plan):
    """Fill with a finish that may fail, and rounds after it; return the numbers of the first op of it and the last."""
    faulty = client(where(nodes, cluster_name), f"fault+tcp://?{plan}")
    with faulty as (cluster, context), contextlib.ExitStack() as stack:
        source = stack.enter_context(memory_of(cluster, 0))
        target = stack.enter_context(cluster._names.node(2).attach("new+1", "store", False)).remote
        fill = stack.enter_context(filling(source, target))
        whole_round(fill)
        first = context.stats["posts"] + 1
        with contextlib.suppress(errors.TransportError):
            fill.finish(source)
        last = context.stats["posts"]
        again = eventually(lambda: whole_round(fill), errors.TransportError)
        assert again == {"copied": 0, "left": 0, "damaged": 0, "passed": PAGES, "done": True}  # no page has changed
        eventually(lambda: fill.finish(source), errors.TransportError)
        return first, last


def test_rounds_go_on_after_the_rest_has_failed(nodes, cluster, cluster_name):
    """A store with more clients than pages: the rest may fail among words behind those of the last head."""
    with made(cluster, members=1024) as store:
        pids = store.allocate_many(10).tolist()
        for number, pid in enumerate(pids, 1):
            store.write(pid, page(number))
        with memory_of(cluster, 0) as source, new_copy(cluster, source, 1, 2) as target:
            store.close()
            _core.store_recover((source,), 1)
            first, last = begun_again(nodes, cluster_name, "")
            assert last - first >= 4
            for n in range(first, last + 1):
                begun_again(nodes, cluster_name, f"fail={n}-{n + 40}")
            _core.store_recover((source, target), 1)
            check_same(source, target)
