"""Names at a server: what is counted and bounded, what fails half-way, and what must not change anything."""

# ruff: noqa: F811  fixtures are parameters

import contextlib
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import threading

import pytest
from test_server import (  # noqa: F401  fixtures
    SECONDS,
    address,
    client,
    command,
    context,
    held,
    in_server,
    second,
    server,
    serving,
)

import dsmem
from dsmem import _core, errors, memory
from dsmem.names import local, remote, wire
from dsmem.names import server as server_module
from dsmem.names.wire import Request

HEADER_ID = 24


@contextlib.contextmanager
def plain(server):
    """A connection that asks with bytes of the test's own."""
    with context() as own:
        service = _core.Service(own, server.context.agent_address)
        yield lambda kind, *fields: wire.answered(service.call(wire.request(kind, *fields), SECONDS))
        service.close()


def allocate(ask, cluster_name, number, nbytes=4096):
    ask(Request.ALLOCATE, wire.text(cluster_name), wire.text("x"), wire.number(number), wire.number(nbytes))


def find(ask, cluster_name, number, name="a", kind="event"):
    fields = wire.text(cluster_name), wire.text(kind), wire.text(name)
    ask(Request.FIND, *fields, wire.number(number), bytes(17))


# ---- what changes nothing ----


@pytest.fixture
def left(cluster_name):
    """A name whose creator is dead."""
    made = f"import dsmem, os; dsmem.connect({cluster_name!r}).event('e', create=True, lifetime='creator'); os._exit(0)"
    subprocess.run([sys.executable, "-c", made], check=True)
    return local.LocalNames(cluster_name, os.geteuid())


def test_commands_that_show_names_remove_none(server, left, cluster_name):
    where = address(server, cluster_name)
    assert [row["name"] for row in json.loads(command("ls", "-c", where, "--json"))] == ["e"]
    assert "would remove" in command("gc", "--dry-run", "-c", where)
    assert "no object has this name" in command("rm", "-c", where, "f", code=1)
    assert [info.name for info in left.infos()] == ["e"]
    assert "removed" in command("gc", "-c", where)
    assert left.infos() == []


def test_a_cluster_that_connects_removes_what_the_dead_have_left(server, left, cluster_name):
    with context() as own, dsmem.connect(address(server, cluster_name), context=own):
        assert left.infos() == []


def test_only_a_new_object_makes_the_folder_of_a_cluster(server):
    mistyped = f"mistyped-{os.getpid()}"
    with context() as own, dsmem.connect(address(server, mistyped), context=own) as cluster:
        assert cluster.list() == cluster.gc() == []
        for wrong in (cluster.unlink, cluster.event):
            with pytest.raises(errors.NameNotFoundError):
                wrong("x")
        assert mistyped not in local.clusters()
        cluster.event("x", create=True).close()
        cluster.unlink("x")
        assert local.LocalNames(mistyped, os.geteuid()).remove_if_empty()
        cluster.event("x", create=True).close()  # the folder is made again
        cluster.unlink("x")
        assert local.LocalNames(mistyped, os.geteuid()).remove_if_empty()


# ---- memory ----


def test_memory_that_has_lost_its_name_counts(cluster_name, here):
    before = sum(local.files_of_names().values())
    with serving(memory=before + (1 << 20)) as server, context() as own:
        with dsmem.connect(address(server, cluster_name), context=own) as client:
            with client.segment("half", 1 << 19, "u1", create=True):
                client.unlink("half")
                with pytest.raises(errors.OutOfMemoryError, match="--memory"):
                    client.segment("more", 1 << 19, "u1", create=True)
            client.segment("more", 1 << 19, "u1", create=True).close()


def test_a_segment_that_grows_often_holds_its_memory_once(server, client, second, here):
    with client.segment("a", (1, 512), create=True) as made, second.segment("a") as found:
        for rows in range(2, 30):
            made.resize(rows)
            found[rows - 1, 0] = rows
            assert made[rows - 1, 0] == rows
        for each in (client, second):
            each.list()
            assert len(each._names._holds) == 1
        assert len(in_server(server, client, server._all)) == 1
    assert len(held(server, client)) == 1


def test_a_shorter_mapping_that_no_client_holds_is_closed(server, client, here):
    with here.segment("a", 8, create=True) as mapped:
        client.segment("a").close()
        (before,) = held(server, client)
        mapped.resize(4000)
        with client.segment("a") as found:
            assert found.shape == (4000,) and before.region.closed and before.remote.closed


def test_a_segment_that_has_grown_and_lost_its_name_is_followed(server, client, second, here):
    with client.segment("a", 8, create=True) as made, second.segment("a") as found:
        with here.segment("a") as mapped:
            mapped.resize(4000)
            mapped[3999] = 5
        client.unlink("a")
        assert made.shape == (4000,) and made[3999] == 5
        client.segment("a", 1, create=True).close()  # another object of this name
        assert found.shape == (4000,) and found[3999] == 5
        client.unlink("a")
        with pytest.raises(errors.NameNotFoundError):
            made.resize(20000)
    second.list()
    assert held(server, client) == []


def test_what_an_object_is_does_not_depend_on_its_bytes(server, client, second, here):
    """Its id stands in memory that every user may write."""
    with contextlib.closing(client.event("a", create=True)) as made:
        made._memory.remote.write(HEADER_ID, b"\1" * 8)
        with contextlib.closing(second.event("a")) as found:
            assert len(in_server(server, client, server._all)) == 1 and found.ref.id != made.ref.id
        made._memory.remote.write(HEADER_ID, b"\2" * 8)
    second.list()
    client.list()
    in_server(server, client, server._sweep)
    assert len(in_server(server, client, server._all)) == 1
    here.unlink("a")
    in_server(server, client, server._sweep)
    assert held(server, client) == []


def test_a_server_that_may_open_no_file_closes_nothing(server, client):
    client.event("a", create=True).close()
    assert len(held(server, client)) == 1

    def sweep():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            with pytest.raises(OSError):
                os.open("/dev/null", os.O_RDONLY)
            server._sweep()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    in_server(server, client, sweep)
    assert len(held(server, client)) == 1


def test_a_server_that_may_not_look_closes_nothing(server, client, here):
    client.event("a", create=True).close()
    assert len(held(server, client)) == 1
    folder = here._names.folder
    aside = folder.rename(folder.with_name(f"{folder.name}-aside"))
    folder.symlink_to(aside)
    try:
        in_server(server, client, server._sweep)
        with pytest.raises(errors.AccessDeniedError, match="not a folder"):
            client.list()
    finally:
        folder.unlink()
        aside.rename(folder)
    assert len(held(server, client)) == 1


def test_names_of_a_device_are_kept_for_clusters_that_have_some(server, client, cluster_name):
    """A request that is refused, or never ended, leaves no other one behind."""
    server.is_private = True
    with plain(server) as ask:
        server.memory = 1
        with pytest.raises(errors.OutOfMemoryError):
            allocate(ask, "refused", 1)
        server.memory = None
        allocate(ask, "unnamed", 2)
        assert not server._private
        client.event("a", create=True).close()
        client.event("b", create=True).close()
        client.unlink("a")
        assert list(server._private) == [cluster_name] and [info.name for info in client.list()] == ["b"]
        client.unlink("b")
        assert not server._private and client.list() == []


def test_a_connection_has_bounds(server, client, cluster_name, monkeypatch):
    client.event("a", create=True).close()
    monkeypatch.setattr(server_module, "_UNNAMED_MOST", 3)
    monkeypatch.setattr(server_module, "_NUMBERS_MOST", 5)
    with plain(server) as ask:
        for number in range(3):
            allocate(ask, cluster_name, number)
        allocate(ask, cluster_name, 2)  # the same again
        with pytest.raises(errors.OutOfMemoryError, match="fewer at a time"):
            allocate(ask, cluster_name, 3)
        for number in (3, 4, 4):
            find(ask, cluster_name, number)
        with pytest.raises(errors.OutOfMemoryError, match="close some"):
            find(ask, cluster_name, 5)
        with pytest.raises(errors.OutOfMemoryError, match="close some"):
            allocate(ask, cluster_name, 5)
        ask(Request.RELEASE, wire.number(0))
        allocate(ask, cluster_name, 3 + 3)
        with plain(server) as other:
            allocate(other, cluster_name, 1)


# ---- lists ----


@pytest.fixture
def many(here):
    names = sorted(f"{number:03d}{'x' * 190}" for number in range(12))
    for name in names:
        here.event(name, create=True).close()
    return names


def page(ask, cluster_name, number, first):
    reply = ask(Request.LIST, wire.text(cluster_name), wire.number(number), wire.number(first, 4))
    total, here = wire.read_page(reply)
    return total, [wire.read_info(reply).name for _ in range(here)]


def test_lists_of_one_connection_are_apart(server, cluster_name, many):
    with plain(server) as ask:
        found = {1: [], 2: []}
        while len(found[1]) < len(many):
            for number, names in found.items():
                total, some = page(ask, cluster_name, number, len(names))
                names += some
                assert total == len(many) and some
        assert found == {1: many, 2: many}
        with pytest.raises(errors.StaleDescriptorError, match="ask for it again"):
            page(ask, cluster_name, 1, 3)
        assert page(ask, f"{cluster_name}-other", 1, 0) == (0, [])
        for number in range(server_module._LISTS_MOST + 1):
            page(ask, cluster_name, number, 0)
        with pytest.raises(errors.StaleDescriptorError):
            page(ask, cluster_name, 0, 3)
        assert page(ask, cluster_name, 1, 3)[1][0] == many[3]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_list_that_the_server_has_lost_is_asked_for_again(server, client, many, lost, monkeypatch):
    def ask(self, kind, *fields, **named):
        nonlocal lost
        reply = whole(self, kind, *fields, **named)
        if kind == Request.LIST and lost:
            lost -= 1
            for each in server._clients.values():
                each.lists.clear()
        return reply

    whole = type(client._names)._ask
    monkeypatch.setattr(type(client._names), "_ask", ask)
    if lost < remote._LIST_TRIES:
        assert [info.name for info in client.list()] == many
    else:
        with pytest.raises(errors.StaleDescriptorError):
            client.list()


# ---- calls that fail ----


def test_an_object_that_is_to_end_with_a_process_of_another_host_gets_no_name(server, client, monkeypatch):
    class Created:
        """Packs the creator of an object, where a client of a server has none."""

        @staticmethod
        def pack_into(view, at, made, _):
            memory.MADE.pack_into(view, at, made, 1)

    monkeypatch.setattr(remote, "MADE", Created)
    with pytest.raises(errors.ProtocolError, match="creator"):
        client.event("e", create=True)
    assert client.list() == []


def test_an_error_of_the_system_comes_with_its_number(server, client, monkeypatch):
    def fails(*arguments):
        raise OSError(errno.ENFILE, "too many open files")

    monkeypatch.setitem(server._does, Request.LIST, fails)
    with pytest.raises(errors.SystemCallError, match="too many open files") as raised:
        client.list()
    assert raised.value.sys == errno.ENFILE


def test_a_name_whose_maker_cannot_be_told_is_removed(server, client, cluster_name):
    name = server._does[Request.NAME]

    def stopped(*arguments):
        answer = name(*arguments)
        server.stop()
        return answer

    server._does[Request.NAME] = stopped
    with pytest.raises(errors.UnsupportedError):
        client.event("e", create=True)
    names = local.LocalNames(cluster_name, os.geteuid())
    while names.infos():  # until the server's thread has seen it
        pass


def test_a_call_that_fails_removes_its_name_before_all_else(server, client, monkeypatch):
    def lost(self, kind, *fields, **named):
        reply = ask(self, kind, *fields, **named)
        if kind == Request.NAME:
            monkeypatch.setattr(type(self), "_tell_released", failing)
            raise errors.TimeoutError("the reply")
        return reply

    def failing(*arguments):
        raise errors.TimeoutError("what is released")

    ask = type(client._names)._ask
    monkeypatch.setattr(type(client._names), "_ask", lost)
    with pytest.raises(errors.TimeoutError, match="the reply"):
        client.event("e", create=True)
    monkeypatch.undo()
    assert client.list() == []


def test_a_timeout_bounds_the_wait_for_a_server_that_does_not_answer(server, client, monkeypatch):
    find, go = server._does[Request.FIND], threading.Event()

    def slow(*arguments):
        go.wait(10)
        return find(*arguments)

    server._does[Request.FIND] = slow
    monkeypatch.setattr(remote, "_LEAST_SECONDS", 0.05)
    with pytest.raises(errors.TimeoutError):
        client.event("e", timeout=0.01)
    go.set()
    server._does[Request.FIND] = find
    assert client.list() == []


def test_an_address_that_does_not_answer_gives_way_to_the_next(server, cluster_name, monkeypatch):
    def addresses(host, port):
        monkeypatch.setattr(remote, "_CONNECT_SECONDS", 0.05)
        yield f"tcp:127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(remote, "_CONNECT_SECONDS", SECONDS)
        yield server.context.agent_address

    monkeypatch.setattr(remote, "agent_addresses", addresses)
    with socket.create_server(("127.0.0.1", 0)) as silent, context() as own:
        with dsmem.connect(address(server, cluster_name), context=own) as cluster:
            assert cluster.list() == []


@pytest.mark.parametrize("what", ["_sweep", "_left"])
def test_a_server_that_fails_between_requests_goes_on(server, client, cluster_name, what, monkeypatch):
    failed = threading.Event()

    def fail(*arguments):
        failed.set()
        raise MemoryError

    monkeypatch.setattr(server, what, fail)
    if what == "_left":
        with plain(server) as ask:
            ask(Request.RELEASE)
    assert failed.wait(SECONDS)
    monkeypatch.undo()
    assert client.list() == []


def test_an_error_keeps_the_number_of_the_system():
    with pytest.raises(errors.SystemCallError) as caught:
        wire.answered(wire.failure(errors.SystemCallError("a file", sys=errno.EMFILE)))
    assert caught.value.sys == errno.EMFILE and str(caught.value).count(os.strerror(errno.EMFILE)) == 1
