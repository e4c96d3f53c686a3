"""The command ``dsmem``."""

from __future__ import annotations

import click

from dsmem.cli.demo import demo
from dsmem.cli.doctor import doctor


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One-sided memory of other processes."""


main.add_command(demo)
main.add_command(doctor)
