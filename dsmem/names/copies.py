"""The copies of a store: they are made, found and checked here. docs/protocols/pages.md has the steps.

Copy 0, at the first memory node, decides by its name which store is meant, and by a word in it whether the store
exists: being made, until all copies are there; then complete; or given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from dsmem import _core, errors
from dsmem.memory import Memory, Reference, adopt
from dsmem.names.base import Names

_BEING_MADE, _COMPLETE, _GIVEN_UP = 0, 1, 2
_PROPERTIES = ("page_size", "pages", "members", "replicas")


def copy_name(name: str, copy: int) -> str:
    """Return the name of a copy at its memory node. Nodes that share a host see each other's names."""
    return f"{name}+{copy}" if copy else name


def check_nodes(names: Names, replicas: int) -> None:
    """Raise InvalidArgumentError if the cluster has fewer memory nodes."""
    if replicas > names.nodes:
        text = f"replicas={replicas}, and {names} has {names.nodes} memory node{'s' * (names.nodes > 1)}"
        raise errors.InvalidArgumentError(f"{text}; name more: dsmem.connect('tcp://HOST:PORT,HOST:PORT/NAME')")


def reach_nodes(names: Names, name: str, replicas: int) -> None:
    """Connect to the nodes that are to have copies, so that nothing is made if one is out of reach."""
    for copy in range(1, replicas):
        with _naming(copy, name):
            names.node(copy)


def backups(memory: Memory, names: Names, name: str, mode: int | None = None, made: bool = False) -> list[Memory]:
    """Return the memory of the copies behind the first, and make those that a new store lacks.

    Parameters
    ----------
    memory : Memory
        Copy 0, under its name.
    names, name, mode
        Of the store.
    made : bool
        The caller has just made copy 0. Then the store is given up and removed if it does not become complete.

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
    if there["index"]:
        text = f"{names} has copy {there['index']} of the store {name!r}"
        raise errors.MismatchError(f"{text}; name first, in dsmem.connect(), the node that has copy 0")
    if there["replicas"] > names.nodes:
        text = f"the store {name!r} has copies at {there['replicas']} memory nodes, and {names} names {names.nodes}"
        raise errors.MismatchError(f"{text}; name all in dsmem.connect(), in the order of the copies")
    found = [memory]
    with contextlib.ExitStack() as stack:
        try:
            if there["state"] != _GIVEN_UP:
                for copy in range(1, there["replicas"]):
                    found.append(stack.enter_context(_copy(names, name, copy, there, mode, found)))
            if there["state"] == _BEING_MADE:
                there["state"] = _core.store_settle(memory.remote, _COMPLETE)
        except BaseException:
            if made:
                _give_up(found, names, name)
            raise
        if there["state"] != _COMPLETE:
            _remove(found, names, name)
            raise errors.NameNotFoundError(f"the store {name!r} was given up by its creator, or removed")
        stack.pop_all()
        return found[1:]


def attached(memory: Memory, name: str) -> list[Memory]:
    """Return the same of a store that is attached by reference."""
    made: list[Memory] = []
    context = memory.remote.context
    if context is None:
        return made
    with contextlib.ExitStack() as stack:
        for copy, descriptor in enumerate(memory.ref.copies, 1):
            with _naming(copy, name):
                remote = context.attach(descriptor)
                made.append(stack.enter_context(adopt(remote, Reference("store", name, 0, descriptor=descriptor))))
        stack.pop_all()
    return made


@contextlib.contextmanager
def _naming(copy: int, name: str) -> Iterator[None]:
    """Say in an exception which copy of the store it is about."""
    try:
        yield
    except errors.DsmemError as error:
        raise type(error)(f"copy {copy} of the store {name!r}: {error.detail}", sys=error.sys) from error


def _copy(names: Names, name: str, copy: int, there: dict[str, int], mode: int | None, found: list[Memory]) -> Memory:
    with _naming(copy, name):
        at = names.node(copy)
        memory, made = _attached_or_made(at, copy_name(name, copy), copy, there, mode)
        try:
            _check(_core.store_look(memory.remote), at, copy, there)
            if memory.remote.peer in [other.remote.peer for other in found]:
                raise errors.InvalidArgumentError(f"{at} is a node that has another copy; name each node once")
            if made and _core.store_look(found[0].remote)["state"] == _COMPLETE:
                # it was complete before this copy was made: what the name stood for then has been removed
                at.unlink(copy_name(name, copy), memory.ref.id)
                raise errors.NameNotFoundError("the store was removed while it was opened")
        except BaseException:
            memory.close()
            raise
        return memory


def _format(shape: tuple[int, int, int, int], copy: int, store: int, view: memoryview) -> None:
    _core.store_format(view, *shape, copy, store)


def _attached_or_made(at: Names, name: str, copy: int, there: dict[str, int], mode: int | None) -> tuple[Memory, bool]:
    try:
        return at.attach(name, "store", False), False
    except errors.NameNotFoundError:
        if there["state"] == _COMPLETE:
            text = f"it is lost, {at} has no {name!r}; unlink the store, and make it again"
            raise errors.CorruptError(text) from None
    with contextlib.suppress(errors.NameExistsError):  # another process completes the store, too
        shape = there["page_size"], there["pages"], there["members"], there["replicas"]
        nbytes, format = _core.store_nbytes(*shape), partial(_format, shape, copy, there["id"])
        return at.make(name, "store", nbytes, format, mode, "name", lambda memory: memory), True
    return at.attach(name, "store", False), False


def _check(found: dict[str, int], at: Names, copy: int, there: dict[str, int]) -> None:
    if found["id"] != there["id"] and there["state"] == _COMPLETE:
        raise errors.CorruptError(f"it is lost, {at} has one of another store; unlink the store, and make it again")
    if found["id"] != there["id"]:
        raise errors.MismatchError(f"{at} has one of another store; remove that with 'dsmem rm' there")
    if found["index"] != copy or any(found[each] != there[each] for each in _PROPERTIES):
        raise errors.CorruptError(f"that at {at} has another layout than copy 0; unlink the store, and make it again")


def _give_up(found: list[Memory], names: Names, name: str) -> None:
    with contextlib.suppress(errors.DsmemError):
        if _core.store_settle(found[0].remote, _GIVEN_UP) == _GIVEN_UP:
            _remove(found, names, name)


def _remove(found: list[Memory], names: Names, name: str) -> None:
    """Remove the names of a store that was given up, also of copies whose first one has lost its name before."""
    for copy, memory in enumerate(found[1:], 1):
        with contextlib.suppress(errors.DsmemError):
            names.node(copy).unlink(copy_name(name, copy), memory.ref.id)
    with contextlib.suppress(errors.NameNotFoundError):
        names.unlink(name, found[0].ref.id)


def give_up(memory: Memory, there: dict[str, int]) -> None:
    """Before a store is removed: no process completes it from then on, unless all copies are there already."""
    if not there["index"] and there["state"] == _BEING_MADE:
        _core.store_settle(memory.remote, _GIVEN_UP)
