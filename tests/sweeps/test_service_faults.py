"""Requests to a service (csrc/dsm/service.h) whose ends are killed or stopped, or lose the connection at any byte.

However a call ends, none of its errors is another's: the next call of the same handle gets the answer to its own
question, no question is answered twice, and the service goes on with the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import halt
import pytest
from interrupt_scenes import SECRET
from remote_faults import ops
from served import HOST, SECONDS, Server, processes
from tcp_relay import Relay

import dsmem
from dsmem import _core, errors

SHORT = 0.05  # seconds of a call that is given up
MANY = 1 << 30  # bytes; no call has so many
NUMBERS = itertools.count(1)


def opened(**options: Any) -> dsmem.Context:
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", **options})


def taken(context: dsmem.Context) -> tuple[int, int, bytes]:
    """The next question; before it, connections may have ended."""
    while True:
        client, number, question = _core.next_call(context, SECONDS) or pytest.fail("no client asks")
        if question is not None:
            return client, number, question


def answer(context: dsmem.Context, client: int, number: int, question: bytes) -> bool:
    return _core.reply(context, client, number, b"answer to " + question)


def new_question() -> bytes:
    return b"%d" % next(NUMBERS)


def ask(service: _core.Service, timeout: float = SECONDS, question: bytes | None = None) -> None:
    question = question or new_question()
    assert service.call(question, timeout) == b"answer to " + question


# ---- the service ends ----


def obey(pipe: Any, port: int) -> None:
    """A service that does a step when it is told to, and says that it is done."""
    with opened(listen=f"{HOST}:{port}") as context:
        _core.serve(context, True)
        pipe.send(context.agent_address)
        while True:
            pipe.recv()
            call = taken(context)
            pipe.send("done")
            pipe.recv()
            answer(context, *call)
            pipe.send("done")


class Asking(threading.Thread):
    """A call in a thread of its own, and what it raised."""

    def __init__(self, service: _core.Service) -> None:
        super().__init__()
        self.service, self.question = service, new_question()
        self.error: errors.DsmemError | None = None
        self.start()

    def run(self) -> None:
        try:
            ask(self.service, question=self.question)
        except errors.DsmemError as error:
            self.error = error

    def failed(self) -> bool:
        self.join(SECONDS)
        assert not self.is_alive()
        return self.error is not None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(obey)
    yield server
    server.kill()


@pytest.fixture
def service(server: Server) -> Iterator[_core.Service]:
    with opened() as user, contextlib.closing(_core.Service(user, f"tcp:{HOST}:{server.port}")) as service:
        yield service


def do(server: Server, steps: int) -> None:
    for _ in range(steps):
        server.pipe.send("go on")
        assert server.says() == "done"


def ask_and_answer(server: Server, service: _core.Service) -> None:
    asking = Asking(service)
    do(server, 2)
    assert not asking.failed()


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_service_that_is_killed(server: Server, service: _core.Service, steps: int, connected: bool) -> None:
    """Before it has taken the question, before it answers, and after."""
    if connected:
        ask_and_answer(server, service)
    asking = Asking(service)
    do(server, steps)
    if steps == 2:
        assert not asking.failed()
    server.kill()
    assert asking.failed() == (steps < 2)
    server.start()
    ask_and_answer(server, service)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_service_that_is_stopped(server: Server, service: _core.Service, steps: int) -> None:
    """Calls run out of time. Their questions are answered later, and no such answer is taken for another's."""
    ask_and_answer(server, service)
    if steps:
        with pytest.raises(errors.TimeoutError):
            ask(service, 0)
        do(server, steps)
    server.stop()
    for _ in range(2):
        with pytest.raises(errors.TimeoutError):
            ask(service, SHORT)
    os.kill(server.process.pid or 0, signal.SIGCONT)
    asking = Asking(service)
    do(server, 2 * (steps + 2 + 1) - steps)
    assert not asking.failed()


# ---- a client ends ----


def ask_twice(pipe: Any, address: str) -> None:
    with opened() as user, contextlib.closing(_core.Service(user, address)) as service:
        for name in (b"first", b"second"):
            pipe.send("asks")
            ask(service, question=name)


class Client:
    """A process that asks twice."""

    def __init__(self, address: str) -> None:
        self.pipe, theirs = processes.Pipe()
        with theirs:
            self.process = processes.Process(target=ask_twice, args=(theirs, address))
            self.process.start()
        self.asks()

    def asks(self) -> None:
        assert self.pipe.poll(SECONDS)
        self.pipe.recv()

    def ended(self) -> int | None:
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


@pytest.fixture
def serving() -> Iterator[dsmem.Context]:
    with opened() as context:
        _core.serve(context, True)
        yield context


def answer_until(context: dsmem.Context, question: bytes) -> list[int]:
    """Answers all until this question. Returns which clients have left."""
    left = []
    while True:
        client, number, asked = _core.next_call(context, SECONDS) or pytest.fail("no client asks")
        if asked is None:
            left.append(client)
        elif answer(context, client, number, asked) and asked == question:
            return left


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_client_that_is_killed(serving: dsmem.Context, steps: int) -> None:
    """When it asks, before it gets the answer, and when it asks again. Its end is told once."""
    client, number = Client(serving.agent_address), 0
    if steps:
        number, *_ = call = taken(serving)
    if steps == 2:
        assert answer(serving, *call)
        client.asks()
    client.process.kill()
    assert client.ended() == -signal.SIGKILL
    if steps == 1:
        answer(serving, *call)  # the agent may have seen the end
    with opened() as user, contextlib.closing(_core.Service(user, serving.agent_address)) as other:
        asking = Asking(other)
        left = answer_until(serving, asking.question)
        assert not asking.failed()
        while number and number not in left:
            left.append((_core.next_call(serving, SECONDS) or pytest.fail("its end is not told"))[0])
        asking = Asking(other)
        left += answer_until(serving, asking.question)
        assert not asking.failed()
    assert len(left) == len(set(left))


def test_a_client_that_is_stopped(serving: dsmem.Context) -> None:
    """It gets its answer when it goes on, and holds up no other client meanwhile."""
    client = Client(serving.agent_address)
    call = taken(serving)
    halt.stop(client.process.pid or 0)
    with opened() as user, contextlib.closing(_core.Service(user, serving.agent_address)) as other:
        for _ in range(2):
            asking = Asking(other)
            answer_until(serving, asking.question)
            assert not asking.failed()
    assert answer(serving, *call)
    os.kill(client.process.pid or 0, signal.SIGCONT)
    answer_until(serving, b"second")
    assert client.ended() == 0


# ---- the connection ends ----


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_that_ends_at_any_byte(way: str, connected: bool) -> None:
    """Also of its handshake, where there is no connection yet."""
    answered = []

    def answer_all() -> None:
        with contextlib.suppress(errors.ClosedError):
            while True:
                client, number, question = _core.next_call(owner) or (0, 0, None)
                if question is not None:
                    answered.append(question)
                    answer(owner, client, number, question)

    @contextlib.contextmanager
    def asked(nbytes: int) -> Iterator[_core.Service]:
        """A handle whose next call is cut after so many bytes."""
        with contextlib.closing(_core.Service(user, owner.agent_address)) as service:
            if connected:
                ask(service)
            relay.cut_after(way, nbytes, control=True)
            yield service

    with (
        Relay() as relay,
        opened(listen=relay.listen, advertise=relay.advertise) as owner,
        opened() as user,
    ):
        _core.serve(owner, True)
        thread = threading.Thread(target=answer_all)
        thread.start()
        try:
            with asked(MANY) as service:
                ask(service)
                last = MANY - relay.left[way] - 1
            tries = ops(0, last, 12)
            for nbytes in tries:
                with asked(nbytes) as service:
                    with pytest.raises(errors.PeerDeadError):
                        ask(service)
                    ask(service)
        finally:
            _core.serve(owner, False)
            thread.join()
        assert relay.cuts == len(tries) and len(set(answered)) == len(answered)
