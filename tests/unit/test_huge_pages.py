"""Large regions lie in huge pages where enough of them are free, and in ordinary ones where not.

Where none are free, the tests reserve some, if this user may, and give them back.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors

SECRET = b"the secret of the huge page tests"
HUGE = 2 << 20
WANTED = 16
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


def count(name):
    return int((POOL / name).read_text())


@pytest.fixture(scope="module")
def pool():
    """At least WANTED free pages."""
    if not POOL.is_dir():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before, missing = count("nr_hugepages"), WANTED - count("free_hugepages")
    if missing > 0:
        try:
            (POOL / "nr_hugepages").write_text(str(before + missing))
        except OSError as error:
            pytest.skip(f"no free huge pages, and none can be reserved ({error.strerror}); sysctl vm.nr_hugepages=16")
    try:
        if count("free_hugepages") < WANTED:
            pytest.skip(f"the kernel found memory for {count('free_hugepages')} huge pages, not for {WANTED}")
        yield
    finally:
        if missing > 0:
            (POOL / "nr_hugepages").write_text(str(before))


@pytest.fixture
def context(fabric):
    with dsmem.Context(fabric, secret=SECRET) as context:
        yield context


def page_sizes(array):
    """Of the mappings that hold an array, in KiB; the kernel's own word for it."""
    start = array.ctypes.data
    sizes, inside = set(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            low, high = (int(x, 16) for x in found.groups())
            inside = low < start + array.nbytes and start < high
        elif inside and line.startswith("KernelPageSize:"):
            sizes.add(int(line.split()[1]))
    return sizes


@pytest.mark.parametrize("nbytes", [HUGE, 2 * HUGE + 5])
def test_large_regions_use_them(pool, context, nbytes):
    with context.allocate(nbytes) as region, context.attach(region.descriptor) as remote:
        assert page_sizes(region.array()) == {2048}
        if remote.is_mapped:
            assert page_sizes(remote.array()) == {2048}
        assert not region.array().any()
        data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
        remote.write(0, data)
        assert np.array_equal(region.array(), data)
        with pytest.raises(errors.OutOfBoundsError):
            remote.write(1, data)


def test_small_regions_do_not(pool, context):
    with context.allocate(HUGE // 2) as region:
        assert page_sizes(region.array()) == {4}


def test_more_than_are_free_lie_in_ordinary_pages(pool, context):
    with context.allocate((count("free_hugepages") + 1) * HUGE) as region:
        assert page_sizes(region.array()) == {4}
