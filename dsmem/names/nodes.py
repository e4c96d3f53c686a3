"""A cluster over several memory nodes: the servers at which a store has its copies. Names are at the first."""

from __future__ import annotations

from dsmem import _core, errors
from dsmem.names.copies import Place, check_spread, give_up, places_of
from dsmem.names.remote import RemoteNames, split_address


class Nodes(RemoteNames):
    """The names of a cluster, and its memory nodes, to which it connects when they are needed.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT/CLUSTER``, or several HOST:PORT with commas between them.
    context : Context, optional
        As of :class:`RemoteNames`; it is used for all nodes.
    timeout : float, optional
        As of :class:`RemoteNames`, for the first node.
    """

    def __init__(self, address: str, context: _core.Context | None = None, timeout: float | None = None) -> None:
        self._each = split_address(address)
        self._others: dict[int, RemoteNames] = {}
        super().__init__(self._each[0], context, timeout)
        self.address = address
        self.nodes = len(self._each)

    def node(self, number: int) -> RemoteNames:
        """Return the names that a memory node has."""
        if not number:
            return self
        found = self._others.get(number)
        if found is None:
            made = RemoteNames(self._each[number], self._reach)
            try:
                self._refuse(made, self._each[number])
            except BaseException:
                made.close()
                raise
            found = self._others.setdefault(number, made)
            if found is not made:  # another thread has been faster
                made.close()
        return found

    def refuse_coordinator(self) -> None:
        """Raise InvalidArgumentError if the first of several nodes is a coordinator; the others are asked when used."""
        if self.nodes > 1:
            self._refuse(self, self._each[0])

    @staticmethod
    def _refuse(names: RemoteNames, at: str) -> None:
        """A coordinator chooses the nodes of its stores. In a list it would have a copy, which can't be made again."""
        if names.coordinates():
            text = f"{at} is a coordinator, which chooses the memory nodes of its stores by itself"
            raise errors.InvalidArgumentError(f"{text}; name it alone, dsmem.connect({at!r}), or leave it out")

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
            check_spread(there, self, name)
            give_up(memory, there)
        failed = None
        for place in places_of(there)[1:]:
            try:
                self._unlink_copy(place, name, there["id"])
            except errors.NameNotFoundError:
                pass  # never made, or removed before
            except errors.DsmemError as error:
                at = self._each[place.node]
                rm = f"'dsmem rm -c {at} {place.called(name)}' removes it"
                text = f"{place} of {name!r} is left at {at} ({error.detail}); {rm}"
                failed = type(error)(text, sys=error.sys)
        return failed

    def _unlink_copy(self, place: Place, name: str, store: int) -> None:
        at, name = self.node(place.node), place.called(name)
        with at.attach(name, "store", readonly=True) as memory:
            is_ours = _core.store_look(memory.remote)["id"] == store
        if is_ours:
            at.unlink(name, memory.ref.id)

    def close(self) -> None:
        """End all connections."""
        for other in list(self._others.values()):
            other.close()
        super().close()
