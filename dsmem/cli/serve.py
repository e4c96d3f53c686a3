"""``dsmem serve``: a process that answers for the names of this host, so that processes of other hosts use them."""

from __future__ import annotations

import signal

import click

import dsmem
from dsmem import errors
from dsmem.context import parse_fabrics
from dsmem.memory import bytes_of
from dsmem.names.server import GRACE_SECONDS, NameServer


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
    help="tcp; or verbs,tcp or URLs, of a device whose atomics exclude those of CPUs.",
)
def serve(listen: str, advertise: str | None, memory: int | None, grace: float, fabric: str) -> None:
    """Answer for the names of this host, so that other hosts use them.

    dsmem.connect("tcp://HOST:PORT/CLUSTER") finds and makes names here; processes of this host use the same names by
    dsmem.connect("CLUSTER"). One line says when it is ready. SIGTERM and SIGINT end it: names stay, and what other
    hosts have opened fails. A client that has been cut off for longer than --grace is refused from then on (it
    connects again with a new context), and others go on with the locks that it held.
    """
    try:
        context = dsmem.Context(fabric, listen=listen, advertise=advertise)
    except errors.InvalidArgumentError as error:
        raise click.UsageError(str(error)) from None
    with context:
        server = NameServer(context, memory, grace)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, frame: server.stop())
        address = next(way.address for way in context.fabrics if way.address.startswith("tcp:"))
        server.run(lambda: click.echo(f"serving names at tcp://{address.removeprefix('tcp:')}"))
