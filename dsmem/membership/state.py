"""What a coordinator keeps on disk: its memory nodes, its stores and their epochs; written before it is acted on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dsmem import errors

VERSION = 3
_BEFORE = 2  # which had stores of one extent
Phase = Literal["new", "closed", "open", "lost"]
#: Where a copy is: the node, and the extent that it is of. A node has one of an extent at most.
Place = tuple[int, int]
NO_LIMIT = (1 << 64) - 1
_PHASES = ("new", "closed", "open", "lost")
_FILE, _LOCK = "state.json", "lock"


@dataclass(frozen=True)
class Node:
    """A memory node: one process."""

    id: int  # that the process has drawn
    address: str  # tcp://HOST:PORT
    domain: str  # what fails together has one label
    memory: int = NO_LIMIT  # bytes that its objects may hold, copies and others


@dataclass(frozen=True)
class Copy:
    """A copy of a store."""

    node: int
    index: int
    descriptor: bytes = b""  # of its memory, in an epoch that is open
    extent: int = 0

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.node, self.extent


@dataclass
class Store:
    """A store, and which copies count."""

    id: int
    cluster: str
    name: str
    page_size: int
    pages: int
    members: int
    replicas: int
    created: float
    epoch: int = 0  # the greatest that has been decided
    phase: Phase = "new"
    copies: list[Copy] = field(default_factory=list)  # of that epoch, by extents, the primary of each first
    # of the last epoch that was open, as far as their memory is there: each of them may count in the next one
    opened: list[Copy] = field(default_factory=list)
    reads: list[Place] = field(default_factory=list)  # the primaries of that epoch
    fresh: Place | None = None  # a copy that has not all pages yet, in an epoch that is not open
    stale: list[Place] = field(default_factory=list)  # where copies are that do not count
    making: int = 1  # grows with each copy that is made again, so that a node knows a request that comes late
    extents: int = 1
    gone: list[int] = field(default_factory=list)  # of a store that is lost: the extents without a copy

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """As :func:`dsmem._core.store_nbytes` has it."""
        return self.page_size, self.pages, self.members, self.replicas, self.extents

    def lacking(self, copies: list[Copy]) -> list[int]:
        """Return the extents of which there is none."""
        return sorted(set(range(self.extents)) - {copy.extent for copy in copies})

    def is_whole(self, copies: list[Copy]) -> bool:
        """Whether there is one of each extent."""
        return not self.lacking(copies)


@dataclass
class State:
    """Everything that is decided."""

    nodes: dict[int, Node] = field(default_factory=dict)
    stores: dict[int, Store] = field(default_factory=dict)
    lease: float = 0.0  # seconds; the longest that was ever given: a client may go on with it
    folder: int = 0  # drawn by the first coordinator that has written it
    written: int = 0  # how often it has been written
    leaving: list[int] = field(default_factory=list)  # nodes that are drained: their copies move to others

    def named(self, cluster: str, name: str) -> Store | None:
        """Return the store of a name."""
        each = self.stores.values()
        return next((store for store in each if (store.cluster, store.name) == (cluster, name)), None)


def encode(state: State) -> bytes:
    """Return the text of the file."""
    stores = [asdict(store) for store in state.stores.values()]
    for store in stores:
        for copy in (*store["copies"], *store["opened"]):
            copy["descriptor"] = copy["descriptor"].hex()
    known = {
        "version": VERSION,
        "folder": state.folder,
        "written": state.written,
        "lease": state.lease,
        "nodes": [asdict(node) for node in state.nodes.values()],
        "leaving": state.leaving,
        "stores": stores,
    }
    return json.dumps(known, indent=1).encode()


def decode(raw: bytes) -> State:
    """Read the text of the file.

    Raises
    ------
    CorruptError, VersionError
        It is none, or one of another release.
    """
    try:
        known = json.loads(raw)
        if known["version"] not in (_BEFORE, VERSION):
            text = f"state of version {known['version']!r:.20}, this release has {VERSION}"
            raise errors.VersionError(f"{text}; start the release that has written it")
        nodes = [Node(**_typed(each, Node)) for each in known["nodes"]]
        stores = [_store(each if known["version"] == VERSION else _of_before(each)) for each in known["stores"]]
        lease, folder, written = float(known["lease"]), int(known["folder"]), int(known["written"])
        leaving = _leaving(known.get("leaving", []), nodes)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, errors.DsmemError):
            raise
        raise errors.CorruptError(f"the state of the coordinator is damaged: {error!r:.200}; restore it") from error
    by_id = {node.id: node for node in nodes}
    return State(by_id, {store.id: store for store in stores}, lease, folder, written, leaving)


_TYPES: dict[str, Any] = {"int": int, "str": str, "float": (int, float)}


def _typed(raw: dict[str, Any], of: type) -> dict[str, Any]:
    for name, value in raw.items():
        wanted = _TYPES.get(str(of.__annotations__[name]))
        if wanted is not None and not isinstance(value, wanted):
            raise TypeError(f"{name}={value!r}")
    return raw


def _store(raw: dict[str, Any]) -> Store:
    store = Store(**_typed(raw, Store))
    if store.phase not in _PHASES:
        raise ValueError(f"phase={store.phase!r}")
    copies: list[list[Any]] = [raw["copies"], raw["opened"]]
    store.copies, store.opened = ([_copy(copy) for copy in each] for each in copies)
    store.reads, store.stale = [_place(each) for each in raw["reads"]], [_place(each) for each in raw["stale"]]
    store.fresh = _place(raw["fresh"]) if raw["fresh"] is not None else None
    if not all(isinstance(extent, int) for extent in store.gone):
        raise ValueError(f"gone={store.gone!r}")
    return store


def _of_before(raw: dict[str, Any]) -> dict[str, Any]:
    """A store of one extent, of which the nodes alone were named."""
    store = {**raw, "stale": [(node, 0) for node in raw["stale"]], "reads": [(raw["read"], 0)] if raw["read"] else []}
    store["fresh"] = (raw["fresh"], 0) if raw["fresh"] else None
    for each in ("copies", "opened"):
        store[each] = [{**copy, "extent": 0} for copy in raw[each]]
    del store["read"]
    return store


def _leaving(raw: Any, nodes: list[Node]) -> list[int]:
    if not isinstance(raw, list) or any(type(node) is not int for node in raw):
        raise TypeError(f"leaving={raw!r:.80}")
    return [node.id for node in nodes if node.id in raw]


def _place(raw: Any) -> Place:
    node, extent = raw
    if not isinstance(node, int) or not isinstance(extent, int):
        raise TypeError(f"a place {raw!r}")
    return node, extent


def _copy(raw: dict[str, Any]) -> Copy:
    return Copy(raw["node"], raw["index"], bytes.fromhex(raw["descriptor"]), raw["extent"])


class Disk:
    """The folder of a coordinator's state. One process has it at a time.

    Raises
    ------
    BusyError
        Another process has it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            text = f"another coordinator has {folder}; end that one, or take another folder"
            raise errors.BusyError(text) from None

    def load(self) -> State:
        """Read the state; an empty one if there is none yet."""
        try:
            return decode((self._folder / _FILE).read_bytes())
        except FileNotFoundError:
            return State()

    def save(self, state: State) -> None:
        """Write the state: when this returns it is there also after a crash of the host, and until then the one before.

        Raises
        ------
        OSError
            It is not known which of both is there.
        """
        new = self._folder / f"{_FILE}.new"
        with new.open("wb") as file:
            file.write(encode(state))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._folder / _FILE)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = -1


def with_descriptors(copies: list[Copy], descriptors: dict[Place, bytes]) -> list[Copy]:
    """Return the copies with the descriptors that their nodes have given."""
    return [replace(copy, descriptor=descriptors[copy.place]) for copy in copies]


def primaries(copies: list[Copy]) -> list[Copy]:
    """Return the first one of each extent."""
    first: dict[int, Copy] = {}
    for copy in copies:
        first.setdefault(copy.extent, copy)
    return list(first.values())


def may_count(store: Store, node: int) -> bool:
    """Whether a node has a copy that counts, or that counts again if it answers before the next epoch is open."""
    return any(copy.node == node for copy in (*store.copies, *store.opened))
