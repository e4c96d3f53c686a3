"""The public context: the fabric by name or URL, the secret, and the record that ``dsmem doctor`` shows."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import os
import weakref
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dsmem import _core, errors, node_records, secret

_log = logging.getLogger("dsmem")


@dataclass(frozen=True)
class FabricURL:
    """A fabric by name, as ``[fault+]NAME[://[DEVICE][:PORT][?OPTION=VALUE&…]]``.

    Which options there are is known to the fabric alone (``_core.OPTIONS``). Two of them, device and port, stand before
    the '?' if a fabric has them.
    """

    fabric: str
    options: tuple[tuple[str, str], ...] = ()  # in the fabric's order
    fault: str | None = None

    def having(self, **options: Any) -> FabricURL:
        """Return the URL with these options in place of its own."""
        given = {**dict(self.options), **{key: str(value) for key, value in options.items()}}
        known = _core.OPTIONS[self.fabric]
        return replace(self, options=tuple(sorted(given.items(), key=lambda option: known.index(option[0]))))

    def for_core(self) -> str:
        """The form in which the core takes it: ``NAME?KEY=VALUE&…``, without the faults."""
        options = "&".join(f"{key}={value}" for key, value in self.options)
        return f"{self.fabric}?{options}" if options else self.fabric

    def __str__(self) -> str:
        """The URL from which :func:`parse_fabric` returns an equal object."""
        wrap = "" if self.fault is None else "fault+"
        options = dict(self.options)
        where = options.pop("device", "")
        where += f":{options.pop('port')}" if "port" in options else ""
        query = "&".join(filter(None, [*(f"{key}={value}" for key, value in options.items()), self.fault]))
        return f"{wrap}{self.fabric}://{where}{'?' if query else ''}{query}"


def _whole(name: str, value: Any) -> int:
    number: int | None = _core.checked_int(value, -1, (1 << 31) - 1)
    if number is None:
        raise _core.refused(value, int, f"{name}={value!r}: a whole number up to {(1 << 31) - 1}")
    return number


def _text(name: str, value: Any) -> str:
    """Check a string for the core: strings of C end at a NUL, and strings on the wire are UTF-8."""
    if not isinstance(value, str):
        raise errors.ArgumentTypeError(f"{name}={value!r}: a str")
    plain = str.__str__(value)  # not of a subclass: what is checked here is what is formatted and encoded
    with contextlib.suppress(UnicodeEncodeError):
        if b"\0" not in plain.encode():
            return plain
    raise errors.InvalidArgumentError(f"{name}={value!r} has a NUL or a character that UTF-8 cannot encode")


def parse_fabric(text: str) -> FabricURL:
    """Parse the name or URL of one fabric.

    Parameters
    ----------
    text : str
        "shm", "verbs", "tcp", "auto" (``$DSMEM_FABRIC``, or shm), "verbs://rxe0:1?gid=1&mtu=1024", or one of them with
        the prefix "fault+". Its other options are the fault plan: "fault+shm://?fail=3".

    Returns
    -------
    FabricURL

    Raises
    ------
    InvalidArgumentError
        The text is not one of these.
    """
    urls = parse_fabrics(text)
    if len(urls) != 1:
        raise errors.InvalidArgumentError(f"fabric={text!r}: one fabric is needed here, not {len(urls)}")
    return urls[0]


def parse_fabrics(text: str) -> tuple[FabricURL, ...]:
    """Parse the names or URLs of one or more fabrics, as :class:`dsmem.Context` takes them.

    Parameters
    ----------
    text : str
        As for :func:`parse_fabric`, separated by commas, in the order of preference: "shm,verbs://mlx5_0".

    Returns
    -------
    tuple of FabricURL

    Raises
    ------
    InvalidArgumentError
        A part is not the name or URL of a fabric, a fabric without devices comes twice, or only some have the prefix
        "fault+".
    """
    text = _text("fabric", text)
    if text == "auto":
        text = _text("DSMEM_FABRIC", os.environ.get("DSMEM_FABRIC") or "shm")
    urls = tuple(_parse_one(part.strip()) for part in text.split(","))
    single = [url.fabric for url in urls if "device" not in _core.OPTIONS[url.fabric]]
    if len(set(single)) != len(single):
        raise errors.InvalidArgumentError(f"fabric={text!r}: a fabric comes twice")
    if len({url.fault for url in urls}) != 1:
        raise errors.InvalidArgumentError(f"fabric={text!r}: faults are injected into all fabrics alike, or into none")
    return urls


def _parse_one(text: str) -> FabricURL:
    try:
        url = urlsplit(text if "://" in text else f"{text}://")
    except ValueError as error:
        raise errors.InvalidArgumentError(f"fabric={text!r}: {error}") from None
    wrapped = url.scheme.startswith("fault+")
    fabric = url.scheme.removeprefix("fault+")
    if fabric not in _core.OPTIONS:
        raise errors.InvalidArgumentError(f"fabric={text!r}: there are {', '.join(_core.OPTIONS)} and auto")
    device, _, port = url.netloc.partition(":")
    plan: list[str] = []
    options: dict[str, str] = {}
    for key, value in [("device", device), ("port", port), *parse_qsl(url.query, keep_blank_values=True)]:
        known = key in _core.OPTIONS[fabric]
        if not value and key in ("device", "port"):
            continue
        if wrapped and not known:
            plan.append(f"{key}={value}")
        elif key in options or any(mark in key + value for mark in "&,="):
            raise errors.InvalidArgumentError(f"fabric={text!r}: {key}={value!r}; options follow a '?', each once")
        else:
            options[key] = value
    try:
        _core.check_fabric(f"{fabric}?{'&'.join(f'{key}={value}' for key, value in options.items())}")
    except errors.InvalidArgumentError as error:
        raise errors.InvalidArgumentError(f"fabric={text!r}: {error.detail}") from None
    return FabricURL(fabric, fault="&".join(plan) if wrapped else None).having(**options)


_open: weakref.WeakSet[Context] = weakref.WeakSet()
os.register_at_fork(after_in_child=_open.clear)  # these contexts are the parent's


@functools.cache  # once for each address
def _warn_of_public(address: str) -> None:
    """Log that an agent listens where anyone may listen in."""
    host = address.removeprefix("tcp:").rpartition(":")[0].strip("[]").partition("%")[0]
    with contextlib.suppress(ValueError):  # a path, or a host's name
        if ipaddress.ip_address(host).is_global:
            text = "agent %s has a public address: peers prove the secret, but nothing is encrypted (docs/SECURITY.md)"
            _log.warning(text, address)


def open_contexts() -> list[Context]:
    """Return the open contexts of this process."""
    return [context for context in _open if not context.closed]


class Context(_core.Context):
    """An open device of a fabric: allocates memory that other processes access, and attaches to theirs.

    Its agent is a thread that authenticates other processes and grants them access.

    Parameters
    ----------
    fabric : str
        "auto" (shm, or ``$DSMEM_FABRIC``), "shm", "verbs", "tcp", or a URL with device, port and options:
        "verbs://mlx5_0:1?gid=3&mtu=4096". With several, separated by commas ("shm,verbs"), each remote is reached by
        the first that its owner has, too, and by which the owner answers: memory of this host by shm, other memory by
        verbs. Regions with the right to atomics are served by verbs alone then, unless its NIC makes them atomic with
        respect to the CPUs ("global"). ``sl`` is the service level of requests, 0 to 15, and ``traffic_class``
        is the traffic class of the global routing header, 0 to 255, which is DSCP and ECN on RoCE v2.
        "verbs://mlx5_0,verbs://mlx5_1", two devices or ports of verbs, are two paths: when one is lost, ops go on by
        the other.
    secret : bytes, optional
        Secret that both sides must know, at least 16 bytes. By default ``$DSMEM_SECRET``, ``$DSMEM_SECRET_FILE``, or
        a random one in the user's configuration folder. A secret that is not 64 hexadecimal digits is stretched, which
        takes about 0.1 s once per process.
    listen : str, optional
        Address on which the agent listens, "host" or "host:port"; verbs and tcp only.
    advertise : str, optional
        The address at which peers reach the agent, "host" or "host:port", if it is another one than ``listen``: of the
        host of a container, or of a router that translates addresses (NAT). It goes into descriptors.
    peer_timeout : float
        Seconds after which a peer that has not answered is an error.
    spin : float, optional
        Seconds to poll for completions before sleeping; by default 50 µs.
    registration_cache : int, optional
        Bytes of local buffers that stay registered with a device of verbs between ops; by default 256 MiB, 0: none. A
        local buffer of more than 8 KiB must be registered, which takes two system calls for each op. If it lies in
        memory that a NumPy array has allocated, it stays registered until the array is deleted, or others need the
        room. NumPy cannot resize such an array in place as long as the context is open.
    depth : int
        Requests in a send queue; 0: 128.

    Raises
    ------
    InvalidArgumentError
        An argument is invalid.
    FabricUnavailableError, NoDeviceError, ProviderMissingError, LockedMemoryError
        The fabric does not work here; the message says what to do.

    Notes
    -----
    Threads may share a context. Close it, or use it in a ``with`` statement: its regions and remotes are closed with
    it. The end of the block raises BusyError as :meth:`close` does, unless the block has raised itself.

    Examples
    --------
    >>> with dsmem.Context("verbs://mlx5_0") as context:
    ...     region = context.empty((1024, 4), "f8")
    ...     remote = context.attach(descriptor)
    """

    _rejected = 0  # rejected connections that have been logged
    _serves = False  # requests to its service are kept from the start, until the service takes them
    _of_cluster = False  # opened by a cluster for its own use: the program does not know of it

    def __init__(
        self,
        fabric: str = "auto",
        *,
        secret: bytes | None = None,
        listen: str | None = None,
        advertise: str | None = None,
        peer_timeout: float = 2.0,
        spin: float | None = None,
        registration_cache: int | None = None,
        depth: int = 0,
    ) -> None:
        depth = _whole("depth", depth)
        urls = parse_fabrics(fabric)
        if depth:
            urls = tuple(url.having(depth=depth) if "depth" in _core.OPTIONS[url.fabric] else url for url in urls)
        node_records.sweep()
        super().__init__(
            ",".join(url.for_core() for url in urls),
            secret=_secret(secret),
            listen=None if listen is None else _text("listen", listen),
            advertise=None if advertise is None else _text("advertise", advertise),
            peer_timeout=peer_timeout,
            spin=spin,
            registration_cache=registration_cache,
            fault=urls[0].fault,
            serves=self._serves,
        )
        for each in self.fabrics:
            _warn_of_public(each.address)
        _open.add(self)
        node_records.record_node(self.node_id, self.fabric, self.agent_address)

    def close(self) -> None:
        """Close the context with its regions and remotes. Closing twice has no effect.

        Raises
        ------
        BusyError
            A region has views, or calls are under way in other threads. Nothing is closed then.
        """
        if self.closed:
            return
        with contextlib.suppress(errors.DsmemError):  # after a fork: the parent logs its own
            self._log_rejected(super().stats["rejected"])
        node_records.forget_node(self.node_id)  # first: an interrupt after the last step would leave the record behind
        try:
            super().close()
        except errors.BusyError:
            node_records.record_node(self.node_id, self.fabric, self.agent_address)
            raise

    def _closed_by_destructor(self) -> None:
        node_records.forget_node(self.node_id)  # a signal's handler may have raised in close() before it did this

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the context was opened: posts, doorbells, signalled, wakeups, connects, rejected, failovers,
        bulk, cache_hits, cache_misses, cache_evicted, cache_bytes.

        posts
            Ops given to the fabric. Ops on mapped memory are not counted.
        doorbells
            Times that the device was notified of new requests.
        signalled
            Requests posted with a completion of their own.
        wakeups
            Sleeps on the completion channel.
        connects
            Connections made.
        rejected
            Connections that the agent dropped because they failed to authenticate or broke the protocol. Reading this
            also logs them, under "dsmem".
        failovers
            Times that another path to a peer was taken than before: by another device of this context, or of the peer.
        bulk
            Ops that went by another fabric than the atomics of their region, :attr:`Remote.bulk_fabric`. One read for
            each call that has such ops is among the posts.
        cache_hits, cache_misses
            Ops whose local buffer the registration cache had, or had not and was asked to keep.
        cache_evicted
            Buffers that the registration cache no longer keeps because others needed the room.
        cache_bytes
            Bytes that the registration cache keeps now.
        """
        stats = super().stats
        self._log_rejected(stats["rejected"])
        return stats

    def _log_rejected(self, now: int) -> None:
        """Log the connections that the agent has dropped. Its thread runs no Python, so the next caller logs them."""
        if now > self._rejected:
            new, self._rejected = now - self._rejected, now
            text = "the agent at %s dropped %d connections that did not know the secret or broke the protocol"
            _log.warning(text, self.agent_address, new)


def _secret(given: Any) -> bytes:
    if given is None:
        return secret.key(secret.default_secret())
    if isinstance(given, (bytes, bytearray, memoryview)):
        return secret.key(bytes(given))
    raise errors.ArgumentTypeError(f"secret= is of type {type(given).__name__}; pass bytes, of text its .encode()")
