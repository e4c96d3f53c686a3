"""The other process of ``dsmem bench`` on one host: it owns a region, and is idle.

It writes the descriptor to its standard output, and exits when its standard input ends. So it never outlives the
process that started it, however that process ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

import click

import dsmem

STOP_S = 5.0


@contextlib.contextmanager
def owner(fabric: str, nbytes: int) -> Iterator[bytes]:
    """Start a process that owns nbytes of memory with all rights.

    Parameters
    ----------
    fabric : str
        Name or URL, as for :class:`dsmem.Context`.
    nbytes : int
        Length of its region.

    Yields
    ------
    bytes
        The region's descriptor. The process ends with the block.

    Raises
    ------
    click.ClickException
        The process could not open the fabric or allocate the memory. The message has the reason.
    """
    command = [sys.executable, "-c", "from dsmem.cli import owner; owner.main()", fabric, str(nbytes)]
    # In its own session: Ctrl-C at the terminal goes to the measuring process, which then ends this one.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin and process.stdout
    try:
        line = process.stdout.readline()
        reply = json.loads(line) if line else {"error": "it ended without a word"}
        if "error" in reply:
            raise click.ClickException(f"the owner's process: {reply['error']}")
        yield bytes.fromhex(reply["descriptor"])
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def main() -> None:
    """Entry point of the process; its arguments are FABRIC NBYTES."""
    fabric, nbytes = sys.argv[1:]
    try:
        with dsmem.Context(fabric) as context, context.allocate(int(nbytes)) as region:
            print(json.dumps({"descriptor": region.descriptor.hex()}), flush=True)
            sys.stdin.read()
    except dsmem.DsmemError as error:
        print(json.dumps({"error": str(error)}), flush=True)
