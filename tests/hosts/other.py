"""The other host of a test: a program that does there what it is asked, and proxies of what it keeps.

Usage: other.py HOST:PORT [FABRIC]. It prints a line when it is ready, and serves until it is killed; with a fabric,
memory for `dsmem bench`, too. Two programs that know the same DSMEM_SECRET can ask each other anything: for tests only.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import signal
import sys
import threading
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

import dsmem
from dsmem.cli import main
from dsmem.memory import Reference

SECRET = b"0bec7" * 12 + b"0b1e"
PLAIN = (int, float, str, bytes, bytearray, tuple, list, dict, type(None), np.ndarray, np.generic)


class Kept(NamedTuple):
    """What stays there, by its number."""

    number: int


class Proxy:
    """Something that the other host keeps: what is asked of it is asked of that."""

    def __init__(self, there, kept):
        self._there, self._kept = there, kept

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        is_method, value = self._there.ask("attribute", self._kept, name)
        return (lambda *args, **kwargs: self._there.ask("call", self._kept, name, args, kwargs)) if is_method else value

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._there.ask("call", self._kept, "close", (), {})


class There:
    """A connection to the program; a test that asks for two things at a time has two."""

    def __init__(self, address):
        self.address = address
        self.stream = connection.Client(address, authkey=SECRET)

    def beside(self):
        return There(self.address)

    def ask(self, *question):
        self.stream.send(question)
        return self.answer()

    def answer(self):
        is_good, value = self.stream.recv()
        if not is_good:
            raise value
        return Proxy(self, value) if isinstance(value, Kept) else value

    def run(self, function, *args, **kwargs):
        """The result of a function there, "module:name"."""
        self.begin(function, *args, **kwargs)
        return self.answer()

    def begin(self, function, *args, **kwargs):
        """Starts it; answer() waits for its result."""
        own = tuple(arg._kept if isinstance(arg, Proxy) else arg for arg in args)
        self.stream.send(("run", function, own, kwargs))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stream.close()


# ---- the program ----


class Server:
    """Of one connection: what it keeps is closed with it."""

    def __init__(self, stream):
        self.stream, self.kept, self.numbers = stream, {}, itertools.count()

    def own(self, value):
        return self.kept[value.number] if isinstance(value, Kept) else value

    def attribute(self, of, name):
        value = getattr(self.own(of), name)
        return (True, None) if callable(value) else (False, value)

    def call(self, of, name, args, kwargs):
        return self.result(getattr(self.own(of), name)(*args, **kwargs))

    def run(self, function, args, kwargs):
        module, _, name = function.partition(":")
        return self.result(getattr(importlib.import_module(module), name)(*map(self.own, args), **kwargs))

    def result(self, value):
        if isinstance(value, (*PLAIN, dsmem.Descriptor, Reference)):
            return value
        kept = Kept(next(self.numbers))
        self.kept[kept.number] = value
        return kept

    def serve(self):
        while True:
            try:
                question, *arguments = self.stream.recv()
            except (EOFError, OSError):
                return
            try:
                answer = True, getattr(self, question)(*arguments)
            except Exception as error:
                answer = False, error
            self.stream.send(answer)
            del answer  # a view would keep its region busy


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def serve_bench(host, fabric):
    """A child, since it wants the main thread; made before there is any other."""
    child = os.fork()
    if not child:
        end_with_parent()
        os.dup2(2, 1)  # the first line on our standard output says that we are ready
        os.environ["DSMEM_SECRET"] = SECRET.decode()
        main(["bench", "--listen", host, "-f", fabric])
    return child


def listening(host, port):
    return connection.Listener((host, port), backlog=16, authkey=SECRET)


def accept(listener):
    while True:
        threading.Thread(target=Server(listener.accept()).serve, daemon=True).start()


_forks, _forker = connection.Pipe()
_one_fork = threading.Lock()


def serve_forks(host):
    """A child that has no threads and has opened nothing forks programs: under emulation imports take ten seconds."""
    if os.fork():
        return
    end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        with listening(host, _forker.recv()) as listener:
            child = os.fork()
            if not child:
                end_with_parent()
                accept(listener)
        _forker.send(child)


def fork(port):
    """Another program like this one, at that port, which is ready: its process."""
    with _one_fork:
        _forks.send(port)
        return _forks.recv()


def serve(address, fabric=None):
    end_with_parent()
    host, port = address.split(":")
    importlib.import_module("scenes")
    serve_forks(host)
    if fabric:
        serve_bench(host, fabric)
    with listening(host, int(port)) as listener:
        print(listener.address[1], flush=True)
        accept(listener)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # scenes.py, accounts.py
    importlib.import_module("other").serve(*sys.argv[1:])  # what it sends is of that module
