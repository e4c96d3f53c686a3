"""A memory node: the copies of stores that it has for a coordinator, and how it registers there."""

from __future__ import annotations

import contextlib
import logging
import mmap
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dsmem import _core, errors
from dsmem.membership import messages
from dsmem.membership.standing import Standing, Witness
from dsmem.membership.state import NO_LIMIT
from dsmem.names import wire
from dsmem.names.server import NameServer
from dsmem.names.wire import Reader, Request

_log = logging.getLogger("dsmem")
_JOIN_SECONDS = 1.0
_CALL_SECONDS = 10.0
#: What a process at the coordinator's address answers that is none, or refuses this node for good.
_REFUSALS = (
    errors.AuthenticationError,
    errors.InvalidArgumentError,
    errors.ProtocolError,
    errors.UnsupportedError,
    errors.VersionError,
)
_Part = tuple[int, int]  # a store, and an extent of it
_REFUSALS_MOST = 2  # one may come from a process that ends, or that begins


@dataclass
class _Copy:
    memory: mmap.mmap
    region: _core.Region | None  # None: it is closed, and what closes it has not come to its end
    epoch: int
    number: int  # of the request that has made or closed it last
    making: int


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
        return wire.success(wire.number(self.id))

    def _make(self, client: int, fields: Reader) -> bytes:
        self._asked(fields)
        store, epoch, number = fields.number(), fields.number(), fields.number()
        making, index = fields.number(), fields.number(4)
        shape = messages.read_shape(fields)
        extent = messages.read_extent(fields)
        fields.end()
        known = self._copies.get((store, extent))
        if known is None or known.number != number:
            last = max(known.making if known is not None else 0, self._dropped.get((store, extent), 0))
            if making <= last:
                raise errors.ConflictError(
                    f"the copy that is to be made is number {making}, and {last} was made before"
                )
            nbytes = _core.store_nbytes(*shape)
            self._server.check_room(nbytes)
            if known is not None:
                self._forget((store, extent))
            known = _Copy(_zeroed(nbytes), None, epoch, number, making)
            _core.store_format(known.memory, *shape[:4], index, store, shape[4], extent)
            self._copies[store, extent] = known
            self._server.other_bytes += nbytes
            _log.info("copy %d of %s made: %d bytes", index, _called(store, extent), nbytes)
        return self._opened(known)

    def _close(self, client: int, fields: Reader) -> bytes:
        self._asked(fields)
        store, epoch, number = fields.number(), fields.number(), fields.number()
        extent = messages.read_extent(fields)
        fields.end()
        known = self._copies.get((store, extent))
        if known is None:
            raise errors.StaleDescriptorError("this memory node has no copy of the store")
        if known.number != number:
            if epoch <= known.epoch:
                text = f"the copy is of epoch {known.epoch}, and can't be closed for epoch {epoch}"
                raise errors.ConflictError(f"{text}; ask its coordinator which is the present one")
            if known.region is not None:
                known.region.close()  # from here on not a byte goes in or out by the descriptor of before
            known.region = None
            known.epoch, known.number = epoch, number
            _log.info("copy of %s closed for epoch %d", _called(store, extent), epoch)
        return self._opened(known)

    def _opened(self, copy: _Copy) -> bytes:
        if copy.region is None:
            copy.region = self._server.context.register(copy.memory, "rwa")
        return wire.success(bytes(copy.region.descriptor))

    def _drop(self, client: int, fields: Reader) -> bytes:
        self._asked(fields)
        store, making = fields.number(), fields.number()
        place = store, messages.read_extent(fields)
        fields.end()
        known = self._copies.get(place)
        if known is not None and known.making <= making:
            _log.info("copy of %s dropped: %d bytes", _called(*place), len(known.memory))
            self._forget(place)
        self._dropped[place] = max(making, self._dropped.get(place, 0))
        return wire.success()

    def _forget(self, place: _Part) -> None:
        copy = self._copies[place]
        nbytes = len(copy.memory)
        if copy.region is not None:
            copy.region.close()
        copy.memory.close()
        del self._copies[place]  # now that it can't fail any more
        self._server.other_bytes -= nbytes

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
        with self._turn:
            held = self.held()
            self._forget_all()
            self.id, self.was_known = _number(), False
            _log.warning("forgotten by the coordinator: %d copies dropped, %d bytes", *held)

    def close(self) -> None:
        """Give back all memory."""
        with self._turn:
            self._forget_all()

    def _forget_all(self) -> None:
        for place in list(self._copies):
            self._forget(place)


def _called(store: int, extent: int) -> str:
    return f"store {store:x}" + (f", extent {extent}" if extent else "")


def _number() -> int:
    return secrets.randbits(63) + 1


def _zeroed(nbytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, nbytes)
    except (OSError, ValueError, OverflowError) as error:
        raise errors.OutOfMemoryError(f"{nbytes} bytes for a copy of a store; {error}") from None


class Member:
    """Keeps a memory node registered with its coordinator, by a thread of its own.

    Parameters
    ----------
    context : Context
        Of the node.
    coordinator : str
        The coordinator's agent address, as ``tcp:HOST:PORT``.
    copies : Copies
        Of the node.
    address : str
        The node's address for others, ``tcp://HOST:PORT``.
    domain : str
        Its failure domain.
    refused : callable
        Called by the thread, which then ends, if the process at the coordinator's address is none, or will never take
        this node. Once it has, that is no reason any more: the node has copies. ``failed`` says why.
    """

    def __init__(
        self,
        context: _core.Context,
        coordinator: str,
        copies: Copies,
        address: str,
        domain: str,
        refused: Callable[[], object],
    ) -> None:
        self.failed: errors.DsmemError | None = None
        self._refused = refused
        self._context = context
        self._coordinator = coordinator
        self.coordinator = coordinator.replace("tcp:", "tcp://")
        self._copies = copies
        self._address, self._domain = address, domain
        self._stopped = threading.Event()
        self._known: str | None = None
        self._thread = threading.Thread(target=self._run, name="dsmem-member", daemon=True)

    @property
    def is_registered(self) -> bool:
        """Whether the coordinator has answered the last time."""
        return self._known == ""

    def start(self) -> None:
        """Begin to register."""
        self._thread.start()

    def _run(self) -> None:
        service = _core.Service(self._context, self._coordinator)
        with contextlib.suppress(errors.ClosedError):
            self._register(service)
        with contextlib.suppress(errors.DsmemError):
            service.close()
        if self.failed is not None:
            self._refused()

    def _register(self, service: _core.Service) -> None:
        """Again and again, so that a coordinator that was started again knows the node."""
        refusals = 0
        while not self._stopped.is_set():
            try:
                wire.answered(service.call(self._request(), _CALL_SECONDS)).end()
                self._tell("")
                refusals = -1
            except errors.ClosedError:
                raise
            except errors.DsmemError as error:
                self._tell(str(error))
                if isinstance(error, errors.StaleDescriptorError):
                    self._begin_again()
                if isinstance(error, _REFUSALS) and refusals >= 0:
                    refusals += 1
                if refusals >= _REFUSALS_MOST:
                    self.failed = error
                    return
            self._stopped.wait(_JOIN_SECONDS)

    def _begin_again(self) -> None:
        """Give up the copies. Whatever fails, the node goes on to register, and is told again."""
        try:
            self._copies.begin_again()
        except errors.ClosedError:
            raise
        except Exception:
            _log.exception("copies that do not count any more can't be given up yet")

    def _request(self) -> bytes:
        fields = wire.number(self._copies.id), wire.text(self._address), wire.text(self._domain)
        seen, was_known = self._copies.witness.seen, wire.number(self._copies.was_known, 1)
        memory = wire.number(NO_LIMIT if self._copies.memory is None else min(self._copies.memory, NO_LIMIT))
        reached = wire.text(",".join(way.fabric.removeprefix("fault+") for way in self._context.fabrics))
        return wire.request(Request.JOIN, *fields, seen.encode(), was_known, memory, reached)

    def _tell(self, reason: str) -> None:
        """Log each change once."""
        if reason != self._known:
            self._known = reason
            if reason:
                _log.warning("not registered with the coordinator at %s, trying on: %s", self.coordinator, reason)
            else:
                _log.info("registered with the coordinator at %s", self.coordinator)

    def stop(self, seconds: float) -> bool:
        """End the thread, and say whether it has ended in time: it may wait for a coordinator that does not answer."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()
