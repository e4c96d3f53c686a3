"""``dsmem serve --metrics``: figures of the process for Prometheus, over HTTP. docs/howto/metrics.md has their names.

They are read when they are asked for, by a thread of the HTTP server. What clients do is what they have reported.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import click

from dsmem import errors
from dsmem.cli.rendezvous import Endpoint
from dsmem.membership.coordinator import Coordinator
from dsmem.membership.copies import Copies
from dsmem.membership.node import Member
from dsmem.metrics import families
from dsmem.names.server import NameServer

_log = logging.getLogger("dsmem")
_HOST = "127.0.0.1"
_PHASES = ("new", "closed", "open", "lost")


def endpoint(text: str) -> Endpoint:
    """Return what PORT or HOST:PORT means. All that reach the port see everything, so PORT is of this host alone."""
    if re.search(r"(^|:)\d+$", text) is None:
        raise click.BadParameter(f"{text!r} has no port; give PORT or HOST:PORT")
    return Endpoint.parse(f"{_HOST}:{text}" if text.isdecimal() else text)


@contextlib.contextmanager
def exposed(
    at: Endpoint, server: NameServer, coordinator: Coordinator | None, copies: Copies | None, member: Member | None
) -> Iterator[None]:
    """Answer questions for figures during the block.

    Raises
    ------
    click.ClickException
        prometheus-client is missing, or the port is taken.
    """
    try:
        import prometheus_client
    except ImportError:
        raise click.ClickException("--metrics needs prometheus-client; run: pip install 'dsmem[metrics]'") from None
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Figures(server, coordinator, copies, member))
    try:
        http, thread = prometheus_client.start_http_server(at.port, at.host, registry)
    except OSError as error:
        raise click.ClickException(str(errors.SystemCallError(f"--metrics {at}", sys=error.errno or 0))) from None
    _log.info("metrics at http://%s/metrics", Endpoint(at.host, http.server_port))
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Figures:
    """What the registry collects from."""

    def __init__(
        self, server: NameServer, coordinator: Coordinator | None, copies: Copies | None, member: Member | None
    ) -> None:
        self._server, self._coordinator, self._copies, self._member = server, coordinator, copies, member

    def collect(self) -> Iterable[Any]:
        """Return all figures."""
        yield from self._of_names()
        if self._coordinator is not None:
            yield from self._of_nodes(self._coordinator)
            yield from self._of_stores(self._coordinator)
            yield from families(self._coordinator.calls())
        if self._copies is not None and self._member is not None:
            yield from self._of_copies(self._copies, self._member)

    def _of_names(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        asked = CounterMetricFamily("dsmem_requests", "Requests that were answered, by kind", labels=["request"])
        for kind, count in list(self._server.answered.items()):
            asked.add_metric([kind.name.lower()], count)
        yield asked
        yield GaugeMetricFamily("dsmem_held_bytes", "Bytes of memory of objects", value=self._server.held_bytes())

    def _of_nodes(self, coordinator: Coordinator) -> Iterable[Any]:
        from prometheus_client.core import GaugeMetricFamily

        states = Counter("up" if node.is_up else "silent" for node in coordinator.nodes())
        nodes = GaugeMetricFamily("dsmem_nodes", "Memory nodes, by whether they answer", labels=["state"])
        for state in ("up", "silent"):
            nodes.add_metric([state], states[state])
        yield nodes

    def _of_stores(self, coordinator: Coordinator) -> Iterable[Any]:
        from prometheus_client.core import GaugeMetricFamily

        found = coordinator.stores()
        phases = Counter(store.phase for store in found)
        stores = GaugeMetricFamily("dsmem_stores", "Stores, by state", labels=["state"])
        for phase in _PHASES:
            stores.add_metric([phase], phases[phase])
        yield stores
        for name, text, field in (
            ("dsmem_store_epoch", "Epoch of a store; it grows with each change of its copies", "epoch"),
            ("dsmem_store_copies", "Copies of a store that count", "copies"),
            ("dsmem_store_copies_wanted", "Copies of a store that are promised", "replicas"),
            ("dsmem_store_bytes", "Bytes of the copies of a store", "nbytes"),
            ("dsmem_store_pages_filled", "Pages that copies which are being made have by now", "done"),
            ("dsmem_store_pages_to_fill", "Pages that these are to have", "pages"),
        ):
            each = GaugeMetricFamily(name, text, labels=["cluster", "store"])
            for store in found:
                each.add_metric([store.cluster, store.name], getattr(store, field))
            yield each

    def _of_copies(self, copies: Copies, member: Member) -> Iterable[Any]:
        from prometheus_client.core import GaugeMetricFamily

        count, nbytes = copies.held()
        yield GaugeMetricFamily("dsmem_copies", "Copies of stores at this memory node", value=count)
        yield GaugeMetricFamily("dsmem_copies_bytes", "Bytes of these", value=nbytes)
        registered = GaugeMetricFamily("dsmem_registered", "1 if the coordinator knows this memory node")
        registered.add_metric([], float(member.is_registered))
        yield registered
