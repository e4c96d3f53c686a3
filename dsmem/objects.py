"""The base class of named objects, and the memory behind a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from typing_extensions import Self

from dsmem import _core, errors, leaving
from dsmem.context import open_contexts
from dsmem.memory import Memory, Reference, adopt, open_or_leave
from dsmem.names.base import Names
from dsmem.names.local import LocalNames

_LEAVING = (
    _core.Queue,
    _core.SyncHandle,
    _core.SegmentCore,
    _core.Store,
)  # classes whose handles have something to release at exit


class Owner(Protocol):
    """What an object asks of the cluster that it was opened through."""

    def _adopt(self, child: NamedObject) -> None: ...

    def _open_names(self) -> Names: ...


class NamedObject:
    """Base class of objects with a name in a cluster: their reference, close() and unlink().

    Parameters
    ----------
    memory : Memory
        Memory of the object, which this handle owns from now on.
    cluster : Cluster or None
        The cluster of the name; None for an object attached by reference.
    name : str
        The name.

    Notes
    -----
    In a child of ``os.fork`` a handle of a name on this host becomes the child's own. What the parent's handle holds (a
    lock, a role, a reservation, a writer's turn) stays the parent's. A handle in memory of a context raises ForkError
    in the child.

    A class of objects has two class methods. ``_layout(**properties)`` returns the number of bytes and a function that
    writes the object, including its header, into a zeroed, writable memoryview of them, before any other process sees
    it. ``_open(memory, cluster, name, **properties)`` returns the object, or raises MismatchError if it has other
    properties than those that are given; attaching by reference gives none. A new object is opened before it has its
    name, so that nothing remains of it if ``_open`` refuses a property.
    """

    def __new__(cls, *args: Any, **named: Any) -> Self:
        """Refuse calls by users, and name the method to call instead."""
        if not args or not isinstance(args[0], (Memory, _core.Remote)):
            method = {"CountingSemaphore": "semaphore", "SharedClock": "clock"}.get(cls.__name__, cls.__name__.lower())
            raise errors.ArgumentTypeError(
                f"{cls.__name__} can't be constructed; use cluster.{method}(...), or dsmem.attach(ref)"
            )
        make: Any = super().__new__
        made: Self = make(cls) if make is object.__new__ else make(cls, *args, **named)
        return made

    def __init__(self, memory: Memory, cluster: Owner | None, name: str) -> None:
        self._memory = memory
        self._cluster = cluster
        self._name = name
        memory.remote._user = f"<{type(self).__name__} {name!r}>"
        if isinstance(self, _LEAVING):
            leaving.remember(self)
        if cluster is not None:
            cluster._adopt(self)

    @property
    def name(self) -> str:
        """The object's name."""
        return self._name

    @property
    def ref(self) -> Reference:
        """Reference with which other processes attach, by :func:`dsmem.attach`. Pickling the object pickles it, too."""
        return self._memory.ref

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._memory.closed

    def close(self) -> None:
        """Close this handle. The object keeps its name. Closing twice has no effect.

        Raises
        ------
        BusyError
            Its memory has views, or calls are under way in other threads.
        """
        self._memory.close()

    def unlink(self) -> None:
        """Remove the name. Processes already attached, including this one, keep access.

        Raises
        ------
        NameNotFoundError
            The name is gone, or belongs to another object now.
        CorruptError
            The memory under the name is not an object, so it is unknown whether it was this one.
            ``cluster.unlink(name)`` removes the name nevertheless.
        InvalidArgumentError
            The object is hosted by another process. Only that process can unlink it.
        """
        ref = self.ref
        if self._cluster is not None:
            self._cluster._open_names().unlink(self._name, ref.id)
            return
        if not ref.cluster:
            raise errors.InvalidArgumentError(f"{self._name!r} lives in another process, which alone can unlink it")
        LocalNames(ref.cluster, ref.owner).unlink(ref.name, ref.id)

    @classmethod
    def _attach(cls, ref: Reference, context: _core.Context | None = None) -> Self:
        kind: Any = cls  # each class has its own properties in _open
        opened: Self = open_or_leave(lambda memory: kind._open(memory, None, ref.name), memory_of(ref, context))
        return opened

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self)._attach, (self.ref,)

    def __enter__(self) -> Self:
        if self.closed:
            raise errors.ClosedError(f"{type(self).__name__.lower()} {self._name!r}")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._leave()
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise

    def _leave(self) -> None:
        """Close at the end of a with statement."""
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}{' closed' if self.closed else ''}>"


def memory_of(ref: Reference, context: _core.Context | None = None) -> Memory:
    """Attach to the memory of a reference; parameters and errors as of :func:`dsmem.attach`."""
    if ref.cluster:
        return LocalNames(ref.cluster, ref.owner).attach_reference(ref)
    way = context if context is not None else _only_context(ref)
    return adopt(way.attach(ref.descriptor), ref)


def remapped(memory: Memory, nbytes: int, *, longer: bool = False) -> Memory:
    """Map the memory of an object again, at least nbytes of it.

    Parameters
    ----------
    memory : Memory
        The present mapping. It stays open.
    nbytes : int
        Bytes that are needed.
    longer : bool
        Extend the file to nbytes if it is shorter.

    Raises
    ------
    CorruptError
        The memory has fewer bytes.
    NameNotFoundError, StaleDescriptorError
        The file is to be extended, and its name is gone or belongs to another object.
    OutOfMemoryError
        There is no room. Nothing was changed.
    """
    ref = memory.ref
    if memory.extend is not None:
        return memory.extend(nbytes, longer)
    if ref.cluster and longer:
        return LocalNames(ref.cluster, ref.owner).attach_reference(ref, nbytes)
    if ref.cluster:  # mapped through the open handle, so the name may be gone
        remote = _core.map_again(memory.remote, nbytes)
        remote._user = memory.remote._user
        return Memory(remote, ref)
    raise errors.CorruptError(f"{ref.name!r} says that it has {nbytes} bytes, and it has less")


def _only_context(ref: Reference) -> _core.Context:
    served = {way.fabric for way in _core.Descriptor(ref.descriptor).ways}
    able = [c for c in open_contexts() if served & {each.fabric.removeprefix("fault+") for each in c.fabrics}]
    able = [c for c in able if not c._of_cluster] or able
    if len(able) != 1:
        raise errors.InvalidArgumentError(
            f"{ref.name!r} is reached by {' or '.join(sorted(served))}, of which {len(able)} contexts are open here. "
            "Open one, or pass the object's .ref to the other process and say there which: dsmem.attach(ref, context)"
        )
    return able[0]
