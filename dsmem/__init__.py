"""Memory of other processes and machines, used from Python as if it were local.

Named objects of one host, without a server: :func:`connect` opens a :class:`Cluster`, whose methods create and find
arrays (:meth:`~Cluster.segment`), queues, locks and so on. They are files of shared memory.

>>> with dsmem.connect() as cluster:
...     table = cluster.segment("table", (1000, 4), "f8", create=None)
...     table.array[0] = 1.5

Raw memory, also of other hosts over RDMA: :class:`Context` allocates regions, and attaches to those of other processes.
Reads, writes and atomic updates are one-sided: the owner of the memory takes no part in them.

>>> with dsmem.Context() as context:
...     remote = context.attach(descriptor)  # the region.descriptor of another process
...     remote.fetch_add(0, 1)

All errors are classes of :mod:`dsmem.errors`, derived from :class:`DsmemError`. The command ``dsmem doctor`` shows what
works on this machine.
"""

import importlib as _importlib
import logging as _logging
import typing as _typing
from pathlib import Path as _Path

from dsmem._core import Batch, Capabilities, Descriptor, Pool, Region, Remote, Remotes, Result, Way
from dsmem.cluster import Cluster, attach, connect
from dsmem.cluster.factories import CLASSES as _CLASSES
from dsmem.context import Context
from dsmem.errors import DsmemError
from dsmem.memory import Reference
from dsmem.segment import Segment

if _typing.TYPE_CHECKING:
    from dsmem import clock, errors, metrics, queue, segment, store, sync
    from dsmem.clock import SharedClock
    from dsmem.queue import Queue
    from dsmem.store import Store
    from dsmem.sync import (
        Barrier,
        Condition,
        CountingSemaphore,
        Event,
        Lock,
        Once,
        RLock,
        RWLock,
        Semaphore,
        SpinLock,
    )

__all__ = [
    "Barrier",
    "Batch",
    "Capabilities",
    "Cluster",
    "Condition",
    "Context",
    "CountingSemaphore",
    "Descriptor",
    "DsmemError",
    "Event",
    "Lock",
    "Once",
    "Pool",
    "Queue",
    "RLock",
    "RWLock",
    "Reference",
    "Region",
    "Remote",
    "Remotes",
    "Result",
    "Segment",
    "Semaphore",
    "SharedClock",
    "SpinLock",
    "Store",
    "Way",
    "attach",
    "clock",
    "connect",
    "errors",
    "get_include",
    "metrics",
    "queue",
    "segment",
    "store",
    "sync",
]
__version__ = "0.1.0"

_MODULES = ("clock", "errors", "metrics", "queue", "segment", "store", "sync")  # imported when they are first used
_HOMES = dict(where.split(":")[::-1] for where in _CLASSES.values())  # class → module, imported like these

if not _typing.TYPE_CHECKING:  # type checkers see the imports above, and so report misspelt names

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return _importlib.import_module(f"dsmem.{name}")
        if name in _HOMES:
            found = getattr(_importlib.import_module(_HOMES[name]), name)
            globals()[name] = found
            return found
        raise AttributeError(f"module 'dsmem' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def get_include() -> str:
    """Folder of the core's C header ``dsm.h``, for a compiler's option ``-I``.

    The header has the constants, types and error numbers of the core. Its functions are in dsmem's extension module,
    which exports none of them.

    Examples
    --------
    ``cc -I"$(python -c 'import dsmem; print(dsmem.get_include())')" -c program.c``
    """
    package = _Path(__file__).parent
    installed = package / "include"
    return str(installed if installed.is_dir() else package.parent / "csrc")


_logging.getLogger("dsmem").addHandler(_logging.NullHandler())  # shown only if the program configures logging
