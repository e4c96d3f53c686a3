"""What a command leaves behind in shared memory: it runs where /dev/shm is its own, so all that is there is its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
_RUN = 'mount -t tmpfs none /dev/shm || exit; "$@"; status=$?; ls -A /dev/shm >"$0"; exit $status'


def can_mount() -> bool:
    command = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


class Alone:
    """Runs commands with a /dev/shm of their own, where this user may make one.

    Parameters
    ----------
    folder : Path
        For what is noted.
    """

    def __init__(self, folder: Path) -> None:
        self._listing = folder / "left_behind"
        #: ahead of the command
        self.prefix = [*UNSHARE, "sh", "-c", _RUN, str(self._listing)] if can_mount() else []

    @property
    def left(self) -> list[str]:
        """What the last command has left, but for the file that proves which processes live."""
        names = self._listing.read_text().split() if self.prefix else []
        return [name for name in names if not name.endswith(".living")]
