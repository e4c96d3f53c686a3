"""Clusters: where objects have names, and how they are found again.

``dsmem.connect()`` without an argument is the cluster "default" of this user on this host: no server, no configuration.
``dsmem.connect(context=ctx)`` hosts objects in memory of a context, which other hosts reach by their references.
"""

from dsmem.cluster.connect import attach, connect
from dsmem.cluster.factories import Cluster

__all__ = ["Cluster", "attach", "connect"]
