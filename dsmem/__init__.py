"""dsmem: memory of other processes and machines, read, written and updated without waking who owns it."""

from dsmem._core import Batch, Capabilities, Descriptor, Region, Remote, Result
from dsmem.context import Context
from dsmem.errors import DsmemError

__all__ = ["Batch", "Capabilities", "Context", "Descriptor", "DsmemError", "Region", "Remote", "Result"]
__version__ = "0.1.0"
