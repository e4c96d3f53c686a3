"""Owners in processes of their own, which can be killed and stopped.

They are forked from a server that has imported everything and has opened nothing yet: under emulation an interpreter
that imports NumPy takes ten seconds to start, one that is forked takes none.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import halt

import dsmem
from dsmem.cli import main

FABRIC = "verbs"
SECRET = b"0123456789abcdef" * 4  # a key, as dsmem makes them: nothing to stretch, which takes long in the guest
NBYTES = 1 << 16

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["dsmem", "dsmem.cli", "pytest"])


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """A process that runs target(pipe, *arguments), and this end of its pipe."""
    pipe, theirs = _processes.Pipe()
    process = _processes.Process(target=target, args=(theirs, *arguments))
    process.start()
    theirs.close()
    return process, pipe


@contextlib.contextmanager
def started(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """The same; it is killed at the end, unless the test did it."""
    process, pipe = start(target, *arguments)
    try:
        yield process, pipe
    finally:
        process.kill()
        process.join()
        pipe.close()


def shared_number() -> Any:
    """A 'value' that a process sets and that outlives it; handed over to start()."""
    return _processes.RawValue("Q")


def _own(pipe: Connection, listen: str) -> None:
    with dsmem.Context(FABRIC, secret=SECRET, listen=listen) as context, context.allocate(NBYTES) as region:
        pipe.send((bytes(region.descriptor), context.agent_address))
        with contextlib.suppress(EOFError):  # until the test lets go
            pipe.recv()


class Owner:
    """A process with one region of NBYTES with all rights; listen as in dsmem.Context."""

    def __init__(self, listen: str = "127.0.0.1") -> None:
        self._process, self._pipe = start(_own, listen)
        self.descriptor, address = self._pipe.recv()
        self.address: str = address.removeprefix("tcp:")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        halt.stop(self._process.pid)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._process.is_alive():
            self.go_on()
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, secret: bytes, listen: str, *more: str) -> None:
    os.environ["DSMEM_SECRET"] = secret.decode()
    with open(pipe.fileno(), "w", closefd=False) as said, contextlib.redirect_stdout(said):
        main(["serve", "--fabric", FABRIC, "--grace", "0", "--listen", listen, *more])


@contextlib.contextmanager
def serving(secret: bytes, listen: str = "127.0.0.1:0", *more: str) -> Iterator[tuple[BaseProcess, str]]:
    """`dsmem serve`, which fences at once those that are cut off: its process, and its HOST:PORT. more: options."""
    process, pipe = start(_serve, secret, listen, *more)
    try:
        with open(pipe.fileno(), closefd=False) as said:
            yield process, said.readline().split()[-1].removeprefix("tcp://")
    finally:
        process.kill()
        process.join()
        pipe.close()
