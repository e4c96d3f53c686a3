"""A server in a process of its own, of names as a rule. Tests kill and stop it, and start it again at the same address.

That is no address that clients connect from: a socket of theirs might have its port when it starts again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import halt
from interrupt_scenes import SECRET

import dsmem
from dsmem.names.server import NameServer

SECONDS = 60.0
HOST = "127.0.0.2"

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["dsmem", "pytest"])


def serve(pipe: Any, port: int) -> None:
    with dsmem.Context("tcp", secret=SECRET, listen=f"{HOST}:{port}") as context:
        NameServer(context).run(lambda: pipe.send(context.agent_address))


class Server:
    """main gets a pipe and a port, says through the pipe at which address it is, and serves until it is killed."""

    def __init__(self, main: Callable[[Any, int], None] = serve) -> None:
        self.main, self.port = main, 0
        self.start()

    def start(self) -> None:
        self.pipe, theirs = processes.Pipe()
        with theirs:
            self.process = processes.Process(target=self.main, args=(theirs, self.port))
            self.process.start()
        self.port = int(self.says().rpartition(":")[2])

    def says(self) -> Any:
        assert self.pipe.poll(SECONDS)
        return self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def stop(self) -> None:
        halt.stop(self.process.pid or 0)

    def recover(self) -> None:
        """Whatever was done to it."""
        if self.process.is_alive():
            os.kill(self.process.pid or 0, signal.SIGCONT)
        else:
            self.start()

    def address(self, cluster_name: str) -> str:
        return f"tcp://{HOST}:{self.port}/{cluster_name}"
