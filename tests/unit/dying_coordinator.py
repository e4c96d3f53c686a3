"""`dsmem serve --coordinator` that is killed as it writes its state: "before 2", "after 1"."""

import os
import signal
import sys

from dsmem.cli import main
from dsmem.membership.state import Disk

when, count = sys.argv[1].split()
left = int(count)
real = Disk.save


def save(disk, state):
    """As usual, until the time has come."""
    global left
    left -= 1
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(disk, state)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


Disk.save = save
sys.argv[1:] = ["serve", *sys.argv[2:]]
main()
