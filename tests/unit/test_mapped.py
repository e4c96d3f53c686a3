"""Files of shared memory as remotes."""

import asyncio
import os

import numpy as np
import pytest

import dsmem
from dsmem import _core, errors


@pytest.fixture
def fd():
    fd = os.memfd_create("test")
    os.ftruncate(fd, 8192)
    yield fd
    os.close(fd)


def test_ops_and_views(fd):
    with _core.map_file(fd, 8192) as r:
        r.write(0, b"12345678")
        assert os.pread(fd, 8, 0) == b"12345678"
        assert r.fetch_add(8, 3) == 0 and r.compare_swap(8, 3, 5) == 3
        view = r.array("u8")
        assert view[1] == 5 and view.flags.writeable and r.is_mapped and r.context is None
        with pytest.raises(errors.BusyError):
            r.close()
        del view
        with pytest.raises(errors.OutOfBoundsError):
            r.read(8190, bytearray(8))


def test_read_only(fd):
    path = f"/proc/self/fd/{fd}"
    only = os.open(path, os.O_RDONLY)
    with pytest.raises(errors.AccessDeniedError):
        _core.map_file(only, 8192, "rw")
    with _core.map_file(only, 8192, "r") as r:
        os.close(only)
        assert not r.array().flags.writeable
        with pytest.raises(errors.AccessDeniedError):
            r.write(0, b"x")


def test_bad_files(fd):
    for n in (0, 8193):
        with pytest.raises(errors.InvalidArgumentError):
            _core.map_file(fd, n)
    with pytest.raises(errors.SystemCallError):
        _core.map_file(10_000, 1)
    with _core.map_file(fd, 8192) as r, pytest.raises(errors.CorruptError):
        _core.object_type(r)


def test_in_a_batch_and_async(fd):
    with dsmem.Context("shm", secret=bytes(16)) as context, context.allocate(64) as region:
        with context.attach(region.descriptor) as other, _core.map_file(fd, 8192) as r:
            out = bytearray(8)
            with context.batch() as b:
                b.write(r, 64, b"abcdefgh")
                b.write(other, 0, b"ijklmnop")
                b.read(r, 64, out)
                old = b.fetch_add(r, 0, 1)
            assert bytes(out) == b"abcdefgh" and old.value == 0
            assert bytes(np.frombuffer(region)[:1].tobytes()) == b"ijklmnop"

            async def run():
                assert await r.fetch_add_async(0, 1) == 1
                await r.read_async(64, out)

            asyncio.run(run())


def test_an_unmapped_remote_has_no_view():
    with dsmem.Context("fault+shm", secret=bytes(16)) as context, context.allocate(64) as region:
        with context.attach(region.descriptor) as remote, pytest.raises(errors.NotMappedError):
            assert not remote.is_mapped
            np.frombuffer(remote)
