"""``dsmem doctor``: what works here, what does not, and what mends it."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import click

from dsmem import _core, errors, leftovers

FABRICS = ("shm", "verbs")


def _fabric(name: str) -> dict[str, Any]:
    try:
        _core.probe(name)
        return {"works": True, "devices": _core.inventory(name)}
    except errors.DsmemError as error:
        return {"works": False, "reason": str(error)}


def _limits() -> dict[str, int | None]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    shm = os.statvfs("/dev/shm")
    return {
        "locked_memory_bytes": None if soft == resource.RLIM_INFINITY else soft,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "dev_shm_free_bytes": shm.f_bavail * shm.f_frsize,
    }


def report() -> dict[str, Any]:
    """All that doctor knows, as JSON takes it."""
    found = leftovers.scan()
    return {
        "fabrics": {name: _fabric(name) for name in FABRICS},
        "limits": _limits(),
        "nodes": [leftovers.read_record(path) for path, alive in found if alive],
        "leftovers": [str(path) for path, alive in found if not alive],
    }


def _show(facts: dict[str, Any]) -> None:
    for name, fabric in facts["fabrics"].items():
        click.echo(f"{name:6} {'works' if fabric['works'] else 'does not work: ' + fabric['reason']}")
        for device in fabric.get("devices", []):
            click.echo(f"       {json.dumps(device)}")
    locked = facts["limits"]["locked_memory_bytes"]
    click.echo(f"locked memory: {'unlimited' if locked is None else f'{locked} bytes'}")
    if locked is not None:
        click.echo("       verbs pins what it registers; raise it with 'ulimit -l unlimited' or in limits.conf")
    click.echo(
        f"open files: {facts['limits']['open_files']}   /dev/shm free: {facts['limits']['dev_shm_free_bytes']} bytes"
    )
    click.echo(f"live nodes: {len(facts['nodes'])}   leftovers of dead processes: {len(facts['leftovers'])}")


@click.command()
@click.option("--clean", is_flag=True, help="Remove what dead processes have left.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def doctor(context: click.Context, clean: bool, as_json: bool) -> None:
    """Which fabrics work here, and what mends the others."""
    facts = report()
    removed = [str(path) for path in leftovers.sweep()] if clean else []
    if as_json:
        click.echo(json.dumps({**facts, "removed": removed}))
    else:
        _show(facts)
        for path in removed:
            click.echo(f"removed {path}")
    context.exit(0 if any(f["works"] for f in facts["fabrics"].values()) else 1)
