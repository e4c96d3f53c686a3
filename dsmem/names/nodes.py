"""A cluster over several memory nodes: the servers at which a store has its copies. Names are at the first."""

from __future__ import annotations

from dsmem import _core, errors
from dsmem.names.copies import copy_name, give_up
from dsmem.names.remote import RemoteNames, split_address


class Nodes(RemoteNames):
    """The names of a cluster, and its memory nodes, to which it connects when they are needed.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT/CLUSTER``, or several HOST:PORT with commas between them.
    context : Context, optional
        As of :class:`RemoteNames`; it is used for all nodes.
    """

    def __init__(self, address: str, context: _core.Context | None = None) -> None:
        self._each = split_address(address)
        self._others: dict[int, RemoteNames] = {}
        super().__init__(self._each[0], context)
        self.address = address
        self.nodes = len(self._each)

    def node(self, number: int) -> RemoteNames:
        """Return the names that a memory node has."""
        if not number:
            return self
        found = self._others.get(number)
        if found is None:
            made = RemoteNames(self._each[number], self.context)
            found = self._others.setdefault(number, made)
            if found is not made:  # another thread has been faster
                made.close()
        return found

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name, and the other copies of a store before it.

        A copy that is out of reach stays. Then an exception says so, after everything else has been removed.
        """
        failed = self._unlink_copies(name, number) if self.nodes > 1 else None
        super().unlink(name, number)
        if failed is not None:
            raise failed

    def _unlink_copies(self, name: str, number: int) -> errors.DsmemError | None:
        try:
            memory = self.attach(name, "store", readonly=False)
        except (errors.MismatchError, errors.CorruptError, errors.VersionError):
            return None  # no store
        with memory:
            there = _core.store_look(memory.remote)
            if number not in (0, memory.ref.id):
                return None
            if there["replicas"] > self.nodes:
                text = f"the store {name!r} has {there['replicas']} copies, and {self.address} names {self.nodes}"
                raise errors.MismatchError(f"{text} of them; name all, or remove each copy by its node's address alone")
            give_up(memory, there)
        failed = None
        for copy in range(1, there["replicas"]):
            try:
                self._unlink_copy(copy, name, there["id"])
            except errors.NameNotFoundError:
                pass  # never made, or removed before
            except errors.DsmemError as error:
                at = self._each[copy]
                rm = f"'dsmem rm -c {at} {copy_name(name, copy)}' removes it"
                text = f"copy {copy} of {name!r} is left at {at} ({error.detail}); {rm}"
                failed = type(error)(text, sys=error.sys)
        return failed

    def _unlink_copy(self, copy: int, name: str, store: int) -> None:
        at, name = self.node(copy), copy_name(name, copy)
        with at.attach(name, "store", readonly=True) as memory:
            is_ours = _core.store_look(memory.remote)["id"] == store
        if is_ours:
            at.unlink(name, memory.ref.id)

    def close(self) -> None:
        """End all connections."""
        for other in list(self._others.values()):
            other.close()
        super().close()
