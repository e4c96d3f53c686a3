"""``dsmem serve``: a process that answers for the names of this host, so that processes of other hosts use them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

import dsmem
from dsmem import errors
from dsmem.cli.log import logged
from dsmem.cli.metrics import endpoint, exposed
from dsmem.cli.rendezvous import Endpoint
from dsmem.context import parse_fabrics
from dsmem.membership.coordinator import Coordinator
from dsmem.membership.copies import Copies
from dsmem.membership.node import Member
from dsmem.membership.state import Disk
from dsmem.memory import bytes_of
from dsmem.names.remote import agent_addresses, parse_address
from dsmem.names.server import GRACE_SECONDS, NameServer
from dsmem.node_records import forget_node

_LEASE_SECONDS, _SILENCE_SECONDS = 0.5, 2.0
_END_SECONDS = 3.0  # for threads that wait for another process


class _Context(dsmem.Context):
    """A client that comes before the names are served waits for them. (Otherwise it is told that none are served.)"""

    _serves = True


class _Bytes(click.ParamType[int]):
    name = "size"

    def convert(self, value: str | int, parameter: click.Parameter | None, context: click.Context | None) -> int:
        found = bytes_of(str(value))
        if found is None:
            self.fail(f"{value!r} is not a number of bytes, such as 4096, 64MiB or 4GiB", parameter, context)
        return found


def _fabrics(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        if not {"tcp", "verbs"} & {url.fabric for url in parse_fabrics(value)}:
            raise click.BadParameter(f"{value} reaches no other host; take tcp")
    except errors.InvalidArgumentError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _coordinator_at(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            parse_address(value)
    except (errors.InvalidArgumentError, errors.InvalidNameError) as error:
        raise click.BadParameter(str(error)) from None
    return value


@click.command()
@click.option(
    "--listen", required=True, metavar="HOST[:PORT]", help="Address for other hosts; 0.0.0.0:7700 for all of this host."
)
@click.option("--advertise", metavar="HOST[:PORT]", help="Address at which other hosts reach it, where NAT is between.")
@click.option(
    "--memory", type=_Bytes(), metavar="SIZE", help="Most that objects may hold, such as 4GiB; by default no limit."
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long a client may be cut off before others go on with what it held; inf: without limit.",
)
@click.option(
    "-f",
    "--fabric",
    default="tcp",
    show_default=True,
    callback=_fabrics,
    help="tcp; verbs, whose clients open contexts on verbs; or both, where a device's atomics exclude those of CPUs.",
)
@click.option("--coordinator", is_flag=True, help="Decide for stores with copies at memory nodes; needs --state.")
@click.option(
    "--state",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Folder of the coordinator's decisions, on a disk that outlives the process.",
)
@click.option(
    "--join",
    metavar="tcp://HOST:PORT",
    callback=_coordinator_at,
    help="Be a memory node of the coordinator at this address.",
)
@click.option("--domain", metavar="LABEL", help="What fails together with this node; by default its host.")
@click.option(
    "--lease",
    type=click.FloatRange(min=0.01, max=3600),
    default=_LEASE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Of a coordinator: how long a client may read without asking whether a copy still counts.",
)
@click.option(
    "--silence",
    type=click.FloatRange(min=0.05, max=86400),
    default=_SILENCE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Of a coordinator: how long a memory node may give no answer before stores go on without it.",
)
@click.option(
    "--copy-rate",
    type=_Bytes(),
    metavar="SIZE",
    help="Of a coordinator: most bytes a second with which copies are made again or moved; by default no limit.",
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    callback=lambda context, parameter, value: None if value is None else endpoint(value),
    help="Figures for Prometheus, by HTTP, for all that reach the port; by default on this host alone.",
)
@click.option("-q", "--quiet", is_flag=True, help="Log no events; only what has failed for good.")
def serve(
    listen: str,
    advertise: str | None,
    memory: int | None,
    grace: float,
    fabric: str,
    coordinator: bool,
    state: str | None,
    join: str | None,
    domain: str | None,
    lease: float,
    silence: float,
    copy_rate: int | None,
    metrics: Endpoint | None,
    quiet: bool,
) -> None:
    """Answer for the names of this host, so that other hosts use them.

    dsmem.connect("tcp://HOST:PORT/CLUSTER") finds and makes names here; processes of this host use the same names by
    dsmem.connect("CLUSTER"). One line says when it is ready. SIGTERM and SIGINT end it: names stay, and what other
    hosts have opened fails. A client that has been cut off for longer than --grace is refused from then on (it
    connects again with a new context), and others go on with the locks that it held.

    With --fabric verbs clients open contexts on verbs. On a device whose atomics do not exclude those of CPUs (most)
    the names are in memory of this process alone: processes of this host use them by the address, too, and they end
    with it.

    With --coordinator, and with processes that --join it, stores go on when some of those are gone. All of them have
    the same --fabric. What happens to them is logged to standard error, one line for each event. A process that can't
    join, since there is no coordinator at the address, or the secrets or the fabrics differ, ends with status 1; a
    coordinator that is not there yet is waited for.
    """
    if coordinator != (state is not None):
        raise click.UsageError("--coordinator and --state DIR belong together")
    if domain is not None and join is None:
        raise click.UsageError("--domain is of a memory node; give --join, too")
    if copy_rate is not None and (not coordinator or not copy_rate):
        raise click.UsageError("--copy-rate is of a coordinator, and 1 or more")
    try:
        context = _Context(fabric, listen=listen, advertise=advertise)
    except errors.InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    with context, contextlib.ExitStack() as stack:
        server = NameServer(context, memory, grace)
        stack.enter_context(logged(quiet))
        for each in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(each, lambda number, frame: server.stop())
            stack.callback(signal.signal, each, before)
        address = next(way.address for way in context.fabrics if way.address.startswith("tcp:"))
        where = f"tcp://{address.removeprefix('tcp:')}"
        made = None
        if state is not None:
            made = stack.enter_context(_coordinating(server, state, lease, silence, copy_rate))
        copies, member = stack.enter_context(_joined(server, join, where, domain)) if join is not None else (None, None)
        if metrics is not None:
            stack.enter_context(exposed(metrics, server, made, copies, member))
        _run(server, where, made, member)


def _run(server: NameServer, where: str, coordinator: Coordinator | None, member: Member | None) -> None:
    def ready() -> None:
        if member is not None:
            member.start()
        click.echo(f"serving names at {where}")

    server.run(ready)
    if member is not None and member.failed is not None:
        raise click.ClickException(f"--join {member.coordinator}: {_refusal(member.failed)}")
    if coordinator is not None and coordinator.broken:
        raise click.ClickException(f"the coordinator decides nothing any more: {coordinator.broken}")


def _refusal(error: errors.DsmemError) -> str:
    if isinstance(error, errors.UnsupportedError):
        return "the process there is no coordinator; give the address of one: dsmem serve --coordinator --state DIR"
    return str(error)


@contextlib.contextmanager
def _coordinating(
    server: NameServer, state: str, lease: float, silence: float, rate: int | None
) -> Iterator[Coordinator]:
    made = Coordinator(server, Disk(state), lease, silence, rate)
    made.start()
    try:
        yield made
    finally:
        if not made.stop(_END_SECONDS):
            _end(server)


@contextlib.contextmanager
def _joined(server: NameServer, coordinator: str, address: str, domain: str | None) -> Iterator[tuple[Copies, Member]]:
    host, port, _ = parse_address(coordinator)
    copies = Copies(server)
    label = parse_address(address)[0] if domain is None else domain
    member = Member(server.context, agent_addresses(host, port)[0], copies, address, label, server.stop)
    try:
        yield copies, member
    finally:
        in_time = member.stop(_END_SECONDS)
        copies.close()
        if not in_time:
            _end(server)


def _end(server: NameServer) -> NoReturn:
    """End the process, since a thread waits for a process that does not answer, and keeps the context open.

    The names were let go of before. What is left are connections and memory, which the kernel takes back.
    """
    error = sys.exc_info()[1]
    if error is not None:
        click.echo(f"Error: {error}", err=True)
    forget_node(server.context.node_id)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0 if error is None else 1)
