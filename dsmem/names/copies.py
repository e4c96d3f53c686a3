"""The places of a store, each a copy of an extent: they are made, found and checked here. docs/protocols/pages.md has
the steps.

Copy 0 of extent 0, at the first memory node, decides by its name which store is meant, and by a word in it whether the
store exists: being made, until all places are there; then complete; or given up.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from dsmem import _core, errors
from dsmem.memory import Memory, Reference, adopt
from dsmem.names.base import Names

_BEING_MADE, _COMPLETE, _GIVEN_UP = 0, 1, 2
_PLACES_MOST = 64
_PROPERTIES = ("page_size", "pages", "members", "replicas", "extents", "spread")


@dataclass(frozen=True)
class Place:
    """Where a copy of an extent is."""

    extent: int
    copy: int
    node: int  #: its number in the cluster
    extents: int = 1  #: of the store

    def called(self, name: str) -> str:
        """Return its name at its memory node. Nodes that share a host see each other's names."""
        name = f"{name}+e{self.extent}" if self.extent else name
        return f"{name}+{self.copy}" if self.copy else name

    def __str__(self) -> str:
        return f"copy {self.copy}" + (f" of extent {self.extent}" if self.extents > 1 else "")


def copy_name(name: str, copy: int) -> str:
    """Return the name of a copy of a store with one extent."""
    return Place(0, copy, copy).called(name)


def places(replicas: int, extents: int, nodes: int) -> list[Place]:
    """Return all places of a store. The copies of an extent are at neighbours, so each node has as many as the others.

    ``nodes``: over how many the extents are spread; the copies of one extent alone are at the first ones.
    """
    return [
        Place(extent, copy, (extent + copy) % nodes if extents > 1 else copy, extents)
        for extent in range(extents)
        for copy in range(replicas)
    ]


def places_of(there: dict[str, int]) -> list[Place]:
    """Return the same of a store that exists."""
    return places(there["replicas"], there["extents"], there["spread"])


def check_nodes(names: Names, replicas: int, extents: int) -> None:
    """Raise InvalidArgumentError if the cluster has too few memory nodes, or the store too many places."""
    if extents > 1 and extents * replicas > _PLACES_MOST:  # before all of them are listed
        text = f"extents={extents} with replicas={replicas}: at most {_PLACES_MOST} copies of all extents"
        raise errors.InvalidArgumentError(text)
    if extents > 1 and names.nodes == 1:
        text = f"extents={extents}, and {names} has one memory node"
        raise errors.InvalidArgumentError(f"{text}; name more: dsmem.connect('tcp://HOST:PORT,HOST:PORT/NAME')")
    if replicas > names.nodes:
        text = f"replicas={replicas}, and {names} has {names.nodes} memory node{'s' * (names.nodes > 1)}"
        raise errors.InvalidArgumentError(f"{text}; name more: dsmem.connect('tcp://HOST:PORT,HOST:PORT/NAME')")


def reach_nodes(names: Names, name: str, replicas: int, extents: int) -> None:
    """Connect to the nodes that are to have copies, so that nothing is made if one is out of reach."""
    for place in places(replicas, extents, names.nodes)[1:]:
        with _naming(place, name):
            names.node(place.node)


def identity_of(names: Names, replicas: int, extents: int, nodes: int) -> int:
    """Return a number of the nodes at which such a store has its places, in their order; 0: it is not known.

    Only its creator, and those that complete it, ask for it. nodes: as of :func:`places`.
    """
    if replicas * extents == 1:
        return 0
    each = [names.node(number).identity() for number in sorted({at.node for at in places(replicas, extents, nodes)})]
    if not all(each):
        return 0
    raw = b"".join(number.to_bytes(8, "little") for number in each)
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little") or 1


def _check_identity(there: dict[str, int], names: Names, name: str) -> None:
    """Raise MismatchError before a place is made at another node than that where its creator has made it, or would."""
    if there["state"] != _BEING_MADE or not there["nodes"]:
        return
    found = identity_of(names, there["replicas"], there["extents"], there["spread"])
    if found not in (0, there["nodes"]):
        text = f"the store {name!r} is being made at other memory nodes than {names} names, or in another order"
        raise errors.MismatchError(f"{text}; name them in dsmem.connect() as its creator did, or unlink the store")


def backups(memory: Memory, names: Names, name: str, mode: int | None = None, made: bool = False) -> list[Memory]:
    """Return the memory of the places behind the first, and make those that a new store lacks.

    Parameters
    ----------
    memory : Memory
        Copy 0 of extent 0, under its name.
    names, name, mode
        Of the store.
    made : bool
        The caller has just made that. Then the store is given up and removed if it does not become complete.

    Raises
    ------
    NameNotFoundError
        The store has been given up by its creator.
    CorruptError
        A copy is gone.
    MismatchError, InvalidArgumentError
        The cluster's nodes are not those of the store.
    """
    there = _core.store_look(memory.remote)
    if there["index"] or there["extent"]:
        here = Place(there["extent"], there["index"], 0, there["extents"])
        text = f"{names} has {here} of the store {name!r}"
        raise errors.MismatchError(f"{text}; name first, in dsmem.connect(), the node that has copy 0")
    check_spread(there, names, name)
    found = [memory]
    with contextlib.ExitStack() as stack:
        try:
            _check_identity(there, names, name)
            if there["state"] != _GIVEN_UP:
                for place in places_of(there)[1:]:
                    found.append(stack.enter_context(_copy(names, name, place, there, mode, found)))
            if there["state"] == _BEING_MADE:
                there["state"] = _core.store_settle(memory.remote, _BEING_MADE, _COMPLETE)
        except BaseException:
            if made:
                _give_up(found, names, name, there)
            raise
        if there["state"] != _COMPLETE:
            _remove(found, names, name, there)
            raise errors.NameNotFoundError(f"the store {name!r} was given up by its creator, or removed")
        stack.pop_all()
        return found[1:]


def check_spread(there: dict[str, int], names: Names, name: str) -> None:
    """Raise MismatchError if the cluster names fewer nodes than the store has."""
    nodes = max(there["replicas"], there["spread"])
    if there["extents"] > 1 and nodes > there["spread"]:
        raise errors.MismatchError(f"the store {name!r} does not say at how many memory nodes its extents are")
    if nodes > names.nodes:
        what = "copies" if there["extents"] == 1 else "extents"
        text = f"the store {name!r} has {what} at {nodes} memory nodes, and {names} names {names.nodes}"
        raise errors.MismatchError(f"{text}; name all in dsmem.connect(), in the same order as when it was made")


def attached(memory: Memory, name: str) -> list[Memory]:
    """Return the same of a store that is attached by reference."""
    made: list[Memory] = []
    context = memory.remote.context
    if context is None:
        return made
    with contextlib.ExitStack() as stack:
        for number, descriptor in enumerate(memory.ref.copies, 1):
            with _naming(f"copy {number}", name):
                remote = context.attach(descriptor)
                made.append(stack.enter_context(adopt(remote, Reference("store", name, 0, descriptor=descriptor))))
        stack.pop_all()
    return made


@contextlib.contextmanager
def _naming(place: Place | str, name: str) -> Iterator[None]:
    """Say in an exception which copy of the store it is about."""
    try:
        yield
    except errors.DsmemError as error:
        raise type(error)(f"{place} of the store {name!r}: {error.detail}", sys=error.sys) from error


def _copy(
    names: Names, name: str, place: Place, there: dict[str, int], mode: int | None, found: list[Memory]
) -> Memory:
    with _naming(place, name):
        at = names.node(place.node)
        memory, made = _attached_or_made(at, place, name, there, mode)
        try:
            _check(_core.store_look(memory.remote), at, place, there)
            if memory.remote.peer in [other.remote.peer for other in found[len(found) - place.copy :]]:
                raise errors.InvalidArgumentError(f"{at} is a node that has another copy; name each node once")
            if made and _core.store_look(found[0].remote)["state"] == _GIVEN_UP:  # it was removed meanwhile
                at.unlink(place.called(name), memory.ref.id)
                raise errors.NameNotFoundError("the store was removed while it was opened")
        except BaseException:
            memory.close()
            raise
        return memory


def _format(shape: tuple[int, int, int, int], place: Place, there: dict[str, int], view: memoryview) -> None:
    extents = there["extents"], place.extent, there["spread"]
    _core.store_format(view, *shape, place.copy, there["id"], *extents, there["nodes"])


def _attached_or_made(
    at: Names, place: Place, name: str, there: dict[str, int], mode: int | None
) -> tuple[Memory, bool]:
    name = place.called(name)
    try:
        return at.attach(name, "store", False), False
    except errors.NameNotFoundError:
        if there["state"] == _COMPLETE:
            text = f"it is lost, {at} has no {name!r}; unlink the store, and make it again"
            raise errors.CorruptError(text) from None
    with contextlib.suppress(errors.NameExistsError):  # another process completes the store, too
        shape = there["page_size"], there["pages"], there["members"], there["replicas"]
        nbytes, format = _core.store_nbytes(*shape, there["extents"]), partial(_format, shape, place, there)
        return at.make(name, "store", nbytes, format, mode, "name", lambda memory: memory), True
    return at.attach(name, "store", False), False


def _check(found: dict[str, int], at: Names, place: Place, there: dict[str, int]) -> None:
    if found["id"] != there["id"] and there["state"] == _COMPLETE:
        raise errors.CorruptError(f"it is lost, {at} has one of another store; unlink the store, and make it again")
    if found["id"] != there["id"]:
        raise errors.MismatchError(f"{at} has one of another store; remove that with 'dsmem rm' there")
    is_other = found["index"] != place.copy or found["extent"] != place.extent
    if is_other or any(found[each] != there[each] for each in _PROPERTIES):
        raise errors.CorruptError(f"that at {at} has another layout than copy 0; unlink the store, and make it again")


def _give_up(found: list[Memory], names: Names, name: str, there: dict[str, int]) -> None:
    with contextlib.suppress(errors.DsmemError):
        if _core.store_settle(found[0].remote, _BEING_MADE, _GIVEN_UP) == _GIVEN_UP:
            _remove(found, names, name, there)


def _remove(found: list[Memory], names: Names, name: str, there: dict[str, int]) -> None:
    """Remove the names of a store that was given up, also of copies whose first one has lost its name before.

    The process that has given it up may have died before it had removed all of them.
    """
    for place, memory in zip(places_of(there)[1:], found[1:], strict=False):
        with contextlib.suppress(errors.DsmemError):
            names.node(place.node).unlink(place.called(name), memory.ref.id)
    with contextlib.suppress(errors.DsmemError):
        names.unlink(name, found[0].ref.id)


def give_up(memory: Memory, there: dict[str, int]) -> None:
    """Before a store is removed: from then on no process completes it, or opens it with a copy that it has made."""
    if there["index"] or there["extent"] or len(places_of(there)) == 1:
        return
    if _core.store_settle(memory.remote, _BEING_MADE, _GIVEN_UP) == _COMPLETE:
        _core.store_settle(memory.remote, _COMPLETE, _GIVEN_UP)


def fewest_domains(copies: Iterable[tuple[int, str]]) -> int:
    """Return in how many failure domains copies are, of the extent with the fewest; each has an extent and a domain."""
    of_each: dict[int, set[str]] = {}
    for extent, domain in copies:
        of_each.setdefault(extent, set()).add(domain)
    return min(map(len, of_each.values()), default=0)
