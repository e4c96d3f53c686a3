"""What coordinators, memory nodes and clients tell each other: docs/protocols/epochs.md has the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dsmem import errors
from dsmem.membership.standing import Standing
from dsmem.metrics import CALLS, COUNTS, TIMES
from dsmem.names import wire
from dsmem.names.wire import Reader, Request

NOT_YET, OPEN, LOST, CURRENT = 0, 1, 2, 3  # what has become of a store
DOMAIN_MOST = 60  # bytes of a label
_UP, _DRAINED = 1, 2  # of a node
_CLASSES_MOST = 130  # of times in a report
_NUMBER_MOST, _MILLISECONDS_MOST = 2**64 - 1, 2**32 - 1
_REPORTED_MOST = 10**9  # of each kind in one report; a wrong one would stay in the sums
_REASON_MOST, _TROUBLE_MOST = 90, 200  # bytes, so that a reply has room for those of all copies


@dataclass(frozen=True)
class Found:
    """What a coordinator says of a store.

    Attributes
    ----------
    phase : int
        ``OPEN``: in a later epoch than the client knows; ``CURRENT``: in none; ``NOT_YET``: ask again; ``LOST``: no
        copy is left.
    id, epoch : int
        Of the store.
    lease : float
        Seconds for which a client may read before it asks.
    descriptors : tuple of bytes
        Of the copies of each extent, its primary first.
    more : int
        How many follow in other replies.
    """

    phase: int
    id: int
    epoch: int
    lease: float
    descriptors: tuple[bytes, ...] = ()
    more: int = 0


def _fitting(items: list[bytes], first: int, room: int) -> list[bytes]:
    """Those from an index on for which a reply has room."""
    upto = first
    while upto < len(items) and len(items[upto]) <= room:
        room -= len(items[upto])
        upto += 1
    return items[first:upto]


def first(index: int) -> bytes:
    """Encode, at the end of a request, from which item on the reply is to have them. The first one is not named."""
    return wire.number(index, 1) if index else b""


def read_first(reader: Reader) -> int:
    """Read it."""
    return reader.number(1) if reader.goes_on else 0


def found(of: Found, first: int = 0) -> bytes:
    """Encode it as a reply, with the descriptors from an index on that have room."""
    fixed = wire.number(of.phase, 1), wire.number(of.id), wire.number(of.epoch), wire.number(int(of.lease * 1000), 4)
    head = wire.success(*fixed)
    all_ = [wire.number(len(one), 2) + one for one in of.descriptors]
    here = _fitting(all_, first, wire.MOST - len(head) - 2)
    more = len(all_) - first - len(here)
    return b"".join([head, wire.number(len(here), 1), *here, wire.number(more, 1) if more > 0 else b""])


def read_found(reader: Reader) -> Found:
    """Read the reply."""
    phase, id, epoch, lease = reader.number(1), reader.number(), reader.number(), reader.number(4) / 1000
    descriptors = tuple(reader.take(reader.number(2)) for _ in range(reader.number(1)))
    more = reader.number(1) if reader.goes_on else 0
    reader.end()
    return Found(phase, id, epoch, lease, descriptors, more)


def to_node(kind: Request, node: int, standing: Standing, *fields: bytes) -> bytes:
    """Encode a request to a memory node, which is for that process alone."""
    return wire.request(kind, wire.number(node), standing.encode(), *fields)


Shape = tuple[int, int, int, int, int]


def shape(page_size: int, pages: int, members: int, replicas: int, extents: int = 1) -> bytes:
    """Encode the properties of a store. How many extents it has stands there if they are several."""
    fixed = wire.number(page_size, 4) + wire.number(pages) + wire.number(members, 4) + wire.number(replicas, 4)
    return fixed + (wire.number(extents, 4) if extents != 1 else b"")


def read_shape(reader: Reader) -> Shape:
    """Read them, at the end of a message, or before the number of an extent."""
    fixed = reader.number(4), reader.number(), reader.number(4), reader.number(4)
    extents = reader.number(4) if reader.goes_on else 1
    if not (fixed[3] and extents):
        raise errors.InvalidArgumentError(f"a store of {fixed[3]} copies and {extents} extents")
    return *fixed, extents


def extent(number: int) -> bytes:
    """Encode the number of an extent, at the end of a message. The first one is not named."""
    return wire.number(number, 4) if number else b""


def read_extent(reader: Reader) -> int:
    """Read it."""
    return reader.number(4) if reader.goes_on else 0


@dataclass(frozen=True)
class Place:
    """Where a copy is.

    Attributes
    ----------
    index : int
        Which copy it is.
    address, domain : str
        Of its memory node.
    is_up : bool
        Whether the node answers the coordinator.
    extent : int
        Of which it is a copy.
    """

    index: int
    address: str
    domain: str
    is_up: bool
    extent: int = 0


def place(of: Place) -> bytes:
    """Encode it."""
    return wire.number(of.index, 1) + wire.number(of.is_up, 1) + wire.text(of.address) + wire.text(of.domain)


def read_place(reader: Reader) -> Place:
    """Read it."""
    index, is_up = reader.number(1), bool(reader.number(1))
    return Place(index, reader.text(), reader.text(), is_up)


@dataclass(frozen=True)
class Missing:
    """A copy that is promised, and does not count yet, or any more.

    Attributes
    ----------
    index : int
        Which copy it is.
    reason : str
        Why it is missing.
    address : str
        Of the memory node at which it is being made, or nothing.
    done, pages : int
        How many pages of all it has by now; 0 of 0 if it is not being made.
    extent : int
        Of which it is a copy.
    """

    index: int
    reason: str
    address: str = ""
    done: int = 0
    pages: int = 0
    extent: int = 0


def _cut(text: str, most: int) -> bytes:
    return wire.text(text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore"))


def missing(of: Missing) -> bytes:
    """Encode it."""
    numbers = wire.number(of.index, 1), wire.number(of.done), wire.number(of.pages)
    return b"".join(numbers) + wire.text(of.address) + _cut(of.reason, _REASON_MOST)


def read_missing(reader: Reader) -> Missing:
    """Read it."""
    index, done, pages = reader.number(1), reader.number(), reader.number()
    address = reader.text()
    return Missing(index, reader.text(), address, done, pages)


@dataclass(frozen=True)
class Health:
    """How a store is.

    Attributes
    ----------
    epoch : int
        The greatest that has been decided.
    phase : int
        As of :class:`Found`.
    replicas : int
        How many copies are promised.
    trouble : str
        Why it is not open, if the coordinator knows.
    places : tuple of Place
        Where the copies are that count, the primary first.
    missing : tuple of Missing
        Those that are promised beside them.
    more : int
        How many of both follow in other replies.
    """

    epoch: int
    phase: int
    replicas: int
    trouble: str
    places: tuple[Place, ...]
    missing: tuple[Missing, ...] = ()
    more: int = 0


def health(of: Health, first: int = 0) -> bytes:
    """Encode it as a reply, with the places and the missing copies from an index on that have room.

    Which extent each of them is of stands at the end, if the store has several.
    """
    numbers = wire.number(of.epoch), wire.number(of.phase, 1), wire.number(of.replicas, 1)
    head = wire.success(*numbers, _cut(of.trouble, _TROUBLE_MOST))
    items = [*(place(each) for each in of.places), *(missing(each) for each in of.missing)]
    extents = [*(each.extent for each in of.places), *(each.extent for each in of.missing)]
    here = _fitting(items, first, wire.MOST - len(head) - 3 - len(items))
    upto = first + len(here)
    there, more = max(0, min(upto, len(of.places)) - first), len(items) - upto
    parts = [wire.number(there, 1), *here[:there], wire.number(len(here) - there, 1), *here[there:]]
    if any(extents) or more > 0:
        parts += [bytes(extents[first:upto]), wire.number(max(0, more), 1)]
    return head + b"".join(parts)


def read_health(reader: Reader) -> Health:
    """Read the reply."""
    epoch, phase, replicas, trouble = reader.number(), reader.number(1), reader.number(1), reader.text()
    places = tuple(read_place(reader) for _ in range(reader.number(1)))
    lacking = tuple(read_missing(reader) for _ in range(reader.number(1)))
    more = 0
    if reader.goes_on:
        places = tuple(replace(each, extent=reader.number(1)) for each in places)
        lacking = tuple(replace(each, extent=reader.number(1)) for each in lacking)
        more = reader.number(1)
    reader.end()
    return Health(epoch, phase, replicas, trouble, places, lacking, more)


@dataclass(frozen=True)
class NodeInfo:
    """A memory node, as ``dsmem nodes`` lists it.

    Attributes
    ----------
    address, domain : str
        Where it is, and what fails together with it.
    is_up : bool
        Whether it answers the coordinator.
    copies : int
        How many copies of stores it has that count.
    stale : int
        How many it has that it has not dropped yet.
    silent_for : int
        Seconds since it was heard, if it does not answer.
    making : int
        How many copies are being made there.
    done, pages : int
        How many pages these have by now, of all.
    is_drained : bool
        Whether its copies move to others, and it gets none.
    trouble : str
        Why it counts as silent though it answers, or why a copy of a node that is drained can't move now, the first of
        them. Nothing if there is no such thing.
    """

    address: str
    domain: str
    is_up: bool
    copies: int
    stale: int
    silent_for: int = 0
    making: int = 0
    done: int = 0
    pages: int = 0
    is_drained: bool = False
    trouble: str = ""


def node(of: NodeInfo) -> bytes:
    """Encode it."""
    counts = (wire.number(each, 4) for each in (of.copies, of.stale, of.silent_for, of.making))
    pages = wire.number(of.done) + wire.number(of.pages)
    flags = wire.number((_UP if of.is_up else 0) | (_DRAINED if of.is_drained else 0), 1)
    texts = wire.text(of.address) + wire.text(of.domain) + _cut(of.trouble, _TROUBLE_MOST)
    return flags + b"".join(counts) + pages + texts


def read_node(reader: Reader) -> NodeInfo:
    """Read it."""
    flags = reader.number(1)
    copies, stale, silent_for, making = (reader.number(4) for _ in range(4))
    done, pages = reader.number(), reader.number()
    counts = copies, stale, silent_for, making, done, pages
    address, domain, trouble = reader.text(), reader.text(), reader.text()
    return NodeInfo(address, domain, bool(flags & _UP), *counts, bool(flags & _DRAINED), trouble)


@dataclass(frozen=True)
class Report:
    """What a client has counted since its last report.

    Attributes
    ----------
    number : int
        Drawn for the report.
    fabric : str
        By which the client reaches the copies.
    counts : dict
        By the names of :data:`dsmem.metrics.COUNTS`.
    times : dict
        How many times there are of each class, by call.
    seconds : float
        In which time.
    """

    number: int
    fabric: str
    counts: Mapping[str, int]
    times: Mapping[str, Mapping[int, int]]
    seconds: float = 0.0


def report(of: Report) -> bytes:
    """Encode it. Of more classes than there is room for, those with the fewest times are left out."""
    all_ = [(n, CALLS.index(call), which) for call, classes in of.times.items() for which, n in classes.items()]
    classes = sorted(all_, reverse=True)[:_CLASSES_MOST]
    milliseconds = min(int(of.seconds * 1000), _MILLISECONDS_MOST)
    fields = [wire.number(of.number), wire.text(of.fabric), wire.number(milliseconds, 4)]
    fields += [wire.number(of.counts.get(name, 0)) for name in COUNTS]
    fields.append(wire.number(len(classes), 1))
    fields += [
        wire.number(call, 1) + wire.number(which, 1) + wire.number(min(n, _REPORTED_MOST), 4)
        for n, call, which in classes
    ]
    return b"".join(fields)


def read_report(reader: Reader) -> Report:
    """Read it, at the end of a message. Bytes behind it are of a later release. Figures are cut to plausible ones."""
    number, fabric, seconds = reader.number(), reader.text(), reader.number(4) / 1000
    counts = {name: min(reader.number(), _REPORTED_MOST) for name in COUNTS}
    times: dict[str, dict[int, int]] = {}
    for _ in range(reader.number(1)):
        call, which, n = reader.number(1), reader.number(1), reader.number(4)
        if call >= len(CALLS) or which >= TIMES:
            raise errors.InvalidArgumentError(f"a report of class {which} of call {call}")
        times.setdefault(CALLS[call], {})[which] = min(n, _REPORTED_MOST)
    return Report(number, fabric, counts, times, seconds)


@dataclass(frozen=True)
class Calls:
    """What the clients of a store have done of late.

    Attributes
    ----------
    seconds : float
        In which time.
    counts : dict
        As of :class:`Report`, of all clients together.
    latencies : dict
        50th and 99th percentile in seconds, by call.
    """

    seconds: float
    counts: dict[str, int]
    latencies: dict[str, tuple[float, float]]


def calls(of: Calls) -> bytes:
    """Encode it as a reply."""
    counts = (wire.number(min(of.counts.get(name, 0), _NUMBER_MOST)) for name in COUNTS)
    times = (wire.number(int(each * 1e9)) for call in CALLS for each in of.latencies.get(call, (0.0, 0.0)))
    return wire.success(wire.number(int(of.seconds * 1000), 4), *counts, *times)


def read_calls(reader: Reader) -> Calls:
    """Read the reply."""
    seconds = reader.number(4) / 1000
    counts = {name: reader.number() for name in COUNTS}
    times = {call: (reader.number() / 1e9, reader.number() / 1e9) for call in CALLS}
    reader.end()
    return Calls(seconds, counts, {call: each for call, each in times.items() if any(each)})
