"""The copies of stores that a memory node has for a coordinator.

Memory of many gigabytes takes seconds to format, to register and to give back. Threads do that. The one that answers
requests waits for nothing, and says "ask again" until it is done, so a node that is busy is not taken for a silent one.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from functools import partial

from dsmem import _core, errors
from dsmem.membership import messages
from dsmem.membership.standing import Standing, Witness
from dsmem.names import wire
from dsmem.names.server import NameServer
from dsmem.names.wire import Reader, Request

_log = logging.getLogger("dsmem")
_THREADS = 8  # a copy that takes long holds up no change of another store
_PROBE_BYTES = 64
_Part = tuple[int, int]  # a store, and an extent of it


@dataclass
class _Copy:
    """A copy. While a thread works on it, that one alone looks at its memory and its region."""

    memory: mmap.mmap
    epoch: int
    number: int  # of the request that has made or closed it last
    making: int
    format: Callable[[mmap.mmap], None] | None = None  # what is done before it is registered for the first time
    region: _core.Region | None = None
    told: bool = True  # whether its descriptor was answered
    work: futures.Future[None] | None = None  # what a thread does with it, or has done
    ends: bool = False  # it counts no more, and its memory is about to be given back
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = len(self.memory)


class Copies:
    """The copies of a memory node. Requests are answered by one thread, and another one registers the node.

    Parameters
    ----------
    server : NameServer
        Through whose context clients reach them. It answers the coordinator's requests from now on.
    """

    def __init__(self, server: NameServer) -> None:
        self.id = _number()
        self.witness = Witness()
        self.was_known = False  # a coordinator has asked this number, so its state has the node
        self._turn = threading.Lock()
        self._server = server
        self._copies: dict[_Part, _Copy] = {}
        self._dropped: dict[_Part, int] = {}  # of those that were dropped: the last making that was
        self._threads = futures.ThreadPoolExecutor(_THREADS, "dsmem-copies")
        # The coordinator reads it to see whether memory of this node is reached. It has the rights of a copy, so it is
        # reached as copies are.
        self._probe = server.context.register(mmap.mmap(-1, _PROBE_BYTES), "rwa")
        does = {
            Request.NODE: self._node,
            Request.COPY_MAKE: self._make,
            Request.COPY_CLOSE: self._close,
            Request.COPY_DROP: self._drop,
        }
        server.answer({kind: partial(self._in_turn, each) for kind, each in does.items()})

    def _in_turn(self, do: Callable[[int, Reader], bytes], client: int, fields: Reader) -> bytes:
        with self._turn:
            return do(client, fields)

    def _heard(self, fields: Reader) -> int:
        """Obey a coordinator, or refuse. Return the node that the request is for."""
        node = fields.number()
        self.witness.obey(Standing.read(fields), bool(self._copies))
        self.was_known |= node == self.id
        return node

    def _asked(self, fields: Reader) -> None:
        if self._heard(fields) != self.id:
            text = "the memory node that was asked has ended, and its copies with it"
            raise errors.StaleDescriptorError(f"{text}; another one has its address")

    def _node(self, client: int, fields: Reader) -> bytes:
        self._heard(fields)
        fields.end()
        return wire.success(wire.number(self.id), bytes(self._probe.descriptor))

    def _make(self, client: int, fields: Reader) -> bytes:
        self._asked(fields)
        store, epoch, number = fields.number(), fields.number(), fields.number()
        making, index = fields.number(), fields.number(4)
        shape = messages.read_shape(fields)
        extent = messages.read_extent(fields)
        fields.end()
        place = store, extent
        known = self._copies.get(place)
        if known is None or known.ends or known.number != number:
            last = max(known.making if known is not None else 0, self._dropped.get(place, 0))
            if making <= last:
                text = f"the copy that is to be made is number {making}, and {last} was made before"
                raise errors.ConflictError(text)
            if known is not None:
                self._end(place)
            nbytes = _core.store_nbytes(*shape)
            self._check_room(nbytes)
            format = partial(_format, shape, index, store, extent)
            known = self._copies[place] = _Copy(_zeroed(nbytes), epoch, number, making, format, told=False)
            self._server.other_bytes += nbytes
            _log.info("copy %d of %s is made: %d bytes", index, _called(store, extent), nbytes)
        return self._opened(known)

    def _check_room(self, nbytes: int) -> None:
        """What is being given back is waited for: the coordinator does not count it any more."""
        try:
            self._server.check_room(nbytes)
        except errors.OutOfMemoryError:
            ending = [place for place, copy in self._copies.items() if copy.ends]
            if not ending:
                raise
            for place in ending:
                self._end(place)
            self._server.check_room(nbytes)

    def _close(self, client: int, fields: Reader) -> bytes:
        self._asked(fields)
        store, epoch, number = fields.number(), fields.number(), fields.number()
        extent = messages.read_extent(fields)
        fields.end()
        known = self._copies.get((store, extent))
        if known is None or known.ends:
            raise errors.StaleDescriptorError("this memory node has no copy of the store")
        if known.number != number:
            if epoch <= known.epoch:
                text = f"the copy is of epoch {known.epoch}, and can't be closed for epoch {epoch}"
                raise errors.ConflictError(f"{text}; ask its coordinator which is the present one")
            if known.told:  # if not, no process has a descriptor of the region that there is, or is about to be
                known.told, known.work = False, None
            known.epoch, known.number = epoch, number
            _log.info("copy of %s is closed for epoch %d", _called(store, extent), epoch)
        return self._opened(known)

    def _opened(self, copy: _Copy) -> bytes:
        """Return the descriptor once the memory is registered, at an address that no process has heard of before."""
        if copy.work is None:
            self._work_on(copy, self._open)
        self._check_done(copy)
        assert copy.region is not None
        copy.told = True
        return wire.success(bytes(copy.region.descriptor))

    def _open(self, copy: _Copy) -> None:
        if copy.format is not None:
            copy.format(copy.memory)
            copy.format = None
        if copy.region is not None:
            copy.region.close()  # from here on not a byte goes in or out by the descriptor of before
            copy.region = None
        copy.region = self._server.context.register(copy.memory, "rwa")

    def _work_on(self, copy: _Copy, do: Callable[[_Copy], None]) -> None:
        """Let a thread do it, after what is done with the copy now. Threads begin in this order, so none waits long."""
        before = copy.work

        def work() -> None:
            if before is not None:
                futures.wait([before])
            do(copy)

        copy.work = self._threads.submit(work)

    @staticmethod
    def _check_done(copy: _Copy) -> None:
        """Raise NotYetError while a thread works on the copy, and then what has failed, once: it is tried again."""
        assert copy.work is not None
        if not copy.work.done():
            raise wire.NotYetError("the copy is not ready yet; ask again")
        error = copy.work.exception()
        if error is not None:
            copy.work = None
            raise error

    def _drop(self, client: int, fields: Reader) -> bytes:
        self._asked(fields)
        store, making = fields.number(), fields.number()
        place = store, messages.read_extent(fields)
        fields.end()
        known = self._copies.get(place)
        if known is not None and known.making <= making:
            self._end(place)
        self._dropped[place] = max(making, self._dropped.get(place, 0))
        return wire.success()

    def _end(self, place: _Part) -> None:
        """Give back a copy. NotYetError is raised until that is done."""
        copy = self._copies[place]
        self._begin_to_end(copy)
        self._check_done(copy)
        self._dropped[place] = max(copy.making, self._dropped.get(place, 0))
        del self._copies[place]
        self._server.other_bytes -= copy.nbytes
        _log.info("copy of %s dropped: %d bytes", _called(*place), copy.nbytes)

    def _begin_to_end(self, copy: _Copy) -> None:
        if not copy.ends or copy.work is None:
            copy.ends = True
            self._work_on(copy, _give_back)

    @property
    def memory(self) -> int | None:
        """How many bytes all objects of the process may hold."""
        return self._server.memory

    def held(self) -> tuple[int, int]:
        """Return how many copies there are, and their bytes. Any thread may call it."""
        return len(self._copies), self._server.other_bytes

    def begin_again(self) -> None:
        """Be a new node, without copies: the coordinator does not know this one any more, so none of them counts.

        What the coordinator had asked of the number before, and comes late, is refused. If a copy can't be given up the
        number stays, so that the coordinator says it again.
        """
        held = self.held()
        with self._without_copies():
            self.id, self.was_known = _number(), False
            _log.warning("forgotten by the coordinator: %d copies dropped, %d bytes", *held)

    def close(self) -> None:
        """Give back all memory."""
        with self._without_copies():
            self._threads.shutdown()
            self._probe.close()

    @contextlib.contextmanager
    def _without_copies(self) -> Iterator[None]:
        """Give back all copies that can be. In the block there are none, and no request is answered."""
        while True:
            with self._turn:
                for copy in self._copies.values():
                    self._begin_to_end(copy)
                work = [copy.work for copy in self._copies.values() if copy.work is not None]
            futures.wait(work)
            with self._turn:
                self._end_all()
                if not self._copies:
                    yield
                    return

    def _end_all(self) -> None:
        """Raise, at the end, what has failed with the first one. Some may have been made since they were waited for."""
        failed: Exception | None = None
        for place in list(self._copies):
            try:
                self._end(place)
            except wire.NotYetError:
                pass
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _format(shape: messages.Shape, index: int, store: int, extent: int, memory: mmap.mmap) -> None:
    _core.store_format(memory, *shape[:4], index, store, shape[4], extent)


def _give_back(copy: _Copy) -> None:
    if copy.region is not None:
        copy.region.close()
    copy.memory.close()


def _called(store: int, extent: int) -> str:
    return f"store {store:x}" + (f", extent {extent}" if extent else "")


def _number() -> int:
    return secrets.randbits(63) + 1


def _zeroed(nbytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, nbytes)
    except (OSError, ValueError, OverflowError) as error:
        raise errors.OutOfMemoryError(f"{nbytes} bytes for a copy of a store; {error}") from None
