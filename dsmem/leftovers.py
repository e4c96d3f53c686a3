"""What processes leave under a name, and how it is found and removed when they are gone.

Everything that dsmem names stands in /dev/shm as ``dsmem-<pid>-<start>-<name>``, where ``<start>`` is the start time
of the process in clock ticks since boot (field 22 of /proc/PID/stat). A pid that is used again comes with another
start time, so the two together tell whether the maker still lives. Regions of the shm fabric have no name; what stands
here are the records of live nodes, which ``dsmem doctor`` shows.

Processes are looked up in the own PID namespace: containers that share /dev/shm must share that too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"dsmem-([1-9]\d*)-(\d+)-[\w.-]+")


def process_start(pid: int) -> int:
    """The start time of a process.

    Parameters
    ----------
    pid : int
        Its number.

    Returns
    -------
    int
        Clock ticks since boot; 0 when there is no such process or it has ended and only waits to be reaped.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = line[line.rindex(b")") + 2 :].split()  # the name before may hold anything; this begins with field 3
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def register(name: str) -> Path:
    """The path under which this process may leave something.

    Parameters
    ----------
    name : str
        Letters, digits, ``_``, ``.`` and ``-``.

    Returns
    -------
    Path
        Nothing is there yet. Others of the same user remove it once this process is gone.
    """
    pid = os.getpid()
    path = FOLDER / f"dsmem-{pid}-{process_start(pid)}-{name}"
    if not _NAME.fullmatch(path.name):
        raise ValueError(f"not a name for a leftover: {name!r}")
    return path


def record_node(node: bytes, fabric: str, address: str) -> Path | None:
    """Leave a record that a node is open.

    Parameters
    ----------
    node : bytes
        The node's id, 16 bytes.
    fabric : str
        The fabric that it uses.
    address : str
        The address of its agent.

    Returns
    -------
    Path or None
        For :func:`forget`; None when /dev/shm takes no record, which harms nothing.
    """
    path = register(f"node-{node.hex()[:8]}")
    record = {"version": 1, "node": node.hex(), "fabric": fabric, "address": address}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as f:
            json.dump(record, f)
    except OSError:
        return None
    return path


def forget(path: Path | None) -> None:
    """Remove what this process left; no error when it is gone already. What a forked child's parent left stays.

    Parameters
    ----------
    path : Path or None
        From :func:`record_node` or :func:`register`.
    """
    if path is not None and path.name.startswith(f"dsmem-{os.getpid()}-"):
        with contextlib.suppress(OSError):
            path.unlink()


def read_record(path: Path) -> dict[str, str | int]:
    """What a node's record says.

    Parameters
    ----------
    path : Path
        From :func:`scan`.

    Returns
    -------
    dict
        version, node, fabric, address; empty when the file is no record or has gone.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def scan() -> list[tuple[Path, bool]]:
    """Everything of this user's that dsmem has left under a name.

    Returns
    -------
    list of (Path, bool)
        True where the process that made it still lives.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(FOLDER) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and _is_own_file(entry):
                found.append((Path(entry.path), process_start(int(match[1])) == int(match[2])))
    return sorted(found)


def _is_own_file(entry: os.DirEntry[str]) -> bool:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid()


def sweep() -> list[Path]:
    """Remove what processes of this user have left that are gone. Never raises.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    for path, alive in scan():
        if not alive:
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
