"""dsmem: memory of other processes and machines, read, written and updated without waking who owns it."""

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
