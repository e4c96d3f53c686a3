"""Names of one process: regions of a context, to which other processes attach by reference."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dsmem import _core, errors
from dsmem.memory import Memory, Opened, Reference, adopt, object_id, open_or_leave
from dsmem.names.base import Format, Lifetime, NameInfo, OneNode, check_name
from dsmem.names.local import user_name


@dataclass
class _Object:
    ref: Reference
    region: _core.Region
    owner: str
    created: float = field(default_factory=time.time)
    handles: set[object] = field(default_factory=set)


class HostedNames(OneNode):
    """The names of this process, in memory of a context.

    Memory is freed when it has neither a name nor a handle in this process. Its descriptors are stale then.

    There is no lock: an exception of a signal handler could leave it locked, and so could another thread at a fork.
    Each change of the table, or of an object's handles, is one call that runs no Python code, and so is atomic. The
    thread that finds after its change that the object has neither a name nor a handle closes its region, which may be
    done twice. If an interrupt prevents that, the region is closed with the last reference to it.

    Parameters
    ----------
    context : Context
        The context in which memory is allocated and through which it is attached.
    """

    def __init__(self, context: _core.Context) -> None:
        self.context = context
        self._objects: dict[str, _Object] = {}

    def __repr__(self) -> str:
        return f"{self.context.fabric} node {self.context.node_id.hex()[:8]}"

    @property
    def is_mapped(self) -> bool:
        """Whether other processes map what this process allocates."""
        return all(fabric.local_memory for fabric in self.context.fabrics)

    def attach(self, name: str, kind: str, readonly: bool, timeout: float | None = None) -> Memory:
        """Attach one more handle. It does not wait."""
        name = check_name(name)
        found = self._objects.get(name)
        if found is None:
            raise _not_found(name)
        handle, ref = object(), found.ref
        wanted = Reference(kind, name, ref.id, descriptor=ref.descriptor, readonly=readonly)
        try:
            found.handles.add(handle)
            remote = self.context.attach(ref.descriptor)
            return adopt(remote, wanted, found.region, lambda: self._release(found, handle))
        except BaseException as error:
            self._release(found, handle)
            if isinstance(error, errors.StaleDescriptorError) and self._objects.get(name) is not found:
                raise _not_found(name) from None
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
        """Create an object, open it and give it the name."""
        if mode is not None:
            raise _core.refused(mode, int, f"mode={mode!r}: only names of a local cluster have a file mode")
        name = check_name(name)
        region = self.context.allocate(nbytes)
        made = held = None
        handle = object()
        try:
            with memoryview(region) as view:
                format(view)
                number = object_id(view)
            ref = Reference(kind, name, number, descriptor=bytes(region.descriptor))
            held = _Object(ref, region, user_name(os.geteuid()), handles={handle})
            remote = self.context.attach(ref.descriptor)
            made = open_or_leave(open_, Memory(remote, ref, region, lambda: self._release(held, handle)))
            if self._objects.setdefault(name, held) is not held:
                raise errors.NameExistsError(repr(name))
            return made
        except BaseException:
            if held is not None:  # an interrupt may have come after it got the name
                _core.remove_item(self._objects, name, held)
            with contextlib.suppress(errors.DsmemError):
                if made is not None:
                    made.close()
                region.close()
            raise

    def _release(self, of: _Object, handle: object = None) -> None:
        of.handles.discard(handle)
        if not of.handles and self._objects.get(of.ref.name) is not of:
            of.region.close()

    def infos(self) -> list[NameInfo]:
        """Return all names, sorted."""
        found = list(self._objects.values())
        infos = [NameInfo(o.ref.name, o.ref.kind, o.region.nbytes, o.owner, o.created, "creator") for o in found]
        return sorted(infos, key=lambda info: info.name)

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name."""
        name = check_name(name)
        found = self._objects.get(name)
        if found is None or number not in (0, found.ref.id) or not _core.remove_item(self._objects, name, found):
            raise errors.NameNotFoundError(f"{name!r}: this context holds no such object; cluster.list() has the names")
        self._release(found)

    def gc(self) -> list[str]:
        """Remove nothing: the only creator is this process."""
        return []

    def close(self) -> None:
        """Remove all names."""
        for info in self.infos():
            self.unlink(info.name)


def _not_found(name: str) -> errors.NameNotFoundError:
    return errors.NameNotFoundError(
        f"{name!r}: this context holds no object of this name; create=True or None makes one"
    )
