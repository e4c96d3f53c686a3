"""``python -m dsmem``: the command ``dsmem``."""

from dsmem.cli import main

main(prog_name="python -m dsmem")
