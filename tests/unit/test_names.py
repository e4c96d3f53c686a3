"""Names: whole or not there, one convention, and what is left when processes die."""

import contextlib
import copy
import dataclasses
import enum
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors, objects
from dsmem.clock import Lamport
from dsmem.cluster.factories import CLASSES
from dsmem.names import local

ID = 0x1122334455667788
LAYOUT = 2


def layout(nbytes=4096, kind=3, number=ID):
    """A bare header, of the kind lock."""

    def write(view):
        struct.pack_into("<8sIIQQ", view, 0, b"dsmemobj", LAYOUT, kind, nbytes, number)

    return lambda: (nbytes, write)


@pytest.fixture
def name(cluster_name):
    return cluster_name


def test_one_convention(cluster):
    def get(create):
        return cluster.make("a", "lock", layout(), create=create)

    with pytest.raises(FileNotFoundError) as raised:
        get(False)
    assert isinstance(raised.value, errors.NameNotFoundError)
    get(None).close()
    with pytest.raises(FileExistsError) as raised:
        get(True)
    assert isinstance(raised.value, errors.NameExistsError)
    with get(None) as first, get(False) as second:
        first.remote.write(64, b"of one memory")
        out = bytearray(13)
        second.remote.read(64, out)
        assert out == b"of one memory"
    with pytest.raises(errors.MismatchError, match="'a' is a lock, not a queue"):
        cluster.make("a", "queue", layout(), create=False)
    cluster.unlink("a")
    with pytest.raises(errors.NameNotFoundError):
        cluster.unlink("a")
    get(True).close()


def test_list(cluster):
    for name in ("b", "a"):
        cluster.make(name, "lock", layout(100), create=True).close()
    assert [(i.name, i.kind) for i in cluster.list()] == [("a", "lock"), ("b", "lock")]
    info = cluster.list()[0]
    assert info.nbytes >= 100 and info.owner == local.user_name(os.geteuid()) and info.created > 1e9


@pytest.mark.parametrize("bad", ["", "a/b", "../a", ".a", "-a", "a\0b", "a b", "ä", "a" * 201, "a\n", b"a", None, 1])
def test_no_names(cluster, bad):
    with pytest.raises(errors.InvalidNameError):
        cluster.make(bad, "lock", layout(), create=None)
    with pytest.raises(errors.InvalidNameError):
        cluster.unlink(bad)
    with pytest.raises(errors.InvalidNameError):
        dsmem.connect(bad)
    assert cluster.list() == []


class Known(str, enum.Enum):
    NAME = "a"


class Liar(str):
    """Formatting it gives another text than the one that is looked at."""

    __slots__ = ()

    def __str__(self):
        return "../b"

    def __format__(self, how):
        return "../b"

    __repr__ = __str__


@pytest.mark.parametrize("name", [Known.NAME, Liar("a")])
def test_a_name_is_its_text(cluster, name):
    lock = cluster.lock(name, create=True)
    assert type(lock.name) is str and lock.name == lock.ref.name == "a"
    assert [info.name for info in cluster.list()] == ["a"]
    with cluster.make("a", "lock", layout(), create=False), cluster.make(name, "lock", layout(), create=False):
        pass
    lock.close()
    cluster.unlink(name)
    assert cluster.list() == []


@pytest.mark.parametrize("make", [lambda text: enum.Enum("Named", {"IT": text}, type=str).IT, Liar])
def test_the_name_of_a_cluster_is_its_text(cluster_name, make):
    with dsmem.connect(make(cluster_name)) as cluster:
        assert type(cluster.name) is str and cluster.name == cluster_name
        cluster.lock("a", create=True).close()
    with dsmem.connect(cluster_name) as cluster:
        assert [info.name for info in cluster.list()] == ["a"]


def test_the_longest_name(cluster):
    cluster.make("a" * 200, "lock", layout(), create=True, lifetime="creator").close()
    assert cluster.list()[0].name == "a" * 200


def test_unlinked_memory_lives_until_it_is_closed(cluster):
    memory = cluster.make("a", "lock", layout(), create=True)
    cluster.unlink("a")
    with cluster.make("a", "lock", layout(number=2), create=True):
        memory.remote.write(64, b"still here")
        out = bytearray(10)
        memory.remote.read(64, out)
        assert out == b"still here"
    memory.close()


def test_a_reference_never_reaches_the_next_of_its_name(cluster):
    memory = cluster.make("a", "lock", layout(), create=True)
    ref = pickle.loads(pickle.dumps(memory.ref))
    assert ref == memory.ref and ref.id == ID
    cluster.unlink("a")
    memory.close()
    with cluster.make("a", "lock", layout(number=2), create=True), pytest.raises(errors.StaleDescriptorError):
        objects.memory_of(ref)


def test_a_creator_that_fails_leaves_nothing(cluster):
    def fail(view):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cluster.make("a", "lock", lambda: (4096, fail), create=True)
    assert cluster.list() == []


def test_wrong_arguments(cluster):
    for how in ({"create": 1}, {"create": True, "readonly": True}, {"create": True, "lifetime": "ever"}):
        with pytest.raises(errors.InvalidArgumentError):
            cluster.make("a", "lock", layout(), **how)
    cluster.close()
    with pytest.raises(errors.ClosedError):
        cluster.list()


def test_read_only(here):
    memory = here.make("a", "lock", layout(), create=True)
    reader = here.make("a", "lock", layout(), create=False, readonly=True)
    with reader, memory:
        assert reader.remote.access == "r" and reader.view.readonly and not memory.view.readonly
        with pytest.raises(errors.AccessDeniedError):
            reader.remote.write(64, b"x")
        with objects.memory_of(pickle.loads(pickle.dumps(reader.ref))) as again:
            assert again.remote.access == "r"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o666])
def test_modes(name, mode):
    with dsmem.connect(name, mode=mode, group=os.getgid()) as cluster:
        cluster.make("a", "lock", layout(), create=True).close()
        folder = local.user_folder(os.geteuid()) / name
        assert (folder / "a").stat().st_mode & 0o7777 == mode
        assert folder.stat().st_mode & 0o7777 == {0o600: 0o700, 0o640: 0o2750, 0o660: 0o2770, 0o666: 0o2777}[mode]
    with dsmem.connect(name) as cluster:
        cluster.make("b", "lock", layout(), create=True).close()
        cluster.make("c", "lock", layout(), create=True, mode=0o600).close()
        assert [(folder / n).stat().st_mode & 0o777 for n in "bc"] == [mode, 0o600]


@pytest.mark.parametrize("mode", [0, 0o200, 0o700, 0o2660, "rw", 0o1600])
def test_no_modes(name, here, mode):
    with pytest.raises(errors.InvalidArgumentError):
        dsmem.connect(name, mode=mode)


def test_users_and_groups_that_there_are_not(name, here):
    with pytest.raises(errors.InvalidArgumentError):
        dsmem.connect(name, owner="no-such-user")
    with pytest.raises(errors.InvalidArgumentError):
        dsmem.connect(name, group="no-such-user")
    with pytest.raises(errors.NameNotFoundError):
        dsmem.connect(name, owner=54321)


# -- processes that die --

CREATOR = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
import dsmem
from test_names import layout
cluster = dsmem.connect(sys.argv[1])
for name, lifetime in (("stays", "name"), ("goes", "creator"), ("replaced", "creator")):
    cluster.make(name, "lock", layout(), create=True, lifetime=lifetime)
print("made", flush=True)
time.sleep(60)
"""


@pytest.fixture
def creator(name, here):
    command = [sys.executable, "-c", CREATOR, name, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "made\n"
        yield process
        process.kill()


def test_a_name_goes_with_its_creator_if_it_was_to(here, creator, name):
    infos = {i.name: i for i in here.list()}
    assert infos["stays"].lifetime == "name" and infos["goes"].lifetime == "creator"
    assert infos["goes"].owner.endswith(f" pid {creator.pid}")
    assert here.gc() == []
    here.unlink("replaced")
    here.make("replaced", "lock", layout(), create=True).close()
    memory = here.make("goes", "lock", layout(), create=False)
    creator.send_signal(signal.SIGKILL)
    creator.wait()
    with dsmem.connect(name):  # sweeps
        assert [i.name for i in here.list()] == ["replaced", "stays"]
    assert here.gc() == []
    memory.remote.write(64, b"x")
    memory.close()


def test_a_mark_without_its_name_goes(here, name):
    folder = local.user_folder(os.geteuid()) / name
    here.make("a", "lock", layout(), create=True).close()
    code = "from dsmem import _core; print(_core.identity())"
    dead = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    home = folder / ".owned" / f"{dead:016x}"
    home.mkdir()
    for inode in (1, (folder / "a").stat().st_ino):  # what a creator leaves that is killed before it links the name
        (home / f"{inode}-a").touch()
    assert here.gc() == [] and not home.exists()
    assert [i.name for i in here.list()] == ["a"]


def test_many_that_want_one_name(here, name):
    """One makes it, the others attach; creators in one process do not lose their mark."""
    made, start = [], threading.Barrier(8)

    def race():
        for round in range(20):
            start.wait()
            try:
                here.make(f"n{round}", "lock", layout(), create=True, lifetime="creator").close()
                made.append(round)
            except errors.NameExistsError:
                here.make(f"n{round}", "lock", layout(), create=None).close()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(made) == list(range(20))
    assert {i.lifetime for i in here.list()} == {"creator"} and len(here.list()) == 20


def test_a_stopped_holder_of_the_folder_is_not_waited_for_forever(here, name, monkeypatch):
    import fcntl

    monkeypatch.setattr(local, "_LOCK_SECONDS", 0.05)
    here.make("a", "lock", layout(), create=True).close()
    fd = os.open(local.user_folder(os.geteuid()) / name, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(errors.BusyError):
        here.unlink("a")
    os.close(fd)
    here.unlink("a")


def test_no_descriptor_is_kept(here):
    before = len(list(Path("/proc/self/fd").iterdir()))
    memories = [here.make(f"n{i}", "lock", layout(), create=True) for i in range(10)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # the garbage of other tests may end meanwhile
    for memory in memories:
        memory.close()


def test_a_folder_that_gc_took_comes_back(here, name):
    assert local.LocalNames(name, os.geteuid()).remove_if_empty()
    assert here.list() == [] and here.gc() == []
    with pytest.raises(errors.NameNotFoundError):
        here.make("a", "lock", layout(), create=False)
    here.make("a", "lock", layout(), create=True).close()


@pytest.mark.parametrize("call", ["mkdir", "chmod", "lstat", "stat"])
def test_a_folder_that_gc_takes_as_it_is_made_comes_back(cluster_name, call, monkeypatch):
    """Behind each call that makes it or looks at it, in turn. A last cluster takes the folder of the user along."""
    root = local.ROOT / f"{cluster_name}-root"
    with contextlib.ExitStack() as stack:
        root.mkdir()
        stack.callback(root.rmdir)
        monkeypatch.setattr(local, "ROOT", root)
        real, calls, number = getattr(Path, call), 1, 0
        while number < calls:
            calls = 0

            def taken(path, *given, number=number, **named):
                nonlocal calls
                result = real(path, *given, **named)
                if root in path.parents:
                    calls += 1
                    if calls == number + 1:
                        removed(local.user_folder(os.geteuid()) / "c")
                return result

            monkeypatch.setattr(Path, call, taken)
            made = dsmem.connect("c")
            memory = made.make("a", "lock", layout(), create=True)
            monkeypatch.setattr(Path, call, real)
            assert [info.name for info in made.list()] == ["a"]
            memory.close()
            made.unlink("a")
            removed(local.user_folder(os.geteuid()) / "c")
            made.close()
            number += 1
        assert calls >= 1


def removed(folder):
    """As gc removes the folder of a cluster without names."""
    for each in (folder / ".owned", folder, folder.parent):
        with contextlib.suppress(OSError):
            each.rmdir()


@pytest.mark.parametrize("lifetime", ["name", "creator"])
def test_a_folder_that_gc_took_while_an_object_was_made_comes_back(here, name, lifetime):
    def write(view):
        assert local.LocalNames(name, os.geteuid()).remove_if_empty()
        layout()()[1](view)

    here.make("a", "lock", lambda: (4096, write), create=True, lifetime=lifetime).close()
    assert [(info.name, info.lifetime) for info in here.list()] == [("a", lifetime)]


# -- bad files --


def test_files_that_are_no_objects(here, name):
    folder = local.user_folder(os.geteuid()) / name
    (folder / "empty").touch()
    (folder / "short").write_bytes(b"dsmemobj")
    (folder / "zero").write_bytes(bytes(4096))
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("zero")
    os.mkfifo(folder / "fifo")
    for bad in ("empty", "short", "zero", "fifo"):
        with pytest.raises(errors.CorruptError):
            here.make(bad, "lock", layout(), create=False)
    for bad in ("folder", "link"):
        with pytest.raises(errors.DsmemError):
            here.make(bad, "lock", layout(), create=False)
    assert {i.name: i.kind for i in here.list()} == dict.fromkeys(("empty", "short", "zero"), "corrupt")
    (folder / "folder").rmdir()
    (folder / "fifo").unlink()
    (folder / "link").unlink()


@pytest.mark.parametrize("other", [0, 1, LAYOUT + 1, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", CLASSES)
def test_objects_of_another_release(here, name, kind, other):
    """Refused by every way in, with what it is and what to do; it can be seen and removed."""
    path = local.user_folder(os.geteuid()) / name / "a"
    how = {
        "barrier": {"parties": 2},
        "segment": {"shape": 4},
        "counting_semaphore": {"owned": False},
        "store": {"capacity": 4096},
    }.get(kind, {})
    make = getattr(here, kind.removeprefix("counting_"))
    obj = make("a", create=True, **how)
    ref = obj.ref
    obj.close()
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", other))
    said = pytest.raises(errors.VersionError, match=f"layout {other}, this release makes and reads {LAYOUT}.*again")
    for create in (False, None):
        with said:
            make("a", create=create, **how)
    with said:
        dsmem.attach(ref)
    assert [(info.name, info.kind, info.lifetime) for info in here.list()] == [("a", "other version", "name")]
    with pytest.raises(errors.CorruptError, match="unlink"):
        here._names.unlink("a", ref.id)
    here.unlink("a")
    assert here.list() == []


def test_every_byte_of_the_header_flipped(here, name):
    path = local.user_folder(os.geteuid()) / name / "a"
    here.make("a", "lock", layout(), create=True).close()
    good = path.read_bytes()
    refused = 0
    for at in range(64):
        for bit in range(8):
            raw = bytearray(good)
            raw[at] ^= 1 << bit
            path.write_bytes(raw)
            try:
                here.make("a", "lock", layout(), create=False).close()
            except (errors.CorruptError, errors.VersionError, errors.MismatchError):
                refused += 1
    assert refused >= 16 * 8, "magic, version and type"


# -- rights --


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize(
    "how, readonly, allowed",
    [
        ({}, True, False),
        ({"mode": 0o600}, True, False),
        ({"mode": 0o640, "group": 54321}, True, True),
        ({"mode": 0o640, "group": 54321}, False, False),
        ({"mode": 0o660, "group": 54321}, False, True),
        ({"mode": 0o660, "group": 54322}, False, False),
        ({"mode": 0o666}, False, True),
    ],
)
def test_another_user(name, how, readonly, allowed):
    with dsmem.connect(name, **how) as cluster:
        cluster.make("a", "lock", layout(), create=True).close()
    child = os.fork()
    if child == 0:
        result = 3
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            try:
                with dsmem.connect(name, owner=0) as theirs:
                    theirs.make("a", "lock", layout(), create=False, readonly=readonly).close()
                result = 0
            except errors.AccessDeniedError:
                result = 1
        finally:
            os._exit(result)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if allowed else 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_folder_that_another_user_has_made(name, here):
    folder = local.user_folder(0) / name
    os.chown(folder, 54321, 54321)
    with pytest.raises(errors.AccessDeniedError, match=f"user 54321 made it; ask root to remove it: rm -r {folder}"):
        dsmem.connect(name)
    os.chown(folder, 0, 0)


@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("lock", {"spin": "x"}),
        ("event", {"spin": -1}),
        ("queue", {"spin": "x"}),
        ("lock", {"members": -1}),
        ("lock", {"members": "x"}),
        ("once", {"members": 1025}),
        ("semaphore", {"n": 1.5}),
        ("semaphore", {"n": 5000}),
        ("barrier", {"parties": "x"}),
        ("barrier", {"parties": -1}),
        ("barrier", {"parties": 2, "timeout": -1}),
        ("condition", {"waiters": -1}),
        ("condition", {"lock": threading.Lock()}),
    ],
)
@pytest.mark.parametrize("create", [True, None])
def test_an_invalid_argument_leaves_no_name(cluster, kind, arguments, create):
    wrong = next(reversed(arguments))
    with pytest.raises(errors.InvalidArgumentError, match=f"{wrong}="):
        getattr(cluster, kind)("it", create=create, **arguments)
    assert cluster.list() == []


@pytest.mark.parametrize("ref", [5, None, "name", b"descriptor"])
def test_what_is_no_reference(ref):
    with pytest.raises(errors.InvalidArgumentError, match="not a reference"):
        dsmem.attach(ref)


def test_references_do_not_leave_their_cluster(here, name):
    with here.event("it", create=True) as event, pytest.raises(errors.InvalidNameError):
        dsmem.attach(dataclasses.replace(event.ref, name=f"../{name}/it"))


def test_what_is_no_context():
    with pytest.raises(errors.InvalidArgumentError, match="context=5"):
        dsmem.connect(context=5)
    with pytest.raises(errors.InvalidArgumentError, match="shared=5"):
        Lamport(5)


@pytest.mark.parametrize("option", [{"mode": 0o600}, {"group": os.getgid()}, {"owner": os.getuid()}])
def test_mode_group_and_owner_are_of_a_cluster_that_has_files(name, option):
    with dsmem.Context("shm") as context:
        for where, which in ((name, {"context": context}), ("tcp://127.0.0.1:1/demo", {})):
            with pytest.raises(errors.InvalidArgumentError, match="mode, group and owner are of clusters of this host"):
                dsmem.connect(where, **which, **option)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_cluster_has_no_copy(cluster, copied):
    lock = cluster.lock("a", create=True, lifetime="creator")
    with pytest.raises(errors.ArgumentTypeError, match=re.escape(f"dsmem.connect({cluster.name!r})")):
        copied(cluster)
    with pytest.raises(TypeError):  # what pickle's users expect
        copied(cluster)
    assert lock.acquire(timeout=0) and [info.name for info in cluster.list()] == ["a"]
    lock.release()
    lock.close()


@pytest.mark.parametrize("what", ["owner", "group"])
@pytest.mark.parametrize("value", [1.5, -1, (1 << 32) - 1, 1 << 32, "a\0", "no such one", b"root", [0]])
def test_what_is_no_user_or_group(name, what, value):
    with pytest.raises(errors.InvalidArgumentError, match=f"{what}="):
        dsmem.connect(name, **{what: value})


def test_numbers_of_numpy_are_numbers(name):
    numbers = {"owner": np.int64(os.geteuid()), "group": np.int64(os.getegid()), "mode": np.int64(0o600)}
    with dsmem.connect(name, **numbers) as cluster:
        queue = cluster.queue("a", create=True, mode=np.uint16(0o600), producers=np.int64(3))
        assert queue.properties["lanes"] == 3
        queue.close()
        for mode in (0o600 + 0.0, 0o700, 0o060, "600"):
            with pytest.raises(errors.InvalidArgumentError, match="mode="):
                cluster.lock("b", create=True, mode=mode)
