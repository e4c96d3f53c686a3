"""The server of names: it answers requests of other hosts for the names of this host, and makes their memory remote.

A name is a file of shared memory (dsmem/names/local.py), which processes of this host map. The server maps it, too, and
registers the mapping with its context, so that processes of other hosts reach it by a descriptor. It keeps that as long
as the object has its name or a client holds it: a client holds what it has found or made until it releases it or its
connection ends. Memory without a name that a client has not named by then is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from dsmem import _core, errors
from dsmem.memory import MADE, MADE_OFFSET, object_id
from dsmem.names import local, wire
from dsmem.names.local import LocalNames
from dsmem.names.wire import Reader, Request

_log = logging.getLogger("dsmem")
_TICK_SECONDS = 1.0
_LOOKED_AT = 64  # objects that no client holds, at each tick


@dataclass(eq=False)
class _Object:
    """An object whose memory is registered."""

    cluster: str
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


class NameServer:
    """Answers requests for names.

    Parameters
    ----------
    context : Context
        Through which the memory of objects is reached.
    memory : int, optional
        Bytes that the names of this user's clusters may hold, so that the server makes another one.

    Raises
    ------
    UnsupportedError
        A fabric of the context has atomics that do not exclude those of the CPUs, with which processes of this host
        change the same words.
    """

    def __init__(self, context: _core.Context, memory: int | None = None) -> None:
        for way in context.fabrics:
            if way.atomic_domain not in ("cpu", "global"):
                has = {"nic": "atomics of its own", "none": "no atomics"}[way.atomic_domain]
                why = f"{way.fabric} on {way.device} has {has}, and processes of this host use those of the CPUs"
                raise errors.UnsupportedError(f"{why}; serve names through tcp alone")
        self.context = context
        self.memory = memory
        self._stopped = False
        self._places: dict[str, LocalNames] = {}
        self._objects: dict[tuple[int, int], _Object] = {}  # by client and the number that it has drawn
        self._current: dict[tuple[str, int], _Object] = {}  # by cluster and id
        self._lists: dict[int, wire.Pages] = {}  # by client
        self._does = {
            Request.FIND: self._find,
            Request.ALLOCATE: self._allocate,
            Request.NAME: self._name,
            Request.RELEASE: self._release,
            Request.LIST: self._list,
            Request.UNLINK: self._unlink,
            Request.GC: self._gc,
        }

    def run(self, ready: Callable[[], object] = lambda: None) -> None:
        """Answer requests until :meth:`stop` is called, and give back the memory.

        Parameters
        ----------
        ready : callable, optional
            Called when requests are taken.
        """
        _core.serve(self.context, True)
        try:
            if self._stopped:
                return
            ready()
            with contextlib.suppress(errors.ClosedError):
                sweep_at = time.monotonic() + _TICK_SECONDS
                while True:
                    call = _core.next_call(self.context, _TICK_SECONDS)
                    if time.monotonic() >= sweep_at:
                        self._sweep()
                        sweep_at = time.monotonic() + _TICK_SECONDS
                    if call is None:
                        continue
                    if call[2] is None:
                        self._left(call[0])
                    else:
                        _core.reply(self.context, call[0], call[1], self._answer(call[0], call[2]))
        finally:
            self.stop()
            for each in self._all():
                each.close()

    def stop(self) -> None:
        """End :meth:`run`, from a signal handler or another thread. Clients get an error from then on."""
        self._stopped = True
        with contextlib.suppress(errors.ClosedError):
            _core.serve(self.context, False)

    # -- requests --

    def _answer(self, client: int, raw: bytes) -> bytes:
        try:
            kind, fields = wire.opened(raw)
            return self._does[kind](client, fields)
        except errors.DsmemError as error:
            return wire.failure(error)
        except OSError as error:
            return wire.failure(errors.SystemCallError(str(error), sys=error.errno or 0))
        except Exception as error:  # a request must not end the service of the others
            _log.exception("a request for names has failed")
            return wire.failure(errors.SystemCallError(f"the server has failed: {error!r}; its log has more"))

    def _place(self, cluster: str) -> LocalNames:
        place = self._places.get(cluster)
        if place is None:
            place = self._places[cluster] = LocalNames(cluster, os.geteuid())
        return place

    def _find(self, client: int, fields: Reader) -> bytes:
        cluster, kind, name = fields.name(), fields.text(), fields.name()
        number, wanted, at_least = fields.number(), fields.number(), fields.number()
        fields.end()
        self._let_go(client, number)
        place = self._place(cluster)
        memory = place.attach(name, kind, readonly=False)
        if wanted and at_least > memory.nbytes:
            memory.close()
            self._check_room(at_least - memory.nbytes)
            memory = place.attach_reference(replace(memory.ref, id=wanted), at_least)
        known = self._current.get((cluster, memory.ref.id))
        if known is not None and known.remote.nbytes >= memory.nbytes:
            memory.close()
        else:  # new here, or it has grown
            known = self._registered(cluster, memory.remote, None)
            known.name, known.id = name, memory.ref.id
            self._current[cluster, known.id] = known
        known.holders += 1
        self._objects[client, number] = known
        return wire.success(bytes(known.region.descriptor))

    def _registered(self, cluster: str, remote: _core.Remote, file: _core.File | None) -> _Object:
        try:
            region = self.context.register(remote, "rwa")
        except BaseException:
            remote.close()
            raise
        return _Object(cluster, remote, region, file)

    def _allocate(self, client: int, fields: Reader) -> bytes:
        cluster, name, number, nbytes = fields.name(), fields.name(), fields.number(), fields.number()
        fields.end()
        made = self._objects.get((client, number))
        if made is None:
            place = self._place(cluster)
            place.refuse_taken(name)
            self._check_room(nbytes)
            file, remote = place.prepare(nbytes)
            made = self._objects[client, number] = self._registered(cluster, remote, file)
            made.holders = 1
        return wire.success(wire.number(time.time_ns()), bytes(made.region.descriptor))

    def _check_room(self, nbytes: int) -> None:
        if self.memory is None:
            return
        used = local.nbytes_of_names() + sum(each.remote.nbytes for each in self._all() if each.file is not None)
        if nbytes > self.memory - used:
            why = f"{nbytes} bytes, and names hold {used} of the {self.memory} bytes that 'dsmem serve' may give"
            raise errors.OutOfMemoryError(f"{why}; unlink names that are not needed, or start it with more --memory")

    def _name(self, client: int, fields: Reader) -> bytes:
        number, mode, name = fields.number(), fields.number(4), fields.name()
        fields.end()
        made = self._objects.get((client, number))
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
        self._place(made.cluster).publish(made.file, name, None if mode == wire.NO_MODE else mode)
        made.name = name
        made.file.close()
        made.file = None
        self._current[made.cluster, made.id] = made
        return wire.success()

    def _release(self, client: int, fields: Reader) -> bytes:
        raw = fields.rest()
        for at in range(0, len(raw) - 7, 8):
            self._let_go(client, int.from_bytes(raw[at : at + 8], "little"))
        return wire.success()

    def _list(self, client: int, fields: Reader) -> bytes:
        cluster, first = fields.name(), fields.number(4)
        fields.end()
        if not first:
            self._lists[client] = wire.Pages([wire.info(each) for each in self._place(cluster).infos()])
        return self._lists[client].page(first) if client in self._lists else wire.Pages([]).page(0)

    def _unlink(self, client: int, fields: Reader) -> bytes:
        cluster, number, name = fields.name(), fields.number(), fields.name()
        fields.end()
        self._place(cluster).unlink(name, number)
        for each in [each for each in self._current.values() if (each.cluster, each.name) == (cluster, name)]:
            self._close_unused(each)
        return wire.success()

    def _gc(self, client: int, fields: Reader) -> bytes:
        cluster, first = fields.name(), fields.number(4)
        fields.end()
        if not first:
            self._lists[client] = wire.Pages([wire.text(name) for name in self._place(cluster).gc()])
        return self._lists[client].page(first) if client in self._lists else wire.Pages([]).page(0)

    # -- what is held --

    def _all(self) -> list[_Object]:
        return list({id(each): each for each in (*self._objects.values(), *self._current.values())}.values())

    def _left(self, client: int) -> None:
        self._lists.pop(client, None)
        for holder, number in [key for key in self._objects if key[0] == client]:
            self._let_go(holder, number)

    def _let_go(self, client: int, number: int) -> None:
        """Forget what a client's number stands for, if anything."""
        held = self._objects.pop((client, number), None)
        if held is not None:
            held.holders -= 1
            self._close_unused(held)

    def _close_unused(self, of: _Object) -> None:
        """Close the memory of an object that no client holds, unless it is what its name leads to."""
        if of.holders:
            return
        is_current = self._current.get((of.cluster, of.id)) is of
        if is_current and self._place(of.cluster).id_of(of.name) == of.id:
            return
        if is_current:
            del self._current[of.cluster, of.id]
        of.close()

    def _sweep(self) -> None:
        """Look at some of the objects that no client holds: a process of this host may have removed their names."""
        unheld = (key for key, each in self._current.items() if not each.holders)
        for key in list(itertools.islice(unheld, _LOOKED_AT)):
            of = self._current.pop(key)
            self._current[key] = of  # behind those that have not been looked at
            self._close_unused(of)
