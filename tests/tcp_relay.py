"""A relay between peers and an owner that is told to be at the relay's address: it is a network that goes wrong.

It ends connections at any byte, with an end or a reset, also one side's only; it stops passing one direction or both;
it delays what it passes, and passes it byte by byte.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

STREAM, OPENING = b"DSMT", {"up": 56, "down": 40}  # of a stream of requests: docs/protocols/tcp.md
OPENED = 88 + 36  # challenge and verdict of a control connection: docs/protocols/handshake.md
AT_ONCE = 1 << 16


class Line:
    """A connection of a peer's, and the one to the owner that was made for it."""

    def __init__(self, peer: socket.socket, owner: socket.socket, held: set[str]) -> None:
        self.sides = {"peer": peer, "owner": owner}
        self.ways = {"up": (peer, owner), "down": (owner, peer)}
        self.held = set(held)  # directions in which nothing is passed on, no end either
        self.asks = threading.Event()  # it is a stream of requests
        self.down = 0  # bytes that the peer was sent
        self.running, self.resets = len(self.ways), False

    def end(self, *sides: str) -> None:
        for side in sides or self.sides:
            with contextlib.suppress(OSError):
                self.sides[side].shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Ends both sides with a reset: nothing is sent until the last thread that uses them closes them."""
        self.resets = True
        for one in self.sides.values():
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)


class Relay:
    """Passes on what comes to ``advertise`` to the owner that listens on ``listen``.

    ``piece`` is how many bytes it passes on at a time, and ``delay`` how many seconds that takes.
    """

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        port = self.listener.getsockname()[1]
        self.advertise, self.listen = f"127.0.0.1:{port}", f"127.0.0.2:{port}"
        self.lines: list[Line] = []
        self.held: set[str] = set()  # of lines to come
        self.changed = threading.Condition()
        self.cuts, self.piece, self.delay = 0, AT_ONCE, 0.0
        self.opened = 0  # control connections
        self.left: dict[str, int] = {}  # bytes until the cut
        self.control = False  # of a control connection
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *unused: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join()
        self.heal()
        self.break_all()
        for thread in self.threads:
            thread.join()
        self.listener.close()

    def cut_after(self, which: str, nbytes: int, control: bool = False) -> None:
        """Ends a stream of requests, both ways, when so many more bytes have come through it "up" (to the owner) or
        "down". Those of its opening do not count. Or a control connection, of which all count."""
        with self.changed:
            self.left, self.control = {which: nbytes}, control

    def break_all(self, *sides: str) -> None:
        """Ends all connections, both ways: those to the "peer", to the "owner", or to both."""
        with self.changed:
            for line in self.lines:
                line.end(*sides)

    def reset_all(self) -> None:
        """Resets all connections."""
        with self.changed:
            for line in self.lines:
                line.reset()

    def hold(self, *directions: str, old: bool = True, new: bool = True) -> None:
        """Passes on nothing "up" or "down", no end either: if old, of the connections that there are and, if new, of
        those to come."""
        with self.changed:
            for line in self.lines if old else ():
                line.held.update(directions)
            if new:
                self.held.update(directions)

    def heal(self) -> None:
        """Passes on everything as it comes, what was held first."""
        with self.changed:
            self.piece, self.delay = AT_ONCE, 0.0
            self.held.clear()
            for line in self.lines:
                line.held.clear()
            self.changed.notify_all()

    def await_opened(self, count: int, seconds: float) -> None:
        """Waits until so many control connections have been opened, each found to be authentic by both sides."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.opened >= count, seconds), f"{self.opened} were opened"

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
            for one in (peer, owner):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                line = Line(peer, owner, self.held)
                self.lines.append(line)
            for which in line.ways:
                thread = threading.Thread(target=self._pass, args=(line, which))
                self.threads.append(thread)
                thread.start()

    def _pass(self, line: Line, which: str) -> None:
        source, sink = line.ways[which]
        opening = OPENING[which]
        with contextlib.suppress(OSError):
            while data := source.recv(self.piece):
                if which == "up" and opening == OPENING[which] and data.startswith(STREAM):
                    line.asks.set()
                uncounted = min(opening, len(data)) if line.asks.is_set() else 0
                most = self._most(line, which, len(data) - uncounted)
                self._wait(line, which)
                opening -= min(opening, len(data))
                data = data if most is None else data[: uncounted + most]
                sink.sendall(data)
                if which == "down":
                    self._count(line, len(data))
                if most is not None:
                    break
        self._wait(line, which)
        self._leave(line)

    def _count(self, line: Line, nbytes: int) -> None:
        before = line.down
        line.down += nbytes
        if before < OPENED <= line.down and not line.asks.is_set():
            with self.changed:
                self.opened += 1
                self.changed.notify_all()

    def _wait(self, line: Line, which: str) -> None:
        if self.delay:
            time.sleep(self.delay)
        with self.changed:
            self.changed.wait_for(lambda: which not in line.held or line.resets)

    def _leave(self, line: Line) -> None:
        with self.changed:
            if not line.resets:
                line.end()
            line.running -= 1
            if not line.running:
                self.lines.remove(line)
                for one in line.sides.values():
                    one.close()

    def _most(self, line: Line, which: str, nbytes: int) -> int | None:
        """How many of the next bytes are passed on before the cut; None: all, and more may follow."""
        with self.changed:
            left = self.left.get(which) if line.asks.is_set() is not self.control else None
            if left is None or left > nbytes:
                if left is not None:
                    self.left[which] = left - nbytes
                return None
            self.left = {}
            self.cuts += 1
            return left
