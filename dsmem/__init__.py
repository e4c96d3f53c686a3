"""Memory of other processes and machines, used from Python as if it were local.

Named objects of one host, without a server: :func:`connect` opens a :class:`Cluster`, whose methods make and find
arrays (:meth:`~Cluster.segment`), queues, locks and so on. They are files of shared memory.

>>> with dsmem.connect() as cluster:
...     table = cluster.segment("table", (1000, 4), "f8", create=None)
...     table.array[0] = 1.5

Raw memory, also of other hosts over RDMA: :class:`Context` makes regions, and attaches to those of other processes,
which take no part in the reads, writes and atomic updates.

>>> with dsmem.Context() as context:
...     remote = context.attach(descriptor)  # the region.descriptor of another process
...     remote.fetch_add(0, 1)

All errors are classes of :mod:`dsmem.errors`, under :class:`DsmemError`. ``dsmem doctor``, in a shell, says what works
on this machine.
"""

import logging as _logging

from dsmem._core import Batch, Capabilities, Descriptor, Region, Remote, Result
from dsmem.context import Context
from dsmem.errors import DsmemError
from dsmem.memory import Reference
from dsmem.node import Cluster, attach, connect
from dsmem.segment import Segment

__all__ = [
    "Batch",
    "Capabilities",
    "Cluster",
    "Context",
    "Descriptor",
    "DsmemError",
    "Reference",
    "Region",
    "Remote",
    "Result",
    "Segment",
    "attach",
    "connect",
]
__version__ = "0.1.0"

_logging.getLogger("dsmem").addHandler(_logging.NullHandler())  # what is logged is shown where a program asks for it
