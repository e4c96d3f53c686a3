"""Names and their ends: what goes with its creator, what another object's handle must not remove, what order is."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_names import layout

import dsmem
from dsmem import _core, errors
from dsmem.names import local


@pytest.fixture
def folder(here):
    return local.user_folder(os.geteuid()) / here.name


def files(folder):
    return sorted(path.name.split("-")[-1] for path in folder.rglob("*") if not path.is_dir())


def test_names_of_a_creator_go_when_the_cluster_is_closed(here, folder):
    with dsmem.connect(here.name) as creator:
        creator.segment("goes", 4, "u1", create=True, lifetime="creator").close()
        creator.segment("stays", 4, "u1", create=True).close()
        kept = here.segment("goes")
        assert [(i.name, i.lifetime, i.left) for i in here.list()] == [
            ("goes", "creator", False),
            ("stays", "name", False),
        ]
    assert files(folder) == ["stays"]
    kept.write(0, 1)
    kept.close()


def test_closing_removes_only_what_it_made(here, folder):
    with dsmem.connect(here.name) as creator:
        creator.segment("a", 4, "u1", create=True, lifetime="creator").close()
        creator.segment("b", 4, "u1", create=True, lifetime="creator").close()
        (folder / "a").unlink()
        here.segment("a", 4, "u1", create=True).close()
        here.unlink("b")
        here.segment("b", 4, "u1", create=True, lifetime="creator").close()
    assert files(folder) == ["a", "b", "b"]


END = """
import os, sys, threading, dsmem
cluster = dsmem.connect(sys.argv[1])
cluster.segment("a", 4, "u1", create=True, lifetime="creator")
if sys.argv[2] == "fork":
    child = os.fork()
    if not child:
        cluster.close()
        sys.exit()
    os.waitpid(child, 0)
    assert [i.name for i in cluster.list()] == ["a"]
elif sys.argv[2] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("how", ["end", "raise", "fork"])
def test_names_of_a_creator_go_at_its_exit(here, folder, how):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", END, here.name, how], capture_output=True, text=True)
    assert done.stderr == "" and files(folder) == []


KILLED = """
import os, signal, sys, dsmem
cluster = dsmem.connect(sys.argv[1])
for i in range(3):
    cluster.segment(f"n{i}", 4, "u1", create=True, lifetime="creator").close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_dead_are_marked_and_swept_by_the_next_that_connects(here, folder):
    subprocess.run([sys.executable, "-c", KILLED, here.name], check=False)
    assert [(i.name, i.left) for i in here.list()] == [("n0", True), ("n1", True), ("n2", True)]
    dsmem.connect(here.name).close()
    assert here.list() == [] and files(folder) == [] and not list((folder / ".owned").iterdir())


def test_an_unlink_and_a_connect_look_at_no_name_of_others(here, folder, monkeypatch):
    """Whatever the number of names: one header, one mark, one question for each creator."""
    for i in range(20):
        here.segment(f"n{i}", 4, "u1", create=True, lifetime="creator").close()
    looked, asked = [], []
    real_header, real_dead = local._header, _core.identity_dead
    monkeypatch.setattr(local, "_header", lambda file: looked.append(file) or real_header(file))
    monkeypatch.setattr(_core, "identity_dead", lambda creator: asked.append(creator) or real_dead(creator))
    here.unlink("n3")
    assert len(looked) == 1 and not asked
    dsmem.connect(here.name).close()
    assert len(looked) == 1 and asked == [_core.identity()]
    assert len(files(folder)) == 38


def test_a_handle_unlinks_its_own_object_only(cluster):
    old = cluster.segment("a", 4, "u1", create=True)
    cluster.unlink("a")
    cluster.segment("a", 4, "u1", create=True).close()
    with pytest.raises(errors.NameNotFoundError):
        old.unlink()
    assert [i.name for i in cluster.list()] == ["a"]
    if old.ref.cluster:
        with cluster.segment("a") as found, dsmem.attach(found.ref) as new:
            cluster.unlink("a")
            cluster.segment("a", 4, "u1", create=True).close()
            with pytest.raises(errors.NameNotFoundError):
                new.unlink()
    assert [i.name for i in cluster.list()] == ["a"]
    with cluster.segment("a") as found:
        found.unlink()
    assert cluster.list() == []
    old.close()


def test_the_time_of_making_stays(here):
    before = time.time()
    with here.segment("a", 4, "u1", create=True) as segment:
        made = here.list()[0].created
        assert before - 1 < made < time.time() + 1
        os.utime(local.user_folder(os.geteuid()) / here.name / "a", (1, 1))
        segment.resize(100_000)
        segment.write(0, 1)
        assert here.list()[0].created == made


def test_a_list_during_resizes_and_makings(here, folder):
    """No sound name is called corrupt, whatever happens between the looks."""
    stop = threading.Event()

    def change():
        for i in range(10_000):
            if stop.is_set():
                return
            with here.segment("a", 5_000 if i % 2 else 100_000, "u1", create=True) as segment:
                segment.resize(200_000)
                segment.unlink()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        kinds = {info.kind for _ in range(300) for info in here.list()}
    finally:
        stop.set()
        thread.join()
    assert kinds <= {"segment"}


# -- a create that fails --


@pytest.mark.parametrize("create", [True, None])
def test_what_only_opening_refuses_leaves_no_name(cluster, create):
    lock = cluster.lock("lock", create=True)
    lock.close()
    with pytest.raises(errors.ClosedError):
        cluster.condition("c", lock, create=create)
    assert [i.name for i in cluster.list()] == ["lock"]


def test_a_create_that_loses_the_race_takes_what_is_there(cluster):
    makers = []

    def late():
        nbytes, write = layout()()
        if not makers:
            makers.append(1)
            cluster.make("a", "lock", layout(number=7), create=True).close()
        return nbytes, write

    memory = cluster.make("a", "lock", late, create=None)
    assert makers == [1] and memory.ref.id == 7
    memory.close()
    with pytest.raises(errors.NameExistsError):
        cluster.make("a", "lock", layout(), create=True)


def test_a_name_that_is_taken_at_the_last_moment_leaves_no_mark(here, folder):
    def late():
        nbytes, write = layout()()

        def format(view):
            here.make("a", "lock", layout(), create=True).close()
            write(view)

        return nbytes, format

    with pytest.raises(errors.NameExistsError):
        here.make("a", "lock", late, create=True, lifetime="creator")
    assert files(folder) == ["a"]


# -- locks of the folder --


def test_a_forked_child_keeps_no_lock(here, folder):
    """gc and unlink work under the lock: the process that holds it may fork, and then be killed."""
    here.segment("a", 4, "u1", create=True).close()
    names = local.LocalNames(here.name, os.geteuid())
    read, write = os.pipe()
    with names._locked():
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    os.close(read)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    os.close(write)
    os.waitpid(child, 0)


def test_a_child_does_not_keep_the_lock_of_a_killed_parent(here, folder):
    names = local.LocalNames(here.name, os.geteuid())
    ready, go = os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        with names._locked():
            if not os.fork():
                os.write(ready[1], b"x")
                os.close(go[1])
                os.read(go[0], 1)
                os._exit(0)
            signal.pause()
    os.read(ready[0], 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for end in (fd, *ready, *go):
        os.close(end)


def test_gc_takes_the_lock(here, folder, monkeypatch):
    """While a process has the folder's lock, gc removes nothing."""
    monkeypatch.setattr(local, "_LOCK_SECONDS", 0.05)
    subprocess.run([sys.executable, "-c", KILLED, here.name], check=False)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert here.gc() == [] and len(files(folder)) == 6
    os.close(fd)
    assert here.gc() == ["n0", "n1", "n2"] and files(folder) == []


# -- the end of a cluster --


def test_what_stands_on_another_object_is_closed_first(here):
    for _ in range(20):
        with dsmem.connect(here.name) as cluster:
            lock = cluster.lock("lock", create=None)
            kept = [cluster.condition(f"c{i}", lock, create=None) for i in range(5)]
        assert lock.closed and all(one.closed for one in kept)


def test_the_end_closes_what_it_can(here):
    with dsmem.connect(here.name) as cluster:
        first = cluster.segment("a", 4, "u1", create=True)
        lock = cluster.lock("l", create=True)
        last = cluster.segment("b", 4, "u1", create=True)
        lock.acquire()
        with pytest.raises(errors.BusyError):
            cluster.close()
        assert first.closed and last.closed and not lock.closed and not cluster.closed
        lock.release()
        cluster.close()
        assert lock.closed and cluster.closed


@pytest.mark.parametrize("what", ["cluster", "object"])
def test_the_end_does_not_replace_an_exception(here, what):
    with pytest.raises(ZeroDivisionError):
        if what == "cluster":
            with dsmem.connect(here.name) as cluster:
                held = cluster.lock("l", create=True)
                other = cluster.segment("a", 4, "u1", create=True)
                held.acquire()
                _ = 1 / 0
        else:
            with here.barrier("l", 1, create=True) as held:
                pending = held._memory.remote.array()  # a view keeps it from being closed
                _ = 1 / 0
    if what == "cluster":
        assert other.closed
        held.release()
    else:
        assert not held.closed
        del pending
    held.close()


def test_no_descriptor_is_left_by_a_refused_open(here, folder):
    (folder / "folder").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(errors.DsmemError):
            here.make("folder", "lock", layout(), create=False)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # the garbage of other tests may end meanwhile
    (folder / "folder").rmdir()


# -- waiting for a name --


def test_a_name_is_waited_for(cluster):
    got = []

    def wait():
        with cluster.segment("a", timeout=30) as segment:
            got.append(segment.shape)

    thread = threading.Thread(target=wait)
    thread.start()
    cluster.segment("a", 4, "u1", create=True).close()
    thread.join()
    assert got == [(4,)]
    with pytest.raises(errors.NameNotFoundError):
        cluster.lock("b", timeout=0.01)


def test_a_wait_for_a_name_sleeps(here, monkeypatch):
    """Between looks, the longer the later: a wait of half a second has a few dozen of them."""
    looks, attach = [], local.LocalNames.attach

    def look(self, *arguments):
        looks.append(arguments)
        return attach(self, *arguments)

    monkeypatch.setattr(local.LocalNames, "attach", look)
    with pytest.raises(errors.NameNotFoundError):
        here.lock("b", timeout=0.5)
    assert 2 <= len(looks) <= 100


@pytest.mark.parametrize(
    "how", [{"timeout": -1}, {"timeout": "x"}, {"timeout": 1, "create": True}, {"timeout": 1, "create": None}]
)
def test_what_waits_for_no_name(cluster, how):
    for kind in ("lock", "spinlock", "rwlock", "semaphore", "event", "condition", "once", "queue", "clock"):
        with pytest.raises(errors.InvalidArgumentError, match="timeout="):
            getattr(cluster, kind)("a", **how)
    with pytest.raises(errors.InvalidArgumentError, match="timeout="):
        cluster.segment("a", 4, **how)
    assert cluster.list() == []


def test_two_threads_that_make_one_name(here, monkeypatch):
    """The one that comes too late forgets nothing of the one that made it: the name goes with its cluster."""
    allocate = local._allocate

    def after_another(*what):
        monkeypatch.setattr(local, "_allocate", allocate)
        here.segment("a", 4, "u1", create=True, lifetime="creator").close()
        return allocate(*what)

    monkeypatch.setattr(local, "_allocate", after_another)
    with pytest.raises(errors.NameExistsError):
        here.segment("a", 4, "u1", create=True, lifetime="creator")
    here.close()
    with dsmem.connect(here.name) as other:
        assert other.list() == []
