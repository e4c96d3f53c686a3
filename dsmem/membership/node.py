"""How a memory node registers with its coordinator."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from dsmem import _core, errors
from dsmem.membership.copies import Copies
from dsmem.membership.state import NO_LIMIT
from dsmem.names import wire
from dsmem.names.wire import Request

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
_REFUSALS_MOST = 2  # one may come from a process that ends, or that begins


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
