"""What the host refuses: too little locked memory, no provider. The error names the limit, and the remedy."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, dsmem
try:
    with dsmem.Context("verbs", secret=b"11ab" * 16) as ctx, ctx.allocate(64 << 20):
        print("allocated")
except dsmem.errors.DsmemError as e:
    print(type(e).__name__, e)
"""


def run(*before):
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout


def test_too_little_locked_memory():
    """Only for a process that may not lock at will: root's CAP_IPC_LOCK is dropped."""
    said = run("prlimit", "--memlock=8388608", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock")
    assert said.startswith("LockedMemoryError")
    assert "RLIMIT_MEMLOCK is 8388608 bytes" in said and "ulimit -l" in said


def test_no_provider():
    """The kernel has a device, but nothing in user space drives it."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace takes root")
    said = run("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /etc/libibverbs.d && exec "$0" "$@"')
    assert said.startswith("ProviderMissingError")
    assert "ibverbs-providers" in said
