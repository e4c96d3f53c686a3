"""Names of one process: regions of a context, which others reach by reference."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from dsmem import _core, errors
from dsmem.cluster.local import user_name
from dsmem.cluster.names import Format, Lifetime, NameInfo, check_name
from dsmem.memory import Memory, Opened, Reference, adopt, object_id, open_or_leave


@dataclass
class _Object:
    ref: Reference
    region: _core.Region
    owner: str
    created: float = field(default_factory=time.time)
    handles: int = 0

    def __del__(self) -> None:
        """Neither the table nor a handle has it, also where an interrupt has ended the call that was to free it."""
        with contextlib.suppress(errors.DsmemError):
            self.region.close()


class HostedNames:
    """The names of this process, in memory of a context.

    Memory goes when it has neither a name nor a handle in this process; descriptors of it are stale then.

    Parameters
    ----------
    context : Context
        Where the memory is allocated and through which it is attached.
    """

    def __init__(self, context: _core.Context) -> None:
        self.context = context
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        _places.add(self)

    def __repr__(self) -> str:
        return f"{self.context.fabric} node {self.context.node_id.hex()[:8]}"

    @property
    def is_near(self) -> bool:
        """Whether others map what this process allocates."""
        return self.context.capabilities.near_memory

    def attach(self, name: str, kind: str, readonly: bool) -> Memory:
        """One handle more."""
        name = check_name(name)
        with self._lock:
            try:
                found = self._objects[name]
            except KeyError:
                raise errors.NameNotFoundError(repr(name)) from None
            found.handles += 1
        ref = found.ref
        wanted = Reference(kind, name, ref.id, descriptor=ref.descriptor, readonly=readonly)
        try:
            remote = self.context.attach(ref.descriptor)
            return adopt(remote, wanted, found.region, lambda: self._release(found))
        except BaseException:
            self._release(found)
            raise

    def make(
        self,
        name: str,
        kind: str,
        nbytes: int,
        format: Format,
        mode: int | None,
        lifetime: Lifetime,
        open_: Callable[[Memory], Opened],
    ) -> Opened:
        """Make an object, open it and give it the name."""
        if mode is not None:
            raise errors.InvalidArgumentError(f"mode={mode!r}: only names of a local cluster have a file mode")
        name = check_name(name)
        region = self.context.allocate(nbytes)
        made = held = None
        try:
            with memoryview(region) as view:
                format(view)
                number = object_id(view)
            ref = Reference(kind, name, number, descriptor=bytes(region.descriptor))
            held = _Object(ref, region, user_name(os.geteuid()), handles=1)
            remote = self.context.attach(ref.descriptor)
            made = open_or_leave(open_, Memory(remote, ref, region, lambda: self._release(held)))
            with self._lock:
                if self._objects.setdefault(name, held) is not held:
                    raise errors.NameExistsError(repr(name))
            return made
        except BaseException:
            with self._lock:
                if held is not None and self._objects.get(name) is held:  # interrupted on the way out
                    del self._objects[name]
            with contextlib.suppress(errors.DsmemError):
                if made is not None:
                    made.close()
                region.close()
            raise

    def _release(self, of: _Object) -> None:
        with self._lock:
            of.handles -= 1
            last = not of.handles and self._objects.get(of.ref.name) is not of
        if last and not of.region.closed:
            of.region.close()

    def infos(self) -> list[NameInfo]:
        """All names, sorted."""
        with self._lock:
            found = list(self._objects.values())
        infos = [NameInfo(o.ref.name, o.ref.kind, o.region.nbytes, o.owner, o.created, "creator") for o in found]
        return sorted(infos, key=lambda info: info.name)

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name."""
        name = check_name(name)
        with self._lock:
            found = self._objects.get(name)
            if found is None or number not in (0, found.ref.id):
                raise errors.NameNotFoundError(repr(name))
            found.handles += 1
            del self._objects[name]
        self._release(found)

    def gc(self) -> list[str]:
        """Nothing: the only creator is alive."""
        return []

    def close(self) -> None:
        """All names go."""
        for info in self.infos():
            self.unlink(info.name)


_places: weakref.WeakSet[HostedNames] = weakref.WeakSet()


def _after_fork() -> None:
    """Another thread of the parent may have had a lock."""
    for place in list(_places):
        place._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
