"""What every cluster does with its names; the methods that make objects are in dsmem/cluster/factories.py."""

from __future__ import annotations

import builtins
import itertools
import time
import weakref
from collections.abc import Callable
from typing import Any

from typing_extensions import Self

from dsmem import _core, errors
from dsmem.memory import Memory, Opened, open_or_leave
from dsmem.names.base import Format, Lifetime, NameInfo, Names, check_name
from dsmem.objects import NamedObject


def _laid_out(layout: Callable[[], tuple[int, Format]]) -> tuple[int, Format]:
    found = layout()
    if not isinstance(found, tuple) or len(found) != 2:
        raise errors.ArgumentTypeError(f"layout={layout!r:.80} returned {found!r:.80}; return bytes and a function")
    return found


class ClusterBase:
    """Names, and the objects that were opened by them."""

    def __new__(cls, *args: Any) -> Self:
        """Refuse calls by users, and name the function to call instead."""
        if len(args) != 2 or not hasattr(args[0], "infos"):
            raise errors.ArgumentTypeError("Cluster can't be constructed; use dsmem.connect(...)")
        return super().__new__(cls)

    def __init__(self, names: Names, name: str) -> None:
        self._names = names
        self._name = name
        self._closed = False
        self._children: weakref.WeakValueDictionary[int, NamedObject] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether the cluster was closed."""
        return self._closed

    def list(self) -> builtins.list[NameInfo]:
        """List all names of the cluster.

        Returns
        -------
        list of NameInfo
            name, kind, nbytes, owner, created and lifetime of each, sorted by name.
        """
        return self._open_names().infos()

    def unlink(self, name: str) -> None:
        """Remove a name. Processes that are attached keep access; the memory is freed when the last of them closes it.

        Parameters
        ----------
        name : str
            Name of an object of any kind.

        Raises
        ------
        NameNotFoundError
            The name does not exist.
        AccessDeniedError
            Another user owns the cluster.
        """
        self._open_names().unlink(name)

    def gc(self) -> builtins.list[str]:
        """Remove the names with ``lifetime="creator"`` whose creators are dead.

        Returns
        -------
        list of str
            The removed names.
        """
        return self._open_names().gc()

    def close(self) -> None:
        """Close the cluster and the objects that were opened through it. Closing twice has no effect.

        Names that were created through it with ``lifetime="creator"``, and all names of a hosted cluster, are removed.

        Raises
        ------
        BusyError
            An object has views, or calls are under way in other threads. The other objects are closed. Call close()
            again later.
        """
        self._close(lambda child: child.close())

    def _adopt(self, child: NamedObject) -> None:
        """Close child with the cluster, the youngest child first: an object may depend on an older one."""
        self._children[next(self._numbers)] = child

    def _close(self, leave: Callable[[NamedObject], None]) -> None:
        failed: errors.DsmemError | None = None
        for child in reversed(builtins.list(self._children.values())):
            try:
                leave(child)
            except errors.DsmemError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        if not self._closed:
            self._names.close()
            self._closed = True

    def __enter__(self) -> Self:
        self._open_names()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._close(lambda child: child._leave())
        except errors.DsmemError as failed:
            if not errors.is_noted(error, failed):
                raise

    def __reduce__(self) -> Any:
        text = "a cluster can't be pickled or copied: its close() ends names and objects that are this one's"
        where = getattr(self._names, "address", self._name)
        raise errors.ArgumentTypeError(f"{text}; call dsmem.connect({where!r}) there, or pass an object's .ref")

    def __repr__(self) -> str:
        return f"<Cluster {self._name!r} in {self._names}{' closed' if self._closed else ''}>"

    # -- for classes that implement a kind of object --

    def _open_names(self) -> Names:
        if self._closed:
            raise errors.ClosedError(f"cluster {self._name!r}")
        return self._names

    def make(
        self,
        name: str,
        kind: str,
        layout: Callable[[], tuple[int, Format]],
        *,
        create: bool | None,
        mode: int | None = None,
        readonly: bool = False,
        lifetime: Lifetime = "name",
    ) -> Memory:
        """Attach to the memory of an object or create it, for classes that implement a kind of object.

        Parameters
        ----------
        name, create, mode, lifetime
            As of :class:`Cluster`.
        kind : str
            Kind of object. If the name has another kind, that is a MismatchError.
        layout : callable
            Called if the object is created. Returns the number of bytes, and a function that writes the object,
            including its header, into a zeroed writable memoryview of them, before the object has its name.
        readonly : bool
            Attach without the right to change the object.

        Returns
        -------
        Memory
            The memory of the object, attached or created.

        Raises
        ------
        ArgumentTypeError
            ``layout`` can't be called, or did not return bytes and a function.
        """
        if not callable(layout):
            raise errors.ArgumentTypeError(f"layout={layout!r:.80} can't be called; pass a function")
        return self._open(name, kind, layout, lambda memory: memory, create, mode, readonly, lifetime)

    def _open(
        self,
        name: str,
        kind: str,
        layout: Callable[[], tuple[int, Format]],
        open_: Callable[[Memory], Opened],
        create: bool | None,
        mode: int | None = None,
        readonly: bool = False,
        lifetime: Lifetime = "name",
        wait: float | None = None,
    ) -> Opened:
        wait = _core.seconds(wait, "timeout")
        if wait is not None and create is not False:
            raise errors.InvalidArgumentError(f"timeout={wait!r}: only create=False waits for a name")
        end, pause = time.monotonic() + (wait or 0), 1e-3
        names, name = self._open_names(), check_name(name)
        readonly = _core.as_bool(readonly, "readonly")
        if not isinstance(lifetime, str) or lifetime not in ("name", "creator"):
            raise _core.refused(lifetime, str, f"lifetime={lifetime!r}: 'name' or 'creator'")
        if create is not None and not isinstance(create, bool):
            raise errors.ArgumentTypeError(f"create={create!r}: True, False or None")
        if create and readonly:
            raise errors.InvalidArgumentError(
                "readonly=True: the process that creates an object may always write it; attach with create=False"
            )
        while True:
            if not create:
                try:
                    found = names.attach(name, kind, readonly, None if wait is None else end - time.monotonic())
                except errors.NameNotFoundError:
                    if create is not False and not readonly:
                        pass  # created below
                    elif time.monotonic() >= end:
                        if not wait:
                            raise
                        text = f"no {kind} {name!r} in {names} within {wait:g} s; start what makes it, or wait longer"
                        raise errors.NameNotFoundError(text) from None
                    else:
                        time.sleep(min(pause, max(0.0, end - time.monotonic())))
                        pause = min(2 * pause, 0.02)
                        continue
                else:
                    return open_or_leave(open_, found)
            try:
                return names.make(name, kind, *_laid_out(layout), mode, lifetime, open_)
            except errors.NameExistsError:
                if create:
                    raise  # otherwise another process created the name first, and may have removed it again: retry
