"""Names at a server: dsmem serve, and clusters by address."""

import contextlib
import gc
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from interrupts import sweep
from names_server import address, process_that_serves, running

import dsmem
from dsmem import _core, errors
from dsmem.cli import main, reach
from dsmem.names import local, wire
from dsmem.names.server import NameServer
from dsmem.names.wire import Request

SECRET = b"0bec7" * 12 + b"0b1e"
SECONDS = 30


def context(**options):
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", **options})


@contextlib.contextmanager
def serving(listen="127.0.0.1", **options):
    with context(listen=listen) as at, running(NameServer(at, **options)) as server:
        yield server


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def client(server, cluster_name):
    with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
        yield cluster


@pytest.fixture
def second(server, cluster_name):
    """Of another process, as far as the server can see."""
    with context() as own, dsmem.connect(address(server, cluster_name), context=own) as cluster:
        yield cluster


def in_server(server, client, do):
    """Have the server's thread do something, and return the result: its state is of that thread alone."""
    found, release = [], server._does[Request.RELEASE]

    def first(*arguments):
        found.append(do())
        return release(*arguments)

    server._does[Request.RELEASE] = first
    try:
        client._names._ask_now(Request.RELEASE, timeout=SECONDS)
    finally:
        server._does[Request.RELEASE] = release
    return found[0]


def held(server, client):
    """What the server holds, after it has been told what the client has closed."""
    client.list()
    return in_server(server, client, server._all)


# ---- objects ----


def test_a_segment_is_the_same_for_clients_and_for_processes_of_the_host(client, second, here):
    with client.segment("weights", (1000, 4), "f4", create=True) as made, second.segment("weights") as found:
        with here.segment("weights") as mapped:
            made[3, 1] = 5
            assert mapped[3, 1] == found[3, 1] == 5
            mapped[0] = [1, 2, 3, 4]
            assert made.read((0,)).tolist() == [1, 2, 3, 4]
    assert [(i.name, i.kind) for i in client.list()] == [("weights", "segment")]
    assert client.list() == here.list()


def test_a_segment_with_data_is_whole_when_it_has_its_name(client, here):
    data = np.random.default_rng(1).random((700, 33))
    with client.segment("table", data=data, create=True, versioned=True) as made:
        assert np.array_equal(made.read(), data)
        with here.segment("table") as mapped:
            assert np.array_equal(mapped.snapshot()[1], data)


def test_a_queue_takes_messages_from_other_hosts_and_gives_them(client, second, here):
    with client.queue("jobs", producers="many", create=True) as jobs, here.queue("jobs") as mapped:
        jobs.put(b"by address")
        assert mapped.get(timeout=SECONDS) == b"by address"
        with second.queue("jobs") as others:
            with pytest.raises(errors.BusyError):
                others.get(timeout=0)
            mapped.close()
            jobs.put(b"to another host")
            assert others.get(timeout=SECONDS) == b"to another host"
            assert others.qsize() == 0
    with here.queue("answers", create=True) as plain:
        plain.put(b"by name")
        with pytest.raises(errors.NotMappedError, match="address of a server"):
            second.queue("answers")


def test_workers_of_any_host_share_the_messages_of_a_queue(client, second, here):
    sent = [b"%d" % n for n in range(200)]
    with client.queue("jobs", consumers="many", create=True) as jobs, here.queue("jobs") as mapped:
        jobs.put_many(sent)
        jobs.shutdown()
        got = []
        with second.queue("jobs") as others, contextlib.suppress(errors.ShutDownError):
            while True:
                got += [mapped.get(timeout=0), *others.get_many(3, timeout=0)]
        assert sorted(got, key=int) == sent


def test_a_lock_excludes_clients_and_processes_of_the_host(client, second, here):
    lock = client.lock("guard", create=None)
    with contextlib.closing(lock), lock:
        for other in (second, here):
            with contextlib.closing(other.lock("guard")) as same:
                assert not same.acquire(timeout=0)
        assert lock.token


KINDS = {
    "segment": ((4,), {}),
    "queue": ((), {}),
    "lock": ((), {}),
    "spinlock": ((), {}),
    "rlock": ((), {}),
    "rwlock": ((), {}),
    "semaphore": ((3,), {}),
    "event": ((), {}),
    "condition": ((), {}),
    "barrier": ((2,), {}),
    "once": ((), {}),
    "clock": ((), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_found_listed_and_removed(client, second, here, kind):
    positional, named = KINDS[kind]
    make, find, local_find = (getattr(cluster, kind) for cluster in (client, second, here))
    with pytest.raises(errors.NameNotFoundError):
        find("x")
    made = make("x", *positional, **named, create=True)
    with pytest.raises(errors.NameExistsError):
        getattr(second, kind)("x", *positional, **named, create=True)
    for found in (find("x", create=None), local_find("x")):
        assert found.name == "x" and found.ref.id == made.ref.id
        found.close()
    assert [(i.name, i.kind) for i in second.list()] == [("x", made.ref.kind)]
    wrong = "lock" if kind != "lock" else "event"
    with pytest.raises(errors.MismatchError):
        getattr(second, wrong)("x")
    second.unlink("x")
    with pytest.raises(errors.NameNotFoundError):
        find("x")
    assert client.list() == []
    made.close()


def test_the_rest_of_a_condition_and_a_barrier(client, second):
    """The lock of a condition is an object by name; the parties of a barrier are counted."""
    with contextlib.closing(client.lock("l", create=True)) as lock:
        client.condition("c", lock, create=True).close()
    with pytest.raises(errors.MismatchError):
        second.condition("c")
    with contextlib.closing(second.lock("l")) as lock:
        second.condition("c", lock).close()
    client.barrier("b", 3, create=True).close()
    with pytest.raises(errors.MismatchError):
        second.barrier("b", 2)


def test_a_name_that_comes_later_is_waited_for(client, second, monkeypatch):
    monkeypatch.setattr("dsmem.names.remote._LEAST_SECONDS", SECONDS)  # so that a slow server is no failure
    with pytest.raises(errors.NameNotFoundError):
        client.segment("late", timeout=0.01)
    thread = threading.Timer(0, lambda: second.segment("late", 8, create=True).close())
    thread.start()
    client.segment("late", timeout=SECONDS).close()
    thread.join()


def test_one_of_many_makers_wins(client, second):
    made, start = [], threading.Barrier(2)

    def make(cluster):
        start.wait()
        with cluster.segment("race", 8, create=None) as segment:
            made.append(segment.ref.id)

    threads = [threading.Thread(target=make, args=(cluster,)) for cluster in (client, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]


def test_an_object_is_reached_by_its_reference_after_its_maker_has_gone(server, client, second):
    with context() as own:
        with dsmem.connect(address(server, client.name), context=own) as maker:
            with maker.segment("kept", 8, create=True) as made:
                made[2] = 7
                ref = made.ref
        with dsmem.attach(ref, second._names.context) as found:
            assert found[2] == 7


def test_many_names_come_in_pages(client, here):
    names = sorted(f"{number:03d}{'x' * 190}" for number in range(40))
    for name in names:
        here.event(name, create=True).close()
    assert [info.name for info in client.list()] == names


def test_names_of_dead_creators_are_removed(client, cluster_name):
    script = (
        f"import dsmem, os; dsmem.connect({cluster_name!r}).event('e', create=True, lifetime='creator'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert client.list()[0].left
    assert client.gc() == ["e"] and client.list() == []


# ---- memory ----


def test_the_server_lets_go_of_what_has_neither_a_name_nor_a_client(server, client, second):
    with client.segment("a", 8, create=True) as made, second.segment("a") as found:
        client.unlink("a")
        made[1] = 4
        assert found[1] == 4 and len(held(server, client)) == 1
    assert len(held(server, client)) == 1
    assert held(server, second) == []


def test_a_segment_grows_from_any_host(server, client, second, here):
    with client.segment("a", 8, create=True) as made, second.segment("a") as found, here.segment("a") as mapped:
        mapped.resize(4000)
        mapped[3999] = 5
        assert made.shape == (4000,) and made[3999] == 5
        made.resize(9000)
        made[8999] = 7
        assert mapped.shape == found.shape == (9000,) and mapped[8999] == found[8999] == 7
        client.unlink("a")
        for segment in (made, found):
            with pytest.raises(errors.NameNotFoundError):
                segment.resize(20000)
            assert segment[8999] == 7
    second.list()
    assert held(server, client) == []


def test_a_segment_grows_within_the_memory(cluster_name, here):
    with serving(memory=sum(local.files_of_names().values()) + (1 << 20)) as server, context() as own:
        with dsmem.connect(address(server, cluster_name), context=own) as client:
            with client.segment("a", 8, create=True) as made:
                made.resize(1 << 14)
                with pytest.raises(errors.OutOfMemoryError, match="--memory"):
                    made.resize(1 << 18)
                assert made.shape == (1 << 14,)
            with pytest.raises(errors.NameExistsError):  # before any memory is asked for
                client.segment("a", 1 << 20, create=True)


def test_the_server_notices_that_a_process_of_the_host_has_removed_a_name(server, client, here):
    client.segment("a", 8, create=True).close()
    assert len(held(server, client)) == 1
    here.unlink("a")
    in_server(server, client, server._sweep)
    assert held(server, client) == []


def test_a_client_that_leaves_takes_what_has_no_name_with_it(server, client, cluster_name):
    with context() as own:
        service = _core.Service(own, server.context.agent_address)
        fields = wire.text(cluster_name), wire.text("x"), wire.number(5), wire.number(1 << 20)
        wire.answered(service.call(wire.request(Request.ALLOCATE, *fields), SECONDS))
        wire.answered(service.call(wire.request(Request.ALLOCATE, *fields), SECONDS))  # the same one
        assert len(held(server, client)) == 1
        service.close()
        while held(server, client):
            pass
    assert client.list() == []


@pytest.mark.parametrize("place", ["the format", "the object"])
def test_nothing_is_left_of_an_object_that_could_not_be_made(server, client, place, monkeypatch):
    def fail(*args, **named):
        raise KeyboardInterrupt

    if place == "the format":
        monkeypatch.setattr(_core, "sync_format", fail)
    else:
        monkeypatch.setattr(dsmem.sync.Lock, "_open", fail)
    with pytest.raises(KeyboardInterrupt):
        client.lock("l", create=True)
    monkeypatch.undo()
    assert client.list() == [] and held(server, client) == []


@pytest.mark.parametrize("what", ["make", "find"])
def test_an_interrupt_at_any_bytecode_leaves_nothing(server, client, cluster_name, what):
    """With stride 7: each call has some thousands of bytecodes, most of which are those of names of one host."""

    def call():
        if what == "find":
            client.lock("l").close()
        else:
            client.lock("l", create=True).close()
            client.unlink("l")

    def check():
        gc.collect()
        names = [info.name for info in client.list()]
        assert names == ["l"] or what == "make"
        if what == "make" and names:  # the interrupt came after it was made
            client.unlink("l")
        assert len(held(server, client)) == (what == "find")
        if what == "make":
            call()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        if what == "find":
            client.lock("l", create=True).close()
        call()
        sweep(call, check, 300, stride=7)


def test_a_lost_reply_to_a_name_leaves_nothing(server, client, monkeypatch):
    def lost(self, kind, *fields, **named):
        reply = ask(self, kind, *fields, **named)
        if kind == Request.NAME:
            raise KeyboardInterrupt
        return reply

    ask = type(client._names)._ask
    monkeypatch.setattr(type(client._names), "_ask", lost)
    with pytest.raises(KeyboardInterrupt):
        client.lock("l", create=True)
    monkeypatch.undo()
    assert client.list() == [] and held(server, client) == []


def test_memory_is_limited(cluster_name, here):
    before = sum(local.files_of_names().values())
    with serving(memory=before + (1 << 20)) as server, context() as own:
        with dsmem.connect(address(server, cluster_name), context=own) as client:
            client.segment("half", 1 << 19, "u1", create=True).close()
            with pytest.raises(errors.OutOfMemoryError, match="--memory"):
                client.segment("more", 1 << 19, "u1", create=True)
            client.unlink("half")
            client.segment("more", 1 << 19, "u1", create=True).close()


# ---- refusals ----


@pytest.mark.parametrize(
    "wrong",
    [
        "tcp://",
        "tcp://host",
        "tcp://host/name",
        "tcp://host:port/name",
        "tcp://host:1/a/b",
        "tcp://host:99999/name",
        "tcp://user@host:1/name",
        "tcp://host:1/name?x=1",
        "http://host:1/name",
        "tcp://[::1:7/name",
    ],
)
def test_an_address_that_is_none(wrong):
    with pytest.raises((errors.InvalidArgumentError, errors.InvalidNameError)):
        dsmem.connect(wrong)


def test_a_host_without_an_address():
    with pytest.raises(errors.InvalidArgumentError, match=r"no-such-host\.invalid"):
        dsmem.connect("tcp://no-such-host.invalid:1/name")


def test_what_is_of_one_host_only(client, cluster_name, server):
    with pytest.raises(errors.InvalidArgumentError, match="creator"):
        client.event("e", create=True, lifetime="creator")
    with context() as own:
        for of_one_host in ({"mode": 0o660}, {"group": 0}, {"owner": 0}):
            with pytest.raises(errors.InvalidArgumentError):
                dsmem.connect(address(server, cluster_name), context=own, **of_one_host)
    with dsmem.Context("shm", secret=SECRET) as shm, pytest.raises(errors.InvalidArgumentError, match="tcp"):
        dsmem.connect(address(server, cluster_name), context=shm)


def test_a_context_without_names():
    with context() as at, context() as own, pytest.raises(errors.UnsupportedError, match="dsmem serve"):
        dsmem.connect(at.agent_address.replace("tcp:", "tcp://"), context=own)


def test_another_secret(server, cluster_name):
    with dsmem.Context("tcp", secret=SECRET[::-1], listen="127.0.0.1") as own:
        with pytest.raises(errors.AuthenticationError):
            dsmem.connect(address(server, cluster_name), context=own)


def test_no_one_listens():
    with context() as own, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        with pytest.raises(errors.PeerDeadError, match=f"127.0.0.1:{port}: .*; start 'dsmem serve' there"):
            dsmem.connect(f"tcp://127.0.0.1:{port}", context=own)


def test_one_listens_and_says_nothing(monkeypatch):
    monkeypatch.setattr("dsmem.names.remote._CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, context() as own:
        port = silent.getsockname()[1]
        with pytest.raises(errors.TimeoutError, match=f"127.0.0.1:{port}; check that 'dsmem serve' listens") as caught:
            dsmem.connect(f"tcp://127.0.0.1:{port}", context=own)
    assert "taken effect" not in str(caught.value)


def test_a_name_that_is_not_at_a_server_says_how_to_list_them(server, cluster_name):
    where = address(server, cluster_name)
    with context() as own, dsmem.connect(where, context=own) as client:
        client.event("made", create=True).close()
        for call in (lambda: client.event("never"), lambda: client.unlink("never")):
            with pytest.raises(errors.NameNotFoundError, match=f"'never'.*'dsmem ls -c {where}'"):
                call()
        client.unlink("made")


def test_a_child_of_fork_connects_again(server, cluster_name, monkeypatch):
    monkeypatch.setenv("DSMEM_SECRET", SECRET.decode())
    with (
        dsmem.connect(address(server, cluster_name)) as client,
        contextlib.closing(client.event("e", create=True)) as e,
    ):
        said = in_child(lambda: [told(e.set), told(lambda: client.event("e"))])
        assert len(said) == 2 and all("call dsmem.connect() with the address again" in text for text in said), said
        client.unlink("e")


def told(call):
    with pytest.raises(errors.ForkError) as caught:
        call()
    return str(caught.value)


def in_child(call):
    """Return what a function returns in a child of fork()."""
    reads, writes = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writes, json.dumps(call()).encode())
        except BaseException as error:
            os.write(writes, json.dumps([repr(error)]).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def test_a_server_at_all_addresses_is_reached_by_each(cluster_name):
    with serving(listen="0.0.0.0") as server, context() as own:
        port = server.context.agent_address.rpartition(":")[2]
        for host in ("127.0.0.1", "127.0.0.2", "localhost"):
            with dsmem.connect(f"tcp://{host}:{port}/{cluster_name}", context=own) as client:
                assert client.list() == []


def test_noise_is_refused_and_the_server_goes_on(server, client, cluster_name):
    dice = random.Random(5)
    good = [
        wire.request(Request.FIND, wire.text(cluster_name), wire.text("lock"), wire.text("x"), bytes(25)),
        wire.request(Request.ALLOCATE, wire.text(cluster_name), wire.text("x"), wire.number(1), wire.number(4096)),
        wire.request(Request.NAME, wire.number(1), wire.number(wire.NO_MODE, 4), wire.text("x")),
        wire.request(Request.LIST, wire.text(cluster_name), wire.number(8), wire.number(0, 4)),
        wire.request(Request.UNLINK, wire.text(cluster_name), wire.number(0), wire.text("x")),
        wire.request(Request.GC, wire.text(cluster_name), wire.number(9), wire.number(7, 4)),
        wire.request(Request.RELEASE, wire.number(1)),
    ]
    with context() as own:
        service = _core.Service(own, server.context.agent_address)
        for number in range(600):
            raw = bytearray(dice.choice(good)) if number % 3 else bytearray(dice.randbytes(dice.randint(1, 1024)))
            at = dice.randrange(len(raw))
            if number % 3 == 1:
                raw[at] = dice.randrange(256)
            elif number % 3 == 2:
                raw = raw[: at + 1]
            if raw[1:2] == bytes([Request.ALLOCATE]) and len(raw) > 20:
                raw[-5:] = bytes(5)  # not much memory
            reply = service.call(bytes(raw), SECONDS)
            try:
                wire.answered(reply)
            except errors.DsmemError as error:
                assert "the server has failed" not in error.detail, (bytes(raw), error)
        service.close()
    client.event("after", create=True).close()
    for info in client.list():
        client.unlink(info.name)
    for cluster in local.clusters():
        if cluster != cluster_name:
            local.LocalNames(cluster, os.geteuid()).remove_if_empty()


def test_an_object_that_the_client_has_not_written_gets_no_name(server, client, cluster_name):
    ask = client._names._ask
    ask(Request.ALLOCATE, wire.text(cluster_name), wire.text("empty"), wire.number(9), wire.number(4096))
    with pytest.raises(errors.CorruptError):
        ask(Request.NAME, wire.number(9), wire.number(wire.NO_MODE, 4), wire.text("empty"))
    assert client.list() == []


# ---- ends ----


def test_a_server_that_ends_answers_what_it_has_in_hand():
    failed = []

    def call(service):
        with pytest.raises(errors.UnsupportedError) as caught:
            service.call(b"?", SECONDS)
        failed.append(caught.value)

    with context() as at, context() as own:
        _core.serve(at, True)
        services = [_core.Service(own, at.agent_address) for _ in range(2)]
        threads = [threading.Thread(target=call, args=(service,)) for service in services]
        for thread in threads:
            thread.start()
        assert _core.next_call(at, SECONDS)[2] == b"?"
        _core.serve(at, False)
        for thread in threads:
            thread.join()
        with pytest.raises(errors.ClosedError):
            _core.next_call(at, 0)
    assert len(failed) == 2


def test_a_client_that_leaves_loses_its_request():
    with context() as at, context(peer_timeout=60) as own:
        _core.serve(at, True)
        service = _core.Service(own, at.agent_address)
        with pytest.raises(errors.TimeoutError):
            service.call(b"late", 0.2)
        client, number, request = _core.next_call(at, SECONDS)
        service.close()
        assert request == b"late" and _core.next_call(at, SECONDS) == (client, 0, None)
        assert not _core.reply(at, client, number, b"too late")
        assert _core.next_call(at, 0) is None


def test_a_late_reply_is_skipped():
    with context() as at, context() as own:
        _core.serve(at, True)
        service = _core.Service(own, at.agent_address)
        with pytest.raises(errors.TimeoutError):
            service.call(b"first", 0.2)
        found = []
        thread = threading.Thread(target=lambda: found.append(service.call(b"second", SECONDS)))
        thread.start()
        for wanted in (b"first", b"second"):
            client, number, request = _core.next_call(at, SECONDS)
            assert request == wanted and _core.reply(at, client, number, b"to " + request)
            assert not _core.reply(at, client, number, b"twice")
        thread.join()
        assert found == [b"to second"]


def test_a_forked_child_is_refused(client):
    client.event("e", create=True).close()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                client.list()
            except errors.ForkError:
                status = 0
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(client.list()) == 1


def process(port=0, *more):
    return process_that_serves(SECRET, *more, port=port)


def command(*arguments, code=0):
    result = CliRunner(env={"DSMEM_SECRET": SECRET.decode()}).invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_a_server_process_its_commands_and_its_restart(cluster_name):
    with context() as own:
        with process() as (server, at):
            where = f"{at}/{cluster_name}"
            with dsmem.connect(where, context=own) as client:
                event = client.event("e", create=True)
                client.event("f", create=True).close()
                rows = json.loads(command("ls", "-c", where, "--json"))
                assert [row["name"] for row in rows] == ["e", "f"]
                assert command("rm", "-c", where, "f") == ""
                assert "no object has this name" in command("rm", "-c", where, "f", code=1)
                assert json.loads(command("gc", "-c", where, "--json")) == {"names": [], "clusters": []}
                assert reach.examine_peer(where, SECRET, set())["reachable"]
                assert not reach.examine_peer(where, SECRET[::-1], set())["reachable"]
                server.send_signal(signal.SIGTERM)
                assert server.wait(SECONDS) == 0
                with pytest.raises((errors.PeerDeadError, errors.StaleDescriptorError)):
                    event.set()
                event.close()
                with pytest.raises(errors.PeerDeadError):
                    client.list()
                with process(at.rpartition(":")[2], "--memory", "1MiB") as (_, again):
                    assert again == at
                    assert [info.name for info in client.list()] == ["e"]  # the same cluster finds the new server
                    with contextlib.closing(client.event("e")) as event:
                        event.set()
                    with pytest.raises(errors.OutOfMemoryError):
                        client.segment("s", 1 << 20, "u1", create=True)
    with dsmem.connect(cluster_name) as here, contextlib.closing(here.event("e")) as event:
        assert event.is_set()


def test_dsmem_serve_refuses_wrong_arguments():
    for arguments, why in (
        (["serve"], "--listen"),
        (["serve", "--listen", "127.0.0.1:0", "--memory", "4 bananas"], "64MiB"),
        (["serve", "--listen", "127.0.0.1:0", "-f", "shm"], "no other host"),
        (["serve", "--listen", "127.0.0.1:99999"], "a number from 0 to 65535"),
        (["serve", "--listen", "127.0.0.1:"], "a number from 0 to 65535"),
        (["serve", "--listen", "127.0.0.1:0", "--advertise", "10.0.0.1:-1"], "a number from 0 to 65535"),
        (["ls", "-c", "tcp://127.0.0.1"], "tcp://HOST:PORT/CLUSTER"),
        (["ls", "-c", "127.0.0.1:7700"], "tcp://HOST:PORT/NAME"),
        (["ls", "-c", "tcp://127.0.0.1:99999/a"], "a port from 1 to 65535"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and why in result.output


def test_a_context_that_a_cluster_opens_gives_way(cluster_name, monkeypatch):
    """What is pickled is attached by it only if the program has opened none."""
    monkeypatch.setenv("DSMEM_SECRET", SECRET.decode())
    with process() as (_, at), dsmem.connect(f"{at}/{cluster_name}") as client:
        with pytest.raises(errors.ArgumentTypeError, match=f"connect\\('{at}/{cluster_name}'\\)"):
            pickle.dumps(client)
        made = client.segment("a", 8, create=True)
        with pickle.loads(pickle.dumps(made)) as found:
            assert found._memory.remote.context is client._names.context
        with context() as own, pickle.loads(pickle.dumps(made)) as found:
            assert found._memory.remote.context is own
    assert client._names.context.closed


# -- a client that comes before the server is ready --


class Early(dsmem.Context):
    _serves = True


def test_requests_wait_for_a_service_that_begins():
    """As `dsmem serve` opens its context: before that, the answer was that no names are served here."""
    with Early("tcp", secret=SECRET, listen="127.0.0.1") as at, context() as own:
        asks = _core.Service(own, at.agent_address)
        told = []
        asker = threading.Thread(target=lambda: told.append(asks.call(b"question", timeout=SECONDS)))
        asker.start()
        number, of_client, request = _core.next_call(at, SECONDS)
        assert request == b"question" and _core.reply(at, number, of_client, b"answer")
        asker.join()
        assert told == [b"answer"]
        asks.close()


def test_a_client_that_is_there_before_the_server(cluster_name):
    """It is told that no process answers, until one serves names."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    ended, wrong = threading.Event(), []

    def connect():
        while not ended.is_set():
            # at an address of its own, so that it does not get the port that was reserved, and finds itself there
            at_another = {"listen": "127.0.0.2", "peer_timeout": SECONDS}
            with context(**at_another) as own, contextlib.suppress(errors.PeerDeadError):
                try:
                    dsmem.connect(f"tcp://127.0.0.1:{port}/{cluster_name}", context=own).close()
                    return
                except errors.UnsupportedError as error:
                    wrong.append(error)
                    return

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        with process_that_serves(SECRET, port=port):
            thread.join()
    finally:
        ended.set()
        thread.join()
    assert not wrong
