"""``dsmem doctor``: what works on this machine, what does not, and how to fix it."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from dsmem import node_records, secret
from dsmem.cli import examine, reach
from dsmem.cli.examine import readable_bytes
from dsmem.cli.output import Page


def _count(n: int | None) -> str:
    return "unlimited" if n is None else str(n)


class _Page:
    """Output of headings at the margin, facts below them, and each command on its own line, ready to be copied."""

    def __init__(self) -> None:
        self.console = Page(highlight=False)

    def heading(self, text: str) -> None:
        self.console.print(Text(text, "bold"))

    def fact(self, name: str, text: str, good: bool | None = None) -> None:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(min_width=15, no_wrap=True)
        grid.add_column(ratio=1, overflow="fold")
        style = {True: "green", False: "red", None: ""}[good]
        grid.add_row(Text(f"  {name}"), Text(text, style))
        self.console.print(grid)

    def remedy(self, lines: list[str]) -> None:
        for line in lines:
            self.console.print(Text(f"      {line}", "dim" if line.startswith("#") else "cyan"), soft_wrap=True)


def _best_gid(gids: list[dict[str, Any]]) -> str:
    if not gids:
        return "none"
    best = max(gids, key=lambda g: ("v2" in g["type"], "::ffff:" in g["gid"], "::ffff:127." not in g["gid"]))
    return f"{best['index']} {best['gid']}" + (f" +{len(gids) - 1}" if len(gids) > 1 else "")


def _devices(devices: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("  device", "port", "state", "link", "lid", "interface", "GID"):
        table.add_column(name, overflow="fold")
    for device in devices:
        for port in device["ports"]:
            state = Text(port["state"], "green" if port["state"] == "active" else "red")
            row = (f"  {device['device']}", str(port["port"]), state, port["link"], port["lid"], port["interface"])
            table.add_row(*row, _best_gid(port["gids"]))
    return table


def _paths(devices: list[dict[str, Any]]) -> str:
    """The fabric of a context that has a path by each active port; empty if there are not several."""
    ports = [f"{d['device']}:{p['port']}" for d in devices for p in d["ports"] if p["state"] == "active"]
    return ",".join(f"verbs://{port}" for port in ports[:4]) if len(ports) > 1 else ""


def _show_fabrics(page: _Page, facts: dict[str, Any]) -> None:
    page.heading("Fabrics")
    for name, fabric in facts["fabrics"].items():
        page.fact(name, "works" if fabric["works"] else f"does not work: {fabric['reason']}", fabric["works"])
        page.remedy(fabric.get("remedy", []))
    page.heading("RDMA")
    if facts["kernel"]["devices"]:
        page.console.print(_devices(facts["kernel"]["devices"]))
        if paths := _paths(facts["kernel"]["devices"]):
            page.fact("paths", f'Context("{paths}") goes on by another when one is lost')
    else:
        page.fact("devices", "none (/sys/class/infiniband is empty or not there)")
    software = facts["kernel"]["rdma_rxe"]
    page.fact("rdma_rxe", "not loaded, and no such module for this kernel" if software == "missing" else software)


def _show_limits(page: _Page, limits: dict[str, Any]) -> None:
    locked, files = limits["locked_memory_bytes"], limits["open_files"]
    page.heading("Limits")
    exempt = "; does not count for you (CAP_IPC_LOCK)" if locked["exempt"] and locked["soft"] is not None else ""
    page.fact("locked memory", f"{readable_bytes(locked['soft'])} (at most {readable_bytes(locked['hard'])}){exempt}")
    page.fact("open files", f"{_count(files['soft'])} (at most {_count(files['hard'])})")
    reserved = [
        f"{h['free']} of {h['total']} × {readable_bytes(h['bytes'])} free" for h in limits["huge_pages"] if h["total"]
    ]
    page.fact("huge pages", ", ".join(reserved) or "none reserved (for large regions: sysctl vm.nr_hugepages=N)")
    page.fact("memory", f"{readable_bytes(limits['memory_available_bytes'])} available")


def _show_shared_memory(page: _Page, memory: dict[str, Any]) -> None:
    page.heading("Shared memory")
    page.fact("names", "work" if memory["works"] else "do not work", memory["works"])
    if "bytes" in memory:
        free = (
            "unlimited"
            if not memory["bytes"]
            else f"{readable_bytes(memory['bytes_free'])} free of {readable_bytes(memory['bytes'])}"
        )
        page.fact(memory["path"], free)


def _show_nodes(page: _Page, facts: dict[str, Any], removed: list[str]) -> None:
    page.heading("Nodes")
    for node in facts["nodes"]:
        page.fact(f"pid {node['pid']}", f"{node['fabric']} at {node['address']}")
    if not facts["nodes"]:
        page.fact("open now", "none of yours")
    for path in removed:
        page.fact("removed", path)
    left = [path for path in facts["stale_nodes"] if path not in removed]
    page.fact("left behind", f"{len(left)} by dead processes" if left else "nothing")
    if left:
        page.remedy(["dsmem doctor --clean"])


def _show_clusters(page: _Page, facts: dict[str, Any]) -> None:
    page.heading("Names")
    for name, cluster in facts["clusters"].items():
        page.fact(name, f"{cluster['names']} names, {cluster['left']} of dead processes")
    if not facts["clusters"]:
        page.fact("clusters", "none of yours")
    if any(cluster["left"] for cluster in facts["clusters"].values()):
        page.remedy(["dsmem gc"])


def _secret_line(key: dict[str, Any]) -> str:
    where = key["path"] or f"${key['source']}"
    if not key["usable"]:
        return f"{where}: not usable"
    if not key["exists"]:
        return f"{where}: made now, readable for you alone"
    return f"{where}: {'readable for you alone' if key['path'] else 'set'}"


def _show(facts: dict[str, Any], removed: list[str]) -> None:
    page = _Page()
    v, key, peer = facts["versions"], facts["secret"], facts["peer"]
    page.console.print(f"dsmem {v['dsmem']}, Python {v['python']}, Linux {v['kernel']}")
    _show_fabrics(page, facts)
    _show_limits(page, facts["limits"])
    _show_shared_memory(page, facts["shared_memory"])
    page.heading("Secret")
    page.fact("file" if key["path"] else "text", _secret_line(key), None if key["usable"] else False)
    _show_nodes(page, facts, removed)
    _show_clusters(page, facts)
    if peer:
        page.heading("Peer")
        for way in peer.get("ways", []):
            page.fact(way["fabric"], f"{way['address']}: {way['reason'] or 'answers'}; {way['why']}", way["reachable"])
        if "ways" not in peer:
            page.fact(peer["address"], peer["reason"] or "reachable, and has the same secret", peer["reachable"])
    if facts["troubles"]:
        page.heading("To be fixed")
    for trouble in facts["troubles"]:
        page.fact(trouble["subject"], trouble["reason"], False)
        page.remedy(trouble["remedy"])


def _checked_peer(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        reach.check_peer(value)
    return value


@click.command()
@click.option("--clean", is_flag=True, help="Remove the files of dead processes.")
@click.option(
    "--peer",
    metavar="ADDRESS",
    callback=_checked_peer,
    help="Check that an agent answers: HOST:PORT, or as descriptors show it. Of a descriptor in hex digits: which way "
    "leads to its owner, and why.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def doctor(context: click.Context, clean: bool, peer: str | None, as_json: bool) -> None:
    """Show which fabrics work here, and how to fix the others.

    Exit status 1: regions or names of this host don't work, there is no usable secret, or the peer can't be reached.
    """
    facts = examine.report()
    facts["removed"] = [str(path) for path in node_records.sweep()] if clean else []
    works_here = {name for name, fabric in facts["fabrics"].items() if fabric["works"]}
    facts["peer"] = reach.examine_peer(peer, secret.default_secret(), works_here) if peer is not None else None
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _show(facts, facts["removed"])
    works = facts["fabrics"]["shm"]["works"]
    hindered = any(t["hinders"] for t in facts["troubles"])
    context.exit(0 if works and not hindered and (peer is None or facts["peer"]["reachable"]) else 1)
