"""``dsmem bench``: latency and bandwidth between two processes, on one host or on two."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import dsmem
from dsmem import _core, secret
from dsmem.cli import measure, owner, rendezvous, report
from dsmem.cli.output import fabric_option
from dsmem.context import parse_fabric

SIZES = (8, 64, 512, 4096, 65536, 1 << 20)
ALL_SIZES = tuple(1 << n for n in range(1, 24))
SECONDS = 0.25
DEPTH = 64

_Size = click.IntRange(1, 1 << 30)


def _fabric(name: str, device: str | None, port: int | None, gid: int | None, mtu: int | None) -> str:
    """Add perftest's options to the URL. With any of them, 'auto' means verbs."""
    options: dict[str, Any] = {"device": device, "port": port, "gid": gid, "mtu": mtu}
    given = {key: value for key, value in options.items() if value is not None}
    if not given:
        return name
    url = parse_fabric("verbs" if name == "auto" else name)
    if not given.keys() <= set(_core.OPTIONS[url.fabric]):
        raise click.UsageError(f"the fabric {url.fabric} has no device: -d, -i, -x and -m are for verbs")
    return str(url.having(**given))


@contextlib.contextmanager
def _tidy_end() -> Iterator[None]:
    """Inside the block SIGTERM raises SystemExit, so that everything is cleaned up as after Ctrl-C."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- the owner's side ----


def _serve(at: rendezvous.Endpoint, fabric: str) -> None:
    known = secret.default_secret()
    with rendezvous.listen(at) as listener:
        port = listener.getsockname()[1]
        is_local = parse_fabric(fabric).fabric == "shm"
        agent = None if is_local else str(rendezvous.Endpoint(at.host, port + 1 if at.port else 0))
        with dsmem.Context(fabric, secret=known, listen=agent) as context:
            here = rendezvous.Endpoint(at.host, port)
            click.echo(f"dsmem {dsmem.__version__} serves memory on {context.fabric}, agent {context.agent_address}")
            click.echo(f"Ctrl-C ends it. On the other host, with the same DSMEM_SECRET, run: dsmem bench {here}")
            rendezvous.serve(listener, context, known, click.echo)


# ---- the measuring side ----


@contextlib.contextmanager
def _remote(
    fabric: str, at: rendezvous.Endpoint | None, nbytes: int
) -> Iterator[tuple[dsmem.Context, dsmem.Remote, dict[str, Any]]]:
    """Yield a context, a remote of the owner's memory, and host, version and address of the owner."""
    if at is None:
        with dsmem.Context(fabric) as context, owner.owner(fabric, nbytes) as raw, context.attach(raw) as remote:
            yield context, remote, {"host": os.uname().nodename, "dsmem": dsmem.__version__, "address": remote.address}
        return
    with rendezvous.meet(at, secret.default_secret(), nbytes) as reply:
        descriptor = dsmem.Descriptor(bytes.fromhex(reply["descriptor"]))
        mine = descriptor.fabric if fabric == "auto" else fabric
        if parse_fabric(mine).fabric != descriptor.fabric:
            raise click.ClickException(f"the server at {at} has the fabric {descriptor.fabric}, not {fabric}")
        with dsmem.Context(mine) as context, context.attach(descriptor) as remote:
            yield context, remote, {"host": reply["host"], "dsmem": reply["version"], "address": remote.address}


def _run(document: dict[str, Any], rows: list[measure.Case], remote: dsmem.Remote, limits: measure.Limits) -> None:
    over = measure.overhead()
    document["overhead_ns"] = {"clock": over.clock_ns, "loop": over.loop_ns}
    document["rows"] = []
    with report.progress(len(rows)) as show:
        for case in rows:
            show(f"{case.op}, {case.nbytes} bytes", len(document["rows"]))
            document["rows"].append(measure.measure(case, remote, limits, over.clock_ns))


def _show(document: dict[str, Any], latency: bool, bandwidth: bool) -> None:
    is_told = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size((report.WIDE, 24)).columns if is_told else report.WIDE
    lines = [click.wrap_text(line, width) for line in report.head(document)]
    for op in dict.fromkeys(row["op"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["op"] == op]
        lines += report.tables(op, rows, latency, bandwidth, width)
    click.echo("\n".join([*lines, *(click.wrap_text(line, width) for line in report.foot(document))]))


def _picture(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        report.check_picture(value)
    return value


@click.command()
@click.argument("server", required=False, metavar="[HOST[:PORT]]")
@click.option(
    "--listen", metavar="HOST[:PORT]", help="Serve memory to 'dsmem bench HOST' on another host, until Ctrl-C."
)
@fabric_option
@click.option("-o", "--op", "ops", multiple=True, type=click.Choice(measure.OPS), help="May be repeated; default: all.")
@click.option("--lat", is_flag=True, help="Show latencies only.")
@click.option("--bw", is_flag=True, help="Show bandwidths only.")
@click.option("-s", "--size", "sizes", multiple=True, type=_Size, metavar="BYTES", help="Of an op; may be repeated.")
@click.option("-a", "--all", "all_sizes", is_flag=True, help="All powers of 2 from 2 bytes to 8 MB.")
@click.option("-n", "--iters", type=click.IntRange(1), metavar="N", help="Calls for each row of the table.")
@click.option(
    "-D",
    "--duration",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help=f"Time for each row; default: {SECONDS}.",
)
@click.option(
    "-t",
    "--tx-depth",
    type=click.IntRange(1, 1 << 20),
    default=DEPTH,
    show_default=True,
    metavar="N",
    help=f"Ops per call of {', '.join(measure.MANY)}.",
)
@click.option("-d", "--ib-dev", metavar="NAME", help="RDMA device.")
@click.option("-i", "--ib-port", type=click.IntRange(1, 255), metavar="N", help="Port of the RDMA device.")
@click.option("-x", "--gid-index", type=click.IntRange(0), metavar="N", help="Index of the port's GID.")
@click.option(
    "-m", "--mtu", type=click.Choice(["256", "512", "1024", "2048", "4096"]), help="Path MTU of the RDMA device."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_picture,
    metavar="FILE",
    help="Draw latency and bandwidth over sizes; the suffix (.png, .svg, .pdf) is the format. Needs matplotlib.",
)
def bench(
    server: str | None,
    listen: str | None,
    fabric: str,
    ops: tuple[str, ...],
    lat: bool,
    bw: bool,
    sizes: tuple[int, ...],
    all_sizes: bool,
    iters: int | None,
    duration: float | None,
    tx_depth: int,
    ib_dev: str | None,
    ib_port: int | None,
    gid_index: int | None,
    mtu: str | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure one-sided ops on memory of another process.

    Without HOST the other process is started here. Between two hosts, or two terminals: 'dsmem bench --listen HOST' on
    one, where HOST is its address, and 'dsmem bench HOST' on the other. Both need the same secret; the ports are PORT
    (18515) and, but for shm, PORT + 1.
    """
    url = _fabric(fabric, ib_dev, ib_port, gid_index, int(mtu) if mtu else None)
    if listen is not None:
        if server is not None or ops or sizes or all_sizes or iters or duration or as_json or plot:
            raise click.UsageError("a server measures nothing: --listen goes only with -f, -d, -i, -x and -m")
        here = rendezvous.Endpoint.parse(listen)
        if here.port == 65535 and parse_fabric(url).fabric != "shm":
            raise click.BadParameter(f"{listen!r}: the agent takes the next port, and there is none; take a lower one")
        with _tidy_end():
            _serve(here, url)
    if (sizes and all_sizes) or (iters and duration):
        raise click.UsageError("-s and -a exclude each other, and so do -n and -D")
    chosen = list(ops or measure.OPS)
    lengths = sorted({*(ALL_SIZES if all_sizes else sizes or SIZES)})
    rows = measure.cases(chosen, lengths, tx_depth)
    limits = measure.Limits(iters, duration or SECONDS)
    at = rendezvous.Endpoint.parse(server) if server else None
    with _tidy_end(), _remote(url, at, measure.region_nbytes(rows)) as (context, remote, whose):
        parameters = {
            "fabric": url,
            "ops": chosen,
            "sizes": lengths,
            "tx_depth": tx_depth,
            "iterations": iters,
            "duration_s": None if iters else limits.seconds,
            "warm_up_s": measure.WARM_NS / 1e9,
        }
        document = report.document(context, whose, parameters)
        _run(document, rows, remote, limits)
    if as_json:
        click.echo(json.dumps(document))
    else:
        _show(document, lat or not bw, bw or not lat)
    if plot:
        report.plot(document, plot)
        click.echo(report.drawn(document, plot), err=True)
