"""A process of any parent: stopping it, and its threads."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def stop(pid: int) -> None:
    """SIGSTOP; every thread has stopped on return, also the one that answers peers."""
    os.kill(pid, signal.SIGSTOP)
    while not _has_stopped(pid):
        time.sleep(0.0005)


def stop_until(pid: int, done: Callable[[], int], more: int) -> None:
    """Stop it until others have done so much more, and have met what it holds, or have to wait for it."""
    stop(pid)
    before, ends = done(), time.monotonic() + 0.1
    while done() < before + more and time.monotonic() < ends:
        time.sleep(0.001)


def thread_count(pid: int | str = "self") -> int:
    """A list of its task folder may end early, at a thread that ends meanwhile."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("\nThreads:")[2].split()[0])


def _has_stopped(pid: int) -> bool:
    stopped = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            if state(task) != "T":
                return False
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended since the folder was read
            continue
        stopped += 1
    return stopped == thread_count(pid)


def state(task: Path) -> str:
    """A thread's, as the kernel has it."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
