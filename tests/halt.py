"""Stopping a process, of any parent."""

import os
import signal
import time
from pathlib import Path


def stop(pid: int) -> None:
    """SIGSTOP; every thread has stopped on return, also the one that answers peers."""
    os.kill(pid, signal.SIGSTOP)
    while not _has_stopped(pid):
        time.sleep(0.0005)


def _has_stopped(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if state(task) != "T":
                return False
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended since the folder was read
            continue
    return True


def state(task: Path) -> str:
    """A thread's, as the kernel has it."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
