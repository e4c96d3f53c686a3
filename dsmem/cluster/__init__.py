"""Clusters: places where objects have names and are found by them.

``dsmem.connect()`` without an argument is the cluster "default" of this user on this host: no server, no configuration.
``dsmem.connect(context=ctx)`` hosts objects in memory of a context. Other hosts attach to them by reference.
"""

from dsmem.cluster.connect import attach, connect
from dsmem.cluster.factories import Cluster

__all__ = ["Cluster", "attach", "connect"]
