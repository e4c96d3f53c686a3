"""What a client asks a coordinator."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

from dsmem import errors
from dsmem.membership import messages
from dsmem.membership.leases import NO_ID, Held
from dsmem.membership.messages import Found, Health, NodeInfo
from dsmem.memory import Memory, Reference, adopt
from dsmem.names import wire
from dsmem.names.copies import fewest_domains
from dsmem.names.remote import RemoteNames
from dsmem.names.wire import Request

_PAUSE, _PAUSE_LONGEST = 2e-3, 50e-3
#: The coordinator is out of reach, or ended while it was asked.
AWAY = (errors.PeerDeadError, errors.TimeoutError, errors.SystemCallError, errors.TransportError)


def clock() -> float:
    """Return the seconds of a clock that goes on while the host sleeps, so that a lease ends in its sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pauses:
    """Pauses that become longer, up to a time."""

    def __init__(self, end: float) -> None:
        self.end = end
        self._next = _PAUSE

    @property
    def over(self) -> bool:
        """Whether the time has come."""
        return time.monotonic() >= self.end

    def sleep(self) -> None:
        """Sleep a while."""
        time.sleep(max(0.0, min(self._next, self.end - time.monotonic())))
        self._next = min(2 * self._next, _PAUSE_LONGEST)


class Coordination:
    """The requests of a client for one store.

    Parameters
    ----------
    names : RemoteNames
        Of the coordinator.
    name : str
        Of the store.
    """

    def __init__(self, names: RemoteNames, name: str) -> None:
        self.names = names
        self.name = name

    def make(self, shape: messages.Shape, end: float) -> int:
        """Let the store be made, and return its number. :meth:`find` says when it is there.

        Raise NameExistsError or InvalidArgumentError.
        """
        cluster = wire.text(self.names.cluster)
        reply = self._ask(Request.STORE_MAKE, cluster, wire.text(self.name), messages.shape(*shape), end=end)
        id = reply.number()
        reply.end()
        return id

    def find(self, id: int, epoch: int, end: float, given_back: Held | None = None) -> Found:
        """Ask for an epoch after the one that is known. id: of the store, or 0.

        given_back: a lease under which no thread reads any more.
        Raise NameNotFoundError; of a store that was not made OutOfMemoryError or StaleDescriptorError, which say why.
        """
        of = wire.text(self.names.cluster), wire.text(self.name), wire.number(id), wire.number(epoch)
        fields = *of, wire.number(given_back.id if given_back is not None else NO_ID)
        whole = messages.read_found(self._ask(Request.STORE_FIND, *fields, again=True, end=end))
        while whole.more:
            next_ = *fields, messages.first(len(whole.descriptors))
            part = messages.read_found(self._ask(Request.STORE_FIND, *next_, again=True, end=end))
            if (part.phase, part.id, part.epoch) != (whole.phase, whole.id, whole.epoch) or not part.descriptors:
                return Found(messages.NOT_YET, part.id, part.epoch, 0)  # another epoch has begun meanwhile
            whole = replace(whole, descriptors=whole.descriptors + part.descriptors, more=part.more)
        return whole

    def lease(self, id: int, epoch: int, lease: Held, end: float, report: bytes = b"") -> bool:
        """Ask whether the epoch is the present one, which is so for the time of the lease then.

        report: what the client has counted, or nothing.
        """
        fields = wire.number(id), wire.number(epoch), wire.number(lease.id), report
        reply = self._ask(Request.STORE_LEASE, *fields, again=True, end=end)
        current = bool(reply.number(1))
        reply.end()
        return current

    def copies(self, id: int, end: float) -> Health:
        """Ask how the store is, and where its copies are. id: of the store, or 0.

        If the coordinator is away an exception says so at once.
        """
        fields = wire.text(self.names.cluster), wire.text(self.name), wire.number(id)
        whole: Health | None = None
        pauses = Pauses(end)
        while whole is None or whole.more:
            known = len(whole.places) + len(whole.missing) if whole else 0
            next_ = (*fields, messages.first(known)) if known else fields
            part = messages.read_health(self._ask_once(Request.STORE_COPIES, *next_, again=True, end=end))
            if whole is None:
                whole = part
            elif part.epoch == whole.epoch and (part.places or part.missing):
                rest = whole.places + part.places, whole.missing + part.missing
                whole = replace(whole, places=rest[0], missing=rest[1], more=part.more)
            elif pauses.over:
                raise errors.TimeoutError("the store's copies change faster than they can be listed; ask again")
            else:
                whole = None  # it has changed meanwhile: from the beginning
                pauses.sleep()
        return whole

    def calls(self, id: int, end: float) -> messages.Calls:
        """Ask what clients have done of late. If the coordinator is away an exception says so at once."""
        fields = wire.text(self.names.cluster), wire.text(self.name), wire.number(id)
        return messages.read_calls(self._ask_once(Request.STORE_CALLS, *fields, again=True, end=end))

    def _ask(self, kind: Request, *fields: bytes, end: float, again: bool = False) -> wire.Reader:
        """Ask, and while the coordinator is away ask again if that does no harm."""
        pauses = Pauses(end)
        while True:
            try:
                return self._ask_once(kind, *fields, again=again, end=end)
            except AWAY:
                if not again or pauses.over:
                    raise
            pauses.sleep()

    def _ask_once(self, kind: Request, *fields: bytes, end: float, again: bool) -> wire.Reader:
        try:
            return self.names._ask(kind, *fields, again=again, timeout=max(0.1, end - time.monotonic()))
        except wire.NotYetError:
            raise
        except AWAY as error:
            text = f"the coordinator at {self.names.address} does not answer ({error.detail})"
            raise type(error)(f"{text}; check that it runs, and start it again", sys=error.sys) from error


def health_of(found: Health) -> dict[str, Any]:
    """Return what the coordinator has said of a store, as :meth:`dsmem.Store.health` does."""
    lacks: list[dict[str, Any]] = [
        {"copy": at.index, "why": at.reason, "node": at.address, "done": at.done, "pages": at.pages}
        for at in found.missing
    ]
    copies: list[dict[str, Any]] = [
        {"copy": at.index, "node": at.address, "domain": at.domain, "up": at.is_up} for at in found.places
    ]
    extents = [*(at.extent for at in found.places), *(at.extent for at in found.missing)]
    for known, extent in zip((*copies, *lacks), extents if any(extents) else (), strict=False):
        known["extent"] = extent
    return {
        "epoch": found.epoch,
        "open": found.phase == messages.OPEN,
        "trouble": found.trouble,
        "replicas": found.replicas,
        "copies": copies,
        "missing": lacks,
        "domains": fewest_domains((at.extent, at.domain) for at in found.places),
    }


def nodes(names: RemoteNames) -> list[NodeInfo]:
    """Return the memory nodes of a coordinator."""
    return names._listed(Request.NODES, messages.read_node, 3)


def forget_node(names: RemoteNames, address: str) -> None:
    """Let a coordinator forget a memory node that has ended.

    Raise InvalidArgumentError if there is none, BusyError if it answers, or has a copy that counts or may count again.
    """
    names._ask(Request.NODE_FORGET, wire.text(address)).end()


def drain_node(names: RemoteNames, address: str, leaving: bool) -> None:
    """Let a coordinator move all copies from a memory node to others, or take that back.

    Raise InvalidArgumentError if there is no such node.
    """
    names._ask(Request.NODE_DRAIN, wire.text(address), wire.number(leaving, 1)).end()


def attached(coordination: Coordination, found: messages.Found) -> list[Memory]:
    """Attach to the copies of an epoch, to all or to none."""
    memories: list[Memory] = []
    try:
        for descriptor in found.descriptors:
            ref = Reference("store", coordination.name, 0, descriptor=descriptor)
            memories.append(adopt(coordination.names.attached_to(descriptor), ref))
    except BaseException:
        detached(memories)
        raise
    return memories


def detached(memories: list[Any]) -> None:
    """Detach from all."""
    for memory in memories:
        with contextlib.suppress(errors.DsmemError):
            memory.detach()


def refuse_lost(found: messages.Found, coordination: Coordination, end: float) -> None:
    """Raise CorruptError if the store is lost. The coordinator says of which extent no copy is left."""
    if found.phase == messages.LOST:
        why = coordination.copies(found.id, end).trouble
        raise errors.CorruptError(f"the store {coordination.name!r} is lost: {why}")
