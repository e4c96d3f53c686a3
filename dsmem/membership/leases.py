"""Leases of the readers of a store.

A client that has one may read from the copies of an epoch without asking whether that is the present one. A lease has
an ID, drawn by the client, by which it is given back. docs/protocols/epochs.md has the argument, tests/model/lease.pml
the model.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

NO_ID = 0  #: of a lease that can't be given back, or of none
_GONE_MOST = 1024  # IDs that were given back, for which a question may still be under way


class Held:
    """The lease of a handle, or that which it asks for next.

    Its ID stays. A handle that gives it back takes another one first, so what comes for it afterwards changes nothing.
    """

    __slots__ = "id", "until"

    def __init__(self) -> None:
        self.id = secrets.randbits(63) + 1
        self.until = 0.0  # of the client's clock(); what was read before counts


class Leases:
    """Those of a store, as a coordinator knows them.

    Parameters
    ----------
    until : float
        When those have ended that it does not know: of the coordinator before it.
    """

    def __init__(self, until: float) -> None:
        self._unknown = until
        self._ends: OrderedDict[int, float] = OrderedDict()  # by their IDs, the first to end first
        self._gone: OrderedDict[int, None] = OrderedDict()  # a question for one of these may come late: no one reads

    def grant(self, id: int, now: float, until: float) -> None:
        """Note a lease, or that one has become longer. until: no less than of any other lease."""
        if id == NO_ID:
            self._unknown = max(self._unknown, until)
        elif id not in self._gone:
            self._ends[id] = until
            self._ends.move_to_end(id)
        while self._ends and next(iter(self._ends.values())) <= now:
            self._ends.popitem(last=False)

    def give_back(self, id: int) -> None:
        """Forget a lease for good: its ID does not come again."""
        self._ends.pop(id, None)
        self._gone[id] = None
        if len(self._gone) > _GONE_MOST:
            self._gone.popitem(last=False)

    @property
    def end(self) -> float:
        """When all have ended."""
        return max(self._unknown, next(reversed(self._ends.values()), self._unknown))
