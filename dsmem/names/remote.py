"""Names at a server, another process that ``dsmem serve`` has started, as a rule on another host.

The server finds, makes and removes names; the memory of an object is reached by its descriptor, without the server's
Python. An object is made in memory that has no name yet: the client writes it and opens it, and then asks for the name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from dsmem import _core, errors
from dsmem.memory import MADE, MADE_OFFSET, Memory, Opened, Reference, adopt, object_id, open_or_leave
from dsmem.names import wire
from dsmem.names.base import Format, Lifetime, NameInfo, OneNode, check_name
from dsmem.names.local import check_mode
from dsmem.names.reach import Reach
from dsmem.names.wire import Request

_CALL_SECONDS = 60.0  # a server may allocate gigabytes for a request before
_CONNECT_SECONDS = 10.0
_UNDO_SECONDS = 2.0
_LEAST_SECONDS = 1.0  # for a reply, however short the caller's timeout is
_LIST_TRIES = 3
_NOT_YET_SECONDS = 0.02  # before a server is asked again that could not say it yet
_Item = TypeVar("_Item")


def limit_of(timeout: float | None) -> float:
    """Return for how many seconds a server is waited for, by the timeout of a caller's, or without one."""
    return _CALL_SECONDS if timeout is None else max(timeout, _LEAST_SECONDS)


def is_address(cluster: object) -> bool:
    """Whether a cluster is named by the address of a server."""
    return isinstance(cluster, str) and "://" in cluster


def parse_address(text: str) -> tuple[str, int, str]:
    """Return host, port and cluster of ``tcp://HOST:PORT/CLUSTER``."""
    wrong = f"{text!r:.230}: the address of a cluster is tcp://HOST:PORT/CLUSTER, with a port from 1 to 65535"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise errors.InvalidArgumentError(wrong) from None
    if url.scheme != "tcp" or not host or not port or url.query or url.fragment or url.username is not None:
        raise errors.InvalidArgumentError(wrong)
    return host, port, check_name(url.path[1:] or "default")


def split_address(text: str) -> list[str]:
    """Return the address of each memory node of ``tcp://HOST:PORT,HOST:PORT/CLUSTER``, which are different ones."""
    scheme, found, rest = text.partition("://")
    nodes, slash, cluster = rest.partition("/")
    each = [f"{scheme}{found}{node}{slash}{cluster}" for node in nodes.split(",")]
    known = [parse_address(address) for address in each]
    if len(set(known)) < len(known):
        raise errors.InvalidArgumentError(f"{text!r:.230} names one memory node twice; name each once")
    return each


def agent_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the core has them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise errors.InvalidArgumentError(f"the host {host!r} has no address: {error}") from None
    numbers = dict.fromkeys(str(to[0]) for _, _, _, _, to in found)
    return [f"tcp:[{number}]:{port}" if ":" in number else f"tcp:{number}:{port}" for number in numbers]


def _no_server(error: errors.DsmemError, at: str) -> errors.DsmemError:
    """What to raise where no server of names answers: nothing was asked yet, so no operation has been lost."""
    found: errors.DsmemError
    if isinstance(error, errors.TimeoutError):
        found = errors.TimeoutError(
            f"no answer from {at}; check that 'dsmem serve' listens there, and that the port may be reached"
        )
    else:
        text = f"no server at {at}; start 'dsmem serve' there, or check host and port"
        found = type(error)(text, sys=error.sys)
    found.__cause__ = error
    return found


def _written_parts(fd: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Where a file is not a hole: the offset and the end of each part."""
    end = 0
    while end < nbytes:
        try:
            at = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = min(nbytes, os.lseek(fd, at, os.SEEK_HOLE))
        yield at, end


def _write(remote: _core.Remote, made: int, nbytes: int, format: Format) -> None:
    """Write an object into zeroed memory at the server: what its format changes in memory of this host.

    That is a file whose pages are allocated when they are written, so it takes no more than what is sent.
    """
    with _core.File(None, 0) as file:
        os.ftruncate(file.fileno(), nbytes)
        here = _core.map_file(file.fileno(), nbytes)
        try:
            with memoryview(here) as view:
                MADE.pack_into(view, MADE_OFFSET, made, 0)
                format(view)
                for at, end in _written_parts(file.fileno(), nbytes):
                    remote.write(at, view[at:end])
        finally:
            here.detach()  # unmaps at once, or with a view that an interrupt has left open


class _Token:
    """Lives as long as a handle holds something at the server."""

    __slots__ = ("__weakref__",)


class RemoteNames(OneNode):
    """The names of one cluster at a server.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT/CLUSTER``.
    context : Context or Reach, optional
        Through which memory at the server is reached; by default through contexts of its own, closed with this place.
    timeout : float, optional
        Seconds for which each of the host's addresses is tried, 1 to 10; by default 10.
    """

    is_mapped = False

    def __init__(
        self, address: str, context: _core.Context | Reach | None = None, timeout: float | None = None
    ) -> None:
        host, port, self.cluster = parse_address(address)
        self.address = address
        # When a token is gone, its reference is among the released: no interrupt can prevent that.
        self._holds: dict[weakref.ref[_Token], int] = {}
        self._released: list[weakref.ref[_Token]] = []
        self._coordinates: bool | None = None
        self._shares_reach = isinstance(context, Reach)
        self._reach = context if isinstance(context, Reach) else Reach(context)
        self.context = self._reach.context
        try:
            self._service = self._connected(agent_addresses(host, port), timeout)
        except BaseException:
            self._end_reach()
            raise

    def _end_reach(self) -> None:
        if not self._shares_reach:
            self._reach.close()

    def __repr__(self) -> str:
        return self.address

    def _connected(self, addresses: Iterable[str], timeout: float | None) -> _core.Service:
        """Connect to the first of a host's addresses at which a server answers. Nothing is changed there."""
        failed: errors.DsmemError = errors.PeerDeadError(self.address)
        for address in addresses:
            service = _core.Service(self.context, address)
            limit = min(_CONNECT_SECONDS, limit_of(timeout))
            try:
                wire.answered(service.call(wire.request(Request.RELEASE), limit)).end()
            except (errors.PeerDeadError, errors.SystemCallError, errors.TimeoutError) as error:
                service.close()
                failed = _no_server(error, address.removeprefix("tcp:"))
            except BaseException:
                service.close()
                raise
            else:
                return service
        raise failed

    # -- requests --

    def _ask(self, kind: Request, *fields: bytes, again: bool = False, timeout: float | None = None) -> wire.Reader:
        """Ask the server. ``again``: the request may be executed twice, so it is repeated if the connection ends."""
        end = time.monotonic() + (_CALL_SECONDS if timeout is None else timeout)
        self._tell_released(end)
        return self._ask_now(kind, *fields, again=again, timeout=end - time.monotonic())

    def _ask_now(self, kind: Request, *fields: bytes, again: bool = False, timeout: float) -> wire.Reader:
        """As :meth:`_ask`, without telling the server before what is closed here."""
        raw, end = wire.request(kind, *fields), time.monotonic() + timeout
        while True:
            try:
                reply = self._service.call(raw, max(0.0, end - time.monotonic()))
            except errors.PeerDeadError:
                if not again:
                    raise
                reply = self._service.call(raw, max(0.0, end - time.monotonic()))
            try:
                return wire.answered(reply)
            except wire.NotYetError:
                if end - time.monotonic() <= _NOT_YET_SECONDS:  # once more would be without time for an answer
                    raise
            except errors.NameNotFoundError as error:
                what = error.detail.partition("; ")[0]
                raise errors.NameNotFoundError(f"{what}; 'dsmem ls -c {self.address}' lists the names") from None
            time.sleep(_NOT_YET_SECONDS)

    def coordinates(self, timeout: float | None = None) -> bool:
        """Whether the server is a coordinator. It is asked once, and waited for as :func:`limit_of` says."""
        if self._coordinates is None:
            try:
                self._ask(Request.COORDINATES, again=True, timeout=limit_of(timeout)).end()
                self._coordinates = True
            except (errors.UnsupportedError, errors.ProtocolError):  # of a release that does not know the request
                self._coordinates = False
        return self._coordinates

    def identity(self) -> int:
        """Return a number of the memory in which the names are: the same after the server has begun again."""
        try:
            reply = self._ask(Request.PLACE, again=True)
        except (errors.UnsupportedError, errors.ProtocolError):  # of a release that does not know the request
            return 0
        found = reply.number()
        reply.end()
        return found

    def _tell_released(self, end: float) -> None:
        """Tell the server what is closed here. If it is another server by now, it does not know it."""
        while some := self._released[: wire.RELEASED_MOST]:
            found = (self._holds.get(held) for held in some)  # None: another thread has told it
            numbers = [wire.number(number) for number in found if number is not None]
            with contextlib.suppress(errors.PeerDeadError):
                request, timeout = wire.request(Request.RELEASE, *numbers), max(0.0, end - time.monotonic())
                wire.answered(self._service.call(request, timeout)).end()
            for held in some:  # only now: a number that is sent twice does no harm
                self._holds.pop(held, None)
                with contextlib.suppress(ValueError):  # another thread
                    self._released.remove(held)

    def _listed(self, kind: Request, read: Callable[[wire.Reader], _Item], tries: int) -> list[_Item]:
        """Ask for a list. If the connection ends between its pages, ask for it from its beginning, so often."""
        while True:
            items: list[_Item] = []
            try:
                self._read_pages(kind, read, items)
                return items
            except (errors.PeerDeadError, errors.StaleDescriptorError):
                tries -= 1
                if not items or not tries:
                    raise

    def _read_pages(self, kind: Request, read: Callable[[wire.Reader], _Item], items: list[_Item]) -> None:
        number, total = wire.number(secrets.randbits(64)), 1
        while len(items) < total:
            fields = wire.text(self.cluster), number, wire.number(len(items), 4)
            reply = self._ask(kind, *fields, again=not items)
            total, here = wire.read_page(reply)
            if not here and total > len(items):
                raise errors.ProtocolError(f"{self.address} says that there are {total} names, and tells {len(items)}")
            items += [read(reply) for _ in range(here)]
            reply.end()

    def _unlink_fields(self, name: str, number: int) -> tuple[bytes, ...]:
        return wire.text(self.cluster), wire.number(number), wire.text(name)

    # -- names --

    def attach(self, name: str, kind: str, readonly: bool, timeout: float | None = None) -> Memory:
        """Attach to the object that has the name."""
        ref = Reference(kind, check_name(name), 0, readonly=readonly)
        return self._found(ref, timeout=limit_of(timeout))

    def _found(self, ref: Reference, at_least: int = 0, longer: bool = False, timeout: float | None = None) -> Memory:
        """Find the object of a reference, and make it longer if that is wanted and it has fewer bytes."""
        timeout = limit_of(timeout)
        end = time.monotonic() + timeout
        number, token = self._hold()
        fields = wire.text(self.cluster), wire.text(ref.kind), wire.text(ref.name)
        numbers = wire.number(number), wire.number(ref.id), wire.number(at_least), wire.number(longer, 1)
        reply = self._ask(Request.FIND, *fields, *numbers, again=True, timeout=timeout)
        ref = replace(ref, descriptor=reply.rest())
        remote = self.attached_to(ref.descriptor, max(_LEAST_SECONDS, end - time.monotonic()))
        return self._held(adopt(remote, ref), token)

    def attached_to(self, descriptor: bytes, timeout: float | None = None) -> _core.Remote:
        """Attach to memory there."""
        return self._reach.attach(descriptor, self.address, timeout)

    def _hold(self) -> tuple[int, _Token]:
        """Draw the number by which the server holds something. It is told to let go when the token is gone."""
        number, token = secrets.randbits(64), _Token()
        self._holds[weakref.ref(token, self._released.append)] = number
        return number, token

    def _held(self, memory: Memory, token: _Token) -> Memory:
        """Hold it at the server until the remote is closed, and make the memory one that may grow."""
        memory.remote._held = token

        def extend(nbytes: int, longer: bool) -> Memory:
            longest = self._found(memory.ref, nbytes, longer)
            if longest.nbytes < nbytes:
                longest.close()
                raise errors.CorruptError(f"{memory.ref.name!r} says that it has {nbytes} bytes, and it has less")
            return longest

        return Memory(memory.remote, memory.ref, extend=extend)

    def make(
        self,
        name: str,
        kind: str,
        nbytes: int,
        format: Format,
        mode: int | None,
        lifetime: Lifetime,
        open_: Callable[[Memory], Opened],
    ) -> Opened:
        """Create an object in memory of the server, open it and give it the name."""
        name = check_name(name)
        mode = wire.NO_MODE if mode is None else check_mode(mode)
        if lifetime == "creator":
            text = "a name at a server does not end with its creator; unlink it, or take lifetime='name'"
            raise errors.InvalidArgumentError(f"lifetime='creator': {text}")
        number, token = self._hold()
        made, asked, object_number = None, False, 0
        try:
            reply = self._ask(
                Request.ALLOCATE,
                wire.text(self.cluster),
                wire.text(name),
                wire.number(number),
                wire.number(nbytes),
                again=True,
            )
            memory = self._held(self._written(reply, name, kind, nbytes, format), token)
            object_number = memory.ref.id
            made = open_or_leave(open_, memory)
            asked = True
            self._ask(Request.NAME, wire.number(number), wire.number(mode, 4), wire.text(name)).end()
            return made
        except BaseException as error:
            with contextlib.suppress(errors.DsmemError):
                if made is not None:
                    made.close()
            if asked and not isinstance(error, errors.NameExistsError):  # the reply may be what is lost
                with contextlib.suppress(errors.DsmemError):
                    fields = self._unlink_fields(name, object_number)
                    self._ask_now(Request.UNLINK, *fields, timeout=_UNDO_SECONDS)
            raise

    def _written(self, reply: wire.Reader, name: str, kind: str, nbytes: int, format: Format) -> Memory:
        at, descriptor = reply.number(), reply.rest()
        remote = self.attached_to(descriptor)
        try:
            _write(remote, at, nbytes, format)
            ref = Reference(kind, name, object_id(remote), descriptor=descriptor)
        except BaseException:
            remote.detach()
            raise
        return Memory(remote, ref)

    def infos(self) -> list[NameInfo]:
        """Return all names, sorted."""
        return self._listed(Request.LIST, wire.read_info, _LIST_TRIES)

    def unlink(self, name: str, number: int = 0) -> None:
        """Remove the name; if number is not 0, only that of the object with this id."""
        self._ask(Request.UNLINK, *self._unlink_fields(check_name(name), number)).end()

    def gc(self) -> list[str]:
        """Remove the names of dead creators on the server's host."""
        return self._listed(Request.GC, wire.Reader.text, 1)

    def remove_if_empty(self) -> bool:
        """Remove nothing: processes of the server's host may be about to make names there."""
        return False

    def close(self) -> None:
        """End the connection, and with it what the server holds for this place."""
        self._service.close()
        self._end_reach()
