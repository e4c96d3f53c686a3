"""Clusters of this host that are a test's own, also where servers of names or memory nodes serve them."""

import contextlib
import itertools
import os

from dsmem.names import local

_numbers = itertools.count()


def remove(name):
    """All its names; afterwards nothing of it is left."""
    names = local.LocalNames(name, os.geteuid())
    for info in names.infos():
        names.unlink(info.name)
    assert names.remove_if_empty()


@contextlib.contextmanager
def of_its_own():
    """A name that no other cluster of this host has, also after a run that was killed, and of which nothing is left."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    try:
        yield name
    finally:
        remove(name)
