"""A signal handler that raises at any bytecode while a name is made, found or removed: nothing stays behind."""

import gc
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from interrupts import Interrupt, interrupted_at, sweep

import dsmem
from dsmem import errors
from dsmem.names import local

PATTERN = np.arange(3)
KINDS = {
    "segment": lambda cluster, **how: cluster.segment("a", like=PATTERN, **how),
    "lock": lambda cluster, **how: cluster.lock("a", **how),
    "semaphore": lambda cluster, **how: cluster.semaphore("a", **how),
}
STRIDE = {"segment": 1, "lock": 5, "semaphore": 5}  # most bytecodes are the same for all kinds


@pytest.fixture(autouse=True)
def quiet(cluster_name):
    """What is dropped open in the midst of its making warns of that. At last, what the end of the process does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
    local._this_process().end()


def descriptors(wanted=None):
    """How many are open; what is dropped in a cycle is closed when the count is not as it should be."""
    count = len(list(Path("/proc/self/fd").iterdir()))
    if wanted not in (None, count):
        gc.collect()
        count = len(list(Path("/proc/self/fd").iterdir()))
    return count


def files(name):
    folder = local.user_folder(os.geteuid()) / name
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def memory(name):
    """Files of the cluster that take memory."""
    folder = local.user_folder(os.geteuid()) / name
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir() and path.stat().st_size)


@pytest.mark.parametrize("lifetime", ["name", "creator"])
@pytest.mark.parametrize("kind", KINDS)
def test_making(here, kind, lifetime):
    make = KINDS[kind]
    make(here, create=True).close()
    here.unlink("a")
    before = descriptors()

    def call():
        make(here, create=None, lifetime=lifetime).close()

    def check():
        assert descriptors(before) == before
        listed = [info.name for info in here.list()]
        assert memory(here.name) == listed, "what takes memory is listed"
        make(here, create=None, lifetime=lifetime).close()
        here.unlink("a")
        assert memory(here.name) == []

    sweep(call, check, 100, STRIDE[kind] if lifetime == "creator" else 5)
    here.close()
    assert memory(here.name) == []
    local._this_process().end()  # marks of names that were never given stay as long as their creator, at most
    assert files(here.name) == []


@pytest.mark.parametrize("kind", KINDS)
def test_finding(here, kind):
    make = KINDS[kind]
    make(here, create=True).close()
    before = descriptors()

    def call():
        make(here, create=False).close()

    def check():
        assert descriptors(before) == before
        make(here, create=False).close()

    sweep(call, check, 50, STRIDE[kind])


@pytest.mark.parametrize("lifetime", ["name", "creator"])
def test_removing(here, lifetime):
    def call():
        here.unlink("a")

    def check():
        assert memory(here.name) == [info.name for info in here.list()]
        here.segment("a", 4, "u1", create=None, lifetime=lifetime).close()

    check()
    sweep(call, check, 30)


def test_connecting(here):
    before = descriptors()

    def call():
        with dsmem.connect(here.name) as cluster:
            cluster.event("e", create=None)

    def check():
        assert descriptors(before) == before
        with dsmem.connect(here.name) as cluster, cluster.event("e", create=None) as event:
            event.set()

    sweep(call, check, 100)


def test_the_sweep_finds_what_stays():
    """A lock that is taken outside of its try, and an exception that replaces the interrupt."""
    state = {"held": False}

    def careless():
        state["held"] = True
        int("1")
        state["held"] = False

    def check():
        held, state["held"] = state["held"], False
        assert not held

    with pytest.raises(AssertionError, match="after an exception at bytecode"):
        sweep(careless, check, 3)

    def replaces():
        try:
            int("1")
        except Interrupt:
            raise ValueError("in place of it") from None

    with pytest.raises(ValueError, match="in place of it"):
        number = 1
        while interrupted_at(number, replaces):
            number += 1


def test_making_in_memory_of_a_context():
    """The name is given, and then comes the exception: no name of memory that is closed."""

    class Names(dict):
        def setdefault(self, *item):
            super().setdefault(*item)
            raise Interrupt

    with dsmem.Context("shm", secret=b"s" * 16) as context, dsmem.connect(context=context) as here:
        names = here._open_names()
        names._objects = Names()
        with pytest.raises(Interrupt):
            here.event("a", create=True)
        names._objects = dict(names._objects)
        assert here.list() == []
        here.event("a", create=None).set()


def test_removing_from_memory_of_a_context():
    """The memory goes with its name, whether the call that removed the name came to its end or not."""
    ref = None
    with (
        dsmem.Context("shm", secret=b"s" * 16) as context,
        dsmem.Context("shm", secret=b"s" * 16) as other,
        dsmem.connect(context=context) as here,
    ):

        def make():
            nonlocal ref
            event = here.event("a", create=True)
            ref = event.ref
            event.close()

        def unlink():
            here.unlink("a")

        def check():
            if here.list():
                here.unlink("a")
            with pytest.raises(errors.StaleDescriptorError):
                dsmem.attach(ref, other)
            make()

        make()
        sweep(unlink, check, 20)
