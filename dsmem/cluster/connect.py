"""The ways to a cluster, and to an object by its reference."""

from __future__ import annotations

import os
from typing import Any

from dsmem import _core, errors
from dsmem.cluster.factories import Cluster, class_of
from dsmem.memory import Reference
from dsmem.names.base import check_cluster
from dsmem.names.hosted import HostedNames
from dsmem.names.local import LocalNames, user_number
from dsmem.names.nodes import Nodes
from dsmem.names.remote import is_address


def connect(
    cluster: str = "default",
    *,
    context: _core.Context | None = None,
    mode: int | None = None,
    group: int | str | None = None,
    owner: int | str | None = None,
) -> Cluster:
    """Open a cluster, by default the cluster "default" of this user on this host.

    Parameters
    ----------
    cluster : str
        Name of the cluster. Each cluster has its own names. Or the address of a cluster on another host, where
        ``dsmem serve`` runs: ``tcp://HOST:PORT/NAME``. Or of one over several memory nodes, for stores with copies:
        ``tcp://HOST:PORT,HOST:PORT,HOST:PORT/NAME``. Names are at the first of them, so all processes give the same
        order. Only the first must answer now, the others when a store with copies is opened. Or of a coordinator
        (``dsmem serve --coordinator``), which knows the memory nodes.
    context : Context, optional
        Host objects in memory of this context. Names exist in this process only; other processes attach by reference.
        With an address: the context through which memory there is reached; by default one on tcp of its own, or on
        verbs, if memory there is reached by verbs alone.
    mode : int, optional
        File mode of names that are created, such as 0o660 or 0o640; 0o600 in a new cluster.
    group : int or str, optional
        Group to which the group bits of ``mode`` apply; by default that of the process.
    owner : int or str, optional
        User that owns the cluster and has opened it to others with ``mode``; by default that of the process.

    Returns
    -------
    Cluster

    Raises
    ------
    InvalidNameError, InvalidArgumentError, ArgumentTypeError
        Not a valid name; not a context; a mode other than 0o600 with any of 0o066; no such user or group; arguments
        that exclude each other.
    NameNotFoundError, AccessDeniedError
        The other user has no such cluster, or has not opened it to this one.
    PeerDeadError, TimeoutError, AuthenticationError, UnsupportedError
        No server answers at the address within 10 s, it has another secret, or it does not serve names.

    Examples
    --------
    >>> with dsmem.connect("tcp://10.0.0.1:7700/training") as cluster:
    ...     weights = cluster.segment("weights", timeout=30)
    >>> with dsmem.connect("training", mode=0o660, group="ml") as cluster:
    ...     cluster.queue("batches", producers="many", create=None)
    """
    if context is not None and not isinstance(context, _core.Context):
        raise errors.ArgumentTypeError(f"context={context!r} is not a dsmem.Context")
    if is_address(cluster):
        if mode is not None or group is not None or owner is not None:
            raise errors.InvalidArgumentError("mode, group and owner are of clusters of this host, not of a server")
        place = Nodes(cluster, context)
        try:
            place.gc()
        except BaseException:
            place.close()
            raise
        return Cluster(place, place.cluster)
    cluster = check_cluster(cluster)
    if context is not None:
        if mode is not None or group is not None or owner is not None:
            raise errors.InvalidArgumentError("mode, group and owner are of clusters of this host, not of a context")
        return Cluster(HostedNames(context), cluster)
    names = LocalNames(cluster, os.geteuid() if owner is None else user_number(owner), mode, group)
    names.gc()
    return Cluster(names, cluster)


def attach(ref: Reference, context: _core.Context | None = None) -> Any:
    """Attach to an object by its reference.

    Parameters
    ----------
    ref : Reference
        The object's ``ref``, from another process or another host.
    context : Context, optional
        For an object in memory of another process's context: a context of the same fabric. By default the only such
        context that is open in this process.

    Returns
    -------
    Segment, Queue, Lock and so on
        According to the reference's ``kind``.

    Raises
    ------
    NameNotFoundError, StaleDescriptorError
        The object has been unlinked or closed.
    InvalidArgumentError
        Not a reference; or a context is needed, and none or more than one is open.
    PeerDeadError, AuthenticationError, FencedError, TimeoutError
        As of :meth:`dsmem.Context.attach`.

    Examples
    --------
    >>> table = dsmem.attach(pickle.loads(received))
    """
    if not isinstance(ref, Reference):
        raise errors.InvalidArgumentError(
            f"{ref!r} is not a reference; pass the ref of an object, or find a name with dsmem.connect()"
        )
    if ref.coordinator:
        from dsmem.membership.follow import EpochStore

        return EpochStore._attach(ref, context)
    return class_of(ref.kind)._attach(ref, context)
