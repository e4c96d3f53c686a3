"""Segments that grow while others are attached, and lose their names."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import _core, errors
from dsmem.names import local
from dsmem.objects import remapped


def test_grown_then_unlinked(here):
    """A process that is attached sees the rows that were added before the name went."""
    with (
        here.segment("a", 4, "u8", create=True) as s,
        here.segment("a") as second,
        here.segment("a", readonly=True) as reader,
    ):
        s.resize(100_000)
        s.write(99_999, 7)
        s.unlink()
        assert second.read(99_999) == 7 and reader.read(99_999) == 7 and second.shape == (100_000,)
        second.write(50_000, 8)
        assert s.read(50_000) == 8 and reader.array[50_000] == 8
        with pytest.raises(errors.NameNotFoundError):
            second.resize(200_000)
        assert s.shape == second.shape == (100_000,)


def test_growth_through_a_stale_handle(here):
    """The name is another object's by now: that one does not grow."""
    with here.segment("a", 4, "u8", create=True) as old:
        here.unlink("a")
        with here.segment("a", 4, "u8", create=True) as new:
            size = (local.user_folder(os.geteuid()) / here.name / "a").stat().st_size
            with pytest.raises(errors.StaleDescriptorError):
                old.resize(100_000)
            assert old.shape == new.shape == (4,)
            assert (local.user_folder(os.geteuid()) / here.name / "a").stat().st_size == size


def test_mapped_again(here):
    with here.segment("a", 4, "u8", create=True) as s:
        s.write(1, 7)
        remote = s._memory.remote
        with _core.map_again(remote, 8192) as again:
            out = bytearray(8)
            again.read(4096 + 8, out)
            assert out[0] == 7 and again.nbytes == 8192 and again.access == remote.access
        for wrong in (8193, 1 << 40):
            with pytest.raises((errors.CorruptError, errors.OutOfMemoryError)):
                _core.map_again(remote, wrong)
        for wrong in (1 << 47, 1 << 63, (1 << 64) - 1):  # as a damaged header may say; no memory would be enough
            with pytest.raises(errors.CorruptError):
                _core.map_again(remote, wrong)
        with pytest.raises(errors.InvalidArgumentError):
            _core.map_again(remote, 0)
        before = len(Path("/proc/self/maps").read_text().splitlines())
        for _ in range(10):
            with pytest.raises(errors.CorruptError):
                _core.map_again(remote, 1 << 20)
        assert len(Path("/proc/self/maps").read_text().splitlines()) <= before + 1


def test_only_files_are_mapped_again():
    with dsmem.Context("shm") as context, context.allocate(4096) as region:
        with context.attach(region.descriptor) as remote, pytest.raises(errors.InvalidArgumentError):
            _core.map_again(remote, 4096)


def test_readers_follow_growth(here):
    """While one grows, the others read the last row that they are told of, whatever they had mapped."""
    stop, failed = threading.Event(), []

    def read(segment):
        try:
            while not stop.is_set():
                rows = len(segment)
                assert segment.read(rows - 1) in (0, 1)
        except BaseException as error:
            failed.append(error)

    with here.segment("a", 4, "u8", create=True) as s, here.segment("a") as one, here.segment("a") as two:
        threads = [threading.Thread(target=read, args=(segment,)) for segment in (one, two)]
        for t in threads:
            t.start()
        for rows in np.linspace(1_000, 200_000, 60):
            s.resize(int(rows))
            s.write(-1, 1)
        stop.set()
        for t in threads:
            t.join()
    assert not failed


def test_memory_of_a_context_has_the_bytes_it_has():
    """It does not grow: a header that says more is damaged."""
    with dsmem.Context("shm") as context, dsmem.connect("c", context=context) as cluster:
        with cluster.segment("a", 4, "u8", create=True) as s:
            for longer in (True, False):
                with pytest.raises(errors.CorruptError, match="'a' says that it has 1000000 bytes, and it has less"):
                    remapped(s._memory, 1_000_000, longer=longer)
            s.unlink()
