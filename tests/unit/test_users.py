"""Users of one host, whatever their numbers are: whose death is proven to whom. Needs root, who may become any user."""

import contextlib
import os
import shutil
import signal
import struct

import pytest
from forked import SECONDS, in_child

import dsmem
import dsmem.sync
from dsmem import _core
from dsmem.cluster import local

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
