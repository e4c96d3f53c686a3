"""``dsmem ls``, ``rm`` and ``gc``: the names of this host."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsmem import errors
from dsmem.cluster import local

_cluster = click.option("-c", "--cluster", help="Only this cluster; by default all of the user's.")
_owner = click.option("--owner", help="Another user, by name or number.")
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


def _number(owner: str | None) -> int:
    if owner is None:
        return os.geteuid()
    return int(owner) if owner.isdecimal() else local.user_number(owner)


def _places(cluster: str | None, owner: str | None) -> list[local.LocalNames]:
    """The clusters that there are; one that was asked for by name must be one of them."""
    number = _number(owner)
    found = local.clusters(number)
    if cluster is not None:
        # Of another user the list of clusters may be closed, and the one that was asked for open.
        if cluster not in found and number == os.geteuid():
            raise click.ClickException(f"no such cluster: {cluster!r}; 'dsmem ls' shows those that there are")
        found = [cluster]
    return [local.LocalNames(name, number) for name in found]


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@click.command("ls")
@_cluster
@_owner
@_json
def list_names(cluster: str | None, owner: str | None, as_json: bool) -> None:
    """Names of this host: what they are, how large, whose, how old, and whether they go with their creator."""
    rows = [{"cluster": n.cluster, **asdict(info)} for n in _places(cluster, owner) for info in n.infos()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("cluster", "name", "kind", "bytes", "owner", "age", "lifetime"):
        table.add_column(title, justify="right" if title in ("bytes", "age") else "left", overflow="fold")
    for row in rows:
        cells = (row["cluster"], row["name"], row["kind"], str(row["nbytes"]), row["owner"])
        lifetime = f"{row['lifetime']} (dead)" if row["left"] else row["lifetime"]
        table.add_row(*(Text(c) for c in cells), _age(time.time() - row["created"]), lifetime)
    if rows:
        # A line per name, whatever its length, for other programs to read.
        Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 10_000).print(table)


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("-c", "--cluster", default="default", show_default=True, help="The cluster that they are in.")
@_owner
def remove(names: tuple[str, ...], cluster: str, owner: str | None) -> None:
    """Remove names. Who uses what they stand for goes on using it; the memory is freed after the last of them."""
    (place,) = _places(cluster, owner)
    failed = False
    for name in names:
        try:
            place.unlink(name)
        except errors.DsmemError as error:
            click.echo(f"dsmem rm: {error}", err=True)
            failed = True
    if failed:
        raise click.exceptions.Exit(1)


@click.command("gc")
@_cluster
@_json
def collect(cluster: str | None, as_json: bool) -> None:
    """Remove names that were to go with creators that are dead, and the folders of clusters without names."""
    removed, emptied = [], []
    for place in _places(cluster, None):
        removed += [{"cluster": place.cluster, "name": name} for name in place.gc()]
        if place.remove_if_empty():
            emptied.append(place.cluster)
    if as_json:
        click.echo(json.dumps({"names": removed, "clusters": emptied}))
        return
    for row in removed:
        click.echo(f"removed {row['cluster']}/{row['name']}")
    for name in emptied:
        click.echo(f"removed the empty cluster {name}")
