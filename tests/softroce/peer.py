"""The program pyverbs_peer.py, driven from a test."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

READ, WRITE, ATOMIC = 1, 2, 4  # docs/protocols/descriptor.md
PYTHON = os.environ.get("DSMEM_PYVERBS_PYTHON", "/usr/bin/python3")


class PeerError(Exception):
    """What the peer answered in place of a result."""


class Peer:
    """The program; its functions are methods here."""

    def __init__(self, device: str, port: int, gid_index: int) -> None:
        program = Path(__file__).with_name("pyverbs_peer.py")
        self.process = subprocess.Popen(
            [PYTHON, str(program), device, str(port), str(gid_index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, name: str) -> Any:
        def ask(**arguments: Any) -> Any:
            assert self.process.stdin and self.process.stdout
            print(json.dumps({"do": name, **arguments}), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
            if "error" in answer:
                raise PeerError(answer["error"], answer["detail"])
            return answer["ok"]

        return ask

    def owns(self, nbytes: int, access: int, secret: bytes, says: int | None = None) -> tuple[int, bytes]:
        """Memory of the peer's: its handle and descriptor. says: the rights it claims to grant."""
        made = self.own(nbytes=nbytes, access=access, says=access if says is None else says, secret=secret.hex())
        return made["handle"], bytes.fromhex(made["descriptor"])
