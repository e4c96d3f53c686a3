"""Whether a history of transactions on lists is strictly serialisable, and the names of what it shows if it is not.

K. Kingsbury and P. Alvaro, Elle: Inferring Isolation Anomalies from Experimental Observations, VLDB 2020; the names are
those of A. Adya, Weak Consistency, 1999. The code is our own.

Each value is appended once, so a list that was read tells the order of all appends to it that are before the last one.
From that follow the dependencies between transactions: ww, of an append to the one that it stands behind; wr, of an
append to a transaction that reads it as the last; rw, of a transaction that reads a list to the next append to it; and
rt, of a transaction that has ended before another one has begun. An order of all transactions exists only if these have
no cycle. A value that was never read is behind all that were read.

A transaction whose outcome is unknown has taken place if one of its values was read.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cycles import components, shortest_path


class Outcome(enum.Enum):
    """What its process was told of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Append:
    """A value that was put behind the others of a list."""

    key: int
    value: int


@dataclass(frozen=True)
class Read:
    """A list as it was found."""

    key: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Transaction:
    """What a process has done, in its order; end is None if it was never told of an end."""

    begin: int
    end: int | None
    ops: tuple[Append | Read, ...]
    outcome: Outcome = Outcome.COMMITTED


@dataclass(frozen=True)
class Anomaly:
    """A name, and the transactions that show it, by their places in the history."""

    name: str
    transactions: tuple[int, ...]
    text: str


class Kind(enum.IntEnum):
    """Of a dependency."""

    WW = 1
    WR = 2
    RW = 3
    RT = 4


Graph = dict[int, dict[int, Kind]]
Place = tuple[int, int]  # a key, and a value


def anomalies(history: Sequence[Transaction]) -> list[Anomaly]:
    """All that is wrong, the plainest first; nothing if the history is strictly serialisable."""
    found = [*_inside(history)]
    writers = _writers(history)
    took_place = _those_that_took_place(history, writers)
    found += _dirty_reads(history, writers, took_place)
    orders, broken = _orders(history, took_place)
    found += broken
    found += _lost_updates(history, took_place)
    if not broken:  # without an order of the values there are no dependencies
        found += _cycles(_graph(history, writers, took_place, orders), history)
    return found


# -- what shows without an order --


def _inside(history: Sequence[Transaction]) -> Iterator[Anomaly]:
    """Lists that a transaction has found otherwise than it left them itself."""
    for i, transaction in enumerate(history):
        known: dict[int, tuple[int, ...]] = {}
        since: dict[int, tuple[int, ...]] = defaultdict(tuple)  # appends to lists that were not read yet
        for op in transaction.ops:
            if isinstance(op, Append):
                since[op.key] += (op.value,)
                if op.key in known:
                    known[op.key] += (op.value,)
                continue
            own = since[op.key]
            expected = known.get(op.key)
            if (expected is not None and op.values != expected) or (own and op.values[-len(own) :] != own):
                yield Anomaly("internal", (i,), f"{op} does not fit what the transaction has done before")
            known[op.key] = op.values


def _before_own(transaction: Transaction) -> dict[int, tuple[int, ...]]:
    """Of each list that a transaction has read: what it has found there of others."""
    found: dict[int, tuple[int, ...]] = {}
    appended: dict[int, int] = defaultdict(int)
    for op in transaction.ops:
        if isinstance(op, Append):
            appended[op.key] += 1
        elif op.key not in found:
            found[op.key] = op.values[: len(op.values) - appended[op.key]]
    return found


def _appends(transaction: Transaction) -> dict[int, list[int]]:
    appended: dict[int, list[int]] = {}
    for op in transaction.ops:
        if isinstance(op, Append):
            appended.setdefault(op.key, []).append(op.value)
    return appended


def _writers(history: Sequence[Transaction]) -> dict[Place, int]:
    writers: dict[Place, int] = {}
    for i, transaction in enumerate(history):
        for key, values in _appends(transaction).items():
            for value in values:
                assert (key, value) not in writers, "a value is appended once to a list"
                writers[key, value] = i
    return writers


def _those_that_took_place(history: Sequence[Transaction], writers: dict[Place, int]) -> list[bool]:
    """Those that were acknowledged, and those of unknown outcome that one of these has seen, and so on."""
    took_place = [transaction.outcome is Outcome.COMMITTED for transaction in history]
    to_look_at = [i for i, took in enumerate(took_place) if took]
    while to_look_at:
        for key, values in _before_own(history[to_look_at.pop()]).items():
            for value in values:
                writer = writers.get((key, value))
                if writer is not None and not took_place[writer] and history[writer].outcome is Outcome.UNKNOWN:
                    took_place[writer] = True
                    to_look_at.append(writer)
    return took_place


def _dirty_reads(
    history: Sequence[Transaction], writers: dict[Place, int], took_place: Sequence[bool]
) -> Iterator[Anomaly]:
    """Values that were never appended, or are of transactions that were given up, or not the last of theirs."""
    all_appends = [_appends(transaction) for transaction in history]
    for i, transaction in enumerate(history):
        if not took_place[i]:
            continue
        for key, values in _before_own(transaction).items():
            for value in values:
                writer = writers.get((key, value))
                if writer is None:
                    yield Anomaly("garbage", (i,), f"list {key} has {value}, which was never appended")
                elif history[writer].outcome is Outcome.ABORTED:
                    yield Anomaly("G1a", (writer, i), f"list {key} has {value} of a transaction that was given up")
            writer = writers.get((key, values[-1])) if values else None
            if writer is not None and writer != i and all_appends[writer][key][-1] != values[-1]:
                yield Anomaly("G1b", (writer, i), f"list {key} ends with {values[-1]}, in the midst of a transaction")


def _orders(
    history: Sequence[Transaction], took_place: Sequence[bool]
) -> tuple[dict[int, tuple[int, ...]], list[Anomaly]]:
    """The longest list of each key that was read, of which all others are beginnings."""
    longest: dict[int, tuple[tuple[int, ...], int]] = {}
    found = []
    reads = [(i, *read) for i, each in enumerate(history) if took_place[i] for read in _before_own(each).items()]
    for i, key, values in sorted(reads, key=lambda read: -len(read[2])):
        first, by = longest.setdefault(key, (values, i))
        if by == i and len(set(values)) != len(values):
            found.append(Anomaly("duplicate", (i,), f"list {key} has a value twice"))
        if values != first[: len(values)]:
            found.append(Anomaly("incompatible order", (by, i), f"lists {key} that do not continue each other"))
    return {key: values for key, (values, _) in longest.items()}, found


def _lost_updates(history: Sequence[Transaction], took_place: Sequence[bool]) -> Iterator[Anomaly]:
    """Transactions that have read the same list and appended to it both."""
    based: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    for i, transaction in enumerate(history):
        if took_place[i]:
            appended, read = _appends(transaction), _before_own(transaction)
            for key in appended.keys() & read.keys():
                based[key, read[key]].append(i)
    for (key, values), several in based.items():
        if len(several) > 1:
            yield Anomaly("lost update", tuple(several), f"all have appended to list {key} of {len(values)} values")


# -- dependencies --


def _add(graph: Graph, begin: int, end: int, kind: Kind) -> None:
    """Of several dependencies the strongest: a cycle of it says most."""
    if begin != end:
        graph[begin][end] = min(kind, graph[begin].get(end, kind))


def _graph(
    history: Sequence[Transaction],
    writers: dict[Place, int],
    took_place: Sequence[bool],
    orders: dict[int, tuple[int, ...]],
) -> Graph:
    graph: Graph = defaultdict(dict)
    were_read = {(key, value) for key, values in orders.items() for value in values}
    unread: dict[int, list[int]] = defaultdict(list)  # those that have appended to a list what was never read
    for i in filter(took_place.__getitem__, range(len(history))):
        for key, values in _appends(history[i]).items():
            if (key, values[-1]) not in were_read:
                unread[key].append(i)
    behind: dict[tuple[int, int | None], list[int]] = {}  # those that appended what is next to a value, or first
    for key in orders.keys() | unread.keys():
        place: tuple[int, int | None] = (key, None)
        for value in orders.get(key, ()):
            behind[place] = [writers[key, value]] if (key, value) in writers else []
            place = (key, value)
        behind[place] = unread[key]
    for (key, value), after in behind.items():
        for each in after if value is not None and (key, value) in writers else ():
            _add(graph, writers[key, value], each, Kind.WW)
    for i in filter(took_place.__getitem__, range(len(history))):
        for key, values in _before_own(history[i]).items():
            if values and (key, values[-1]) in writers:
                _add(graph, writers[key, values[-1]], i, Kind.WR)
            for each in behind[key, values[-1] if values else None]:
                _add(graph, i, each, Kind.RW)
    _add_real_time(graph, history, took_place)
    return graph


def _add_real_time(graph: Graph, history: Sequence[Transaction], took_place: Sequence[bool]) -> None:
    """Each end has a point of time, a node with a number below zero: so edges are as many as ends, not as pairs."""
    events = []
    for i, transaction in enumerate(history):
        if took_place[i]:
            events.append((transaction.begin, 0, i))
            if transaction.end is not None and transaction.outcome is Outcome.COMMITTED:
                events.append((transaction.end, 1, i))
    now = 0
    for _, is_end, i in sorted(events):
        if is_end:
            now -= 1
            graph[i][now] = Kind.RT
            if now < -1:
                graph[now + 1][now] = Kind.RT
        elif now:
            graph[now][i] = Kind.RT


# -- cycles --

_KNOWN = frozenset({Kind.WW, Kind.WR})
_TIME = _KNOWN | {Kind.RT}

# What a cycle may have, beside one rw if it says so, and its name. The plainest are looked for first.
_LEVELS = (
    (frozenset({Kind.WW}), False, "G0"),
    (_KNOWN, False, "G1c"),
    (_KNOWN, True, "G-single"),
    (_KNOWN | {Kind.RW}, False, "G2"),
    (_TIME, False, "real-time violation"),
    (_TIME, True, "stale read"),
    (_TIME | {Kind.RW}, False, "G2 in real time"),
)


def _cycles(graph: Graph, history: Sequence[Transaction]) -> Iterator[Anomaly]:
    """For each component that has cycles a plainest one. Others in it may be gone when this one is explained."""
    for component in components(graph):
        inside = {node: {to: kind for to, kind in graph[node].items() if to in component} for node in component}
        yield next(found for level in _LEVELS for found in _of_level(inside, *level, history))


def _of_level(
    graph: Graph, kinds: frozenset[Kind], and_rw: bool, name: str, history: Sequence[Transaction]
) -> Iterator[Anomaly]:
    """Cycles over edges of these kinds, and over one rw beside them if it is asked for."""
    may = kinds | {Kind.RW} if and_rw else kinds
    allowed = {node: {to: kind for to, kind in ends.items() if kind in may} for node, ends in graph.items()}
    for component in components(allowed):
        for begin in component:
            for end, kind in allowed[begin].items():
                if end in component and (kind is Kind.RW or not and_rw):
                    path = shortest_path(allowed, end, begin, kinds)
                    if path:
                        yield _explained(name, path, graph, history)


def _explained(name: str, cycle: list[int], graph: Graph, history: Sequence[Transaction]) -> Anomaly:
    steps = []
    for i, node in enumerate(cycle):
        kind = graph[node][cycle[(i + 1) % len(cycle)]]
        steps.append(f"{history[node] if node >= 0 else 'a point of time'}\n  {kind.name.lower()} →")
    return Anomaly(name, tuple(node for node in cycle if node >= 0), "\n".join(steps))
