"""``dsmem ls``, ``rm`` and ``gc``: the names of this host, or of a server."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict

import click
from click.shell_completion import CompletionItem
from rich.table import Table
from rich.text import Text

from dsmem import errors
from dsmem.cli.output import Page, Placed
from dsmem.names import local
from dsmem.names.base import check_cluster, check_name
from dsmem.names.nodes import Nodes
from dsmem.names.remote import is_address, split_address


def _complete_cluster(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    with contextlib.suppress(errors.DsmemError):
        found = local.clusters(_number(context.params.get("owner")))
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]
    return []


def complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete with names of the cluster on the command line, except those that are on the command line already."""
    cluster, given = context.params.get("cluster") or "default", context.params.get("names") or ()
    if is_address(cluster):
        return []
    with contextlib.suppress(errors.DsmemError, click.ClickException):
        (place,) = places(cluster, context.params.get("owner"))  # opening a cluster that does not exist would make it
        left = (info for info in place.infos() if info.name.startswith(incomplete) and info.name not in given)
        return [CompletionItem(info.name, help=info.kind) for info in left]
    return []


def checked_names(context: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None) -> object:
    """Refuse invalid names before anything is done."""
    try:
        for name in (value,) if isinstance(value, str) else value or ():
            check_name(name)
    except errors.InvalidNameError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _checked_cluster(context: click.Context, parameter: click.Parameter, value: str | None) -> object:
    try:
        if is_address(value):
            split_address(str(value))
        elif value is not None:
            check_cluster(value)
    except (errors.InvalidNameError, errors.InvalidArgumentError) as error:
        raise click.BadParameter(str(error)) from None
    return value


def _checked_owner(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        _number(value)
    except errors.InvalidArgumentError as error:
        raise click.BadParameter(str(error)) from None
    return value


cluster_option = click.option(
    "-c",
    "--cluster",
    callback=_checked_cluster,
    shell_complete=_complete_cluster,
    help="Only this cluster, or tcp://HOST:PORT/NAME of a server; by default all of the user's.",
)
one_cluster_option = click.option(
    "-c",
    "--cluster",
    default="default",
    show_default=True,
    callback=_checked_cluster,
    shell_complete=_complete_cluster,
    help="The cluster that they are in, or tcp://HOST:PORT/NAME of a server.",
)
_owner = click.option("--owner", callback=_checked_owner, help="Another user, by name or number.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


def _number(owner: str | None) -> int:
    if owner is None:
        return os.geteuid()
    return int(owner) if owner.isdecimal() else local.user_number(owner)


def places(cluster: str | None, owner: str | None, timeout: float | None = None) -> list[local.LocalNames | Nodes]:
    """Return the existing clusters, or the one that was named, which must exist.

    timeout: seconds for which a server is waited for, 1 to 10; by default 10.
    """
    if is_address(cluster):
        if owner is not None:
            raise click.UsageError("--owner is of this host; a server has the names of the user who runs it")
        place = Nodes(str(cluster), timeout=timeout)
        click.get_current_context().call_on_close(place.close)
        return [place]
    number = _number(owner)
    found = local.clusters(number)
    if cluster is not None:
        # Another user's folder may not be readable, although the named cluster in it is open to this user.
        if cluster not in found and number == os.geteuid():
            raise click.ClickException(f"no such cluster: {cluster!r}; 'dsmem ls' shows those that there are")
        found = [cluster]
    return [local.LocalNames(name, number) for name in found]


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


@click.command("ls", cls=Placed)
@cluster_option
@_owner
@json_option
def list_names(cluster: str | None, owner: str | None, as_json: bool) -> None:
    """List the names on this host.

    What they are, how large, whose and how old. Lifetime "creator" ends with the creator of the object; "(dead)" after
    it: the creator is dead, and 'dsmem gc' removes the name.
    """
    rows = [{"cluster": n.cluster, **asdict(info)} for n in places(cluster, owner) for info in n.infos()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("cluster", "name", "kind", "bytes", "owner", "age", "lifetime"):
        table.add_column(title, justify="right" if title in ("bytes", "age") else "left", overflow="fold")
    for row in rows:
        cells = (row["cluster"], row["name"], row["kind"], str(row["nbytes"]), row["owner"])
        lifetime = f"{row['lifetime']} (dead)" if row["left"] else row["lifetime"]
        style = "red" if row["left"] or row["kind"] == "corrupt" else ""
        table.add_row(*(Text(c) for c in cells), _age(time.time() - row["created"]), lifetime, style=style)
    if rows:
        # One line per name, of any length, so that other programs can read the output.
        Page(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 10_000).print(table)
    else:
        click.echo("no names", err=True)


@click.command("rm", cls=Placed)
@click.argument("names", nargs=-1, required=True, metavar="NAME…", callback=checked_names, shell_complete=complete_name)
@one_cluster_option
@_owner
def remove(names: tuple[str, ...], cluster: str, owner: str | None) -> None:
    """Remove names.

    Processes that use the objects keep access; the memory is freed when the last of them closes it.
    """
    (place,) = places(cluster, owner)
    failed = False
    for name in names:
        try:
            place.unlink(name)
        except errors.DsmemError as error:
            click.echo(f"dsmem rm: {error}", err=True)
            failed = True
    if failed:
        raise click.exceptions.Exit(1)


@click.command("gc", cls=Placed)
@cluster_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
def collect(cluster: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove names whose creators are dead, and empty clusters.

    Only names with the lifetime "creator" end with their creators; those with the lifetime "name" stay.
    """
    removed, emptied = [], []
    for place in places(cluster, None):
        if dry_run:
            infos = place.infos()
            gone = [info.name for info in infos if info.left]
            is_empty = isinstance(place, local.LocalNames) and all(info.left for info in infos)
        else:
            gone, is_empty = place.gc(), place.remove_if_empty()
        removed += [{"cluster": place.cluster, "name": name} for name in gone]
        emptied += [place.cluster] if is_empty else []
    if as_json:
        click.echo(json.dumps({"names": removed, "clusters": emptied}))
        return
    done = "would remove" if dry_run else "removed"
    for row in removed:
        click.echo(f"{done} {row['cluster']}/{row['name']}")
    for name in emptied:
        click.echo(f"{done} the empty cluster {name}")
