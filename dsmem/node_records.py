"""Files of live processes in /dev/shm, and how they are found and removed after the processes have died.

A file is named ``dsmem-<pid>-<identity>-<name>``, where ``<identity>`` is that of the process
(docs/protocols/objects.md) in 16 hexadecimal digits. The identity proves the death of the process, in every container
that shares /dev/shm; the pid is for people. Regions of the shm fabric have no name. The files are the records of live
nodes, which ``dsmem doctor`` shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path

from dsmem import _core

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"dsmem-[1-9]\d*-([0-9a-f]{16})-[\w.-]+")


def register(name: str) -> Path:
    """Return the path for a file of this process.

    Parameters
    ----------
    name : str
        Letters, digits, ``_``, ``.`` and ``-``.

    Returns
    -------
    Path
        The file does not exist yet. Other processes of the same user remove it once this process is dead.
    """
    path = Path(_text_of_path(name))
    if not _NAME.fullmatch(path.name):
        raise ValueError(f"not a name for a record: {name!r}")
    return path


def _text_of_path(name: str) -> str:
    return f"{FOLDER}/dsmem-{os.getpid()}-{_core.identity():016x}-{name}"


def record_node(node: bytes, fabric: str, address: str) -> None:
    """Write a record that a node is open. If /dev/shm refuses it there is none, which does no harm.

    Parameters
    ----------
    node : bytes
        The node's id, 16 bytes.
    fabric : str
        The fabric that it uses.
    address : str
        The address of its agent.
    """
    record = {"version": 1, "node": node.hex(), "fabric": fabric, "address": address}
    with contextlib.suppress(OSError), register(_record_name(node)).open("x") as f:  # the descriptor is held by f only
        os.fchmod(f.fileno(), 0o600)
        json.dump(record, f)


def forget_node(node: bytes) -> None:
    """Remove the record of a node of this process, if there is one. In a forked child, the parent's record stays.

    A context may be collected when the interpreter is nearly gone and nothing can be imported any more, not even what
    pathlib imports on demand.

    Parameters
    ----------
    node : bytes
        The node's id.
    """
    with contextlib.suppress(OSError):
        os.unlink(_text_of_path(_record_name(node)))  # noqa: PTH108


def _record_name(node: bytes) -> str:
    return f"node-{node.hex()[:8]}"


def read_record(path: Path) -> dict[str, str | int]:
    """Read the record of a node.

    Parameters
    ----------
    path : Path
        From :func:`scan`.

    Returns
    -------
    dict
        version, node, fabric, address; empty if the file is not a record or is gone.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def scan() -> list[tuple[Path, bool]]:
    """Return the files of all processes of this user.

    Returns
    -------
    list of (Path, bool)
        False if the process that made the file is proven dead.
    """
    found = []
    with contextlib.suppress(OSError), os.scandir(FOLDER) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and _is_own_file(entry):
                found.append((Path(entry.path), not _core.identity_dead(int(match[1], 16))))
    return sorted(found)


def _is_own_file(entry: os.DirEntry[str]) -> bool:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid()


def sweep() -> list[Path]:
    """Remove the files of dead processes of this user. Never raises.

    Returns
    -------
    list of Path
        The files that were removed.
    """
    removed = []
    for path, alive in scan():
        if not alive:
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed
