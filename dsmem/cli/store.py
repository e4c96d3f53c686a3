"""``dsmem store``: stores of pages are listed, described, checked, repaired and removed. ``dsmem top`` watches them."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from typing import Any

import click
from rich.console import Group as Lines
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dsmem import errors
from dsmem.cli.names import checked_names, cluster_option, complete_name, json_option, one_cluster_option, places
from dsmem.cli.nodes import table_of
from dsmem.cli.output import Page, Placed
from dsmem.cli.rows import SECONDS, Rows, called, calls_of, copies_of, health, health_at, opened, progress_of
from dsmem.membership.client import nodes
from dsmem.membership.messages import Calls
from dsmem.names.remote import RemoteNames

_SHOWN = 20  # pages that are wrong
_TOP_SECONDS = 2.0  # for the stores of a table
_WAIT_SECONDS = 0.2  # between two looks at a copy that is being made


@click.group("store")
def store() -> None:
    """Stores of pages: what there is, and whether it is whole."""


_COLUMNS = ("cluster", "name", "page size", "pages", "used", "copies", "clients", "bytes")


def _table(rows: list[dict[str, Any]]) -> Table:
    """Return a line for each store. What is wrong with it stands behind the figures, or in their place."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title in ("cluster", "name") else "right", overflow="fold")
    if any(row.get("error") or row.get("health", {}).get("trouble") for row in rows):
        table.add_column("trouble", overflow="fold")
    for row in rows:
        names, health = (Text(row["cluster"]), Text(row["name"])), row.get("health")
        if "error" in row:
            copies = copies_of(health) if health is not None else ""
            table.add_row(*names, "", "", "", copies, "", "", Text(row["error"], style="red"))
            continue
        copies = copies_of(health) if health is not None else f"{row['replicas']}/{row['replicas']}"
        used, held = row["pages"] - row["free"], row["pages"] * row["page_size"] * int(copies.partition("/")[0])
        figures = *map(str, (row["page_size"], row["pages"], used)), copies, f"{row['handles']}/{row['members']}"
        trouble = (Text(_trouble(health), style="yellow"),) if len(table.columns) > len(_COLUMNS) else ()
        table.add_row(*names, *figures, str(held), *trouble)
    return table


def _trouble(health: dict[str, Any] | None) -> str:
    if health is None:
        return ""
    done, pages = progress_of(health)
    return f"{health['trouble']} ({done * 100 // pages} %)" if pages else str(health["trouble"])


@store.command("ls", cls=Placed)
@cluster_option
@json_option
def list_stores(cluster: str | None, as_json: bool) -> None:
    """List the stores of pages, how much of each is in use, and which copies are missing.

    Each is opened for that, which takes one of its places for clients for a moment. Those that do not answer within 5 s
    are shown without figures.
    """
    rows = Rows().of(places(cluster, None))
    if as_json:
        click.echo(json.dumps(rows))
    elif rows:
        Page(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 10_000).print(_table(rows))
    else:
        click.echo("no stores", err=True)


@store.command("stat", cls=Placed)
@click.argument("name", callback=checked_names, shell_complete=complete_name)
@one_cluster_option
@json_option
def show(name: str, cluster: str, as_json: bool) -> None:
    """Say what a store has: pages, free ones, open handles, copies, and which of these are missing and why."""
    known = health(cluster, name)
    if known is not None and not known["open"]:
        if as_json:
            click.echo(json.dumps({"health": known}))
        raise click.ClickException(f"the store {name!r} is not open, {copies_of(known)} copies: {known['trouble']}")
    with opened(cluster, name) as store:
        found = store.stat()
        known = store.health()
    if as_json:
        click.echo(json.dumps({**found, "health": known}))
        return
    for key in ("page_size", "pages", "free", "replicas", "extents", "handles", "members"):
        click.echo(f"{key:10} {found[key]}")
    click.echo(f"{'copies':10} {copies_of(known)}")
    alone = known["domains"] == 1 and found["replicas"] > 1
    click.echo(f"{'domains':10} {known['domains']}{', whose copies may be lost together' if alone else ''}")
    if known["trouble"]:
        click.echo(f"{'trouble':10} {_trouble(known)}")


def _called_page(number: int) -> str:
    """By its id, or by what is known of it: `Store.check`."""
    return f"page {number}" if number >> 40 else f"page number {number}, whose id is not known"


@store.command("check", cls=Placed)
@click.argument("name", callback=checked_names, shell_complete=complete_name)
@one_cluster_option
@click.option("--repair", is_flag=True, help="Write pages that are damaged at some copies again from another copy.")
@json_option
def check(name: str, cluster: str, repair: bool, as_json: bool) -> None:
    """Look at all pages of a store, at all copies.

    Exit status: 0 all is as it should be, or has been repaired; 1 something is wrong, or a copy is missing.
    """
    known = health(cluster, name)
    if known is not None and not known["open"]:
        raise click.ClickException(f"the store {name!r} is not open, {copies_of(known)} copies: {known['trouble']}")
    bar = Progress(console=Page(stderr=True), disable=as_json or not sys.stderr.isatty(), transient=True)
    with opened(cluster, name) as store, bar:
        task = bar.add_task("pages", total=None)
        found = store.check(repair=repair, progress=lambda n, total: bar.update(task, completed=n, total=total))
        known = store.health()
    if as_json:
        click.echo(json.dumps({**found, "health": known}))
    else:
        click.echo(f"{found['pages']} pages, {len(found['wrong'])} wrong, {found['repaired']} repaired")
        if found["changing"]:
            click.echo(f"{found['changing']} pages were being changed: nothing is known of them")
        for number, text in list(found["wrong"].items())[:_SHOWN]:
            click.echo(f"{_called_page(number)}: {text}")
        if len(found["wrong"]) > _SHOWN:
            click.echo(f"and {len(found['wrong']) - _SHOWN} more; --json shows all")
        for each in known["missing"]:
            click.echo(f"{called(each)} is missing: {each['why']}")
    if found["wrong"] or known["missing"]:
        raise click.exceptions.Exit(1)


@store.command("wait", cls=Placed)
@click.argument("name", callback=checked_names, shell_complete=complete_name)
@one_cluster_option
@click.option(
    "-t", "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="By default as long as it takes."
)
def wait(name: str, cluster: str, timeout: float | None) -> None:
    """Wait until a store of a coordinator has all its copies, and show how far those are that are being made.

    Exit status: 0 all copies are there; 1 they are not within the time, or never will be. A coordinator that does not
    answer is waited for about a second longer than --timeout at most.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout

    def rest() -> float:
        return max(1.0, min(SECONDS, end - time.monotonic()))

    bar = Progress(console=Page(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    names = places(cluster, None, timeout)[0]
    with bar:
        task, found = bar.add_task("pages", total=None), health_at(names, name, rest())
        while found is not None and (found["missing"] or not found["open"]):
            if "have ended" in found["trouble"] or time.monotonic() >= end:
                raise click.ClickException(f"{copies_of(found)} copies: {found['trouble']}")
            done, pages = progress_of(found)
            bar.update(task, completed=done, total=pages or None, description=_short(found))
            time.sleep(min(_WAIT_SECONDS, max(0.0, end - time.monotonic())))
            found = health_at(names, name, rest())
    if found is None:
        raise click.ClickException(f"{cluster} has no coordinator, so no copy is made again there")
    click.echo(f"{copies_of(found)} copies")


def _short(found: dict[str, Any]) -> str:
    making = next((each for each in found["missing"] if each["pages"]), None)
    return f"{called(making)} at {making['node']}" if making is not None else "waiting"


@store.command("drop", cls=Placed)
@click.argument("names", nargs=-1, required=True, metavar="NAME…", callback=checked_names, shell_complete=complete_name)
@one_cluster_option
def drop(names: tuple[str, ...], cluster: str) -> None:
    """Remove stores, with all copies. Names of other objects are refused."""
    (place,) = places(cluster, None)
    kinds, failed = {info.name: info.kind for info in place.infos()}, False
    for name in names:
        try:
            if kinds.get(name, "store") != "store":
                raise errors.MismatchError(f"{name!r} is a {kinds[name]}; 'dsmem rm' removes it")
            place.unlink(name)
        except errors.DsmemError as error:
            click.echo(f"dsmem store drop: {error}", err=True)
            failed = True
    if failed:
        raise click.exceptions.Exit(1)


# ---- top ----


def _clusters(found: list[Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("cluster", "names", "bytes", "dead"):
        table.add_column(title, justify="left" if title == "cluster" else "right", overflow="fold")
    for place in found:
        infos = place.infos()
        numbers = len(infos), sum(info.nbytes for info in infos), sum(info.left for info in infos)
        table.add_row(Text(place.cluster), *map(str, numbers))
    return table


_CALLS = ("read", "write", "commit")
_RATES = ("read/s", "written/s", "commits/s", "retries/s", "conflicts/s")  # the first two of pages
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def _calls(found: list[Any]) -> list[Table]:
    """Return what clients have done with each store in the last 10 to 20 s, as far as they have told a coordinator.

    Times are the 50th and 99th percentile.
    """
    rates, times = _figures(*_RATES), _figures(*(f"{call} p50/p99" for call in _CALLS))
    for place in found:
        stores = [info.name for info in place.infos() if info.kind == "store"]
        for name, calls in calls_of(place, stores, _TOP_SECONDS):
            rates.add_row(Text(place.cluster), Text(name), *_rates(calls))
            times.add_row(Text(place.cluster), Text(name), *_times(calls))
    return [rates, times] if rates.row_count else []


def _figures(*titles: str) -> Table:
    """Return a table of which names are folded where there is no room, and figures are not."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("cluster", "name"):
        table.add_column(title, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _rates(calls: Calls) -> list[str]:
    n, seconds = calls.counts, max(calls.seconds, 1.0)
    read, written = n["read"] + n["read_many_pages"], n["write"] + n["compare_write"] + n["write_many_pages"]
    return [f"{each / seconds:.0f}" for each in (read, written, n["commit"], n["retries"], n["conflicts"])]


def _times(calls: Calls) -> list[str]:
    return ["/".join(_time(each) for each in calls.latencies.get(call, ())) for call in _CALLS]


def _time(seconds: float) -> str:
    """Return a time with two or three digits and its unit."""
    least, unit = next((each for each in _UNITS if seconds >= 0.9995 * each[0]), _UNITS[-1])
    number = seconds / least
    return f"{number:.{1 if number < 9.95 else 0}f} {unit}"


def _screen(cluster: str | None, rows_of: Rows) -> Lines:
    """Return what there is now. Other processes may make and remove clusters meanwhile."""
    found = places(cluster, None)
    rows = rows_of.of(found, _TOP_SECONDS)
    lines = Lines(_clusters(found), Text(), _table(rows) if rows else Text("no stores", style="dim"))
    for calls in _calls(found):
        lines = Lines(lines, Text(), calls)
    for place in found:
        if isinstance(place, RemoteNames) and place.nodes == 1 and place.coordinates():
            lines = Lines(lines, Text(), table_of(nodes(place)))
    return lines


@click.command("top", cls=Placed)
@cluster_option
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two tables.",
)
@click.option("-n", "--times", type=click.IntRange(min=1), help="How often; by default until Ctrl-C.")
def top(cluster: str | None, interval: float, times: int | None) -> None:
    """Watch clusters, memory nodes and stores: use, copies and calls.

    Calls are those of clients of a coordinator's stores.

    On a terminal the table is drawn again and again; otherwise each one follows the one before.
    """
    console = Page(highlight=False)
    live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal and times is None else None
    shown, rows_of = 0, Rows()
    with live or contextlib.nullcontext():
        while times is None or shown < times:
            if shown:
                time.sleep(interval)
            if live is None:
                console.print(_screen(cluster, rows_of))
            else:
                live.update(_screen(cluster, rows_of), refresh=True)
            shown += 1
