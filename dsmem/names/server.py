"""The server of names: it answers requests of other hosts for the names of this host, and makes their memory remote.

A name is a file of shared memory (dsmem/names/local.py), which processes of this host map. The server maps it, too, and
registers the mapping with its context, so that processes of other hosts reach it by a descriptor. It keeps that as long
as the object has its name or a client holds it: a client holds what it has found or made until it releases it or its
connection ends. Memory without a name that a client has not named by then is gone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dsmem import _core, errors
from dsmem.memory import MADE, MADE_OFFSET, Memory, Reference, adopt, object_id
from dsmem.names import local, wire
from dsmem.names.base import NameInfo
from dsmem.names.local import FileKey, LocalNames
from dsmem.names.private import PrivateNames
from dsmem.names.wire import Reader, Request

_log = logging.getLogger("dsmem")
GRACE_SECONDS = 30.0
_TICK_SECONDS = 1.0
_LOOKED_AT = 64  # objects that no client holds, at each tick
_NUMBERS_MOST = 65536  # of a connection
_UNNAMED_MOST = 64  # objects of a connection that have no name yet: each has an open file
_LISTS_MOST = 16  # of a connection, of which more pages are to come


@dataclass(eq=False)
class _Object:
    """An object whose memory is registered."""

    cluster: str
    key: FileKey
    remote: _core.Remote  # the mapping
    region: _core.Region
    file: _core.File | None  # while it has no name
    name: str = ""
    id: int = 0
    holders: int = 0  # how many numbers of clients stand for it

    def close(self) -> None:
        self.region.close()
        self.remote.close()
        if self.file is not None:
            self.file.close()


class _Client:
    """What the server keeps for a connection."""

    def __init__(self) -> None:
        self.objects: dict[int, _Object] = {}  # by the number that the client has drawn
        self.lists: dict[int, wire.Pages] = {}  # by the number that the client has drawn

    def refuse_more(self) -> None:
        """Raise OutOfMemoryError if the client holds as many objects as it may."""
        if len(self.objects) >= _NUMBERS_MOST:
            raise errors.OutOfMemoryError(f"the connection holds {_NUMBERS_MOST} objects; close some of them")

    def refuse_more_unnamed(self) -> None:
        """Raise OutOfMemoryError if the client has as many objects without a name as it may."""
        if sum(each.file is not None for each in self.objects.values()) >= _UNNAMED_MOST:
            text = f"the connection makes {_UNNAMED_MOST} objects; make fewer at a time"
            raise errors.OutOfMemoryError(text)


class Others(Protocol):
    """Objects of the server's names whose memory is elsewhere. Each method may raise NotYetError."""

    def infos(self, cluster: str) -> list[NameInfo]:
        """Return what a list of names says of them."""

    def has(self, cluster: str, name: str) -> bool:
        """Whether one has the name."""

    def refuse_taken(self, cluster: str, name: str) -> None:
        """Raise NameExistsError if one has the name."""

    def unlink(self, cluster: str, name: str, number: int) -> bool:
        """Remove one, and say whether there was one. number: its id, or 0."""


class NameServer:
    """Answers requests for names.

    Parameters
    ----------
    context : Context
        Through which the memory of objects is reached.
    memory : int, optional
        Bytes that the names of this user's clusters may hold, so that the server makes another one.
    grace : float, optional
        Seconds for which a client may be without a connection. Then it is evicted: it is refused, and others go on with
        the locks and the like that it has held. None: it is not.

    Raises
    ------
    UnsupportedError
        A fabric of the context has no atomics; or one has atomics that do not exclude those of another.

    Attributes
    ----------
    is_private : bool
        Whether the names are in memory of this process alone: all atomics are those of a device.
    """

    def __init__(self, context: _core.Context, memory: int | None = None, grace: float | None = GRACE_SECONDS) -> None:
        domains = {way.atomic_domain for way in context.fabrics}
        for way in context.fabrics:
            if way.atomic_domain == "none" or (way.atomic_domain == "nic" and domains != {"nic"}):
                has = {"nic": "atomics of its own", "none": "no atomics"}[way.atomic_domain]
                why = f"{way.fabric} on {way.device} has {has}, and other users of the names have those of the CPUs"
                remedy = "tcp alone, or through verbs alone" if way.atomic_domain == "nic" else "tcp alone"
                raise errors.UnsupportedError(f"{why}; serve names through {remedy}")
        self.context = context
        self.is_private = "nic" in domains
        self._private: dict[str, PrivateNames] = {}  # by cluster
        self._number = secrets.randbits(63) + 1 if self.is_private else 0  # of memory that is this process's alone
        self.memory = memory
        self.grace = grace
        self._stopped = False
        self._clients: dict[int, _Client] = {}
        self._current: dict[FileKey, _Object] = {}  # the longest mapping of each file that has had a name
        self._just_named: _Object | None = None  # by the request that is being answered
        self._does = {
            Request.FIND: self._find,
            Request.ALLOCATE: self._allocate,
            Request.NAME: self._name,
            Request.RELEASE: self._release,
            Request.LIST: self._list,
            Request.UNLINK: self._unlink,
            Request.GC: self._gc,
            Request.PLACE: self._identity,
        }
        self.other_bytes = 0  # held by what answers other requests
        self.answered: Counter[Request] = Counter()  # requests, by kind; refused ones, too
        self.others: Others | None = None

    def answer(self, requests: Mapping[Request, Callable[[int, Reader], bytes]]) -> None:
        """Answer these requests, too: each by a function of the client and the fields, called by :meth:`run`."""
        self._does.update(requests)

    def run(self, ready: Callable[[], object] = lambda: None) -> None:
        """Answer requests until :meth:`stop` is called, and give back the memory.

        Parameters
        ----------
        ready : callable, optional
            Called when requests are taken.
        """
        _core.serve(self.context, True, self.grace)
        try:
            if self._stopped:
                return
            ready()
            with contextlib.suppress(errors.ClosedError):
                sweep_at = time.monotonic() + _TICK_SECONDS
                while True:
                    call = _core.next_call(self.context, _TICK_SECONDS)
                    if time.monotonic() >= sweep_at:
                        self._go_on(self._sweep)
                        sweep_at = time.monotonic() + _TICK_SECONDS
                    if call is None:
                        continue
                    client, number, request = call
                    if request is None:
                        self._go_on(functools.partial(self._left, client))
                    else:
                        self._respond(client, number, request)
        finally:
            self.stop()
            for each in self._all():
                each.close()
            for names in self._private.values():
                names.close()

    def stop(self) -> None:
        """End :meth:`run`, from a signal handler or another thread. Clients get an error from then on."""
        self._stopped = True
        with contextlib.suppress(errors.ClosedError):
            _core.serve(self.context, False)

    # -- requests --

    def _go_on(self, do: Callable[[], None]) -> None:
        """Do it. A failure, as for lack of memory, must not end the service."""
        try:
            do()
        except Exception:
            _log.exception("the server of names could not let go of all that is unheld")

    def _respond(self, client: int, number: int, raw: bytes) -> None:
        told = False
        try:
            told = _core.reply(self.context, client, number, self._answer(client, raw))
        finally:
            of, self._just_named = self._just_named, None
            if of is not None and not told:  # the call that made it has failed
                with contextlib.suppress(errors.DsmemError):
                    self._unname(of.cluster, of.name, of.id)

    def _answer(self, client: int, raw: bytes) -> bytes:
        try:
            kind, fields = wire.opened(raw)
            self.answered[kind] += 1
            do = self._does.get(kind)
            if do is None:
                raise errors.UnsupportedError(f"this server has no answer to the request {kind.name}")
            reply = do(client, fields)
            if len(reply) > wire.MOST:
                raise RuntimeError(f"a reply of {len(reply)} bytes to {kind.name}")
            return reply
        except errors.DsmemError as error:
            return wire.failure(error)
        except OSError as error:
            return wire.failure(errors.SystemCallError(str(error), sys=error.errno or 0))
        except Exception as error:  # a request must not end the service of the others
            _log.exception("a request for names has failed")
            return wire.failure(errors.SystemCallError(f"the server has failed: {error!r}; its log has more"))

    def _place(self, cluster: str, make: bool = False) -> LocalNames | PrivateNames:
        if self.is_private:
            return self._private_of(cluster, make)
        return LocalNames(cluster, os.geteuid(), make=make)

    def _private_of(self, cluster: str, make: bool) -> PrivateNames:
        """Return a cluster that has names, or one that is kept when it has: see :meth:`_keep`."""
        found = self._private.get(cluster)
        if found is None and make:
            return PrivateNames(cluster)
        if found is None:
            raise errors.NameNotFoundError(f"this server has no cluster {cluster!r}; 'dsmem ls' lists what there is")
        return found

    def _keep(self, cluster: str, place: LocalNames | PrivateNames) -> None:
        """Keep the names of a cluster in this process's memory, if there are any."""
        if isinstance(place, PrivateNames):
            if place.is_empty:
                self._private.pop(cluster, None)
            else:
                self._private[cluster] = place

    def _unname(self, cluster: str, name: str, number: int) -> None:
        place = self._place(cluster)
        place.unlink(name, number)
        self._keep(cluster, place)

    def _client(self, client: int) -> _Client:
        return self._clients.setdefault(client, _Client())

    def _find(self, client: int, fields: Reader) -> bytes:
        cluster, kind, name = fields.name(), fields.text(), fields.name()
        number, wanted, at_least, longer = fields.number(), fields.number(), fields.number(), fields.number(1)
        fields.end()
        if self.others is not None and self.others.has(cluster, name):
            raise errors.MismatchError(f"{name!r} is a store at memory nodes, not a {kind}")
        self._let_go(client, number)
        self._client(client).refuse_more()
        ref = Reference(kind, name, wanted, os.geteuid(), cluster)
        memory, key = self._mapped(ref, at_least, bool(longer))
        known = self._current.get(key)
        if known is not None and known.remote.nbytes >= memory.nbytes:
            memory.close()
        else:  # new here, or it has grown
            before, known = known, self._registered(cluster, key, memory.remote, None)
            known.name, known.id = name, memory.ref.id
            self._current[key] = known
            if before is not None:
                self._close_unused(before)
        known.holders += 1
        self._client(client).objects[number] = known
        return wire.success(bytes(known.region.descriptor))

    def _mapped(self, ref: Reference, at_least: int, longer: bool) -> tuple[Memory, FileKey]:
        """Map the object of a reference. It is made longer only by its name, as by processes of this host."""
        try:
            memory, key = self._place(ref.cluster).attach_file(ref)
        except (errors.NameNotFoundError, errors.StaleDescriptorError):
            held = next((each for each in self._all() if ref.id and each.id == ref.id), None)
            if held is None or longer:
                raise
            return adopt(_core.map_again(held.remote, max(at_least, held.remote.nbytes)), ref), held.key
        if longer and ref.id and at_least > memory.nbytes:
            memory.close()
            self.check_room(at_least - memory.nbytes)
            memory, key = self._place(ref.cluster).attach_file(ref, at_least)
        return memory, key

    def _registered(self, cluster: str, key: FileKey, remote: _core.Remote, file: _core.File | None) -> _Object:
        try:
            region = self.context.register(remote, "rwa")
        except BaseException:
            remote.close()
            raise
        return _Object(cluster, key, remote, region, file)

    def _allocate(self, client: int, fields: Reader) -> bytes:
        cluster, name, number, nbytes = fields.name(), fields.name(), fields.number(), fields.number()
        fields.end()
        of = self._client(client)
        made = of.objects.get(number)
        if made is None:
            of.refuse_more()
            of.refuse_more_unnamed()
            self.refuse_taken(cluster, name)
            place = self._place(cluster, make=True)
            self.check_room(nbytes)
            file, remote = place.prepare(nbytes)
            key = local.key_of(os.fstat(file.fileno()))
            made = of.objects[number] = self._registered(cluster, key, remote, file)
            made.holders = 1
        return wire.success(wire.number(time.time_ns()), bytes(made.region.descriptor))

    def refuse_taken(self, cluster: str, name: str) -> None:
        """Raise NameExistsError if the name is taken now."""
        self._place(cluster, make=True).refuse_taken(name)
        if self.others is not None:
            self.others.refuse_taken(cluster, name)

    def check_room(self, nbytes: int) -> None:
        """Raise OutOfMemoryError if the server may not hold so many bytes more."""
        if self.memory is None:
            return
        used = self.held_bytes()
        if nbytes > self.memory - used:
            why = f"{nbytes} bytes, and objects hold {used} of the {self.memory} bytes that 'dsmem serve' may give"
            remedy = "unlink names that are not needed and close what has none, or start it with more --memory"
            raise errors.OutOfMemoryError(f"{why}; {remedy}")

    def held_bytes(self) -> int:
        """Return how many bytes the objects of this user's clusters have. Any thread may call it."""
        named = {} if self.is_private else local.files_of_names()
        held: dict[FileKey, int] = {}  # files without a name
        for each in self._all():
            if each.key not in named:
                held[each.key] = max(held.get(each.key, 0), each.remote.nbytes)
        return sum(named.values()) + sum(held.values()) + self.other_bytes

    def _name(self, client: int, fields: Reader) -> bytes:
        number, mode, name = fields.number(), fields.number(4), fields.name()
        fields.end()
        made = self._client(client).objects.get(number)
        if made is None:
            raise errors.StaleDescriptorError(
                f"the memory for {name!r} is gone: the connection has ended; make it again"
            )
        if made.file is None:
            if made.name == name:
                return wire.success()
            raise errors.ProtocolError(f"{made.name!r} has a name, and can't get {name!r}")
        _core.object_type(made.remote)  # CorruptError unless the client has written an object
        with memoryview(made.remote) as view:
            _, creator = MADE.unpack_from(view, MADE_OFFSET)
        if creator:
            raise errors.ProtocolError(f"{name!r} can't end with a creator that is not a process of this host")
        made.id = object_id(made.remote)
        place = self._place(made.cluster, make=True)
        place.publish(made.file, name, None if mode == wire.NO_MODE else mode)
        self._keep(made.cluster, place)
        made.name = name
        self._just_named = made
        self._current[made.key] = made
        made.file.close()
        made.file = None
        return wire.success()

    def _release(self, client: int, fields: Reader) -> bytes:
        raw = fields.rest()
        for at in range(0, len(raw) - 7, 8):
            self._let_go(client, int.from_bytes(raw[at : at + 8], "little"))
        return wire.success()

    def _list(self, client: int, fields: Reader) -> bytes:
        def items(cluster: str) -> list[bytes]:
            found = self.others.infos(cluster) if self.others is not None else []
            with contextlib.suppress(errors.NameNotFoundError):  # there is no such cluster
                found += self._place(cluster).infos()
            return [wire.info(each) for each in sorted(found, key=lambda info: info.name)]

        return self.page(client, fields, items)

    def _unlink(self, client: int, fields: Reader) -> bytes:
        cluster, number, name = fields.name(), fields.number(), fields.name()
        fields.end()
        if self.others is not None and self.others.unlink(cluster, name, number):
            return wire.success()
        self._unname(cluster, name, number)
        for each in [each for each in self._current.values() if (each.cluster, each.name) == (cluster, name)]:
            self._close_unused(each)
        return wire.success()

    def _gc(self, client: int, fields: Reader) -> bytes:
        def items(cluster: str) -> list[bytes]:
            with contextlib.suppress(errors.NameNotFoundError):  # there is no such cluster
                return [wire.text(name) for name in self._place(cluster).gc()]
            return []

        return self.page(client, fields, items)

    def _identity(self, client: int, fields: Reader) -> bytes:
        fields.end()
        return wire.success(wire.number(self._number or local.identity()))

    def page(self, client: int, fields: Reader, items: Callable[[str], list[bytes]]) -> bytes:
        """Answer with a page. The list, of a cluster, is made for the first one, and kept until the last one."""
        cluster, number, first = fields.name(), fields.number(), fields.number(4)
        fields.end()
        lists = self._client(client).lists
        if not first:
            lists[number] = wire.Pages(items(cluster))
        pages = lists.pop(number, None)
        if pages is None:
            raise errors.StaleDescriptorError("the server has not kept this list; ask for it again")
        page, is_last = pages.page(first)
        if not is_last:
            lists[number] = pages
            if len(lists) > _LISTS_MOST:
                del lists[next(iter(lists))]
        return page

    # -- what is held --

    def _all(self) -> list[_Object]:
        # copied, since another thread may ask for the bytes that are held
        held = [each for client in list(self._clients.values()) for each in list(client.objects.values())]
        return list({id(each): each for each in (*held, *list(self._current.values()))}.values())

    def _left(self, client: int) -> None:
        for held in self._clients.pop(client, _Client()).objects.values():
            held.holders -= 1
            self._go_on(functools.partial(self._close_unused, held))

    def _let_go(self, client: int, number: int) -> None:
        """Forget what a client's number stands for, if anything."""
        held = self._client(client).objects.pop(number, None)
        if held is not None:
            held.holders -= 1
            self._close_unused(held)

    def _close_unused(self, of: _Object) -> None:
        """Close the memory of an object that no client holds, unless it is what its name leads to."""
        if of.holders:
            return
        if self._current.get(of.key) is of:
            if self._has_name(of):
                return
            del self._current[of.key]
        of.close()

    def _has_name(self, of: _Object) -> bool:
        """Whether the name leads to the object. It does as long as nothing else is known."""
        try:
            return self._place(of.cluster).file_of(of.name) == of.key
        except errors.NameNotFoundError:
            return False
        except errors.DsmemError:
            return True

    def _sweep(self) -> None:
        """Look at some of the objects that no client holds: a process of this host may have removed their names."""
        unheld = (key for key, each in self._current.items() if not each.holders)
        for key in list(itertools.islice(unheld, _LOOKED_AT)):
            of = self._current.pop(key)
            self._current[key] = of  # behind those that have not been looked at
            self._close_unused(of)
