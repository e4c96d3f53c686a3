"""Pools on shared memory: what they cost, how they fill up, threads, forks and odd arguments."""

import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import halt
import numpy as np
import pytest

import dsmem
from dsmem import errors
from dsmem.testing.control import ControlClient, name_of

SECRET = b"secret of the pool tests"


@pytest.fixture
def owner():
    with dsmem.Context("shm", secret=SECRET) as context:
        yield context


@pytest.fixture
def peer():
    with dsmem.Context("shm", secret=SECRET) as context:
        yield context


@pytest.fixture
def pool(owner):
    with owner.pool(1 << 20) as pool:
        yield pool


def files_and_mappings():
    with Path("/proc/self/maps").open() as maps:
        return len(list(Path("/proc/self/fd").iterdir())), sum("dsmem" in line for line in maps)


def test_regions_cost_no_file_and_no_mapping(peer, pool):
    before = files_and_mappings()
    regions = [pool.allocate(64) for _ in range(100)]
    made = pool.allocate_many(np.full(10_000, 64))
    assert files_and_mappings() == before
    with peer.attach_many(made) as remotes:
        items = [remotes[i] for i in range(100)]
        files, mappings = files_and_mappings()
        assert files <= before[0] + 4  # the connection to the owner
        assert mappings == before[1] + 1
    del items
    for region in regions:
        region.close()


def test_a_full_pool_says_how_full_it_is(pool):
    regions = [pool.allocate(1 << 18) for _ in range(4)]
    with pytest.raises(errors.PoolFullError, match="0 are free, up to 0 in one run, with 4 regions in use"):
        pool.allocate(1)
    regions[0].close()
    regions[2].close()
    with pytest.raises(errors.PoolFullError, match=f"{1 << 19} are free, up to {1 << 18} in one run"):
        pool.allocate((1 << 18) + 1)
    with pytest.raises(errors.PoolFullError, match="one of 3 regions"):
        pool.allocate_many([1 << 18, 1 << 17, (1 << 17) + 1])
    regions[1].close()  # its neighbours are free: one run again
    pool.allocate(3 << 18).close()
    regions[3].close()
    pool.allocate(1 << 20).close()


def test_all_of_a_pool_is_used_by_regions_of_one_length(owner):
    with owner.pool(1000 * 192) as pool:
        made = pool.allocate_many(np.full(1000, 150))
        assert sorted(made["offset"]) == list(range(0, 192_000, 192))
        order = np.random.default_rng(1).permutation(1000)
        pool.free_many(made[order[:500]])
        assert len(pool.allocate_many(np.full(500, 192))) == 500


def test_random_lengths_come_and_go(pool):
    random = np.random.default_rng(7)
    live = np.empty(0, pool.allocate_many([1]).dtype)
    used = np.zeros(1 << 14, bool)  # by units of 64 bytes
    used[0] = True
    for _ in range(60):
        if len(live) and random.random() < 0.5:
            gone = random.random(len(live)) < 0.5
            pool.free_many(live[gone])
            for row in live[gone]:
                used[row["offset"] // 64 : (row["offset"] + row["nbytes"] + 63) // 64] = False
            live = live[~gone]
        else:
            try:
                made = pool.allocate_many(random.integers(1, 3000, 50))
            except errors.PoolFullError:
                continue
            for row in made:
                place = slice(row["offset"] // 64, (row["offset"] + row["nbytes"] + 63) // 64)
                assert not used[place].any()
                used[place] = True
            live = np.concatenate([live, made])
    pool.free_many(live)
    pool.allocate((1 << 20) - 64).close()


@pytest.mark.parametrize("sizes", [4096, [[64]], [0], [64, 0], [-1], [1.5], "64", None, [None], [1 << 64]])
def test_sizes_that_are_none(pool, sizes):
    with pytest.raises(errors.InvalidArgumentError):
        pool.allocate_many(sizes)


@pytest.mark.parametrize("nbytes", [0, -1, 1 << 64, (1 << 64) - 1, "8", 1.5, None])
def test_lengths_that_are_none(owner, pool, nbytes):
    with pytest.raises((errors.InvalidArgumentError, errors.PoolFullError)):
        pool.allocate(nbytes)
    with pytest.raises((errors.InvalidArgumentError, errors.OutOfMemoryError)):
        owner.pool(nbytes)


def test_no_regions_at_all(peer, pool):
    none = pool.allocate_many([])
    assert len(none) == 0
    pool.free_many(none)
    with peer.attach_many(none) as remotes:
        assert len(remotes) == 0
        remotes.read_many([], [], bytearray())
        with pytest.raises(errors.OutOfBoundsError):
            remotes[0]


def test_what_is_not_freed(owner, pool):
    made = pool.allocate_many([64, 64])
    with pool.allocate(64) as held, owner.pool(4096) as other:
        for regions, error in (
            (made[[0, 0]], errors.StaleDescriptorError),
            (made.tobytes() + bytes(held.descriptor), errors.InvalidArgumentError),
            (made.tobytes() + other.allocate_many([64]).tobytes(), errors.InvalidArgumentError),
            (made.tobytes() + made.tobytes()[:-4] + b"1234", errors.DescriptorError),
            (made.tobytes() + b"1", errors.InvalidArgumentError),
            (made[::-1], errors.NonContiguousError),
        ):
            with pytest.raises(error) as caught:
                pool.free_many(regions)
            if error in (errors.StaleDescriptorError, errors.DescriptorError):
                assert caught.value.index == (1 if error is errors.StaleDescriptorError else 3)
    pool.free_many(made)  # nothing of it was freed before


def test_arrays_that_do_not_fit(peer, pool):
    with peer.attach_many(pool.allocate_many([64, 64])) as remotes:
        for regions, offsets, out in (
            ([0, 1], [0], bytearray(16)),
            (0, 0, bytearray(8)),
            ([0, 1], 0, bytearray(15)),
            ([0, 1], 0, bytearray(0)),
            ([[0, 1]], 0, bytearray(8)),
            ([-1], 0, bytearray(8)),
            ([0.5], 0, bytearray(8)),
            ([], [], bytearray(8)),
        ):
            with pytest.raises(errors.InvalidArgumentError):
                remotes.read_many(regions, offsets, out)


def test_handles_that_are_not_made_by_hand():
    for cls in (dsmem.Pool, dsmem.Remotes):
        with pytest.raises(errors.ArgumentTypeError, match="context"):
            cls()


def test_threads_that_allocate_attach_and_free(owner, peer):
    failures = []
    with owner.pool(1 << 20) as pool:

        def work(number):
            random = np.random.default_rng(number)
            try:
                for _ in range(20):
                    made = pool.allocate_many(random.integers(1, 300, 20))
                    with pool.allocate(100) as one, peer.attach_many(made) as remotes, peer.attach(one.descriptor) as r:
                        remotes.write_many(np.arange(20), 0, np.full(20, number, "u1"))
                        r.write(0, bytes([number]) * 100)
                        assert (pool.array()[made["offset"]] == number).all() and (one.array() == number).all()
                    pool.free_many(made)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=[n]) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        pool.allocate(1 << 20).close()


def test_a_child_of_fork_is_refused(owner, peer, pool):
    made = pool.allocate_many([64])
    with peer.attach_many(made) as remotes, pool.allocate(64) as region:
        pid = os.fork()
        if not pid:
            try:
                for use in (
                    lambda: pool.allocate(64),
                    lambda: pool.allocate_many([64]),
                    lambda: pool.free_many(made),
                    pool.array,
                    lambda: remotes.read_many([0], 0, bytearray(8)),
                    lambda: remotes[0],
                    lambda: region.descriptor,
                ):
                    try:
                        use()
                    except errors.ForkError:
                        continue
                    os._exit(1)
                for handle in (region, remotes, pool):
                    handle.close()
            except BaseException:
                os._exit(2)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        remotes.write_many([0], 0, b"parent")  # the child has taken nothing from its parent
        assert bytes(pool.array()[made["offset"][0] :][:6]) == b"parent"
        assert region.descriptor.nbytes == 64


def test_what_is_dropped_without_close(owner, peer):
    pool = owner.pool(4096)
    made = pool.allocate_many([64])
    with peer.attach_many(made) as remotes, warnings.catch_warnings():
        warnings.simplefilter("error")
        remotes[0].write(0, b"x")  # a remote of a single one needs no close
        gc.collect()
    for drop, what in ((peer.attach_many, made), (pool.allocate, 64)):
        with pytest.warns(ResourceWarning, match="unclosed"):
            drop(what)
            gc.collect()
    del drop
    view = pool.array()
    del pool
    gc.collect()
    assert view[0] == ord("x")  # the view keeps the pool
    with pytest.warns(ResourceWarning, match="unclosed <Pool 4096"):
        del view
        gc.collect()


def test_names_of_pools(owner, peer, pool):
    with pool.allocate(100) as region, peer.attach_many(pool.allocate_many([64])) as remotes:
        assert repr(pool) == "<Pool 1048576 bytes 'rwa'>"
        assert repr(remotes) == "<Remotes of 1 regions>"
        assert repr(region) == "<Region 100 bytes 'rwa'>"
        d = region.descriptor
        assert (d.version, d.nbytes, d.offset) == (3, 100, 0)
        assert (pool.descriptor.version, pool.descriptor.nbytes) == (2, 1 << 20)
        assert d == dsmem.Descriptor.fromhex(d.hex())


def test_parts_are_asked_for_as_documented(owner):
    """Bytes of the test's own: a mistake that the owner and its user share would be in both."""
    parts = 5
    with owner.pool(1 << 20, "rwa") as pool, ControlClient(owner.agent_address) as client:
        regions = [pool.allocate(64) for _ in range(31)]
        assert client.hello() == 0 and client.prove(SECRET) == 0
        asked = [bytes(region.descriptor)[-36:-4] for region in regions]
        assert client.ask(parts, name_of(pool.descriptor) + b"".join(asked))[:2] == (0, struct.pack("<I", 31))
        regions[7].close()
        assert client.ask(parts, name_of(pool.descriptor) + b"".join(asked))[:2] == (0, struct.pack("<I", 7))
        for region in regions:
            region.close()


OWNER = """
import sys
import numpy as np
import dsmem

with dsmem.Context("shm", secret=bytes.fromhex(sys.argv[1])) as context, context.pool(3000 * 64) as pool:
    made = pool.allocate_many(np.full(3000, 64))
    pool.array()[made["offset"]] = np.arange(3000) % 251
    print(made.tobytes().hex(), flush=True)
    sys.stdin.read()
"""


def test_an_owner_that_answers_late(peer):
    """The answers to a call that has timed out, of which there are many, are not taken for those to the next one."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, SECRET.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        raw = bytes.fromhex(owner.stdout.readline())
        peer.attach_many(raw[:132]).close()  # connects
        files = len(list(Path("/proc/self/fd").iterdir()))
        for nbytes in (132, len(raw)):
            halt.stop(owner.pid)
            try:
                with pytest.raises(errors.TimeoutError):
                    peer.attach_many(raw[:nbytes], timeout=0.05)
            finally:
                owner.send_signal(signal.SIGCONT)
            with peer.attach_many(raw) as remotes:
                out = np.zeros(3000, "u1")
                remotes.read_many(np.arange(3000), 0, out)
                assert (out == np.arange(3000) % 251).all()
            with peer.attach(raw[-132:]) as last:
                last.read(0, out[:1])
                assert out[0] == 2999 % 251
        assert len(list(Path("/proc/self/fd").iterdir())) <= files  # the garbage of other tests may end meanwhile
        owner.stdin.close()


def test_a_pool_of_two_fabrics():
    with dsmem.Context("shm,tcp", secret=SECRET, listen="127.0.0.1") as owner, owner.pool(4096) as pool:
        made = pool.allocate_many([64, 64])
        for way in ("shm", "tcp"):
            with dsmem.Context(way, secret=SECRET, **({"listen": "127.0.0.1"} if way == "tcp" else {})) as user:
                with user.attach_many(made) as remotes:
                    assert remotes[1].fabric == way
                    remotes.write_many([1], 8, way.encode())
                    assert remotes[1].fetch_add(0, 1) == ("shm", "tcp").index(way)
        place = int(made["offset"][1]) + 8
        assert bytes(pool.array()[place : place + 3]) == b"tcp"


def test_regions_of_a_pool_take_no_place_from_others(owner, peer):
    """More handles of parts than the table has slots, then regions and a second pool."""
    with owner.pool(4096) as pool:
        parts = [pool.allocate(64) for _ in range(40)]
        regions = [owner.allocate(64) for _ in range(10)]
        with owner.pool(4096) as second, second.allocate(64) as last:
            for n, region in enumerate([*parts, *regions, last]):
                with peer.attach(region.descriptor) as remote:
                    remote.write(0, bytes([n]) * 8)
            values = [bytes(region)[0] for region in [*parts, *regions]]
            assert values == list(range(50))
        for part in parts:
            part.close()
        for region in regions:
            region.close()


GREEDY = """
import resource
import numpy as np
import dsmem
with dsmem.Context("shm", secret=b"secret of the pool tests") as owner, owner.pool(1 << 20) as pool:
    sizes = np.full(2_000_000, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        pool.allocate_many(sizes)
    except dsmem.errors.PoolFullError:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_more_regions_than_can_fit_are_refused_at_once():
    """The table of blocks does not grow for what there is certainly no room for."""
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KiB; a table for them would have twice as much


def test_a_stale_region_is_not_looked_for_by_another_way():
    owners = {"secret": SECRET, "listen": "127.0.0.1"}
    with dsmem.Context("shm,tcp", **owners) as owner, dsmem.Context("shm,tcp", **owners) as user:
        with owner.pool(4096) as pool:
            made = pool.allocate_many([64, 64, 64])
            pool.free_many(made[1:2])
            before = user.stats["connects"]
            with pytest.raises(errors.StaleDescriptorError) as caught:
                user.attach_many(made)
            assert caught.value.index == 1
            assert user.stats["connects"] == before


def test_many_regions_that_are_no_parts(owner, peer):
    with owner.pool(1 << 16) as pool:
        regions = [owner.allocate(64) for _ in range(300)]
        descriptors = b"".join(bytes(region.descriptor) for region in regions) + pool.allocate_many([64, 64]).tobytes()
        with peer.attach_many(descriptors) as remotes:
            remotes.write_many(np.arange(302), np.zeros(302, "u8"), np.arange(302, dtype="u8"))
            assert [int.from_bytes(bytes(region)[:8], "little") for region in regions] == list(range(300))
        for region in regions:
            region.close()
