"""The command ``dsmem``. Exit status: 0 success, 1 failure, 2 wrong arguments, 130 Ctrl-C."""

from __future__ import annotations

import io
import sys

import click

import dsmem
from dsmem.cli.bench import bench
from dsmem.cli.demo import demo
from dsmem.cli.doctor import doctor
from dsmem.cli.names import collect, list_names, remove
from dsmem.cli.nodes import list_nodes
from dsmem.cli.output import Group
from dsmem.cli.serve import serve
from dsmem.cli.store import store, top

_EPILOG = """\b
Completion of commands, options, clusters and names:
  bash   eval "$(_DSMEM_COMPLETE=bash_source dsmem)"    in ~/.bashrc
  zsh    eval "$(_DSMEM_COMPLETE=zsh_source dsmem)"     in ~/.zshrc
  fish   _DSMEM_COMPLETE=fish_source dsmem | source     in a file of completions
"""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(dsmem.__version__, prog_name="dsmem")
def main() -> None:
    """Memory of other processes, on this host or another.

    Exit status: 0 success, 1 failure, 2 wrong arguments.
    """
    for stream in (sys.stdout, sys.stderr):  # for characters that the terminal can't show, as in file names
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


main.add_command(bench)
main.add_command(demo)
main.add_command(doctor)
main.add_command(list_names)
main.add_command(remove)
main.add_command(collect)
main.add_command(serve)
main.add_command(list_nodes)
main.add_command(store)
main.add_command(top)
