"""The command ``dsmem``. Exit status: 0 it went well, 1 it did not, 2 wrong usage, 130 Ctrl-C."""

from __future__ import annotations

import io
import sys
from typing import Any

import click

import dsmem
from dsmem.cli.bench import bench
from dsmem.cli.demo import demo
from dsmem.cli.doctor import doctor
from dsmem.cli.names import collect, list_names, remove


class _Group(click.Group):
    """What the system or the library refuses is one line for the user, not a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            return context.exit(130)
        except (dsmem.DsmemError, OSError, MemoryError) as error:
            raise click.ClickException(str(error) or type(error).__name__) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dsmem.__version__, prog_name="dsmem")
def main() -> None:
    """One-sided memory of other processes."""
    for stream in (sys.stdout, sys.stderr):  # what a terminal has no letters for, such as a name of a file
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


main.add_command(bench)
main.add_command(demo)
main.add_command(doctor)
main.add_command(list_names)
main.add_command(remove)
main.add_command(collect)
