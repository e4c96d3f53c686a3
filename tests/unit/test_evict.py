"""What a client of a server has held when it is evicted goes to others: docs/decisions/0023."""

import asyncio
import contextlib
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import halt
import pytest
from names_server import address, running
from short_timeouts import in_vain
from tcp_relay import Relay

import dsmem
from dsmem import _core, errors
from dsmem.names.server import NameServer
from dsmem.testing.control import BYE, ControlClient

SECRET = b"e71c7" * 12 + b"e71c"
SECONDS = 30
HOLDER = f"""
import sys, threading
import dsmem

own = dsmem.Context("tcp", secret={SECRET!r}, listen="127.0.0.1", peer_timeout={SECONDS})
cluster = dsmem.connect(sys.argv[1], context=own)

def quietly(wait):
    try:
        wait()
    except dsmem.DsmemError:
        pass

def hold():
    lock, rlock, spin = cluster.lock("lock"), cluster.rlock("rlock"), cluster.spinlock("spinlock")
    for each in (lock, rlock, spin):
        assert each.acquire(timeout=30)
    written, read = cluster.rwlock("written"), cluster.rwlock("read")
    assert written.acquire_write(timeout=30) and read.acquire_read(timeout=30)
    permits = cluster.semaphore("permits")
    assert permits.acquire(timeout=30) and permits.acquire(timeout=30)
    once = cluster.once("once")
    assert once.begin(30)
    segment = cluster.segment("segment")
    block = segment.writing(30)
    array = block.__enter__()
    array[:] = 7
    queue = cluster.queue("queue", max_message=64, create=True)
    queue.put(b"left behind")
    taken = cluster.queue("taken", create=True)
    taken.consume()
    condition = cluster.condition("condition")
    barrier = cluster.barrier("barrier")
    for wait in (lambda: condition.__enter__() and condition.wait(30), lambda: barrier.wait(30)):
        threading.Thread(target=quietly, args=[wait], daemon=True).start()
    return locals()

kept = hold()
print(own.node_id.hex(), flush=True)
for line in sys.stdin:
    try:
        exec(line)
        print("done", flush=True)
    except BaseException as error:
        print(type(error).__name__, flush=True)
"""


def context(**options):
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", "peer_timeout": SECONDS, **options})


@contextlib.contextmanager
def serving(grace, **options):
    with context(**options) as at, running(NameServer(at, grace=grace)) as server:
        yield server


class Holder:
    """A client in a process of its own, which holds one of everything."""

    def __init__(self, where):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.node = bytes.fromhex(self.process.stdout.readline())

    def does(self, line):
        """Execute a line there: "done", or the name of the exception."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def make_all(cluster):
    cluster.lock("lock", create=True).close()
    cluster.rlock("rlock", create=True).close()
    cluster.spinlock("spinlock", create=True).close()
    cluster.rwlock("written", create=True).close()
    cluster.rwlock("read", create=True).close()
    cluster.semaphore("permits", 2, create=True).close()
    cluster.once("once", create=True).close()
    cluster.segment("segment", 64, "i8", versioned=True, create=True).close()
    cluster.condition("condition", create=True).close()
    cluster.barrier("barrier", 3, create=True).close()


def arrived(cluster):
    """Wait until the holder's threads wait in the condition and in the barrier."""
    with contextlib.closing(cluster.barrier("barrier")) as barrier, contextlib.closing(cluster.event("e")) as pause:
        for _ in range(SECONDS * 100):
            if barrier.n_waiting:
                return
            in_vain(pause.wait, 0.01)
    raise AssertionError("no party came to the barrier")


def take_all(cluster):
    """Take everything, without breaking anything by choice."""
    for kind in ("lock", "rlock", "spinlock"):
        with contextlib.closing(getattr(cluster, kind)(kind)) as lock:
            assert lock.acquire(timeout=SECONDS) and lock.recovered, kind
            lock.release()
            assert lock.acquire(timeout=SECONDS) and not lock.recovered, kind
            lock.release()
    with contextlib.closing(cluster.rwlock("written")) as rwlock:
        assert rwlock.acquire_read(timeout=SECONDS) and rwlock.recovered
        rwlock.release_read()
        assert rwlock.acquire_write(timeout=SECONDS) and rwlock.recovered
        rwlock.release_write()
    with contextlib.closing(cluster.rwlock("read")) as rwlock:
        assert rwlock.acquire_write(timeout=SECONDS)
        rwlock.release_write()
    with contextlib.closing(cluster.semaphore("permits")) as permits:
        for _ in range(2):
            assert permits.acquire(timeout=SECONDS) and permits.recovered
        permits.release(2)
    with contextlib.closing(cluster.once("once")) as once:
        assert once.begin(SECONDS)
        once.end()
    with contextlib.closing(cluster.segment("segment")) as segment:
        assert segment.publish(1, timeout=SECONDS) == 1
        version, copy = segment.snapshot(timeout=SECONDS)
        assert version == 1 and (copy == 1).all()
    with contextlib.closing(cluster.queue("queue")) as queue:
        queue.put(b"next", timeout=SECONDS)
    with cluster.queue("taken") as taken:
        taken.put(b"taken", timeout=SECONDS)
        assert taken.get(timeout=SECONDS) == b"taken"
    with contextlib.closing(cluster.barrier("barrier")) as barrier:
        with pytest.raises(errors.BrokenBarrierError):
            barrier.wait(SECONDS)
        barrier.reset()


@pytest.fixture(params=["another client", "a process of the host"])
def others(request, cluster_name):
    """Opens the cluster of a server in the way of one of its two kinds of users."""

    @contextlib.contextmanager
    def open_(server):
        if request.param == "another client":
            with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
                yield cluster
        else:
            with dsmem.connect(cluster_name) as cluster:
                yield cluster

    return open_


@pytest.fixture
def prepared(cluster_name):
    with dsmem.connect(cluster_name) as cluster:
        cluster.event("e", create=True).close()
        make_all(cluster)
        yield cluster


def test_what_a_killed_client_held_goes_to_others(others, prepared, cluster_name):
    with serving(0.0) as server, others(server) as cluster, Holder(address(server, cluster_name)) as holder:
        arrived(prepared)
        holder.process.kill()
        take_all(cluster)
    with contextlib.closing(prepared.queue("queue")) as queue:
        assert [queue.get(timeout=SECONDS) for _ in range(2)] == [b"left behind", b"next"]


def test_a_client_that_lives_holds_on(others, prepared, cluster_name):
    with serving(0.0) as server, others(server) as cluster, Holder(address(server, cluster_name)) as holder:
        with contextlib.closing(cluster.lock("lock")) as lock, contextlib.closing(cluster.semaphore("permits")) as two:
            assert not in_vain(lock.acquire, timeout=0.2) and not in_vain(two.acquire, timeout=0.2)
            with cluster.queue("taken") as taken, pytest.raises(errors.BusyError):
                taken.get(timeout=0)
            assert holder.does("kept['lock'].release()") == "done"
            assert lock.acquire(timeout=SECONDS) and not lock.recovered
            lock.release()


def test_a_stopped_client_that_is_fenced_finds_out(others, prepared, cluster_name):
    with serving(None) as server, others(server) as cluster, Holder(address(server, cluster_name)) as holder:
        arrived(prepared)
        halt.stop(holder.process.pid)
        with contextlib.closing(cluster.lock("lock")) as lock:
            assert not in_vain(lock.acquire, timeout=0.2)  # a process that is stopped is alive
        server.context.fence(holder.node)
        take_all(cluster)
        os.kill(holder.process.pid, signal.SIGCONT)
        for line in (
            "kept['lock'].release()",
            "kept['rlock'].release()",
            "kept['written'].release_write()",
            "kept['read'].release_read()",
            "kept['permits'].release()",
            "kept['once'].end()",
            "kept['block'].__exit__(None, None, None)",
            "kept['queue'].put(b'late')",
            "kept['taken'].get()",
            "cluster.lock('lock')",
        ):
            assert holder.does(line) == "FencedError", line
        assert holder.does("assert kept['lock'].token is None and not kept['permits'].held") == "done"
        with contextlib.closing(cluster.segment("segment")) as segment:
            assert segment.snapshot(timeout=SECONDS)[0] == 1
        again = f"own = dsmem.Context('tcp', secret={SECRET!r}, listen='127.0.0.1')"
        assert (
            holder.does(f"{again}; cluster = dsmem.connect({address(server, cluster_name)!r}, context=own)") == "done"
        )
        assert (
            holder.does("lock = cluster.lock('lock'); assert lock.acquire(timeout=30) and not lock.recovered") == "done"
        )


@pytest.mark.parametrize("grace", [0.0, None])
def test_a_connection_that_breaks_is_no_death_within_the_grace_period(grace, prepared, cluster_name):
    """The client comes back and holds what it held; or it is too late, and is told."""
    with Relay() as relay, serving(grace, listen=relay.listen, advertise=relay.advertise) as server:
        where = address(server, cluster_name)
        with context() as own, dsmem.connect(where, context=own) as cluster:
            lock, other = cluster.lock("lock"), prepared.lock("lock")
            with contextlib.closing(other), contextlib.closing(lock):
                assert lock.acquire(timeout=SECONDS)
                relay.break_all()
                if grace is None:
                    assert not in_vain(other.acquire, timeout=0.2)
                    lock.release()
                    assert other.acquire(timeout=SECONDS) and not other.recovered
                else:
                    assert other.acquire(timeout=SECONDS) and other.recovered
                    with pytest.raises(errors.FencedError):
                        lock.release()
                    assert lock.token is None
                other.release()


def evict_the_absent(server, relay):
    """End the grace period of the clients that have no connection now."""
    _core.serve(server.context, True, 0.0)
    with ControlClient(f"tcp:{relay.listen}") as client:  # the agent looks at those that are away whenever it wakes
        assert client.hello() == 0
    _core.serve(server.context, True, None)


def test_a_grace_period_that_is_set_later_counts_for_those_that_are_away(prepared, cluster_name):
    """The agent may sleep without a limit when it is set. Those that are there hold on."""
    with serving(None) as server, Holder(address(server, cluster_name)) as there, context() as own:
        assert there.does("kept['lock'].release()") == "done"
        with dsmem.connect(address(server, cluster_name), context=own) as cluster:
            with contextlib.closing(cluster.semaphore("held", 1, create=True)) as held:
                assert held.acquire(timeout=SECONDS)
                there.process.kill()
                there.process.wait()
                lock = prepared.spinlock("spinlock")
                early = in_vain(lock.acquire, timeout=0.5)  # meanwhile the connection's end has been seen
                _core.serve(server.context, True, 0.0)
                taken = not early and lock.acquire(timeout=SECONDS)
                held.release()
                assert taken and lock.recovered
                lock.release()
                lock.close()


@pytest.mark.parametrize("how", ["break_all", "reset_all"])
def test_a_client_that_does_nothing_connects_again_and_holds_on(how, prepared, cluster_name):
    with Relay() as relay, serving(None, listen=relay.listen, advertise=relay.advertise) as server:
        with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
            with contextlib.closing(cluster.lock("lock")) as lock, contextlib.closing(prepared.lock("lock")) as other:
                assert lock.acquire(timeout=SECONDS)
                for _ in range(3):
                    before = relay.opened
                    getattr(relay, how)()
                    relay.await_opened(before + 1, SECONDS)
                    evict_the_absent(server, relay)
                    assert not other.acquire(timeout=0.1)
                lock.release()
                assert other.acquire(timeout=SECONDS) and not other.recovered
                other.release()


def test_a_client_that_cannot_connect_again_loses_what_it_holds_and_is_told(prepared, cluster_name):
    with Relay() as relay, serving(0.0, listen=relay.listen, advertise=relay.advertise) as server:
        with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
            with contextlib.closing(cluster.lock("lock")) as lock, contextlib.closing(prepared.lock("lock")) as other:
                assert lock.acquire(timeout=SECONDS)
                relay.hold("up", "down")
                relay.break_all()
                assert other.acquire(timeout=SECONDS) and other.recovered
                relay.heal()
                with pytest.raises(errors.FencedError):
                    lock.release()
                assert lock.token is None
                other.release()


def test_a_client_that_has_closed_what_it_had_opened_is_not_evicted(prepared, cluster_name):
    with Relay() as relay, serving(None, listen=relay.listen, advertise=relay.advertise) as server:
        with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
            cluster.lock("lock").close()
            before = relay.opened
            relay.break_all()
            relay.await_opened(before + 1, SECONDS)
            evict_the_absent(server, relay)
            with contextlib.closing(cluster.lock("lock")) as lock:
                assert lock.acquire(timeout=SECONDS)
                lock.release()


@pytest.mark.parametrize("nbytes", [0, 1, 12])
def test_a_look_at_an_object_survives_a_connection_that_breaks_under_it(nbytes, prepared, cluster_name):
    """Reading has no side effect, so it is done again over another connection."""
    with Relay() as relay, serving(None, listen=relay.listen, advertise=relay.advertise) as server:
        with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
            with contextlib.closing(cluster.lock("lock")) as lock:
                with lock:
                    relay.cut_after("down", nbytes)
                    assert lock.locked()
                    assert relay.cuts == 1
                assert not lock.locked()


def threads():
    return {task.name for task in Path("/proc/self/task").iterdir()}


def test_what_a_task_has_left_behind_is_given_up_by_a_client_that_was_cut_off(prepared, cluster_name):
    """The helper of a loop that was closed ends, and does not connect again and again."""
    with (
        serving(None) as server,
        context() as own,
        dsmem.connect(address(server, cluster_name), context=own) as cluster,
        contextlib.closing(prepared.condition("condition")) as holder,
        contextlib.closing(cluster.condition("condition")) as condition,
    ):
        before = threads()

        async def begin():
            await condition.acquire_async()
            task = asyncio.ensure_future(condition.wait_async())
            while not holder.acquire(blocking=False):
                await asyncio.sleep(0.001)
            return task

        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(begin())
        loop.close()  # the helper has to free the waiter's line, for which it needs the lock
        helpers = threads() - before  # an earlier test's may end meanwhile
        assert helpers
        server.context.fence(own.node_id)
        for _ in range(SECONDS * 100):
            if not threads() & helpers:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("the helper still runs")
        task._log_destroy_pending = False
        holder.release()


IDENTITIES, ENDED = 8, 9
TCP = 3  # the number of the fabric in messages


@contextlib.contextmanager
def speaking(at, node=None):
    """A control connection from the documentation alone."""
    with ControlClient(at.agent_address, node=node) as client:
        assert client.hello() == 0 and client.prove(SECRET) == 0
        yield client


def claimed(client, key):
    status, answer, _ = client.ask(IDENTITIES, struct.pack("<IQ", TCP, key))
    assert status == 0
    return struct.unpack("<QQ", answer)


def ended(client, *identities):
    status, answer, _ = client.ask(ENDED, struct.pack(f"<{len(identities)}Q", *identities))
    assert status == 0
    return list(answer)


def test_identities_end_with_a_goodbye_of_their_key():
    with context() as at, speaking(at) as other:
        with speaking(at) as client:
            first, count = claimed(client, 1)
            second, more = claimed(client, 1)
            third, _ = claimed(client, 2)
            assert first >> 63 and second >= first + count and more > count
            last = first + count - 1
            assert ended(other, first, last, second, third) == [0, 0, 0, 0]
            client.send(BYE, struct.pack("<IQ", TCP, 1))
            assert ended(client, first, last, second, third) == [1, 1, 1, 0]
            client.send(BYE)
            assert ended(client, third) == [0]
        assert ended(other, third, 0, 1 << 63 | 0xFFFF << 46 | 5, 2**64 - 1) == [0, 0, 0, 0]
        at.fence(client.node)
        assert ended(other, third) == [1]


def test_objects_that_need_many_identities_get_them(prepared, cluster_name):
    """Each permit has one, and a client's first ones are too few for two such semaphores."""
    names = ("wide", "wider", "widest")
    with serving(None) as server, Holder(address(server, cluster_name)) as holder, contextlib.ExitStack() as stack:
        others = []
        for name in names:
            text = f"{name} = cluster.semaphore({name!r}, 4096, create=True); assert {name}.acquire(timeout=30)"
            assert holder.does(text) == "done"
            others.append(stack.enter_context(contextlib.closing(prepared.semaphore(name))))
            assert sum(others[-1].acquire(False) for _ in range(4096)) == 4095
        server.context.fence(holder.node)
        for other in others:
            taken = other.acquire(timeout=SECONDS)
            other.release(4095 + taken)
            assert taken


def test_a_node_has_so_many_identities_and_no_more():
    with context() as at, speaking(at) as client:
        for key in range(1, 17):
            claimed(client, key)
        for key in (0, 17):
            assert client.ask(IDENTITIES, struct.pack("<IQ", TCP, key))[0] == 22  # EUNSUPPORTED
        assert client.ask(IDENTITIES, struct.pack("<IQ", 77, 1))[0] == 22
        claimed(client, 16)


def test_a_node_that_was_given_no_identities_is_not_evicted():
    """What it holds under identities of its own would stay held."""
    node = os.urandom(16)
    with serving(0.0) as server:
        with speaking(server.context, node) as client:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # the owner can open no file
            try:
                assert client.ask(IDENTITIES, struct.pack("<IQ", TCP, 1))[0] == 22  # EUNSUPPORTED
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with speaking(server.context, node) as client:
            claimed(client, 1)


def holder_of(cluster):
    with contextlib.closing(cluster.lock("lock")) as lock:
        return lock.holder()


def test_where_no_identity_can_be_had_nothing_is_proven(prepared, cluster_name):
    """A client whose owner gives none draws its own, and what it holds stays held."""
    with serving(None) as server, speaking(server.context, os.urandom(16)) as third:
        with context() as own:
            for key in range(1, 17):
                with speaking(server.context, own.node_id) as same:
                    claimed(same, key)
            with dsmem.connect(address(server, cluster_name), context=own) as cluster:
                with (
                    contextlib.closing(cluster.lock("lock")) as lock,
                    contextlib.closing(cluster.semaphore("permits")) as permits,
                ):
                    assert lock.acquire(timeout=SECONDS) and permits.acquire(timeout=SECONDS)
                    assert ended(third, holder_of(prepared), *permits.holders()) == [0, 0]
                    server.context.fence(own.node_id)
                    assert ended(third, holder_of(prepared)) == [0]
                    for give_back in (lock.release, permits.release):
                        with pytest.raises(errors.FencedError):
                            give_back()
        with contextlib.closing(prepared.lock("lock")) as other:
            assert not in_vain(other.acquire, timeout=0.2)
            assert other.break_(other.holder()) and other.acquire(timeout=SECONDS)
            other.release()


def test_a_dead_process_of_the_host_keeps_no_client_waiting(prepared, cluster_name):
    """The owner says who of its host has ended."""
    hold = (
        "import dsmem, sys; lock = dsmem.connect(sys.argv[1]).lock('lock'); lock.acquire(); print(flush=True); input()"
    )
    with (
        serving(None) as server,
        context() as own,
        dsmem.connect(address(server, cluster_name), context=own) as cluster,
    ):
        with subprocess.Popen(
            [sys.executable, "-c", hold, cluster_name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            process.kill()
            process.wait()
            with contextlib.closing(cluster.lock("lock")) as lock:
                assert lock.acquire(timeout=SECONDS) and lock.recovered
                lock.release()


def test_what_was_held_at_a_server_that_is_killed_is_held_by_none(prepared, cluster_name):
    """Its clients reach the memory through it alone."""
    serve = "import sys; from dsmem.cli import main; sys.exit(main())"
    env = {**os.environ, "DSMEM_SECRET": SECRET.decode()}
    command = [sys.executable, "-c", serve, "serve", "--listen", "127.0.0.1:0", "--grace", "inf"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        where = f"{server.stdout.readline().split()[-1]}/{cluster_name}"
        with context() as own, dsmem.connect(where, context=own) as cluster:
            lock = cluster.lock("lock")
            assert lock.acquire(timeout=SECONDS)
            server.kill()
            server.wait()
            with contextlib.closing(prepared.lock("lock")) as other:
                assert other.acquire(timeout=SECONDS) and other.recovered
                other.release()
            with pytest.raises(errors.PeerDeadError):
                lock.release()
            lock.close()
