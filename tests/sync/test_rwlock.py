"""Readers and writers between processes."""

import threading
import time

import pytest
from short_timeouts import in_vain

from dsmem import errors

LIMIT = 60.0


def test_readers_share_and_a_writer_does_not(world):
    rw = world.make("rwlock")
    other = world.again(rw)
    assert rw.acquire_read() and other.acquire_read() and rw.acquire_read()
    assert not other.acquire_write(False) and not in_vain(other.acquire_write, timeout=0.02)
    rw.release_read()
    rw.release_read()
    assert not in_vain(world.again(rw).acquire_write, timeout=0.02)
    other.release_read()
    assert rw.acquire_write() and rw.token
    assert (
        not other.acquire_read(False)
        and not in_vain(other.acquire_read, timeout=0.02)
        and not other.acquire_write(False)
    )
    rw.release_write()
    assert rw.token is None and other.acquire_read(False)
    other.release_read()


def test_a_writer_that_gives_up_lets_readers_in(world):
    rw, other = world.make("rwlock"), None
    other = world.again(rw)
    with rw.read():
        assert not in_vain(other.acquire_write, timeout=0.05)
        assert other.acquire_read(False)
        other.release_read()


def test_with(world):
    rw = world.make("rwlock")
    other = world.again(rw)
    with rw.read() as it, other.read():
        assert it is rw and rw.token is None
    with rw.write() as it:
        assert it.token == 1
        with pytest.raises(errors.TimeoutError), other.read(0.02):
            pass
        with pytest.raises(TimeoutError), other.write(timeout=0.02):
            pass
    with other.write():
        assert other.token == 2


def test_what_is_not_held(world):
    rw = world.make("rwlock")
    with pytest.raises(errors.NotHeldError):
        rw.release_read()
    with pytest.raises(errors.NotHeldError):
        rw.release_write()
    with rw.read(), pytest.raises(errors.NotHeldError):
        rw.release_write()
    with rw.read(), pytest.raises(errors.BusyError):
        rw.close()
    with pytest.raises(errors.NotHeldError):
        rw.release_read()


def test_new_readers_wait_for_a_waiting_writer(local):
    rw = local.make("rwlock")
    writer = local.actor(rw)
    other = local.again(rw)
    rw.acquire_read()
    writer.start(f"obj.acquire_write(timeout={LIMIT})")
    while other.acquire_read(False):
        other.release_read()
    rw.release_read()
    assert writer.result() is True
    assert not rw.acquire_read(False)
    writer.call("obj.release_write()")
    assert rw.acquire_read(timeout=LIMIT)
    rw.release_read()


STRESS = """
def run(n, writes):
    remote, bad = obj._memory.remote, 0
    a, b = bytearray(8), bytearray(8)
    for i in range(n):
        if i % writes == 0:
            with obj.write():
                remote.read(80, a)
                new = (int.from_bytes(a, 'little') + 1).to_bytes(8, 'little')
                remote.write(80, new)
                remote.write(88, new)
        else:
            with obj.read():
                remote.read(80, a)
                remote.read(88, b)
                bad += a != b
    return bad
"""


def test_exclusion_between_processes(world):
    n = 200 if world.remote else 3000
    rw = world.make("rwlock")
    actors = [world.actor(rw) for _ in range(4)]
    for a in actors:
        a.call(STRESS)
        a.start(f"run({n}, 4)")
    assert [a.result() for a in actors] == [0] * 4
    count = bytearray(8)
    rw._memory.remote.read(80, count)
    assert int.from_bytes(count, "little") == 4 * (n // 4)


def test_threads_of_one_handle(world):
    rw = world.make("rwlock")
    inside, wrong = {"readers": 0, "writers": 0}, []

    def work():
        for i in range(60):
            what, section = ("readers", rw.read) if i % 6 else ("writers", rw.write)
            with section():
                inside[what] += 1
                time.sleep(0)  # others run now
                if inside["writers"] > (what == "writers") or (what == "writers" and inside["readers"]):
                    wrong.append(dict(inside))
                inside[what] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_reader_does_not_become_the_writer(world):
    """What this handle reads keeps its own writing out, too; another one comes in when it has gone."""
    rw = world.make("rwlock")
    with rw.read():
        assert not in_vain(rw.acquire_write, timeout=0.02) and not rw.acquire_write(False)
        assert rw.token is None
        with rw.read(LIMIT):
            pass
    with rw.write(LIMIT):
        assert not in_vain(rw.acquire_read, timeout=0.02)
    with world.again(rw).write(LIMIT):
        assert not rw.acquire_read(False)


def test_a_writer_is_killed(local):
    rw = local.make("rwlock")
    writer = local.actor(rw)
    assert writer.call("obj.acquire_write(), obj.token") == (True, 1)
    writer.kill()
    with rw.read(LIMIT), local.again(rw).read(LIMIT) as other:
        assert rw.recovered and other.recovered
    with rw.write(LIMIT):
        assert rw.recovered and rw.token == 2
    with rw.read():
        assert not rw.recovered
    with rw.write():
        assert not rw.recovered and rw.token == 3


def test_a_writer_that_gives_up_keeps_owner_died(local):
    rw = local.make("rwlock")
    victim, reader = local.actor(rw), local.again(rw)
    victim.call("obj.acquire_write()")
    victim.kill()
    with reader.read(LIMIT):
        assert not rw.acquire_write(timeout=0.05)
    with rw.write(LIMIT):
        assert rw.recovered


def test_a_reader_is_killed(local):
    rw = local.make("rwlock", members=2)
    for _ in range(3):
        reader = local.actor(rw)
        assert reader.call("obj.acquire_read(), obj.acquire_read()") == (True, True)
        assert not rw.acquire_write(False)
        reader.kill()
        with rw.write(LIMIT):
            assert not rw.recovered
    reader = local.actor(rw)
    reader.call("obj.acquire_read()")
    reader.kill()
    newcomer = local.actor(rw)  # succeeds the dead one, whose place it finds cleared
    assert newcomer.call("obj.acquire_write(False)") is True


def test_a_stopped_reader_keeps_writers_out(local):
    rw = local.make("rwlock")
    reader = local.actor(rw)
    reader.call("obj.acquire_read()")
    reader.stop()
    assert not rw.acquire_write(timeout=0.3)
    reader.go_on()
    reader.call("obj.release_read()")
    assert rw.acquire_write(timeout=LIMIT)
    rw.release_write()


def test_round_trips(remote):
    rw = remote.make("rwlock")
    with rw.write(), pytest.raises(errors.TimeoutError), remote.again(rw).read(0):
        pass
    with rw.read():
        before = remote.context.stats["posts"]
        with rw.read():  # the process is inside already: one look at the writer's word
            pass
        assert remote.context.stats["posts"] - before == 1
    before = remote.context.stats["posts"]
    with rw.read():
        pass
    assert remote.context.stats["posts"] - before == 3
    before = remote.context.stats["posts"]
    with rw.write():
        pass
    assert remote.context.stats["posts"] - before == 3


def test_a_dropped_reader_is_gone(world):
    rw = world.make("rwlock")
    other = world.cluster.rwlock("it")
    memory = other._memory
    other.acquire_read()
    del other
    memory.close()
    with rw.write(LIMIT):
        pass


def test_a_reader_is_broken_by_choice(world):
    rw = world.make("rwlock")
    reader, other = world.actor(rw), world.actor(rw)
    assert rw.readers() == [] and not rw.break_(1)
    assert reader.call("obj.acquire_read(), obj.acquire_read()") == (True, True)
    (gone,) = rw.readers()
    other.call("obj.acquire_read()")
    assert len(rw.readers()) == 2
    assert rw.break_(gone) and not rw.break_(gone) and len(rw.readers()) == 1
    assert not rw.acquire_write(False)
    other.call("obj.release_read()")
    if not world.remote:  # there, another look would be a round trip
        with pytest.raises(errors.NotHeldError):
            reader.call("obj.acquire_read(False)")
    with rw.write(LIMIT):
        assert not rw.recovered
        reader.call("obj.release_read()")
        with pytest.raises(errors.NotHeldError):
            reader.call("obj.release_read()")
        assert rw.readers() == []
    assert reader.call("obj.acquire_read(False)") and rw.readers() == [gone]
    reader.call("obj.release_read()")


def test_a_writer_is_broken_by_choice(world):
    rw = world.make("rwlock")
    writer = world.actor(rw)
    assert rw.writer() is None
    writer.call("obj.acquire_write()")
    gone = rw.writer()
    assert rw.break_(gone) and not rw.break_(gone) and rw.writer() is None
    with rw.read(LIMIT):
        assert rw.recovered
    with rw.write(LIMIT):
        assert rw.recovered and rw.token == 2
        with pytest.raises(errors.NotHeldError):
            writer.call("obj.release_write()")
        assert rw.writer() not in (None, gone)


def test_a_writer_that_is_broken_while_it_waits_for_readers(world):
    """It doesn't come in: the turn is another's."""
    rw = world.make("rwlock")
    writer, other = world.actor(rw), world.actor(rw)
    rw.acquire_read()
    writer.start(f"obj.acquire_write(timeout={LIMIT})")
    while rw.writer() is None:
        pass
    other.start(f"obj.acquire_write(timeout={LIMIT})")
    assert rw.break_(rw.writer())
    with pytest.raises(errors.NotHeldError):
        writer.result()
    rw.release_read()
    assert other.result() and other.call("obj.recovered")


def test_breaking_a_reader_wakes_the_writer(local):
    rw = local.make("rwlock")
    reader, writer = local.actor(rw), local.actor(rw)
    reader.call("obj.acquire_read()")
    writer.start("obj.acquire_write(timeout=60)")
    writer.until_asleep()
    assert rw.break_(rw.readers()[0])
    assert writer.result() is True
