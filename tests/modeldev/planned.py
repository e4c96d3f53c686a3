"""`dsmem serve` on the model device. Each SIGUSR1 lets the device follow the next of the plans that are named first.

planned.py PLAN… -- OPTION…
"""

import ctypes
import os
import signal
import sys

from dsmem.cli import main

upto = sys.argv.index("--")
plans = iter(sys.argv[1:upto])
device = ctypes.CDLL(os.environ["DSMEM_LIBIBVERBS"])


def follow(*_):
    assert device.modeldev_plan(next(plans).encode()) == 0


signal.signal(signal.SIGUSR1, follow)
sys.argv[1:] = ["serve", *sys.argv[upto + 1 :]]
main()
