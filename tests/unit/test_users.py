"""Users of one host, whatever their numbers are: what each may do. Needs root, which may become any user."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from forked import SECONDS, in_child

import dsmem
import dsmem.sync
from dsmem import _core, errors
from dsmem.names import local

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")
NAME = f"users-{os.getpid()}"


def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def as_user(user, function, *args):
    """What the function returns in a process of this user."""

    def run():
        become(user)
        return function(*args)

    return in_child(run)


@contextlib.contextmanager
def of(*users):
    """Nothing is left of these users' names and numbers."""
    try:
        yield
    finally:
        for user in users:
            shutil.rmtree(local.user_folder(user), ignore_errors=True)
            local.user_folder(user).with_suffix(".living").unlink(missing_ok=True)


def write_file(user, first, given):
    """As the user, the file of numbers of this user."""
    path = local.user_folder(user).with_suffix(".living")
    path.write_bytes(struct.pack("<QQ", first, given).ljust(65536, b"\0"))
    path.chmod(0o644)


def make(kind):
    with dsmem.connect(NAME, mode=0o666) as cluster:
        getattr(cluster, kind)("it", create=True).close()


@contextlib.contextmanager
def holder(user, owner):
    """A process of the user that has the lock, until it is killed at the end. Its identity."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(SECONDS)
            become(user)
            lock = dsmem.connect(NAME, owner=owner).lock("it")
            lock.acquire()
            os.write(writer, _core.identity().to_bytes(8, "little"))
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        yield int.from_bytes(os.read(reader, 8), "little")
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def takes(owner, timeout):
    with dsmem.connect(NAME, owner=owner) as cluster:
        lock = cluster.lock("it")
        taken = lock.acquire(timeout=timeout)
        answer = taken, taken and lock.recovered
        if taken:
            lock.release()
        return answer


@pytest.mark.parametrize(
    ("owner", "user"),
    [(1001, 1002), (100001, 200002), (1003, 70000), (70000, 1003), (1003, 1003 + (1 << 16)), ((1 << 32) - 2, 1 << 31)],
)
def test_a_dead_holder_is_noticed_by_all_users(owner, user):
    with of(owner, user, owner + 1 & 0xFFFFFFFE):
        as_user(owner, make, "lock")
        with holder(user, owner) as identity:
            assert as_user(owner, takes, owner, 0) == (False, False)
            assert not _core.identity_dead(identity)
        assert _core.identity_dead(identity)
        assert as_user(owner, takes, owner, SECONDS) == (True, True)


@pytest.mark.parametrize("enemy", [1003 + (1 << 16), 1003 << 1, 0xFFFF])
def test_a_user_can_lie_about_itself_only(enemy):
    with of(1003, enemy):
        as_user(1003, make, "lock")
        with holder(1003, 1003) as identity:
            local.user_folder(1003).with_suffix(".living").unlink()  # nothing contradicts the enemy
            as_user(enemy, write_file, enemy, identity - 1, 1 << 62)
            assert not _core.identity_dead(identity)
            assert as_user(enemy, _core.identity_dead, identity) is False


@pytest.mark.parametrize("user", [1003, 100001])
def test_a_file_of_an_earlier_release_is_used_again(user):
    with of(user):
        old = (user & 0xFFFF) << 47 | 12345
        as_user(user, write_file, user, old, 5)
        as_user(user, make, "lock")
        with holder(user, user) as identity:
            assert not identity >> 63 and not _core.identity_dead(identity)
            assert not _core.identity_dead(old + 1)  # it may live
        assert as_user(user, takes, user, SECONDS) == (True, True)


@pytest.mark.parametrize("mask", [0o777, 0o177, 0o377, 0o077])
def test_no_umask_shuts_a_user_out(mask):
    def make_and_list():
        before = os.umask(mask)
        try:
            make("lock")
            with dsmem.connect(NAME) as cluster:
                cluster.event("b", create=True, lifetime="creator")
        finally:
            os.umask(before)
        with dsmem.connect(NAME) as cluster:
            return [info.name for info in cluster.list()]

    with of(1001):
        assert as_user(1001, make_and_list) == ["it"]


def test_a_folder_without_rights_of_its_user_is_used_again():
    with of(1001):
        as_user(1001, make, "lock")
        folder = local.user_folder(1001) / NAME
        for path, mode in ((folder / ".owned", 0o066), (folder, 0o066), (folder.parent, 0o600)):
            path.chmod(mode)  # as a process leaves them that was killed before it set the mode
        assert as_user(1001, takes, 1001, 0) == (True, False)
        assert folder.stat().st_mode & 0o777 == 0o766


@pytest.mark.parametrize("rights", [0o700, 0o744, 0o711])
def test_a_cluster_that_its_user_keeps_closed(rights):
    def tries():
        for named in (NAME, "none"):
            with pytest.raises((errors.AccessDeniedError, errors.NameNotFoundError)) as raised:
                dsmem.connect(named, owner=1001)
            yield raised.type.__name__

    with of(1001, 1002):
        as_user(1001, make, "lock")
        (local.user_folder(1001) / NAME).chmod(rights)
        assert as_user(1002, lambda: list(tries())) == ["AccessDeniedError", "NameNotFoundError"]


def test_privileges_that_are_dropped():
    """What can't be looked at or removed any more is an error of ours, and the names that can go go."""

    def drops():
        with of(1001):
            cluster = dsmem.connect(NAME)
            for name in ("a", "b"):
                cluster.lock(name, create=True, lifetime="creator").close()
            become(1001)
            for call in (cluster.list, cluster.close, cluster.close):
                with pytest.raises(errors.AccessDeniedError, match=NAME):
                    call()
            assert cluster.gc() == [] and not cluster.closed

    try:
        in_child(drops)
    finally:
        shutil.rmtree(local.user_folder(0) / NAME)


def test_a_name_that_can_not_be_removed_keeps_no_other():
    cluster = dsmem.connect(NAME)
    try:
        for name in ("a", "b", "c"):
            cluster.lock(name, create=True, lifetime="creator").close()
        folder = local.user_folder(0) / NAME
        mark = next((folder / ".owned").glob("*/*-b"))
        mark.unlink()
        mark.mkdir()  # not to be removed as a file
        with pytest.raises(errors.DsmemError, match="'b'"):
            cluster.close()
        assert [info.name for info in cluster.list()] == [] and not cluster.closed
        mark.rmdir()
        cluster.close()
        assert cluster.closed
    finally:
        shutil.rmtree(local.user_folder(0) / NAME)


_INSIDE = """
import ctypes, os, sys
assert not ctypes.CDLL(None).unshare(0x10000000)  # a new namespace of users, which a process with threads can't have
import dsmem
print(flush=True)
sys.stdin.read()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
try:
    dsmem.connect(sys.argv[1])
except dsmem.errors.AccessDeniedError as error:
    print(error)
"""


def test_a_folder_of_a_user_outside_of_the_container():
    with dsmem.connect(NAME) as cluster:
        cluster.lock("it", create=True).close()
    try:
        environment = {**os.environ, "PYTHONPATH": str(Path(dsmem.__file__).parents[1])}
        command = [sys.executable, "-c", _INSIDE, NAME]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as inside:
            if not inside.stdout.readline():
                pytest.skip("no namespaces of users here")
            for kind in ("uid", "gid"):
                Path(f"/proc/{inside.pid}/{kind}_map").write_text("0 100000 65536")
            said, _ = inside.communicate(timeout=SECONDS)
    finally:
        shutil.rmtree(local.user_folder(0) / NAME)
    assert "a user outside of this user namespace made it" in said and "rm -r" not in said


def identities_of_permits():
    """One of each of several semaphores in own memory, which need an identity for every permit."""
    with dsmem.Context("tcp", secret=b"5acc" * 16) as own, dsmem.connect(NAME, context=own) as cluster:
        found = []
        for name in "abc":
            with contextlib.closing(cluster.semaphore(name, 4096, create=True)) as permits:
                permits.acquire()
                found += permits.holders()
                permits.release()
                permits.unlink()
        return found


@pytest.mark.parametrize(("user", "top"), [(1003, 2), (100001, 3)])
def test_numbers_last_for_participants_elsewhere(user, top):
    """A random one, of which nothing is proven, has bits 46 to 61 set and bit 62 not."""
    with of(user):
        found = as_user(user, identities_of_permits)
    assert len(found) == 3 and all(each >> 62 == top and each >> 46 & 0xFFFF != 0xFFFF for each in found)
