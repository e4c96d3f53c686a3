"""``dsmem nodes``: the memory nodes of a coordinator."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from dsmem import errors
from dsmem.cli.output import Page, Placed
from dsmem.membership.client import drain_node, forget_node, nodes
from dsmem.membership.messages import NodeInfo
from dsmem.names.remote import RemoteNames, parse_address


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if "," in value:
        raise click.BadParameter(f"{value!r:.230}: a coordinator stands alone: tcp://HOST:PORT, without other nodes")
    try:
        parse_address(value)
    except (errors.InvalidArgumentError, errors.InvalidNameError) as error:
        raise click.BadParameter(str(error)) from None
    return value


def table_of(found: list[NodeInfo]) -> Table:
    """Return a line for each memory node; those that do not answer are dimmed, and last."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("node", "domain", "state", "copies", "stale", "being made"):
        table.add_column(title, justify="right" if title in ("copies", "stale") else "left", overflow="fold")
    for each in found:
        state = ("up" if each.is_up else f"silent {each.silent_for} s") + (", drained" if each.is_drained else "")
        made = f"{each.making}, {each.done * 100 // each.pages} %" if each.making and each.pages else ""
        cells = (each.address, each.domain, state, str(each.copies), str(each.stale), made)
        table.add_row(*(Text(cell) for cell in cells), style="" if each.is_up else "red" if each.copies else "dim")
    return table


@click.command("nodes", cls=Placed)
@click.option(
    "-c", "--coordinator", required=True, metavar="tcp://HOST:PORT", callback=_address, help="Where it listens."
)
@click.option(
    "--forget", metavar="ADDRESS", help="Take a node off the list that has ended, and has no copy that counts."
)
@click.option("--drain", metavar="ADDRESS", help="Move all copies of a node to others, and make none there.")
@click.option("--undrain", metavar="ADDRESS", help="Let a node have copies again.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def list_nodes(coordinator: str, forget: str | None, drain: str | None, undrain: str | None, as_json: bool) -> None:
    """List the memory nodes of a coordinator.

    Where they are, what fails together with them, whether they answer, and how many copies of stores they have. Stale
    copies do not count any more; a node drops them when it is heard again.

    A node that has ended for good is taken off the list by --forget. One that only was out of reach gives up its copies
    when it reaches the coordinator again, and is a new node then.

    Before a node is ended on purpose, --drain moves its copies, one after the other, while clients use them. When the
    list says that it has none it can be ended, and forgotten. Where a copy can't move, the list says why.
    """
    if sum(each is not None for each in (forget, drain, undrain)) > 1:
        raise click.UsageError("one of --forget, --drain and --undrain at a time")
    address = next((each for each in (forget, drain, undrain) if each is not None), None)
    if as_json and address is not None:
        raise click.UsageError("--json is for the list alone")
    names = RemoteNames(coordinator)
    try:
        if not names.coordinates():
            raise click.ClickException(f"{coordinator} is no coordinator; it serves names alone")
        if address is not None:
            if forget is not None:
                forget_node(names, address)
            else:
                drain_node(names, address, drain is not None)
            drains = f"drains {address}; 'dsmem nodes' lists its copies"
            click.echo(
                f"forgot {address}" if forget is not None else drains if drain is not None else f"undrained {address}"
            )
            return
        found = nodes(names)
    finally:
        names.close()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found]))
    elif found:
        page = Page(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 10_000)
        page.print(table_of(found))
        for each in found:
            if each.trouble:
                page.print(Text(f"{each.address}{' is not drained yet:' if each.is_up else ''} {each.trouble}"))
    else:
        click.echo("no memory nodes", err=True)
