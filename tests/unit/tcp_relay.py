"""A relay between peers and an owner that is told to be at the relay's address: it can cut connections at any byte."""

from __future__ import annotations

import contextlib
import socket
import threading

STREAM, OPENING = b"DSMT", {"up": 56, "down": 40}  # of a stream of requests: docs/protocols/tcp.md


class Relay:
    """Passes on what comes to ``advertise`` to the owner that listens on ``listen``."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        port = self.listener.getsockname()[1]
        self.advertise, self.listen = f"127.0.0.1:{port}", f"127.0.0.2:{port}"
        self.lock, self.sockets, self.cuts = threading.Lock(), [], 0
        self.left: dict[str, int] = {}  # bytes until the cut
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *unused: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.break_all()
        for thread in self.threads:
            thread.join()
        for one in (self.listener, *self.sockets):
            one.close()

    def cut_after(self, which: str, nbytes: int) -> None:
        """Ends a stream of requests, both ways, when so many more bytes have come through it "up" (to the owner) or
        "down". Those of its opening do not count."""
        with self.lock:
            self.left = {which: nbytes}

    def break_all(self) -> None:
        """Ends all connections, both ways."""
        with self.lock:
            for one in self.sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        host, port = self.listen.split(":")
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            try:
                owner = socket.create_connection((host, int(port)))
            except OSError:  # the owner is gone
                peer.close()
                continue
            with self.lock:
                self.sockets += [peer, owner]
            asks = threading.Event()  # it is a stream of requests
            for which, source, sink in (("up", peer, owner), ("down", owner, peer)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._pass, args=(which, source, sink, asks))
                self.threads.append(thread)
                thread.start()

    def _pass(self, which: str, source: socket.socket, sink: socket.socket, asks: threading.Event) -> None:
        opening = OPENING[which]
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if which == "up" and opening == OPENING[which] and data.startswith(STREAM):
                    asks.set()
                most = self._most(which, len(data) - min(opening, len(data))) if asks.is_set() else None
                sink.sendall(data if most is None else data[: min(opening, len(data)) + most])
                opening -= min(opening, len(data))
                if most is not None:
                    break
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _most(self, which: str, nbytes: int) -> int | None:
        """How many of the next bytes are passed on before the cut; None: all, and more may follow."""
        with self.lock:
            left = self.left.get(which)
            if left is None or left > nbytes:
                if left is not None:
                    self.left[which] = left - nbytes
                return None
            self.left = {}
            self.cuts += 1
            return left
