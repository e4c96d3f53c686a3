"""What became of ops whose connection broke: the owner's record, the question to it, and the truth that callers get."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import threading

import numpy as np
import pytest
from tcp_peer import (
    EACCESS,
    EPEER,
    ESTALE,
    EUNKNOWN,
    FETCH_ADD,
    OUTCOME,
    REPLY,
    REQUEST,
    TIMEOUT,
    TOLD,
    WRITE,
    Client,
    Owner,
    Refused,
    exactly,
    forged,
)
from tcp_relay import Relay

import dsmem
from dsmem import errors

SECRET = b"a secret of sixteen bytes"
WINDOW, KEPT, RECORDS, LISTED = 1024, 1024 + 64, 512, 20


def context(**options):
    return dsmem.Context("tcp", secret=SECRET, **{"listen": "127.0.0.1", **options})


@pytest.fixture
def owner():
    with context() as owner:
        yield owner


@pytest.fixture
def region(owner):
    with owner.allocate(1 << 16) as region:
        yield region


@pytest.fixture
def client(owner):
    with Client(owner.agent_address, SECRET) as client:
        yield client


def connected(client):
    token = client.token()
    client.connect(token)
    return token


# ---- the owner's record, asked by a client from the documentation ----


def test_the_owner_says_what_it_has_executed(region, client):
    token, grant = connected(client), client.attach(region.descriptor)
    client.fetch_add(grant, 0, 5)
    client.write(grant, 8, b"remotely")
    client.read(grant, 0, 8)
    assert client.compare_swap(grant, 0, 5, 9) == 5
    assert client.do(WRITE, grant, 1 << 16, 8, bytes(8)).status == EACCESS
    assert client.outcomes(token) == ((5, 0, 5), [(0, 1, 0, 0), (3, 1, 0, 5), (4, 1, EACCESS, 0)])
    assert client.outcomes(token, 4) == ((5, 0, 5), [(4, 1, EACCESS, 0)])
    assert client.outcomes(token, 9) == ((5, 0, 5), [])


def test_what_the_owner_is_asked_about_it_executes_no_more(region, client):
    token, grant = connected(client), client.attach(region.descriptor)
    request = client.request(FETCH_ADD, grant, 0, 8, struct.pack("<QQ", 1, 0))
    client.stream.sendall(request[:-1])
    assert client.outcomes(token) == ((0, 0, 0), [])
    with contextlib.suppress(OSError):
        client.stream.sendall(request[-1:])
    with contextlib.suppress(ConnectionError):
        assert client.stream.recv(1) == b""
    assert client.outcomes(token) == ((0, 0, 0), []) and not any(bytes(region))


def test_the_record_stays_when_the_control_connection_has_ended(owner, region, client):
    token, grant = connected(client), client.attach(region.descriptor)
    client.fetch_add(grant, 0, 5)
    for one in (client.control, client.stream):
        one.close()
    with Client(owner.agent_address, SECRET, client.node) as again:
        assert again.outcomes(token) == ((1, 0, 1), [(0, 1, 0, 0)])


def test_an_endpoint_that_was_asked_about_takes_no_connection(region, client):
    token = client.token()
    with pytest.raises(Refused, match=str(ESTALE)):
        client.outcomes(token)
    with pytest.raises(Refused, match=str(EPEER)):
        client.connect(token)


def test_a_part_of_a_write(owner, client):
    array = np.zeros(1 << 18, "u1")
    with owner.register(array, access="rwa") as region:
        token, grant = connected(client), client.attach(region.descriptor)
        client.stream.sendall(client.request(WRITE, grant, 0, 1 << 18, b"\1" * (1 << 17)))
        while not array[(1 << 17) - 1]:
            pass
        assert client.outcomes(token) == ((1, 0, 1), [(0, 1, EUNKNOWN, 0)])


def test_the_first_pieces_of_a_write(owner, client):
    array = np.zeros(3, "u8")
    with owner.register(array, access="rwa") as region:
        token, grant = connected(client), client.attach(region.descriptor)
        client.stream.sendall(client.request(WRITE, grant, [0, 8, 16], 8, b"1st word2nd word3rd wor"))
        while not array[1]:
            pass
        assert client.outcomes(token) == ((2, 0, 2), [])
        assert array.tobytes() == b"1st word2nd word" + bytes(8)


def test_a_refused_write_of_which_a_part_came(region, client):
    token, grant = connected(client), client.attach(region.descriptor)
    accepted = client.request(WRITE, grant, 0, 8, b"accepted")
    client.stream.sendall(accepted + client.request(WRITE, grant, 0, 1 << 20, bytes(1 << 15)))
    client.reply()
    assert client.outcomes(token) == ((1, 0, 1), [])
    assert bytes(region)[:8] == b"accepted"


def test_more_results_than_are_remembered(region, client):
    token, grant = connected(client), client.attach(region.descriptor)
    more = KEPT + 30
    client.stream.sendall(
        b"".join(client.request(FETCH_ADD, grant, 0, 8, struct.pack("<QQ", 1, 0)) for _ in range(more))
    )
    for _ in range(more):
        client.reply()
    (after, known, through), listed = client.outcomes(token)
    assert (after, known, through) == (more, 30, 30 + LISTED)
    seen = listed
    while through < after:
        (_, _, through), listed = client.outcomes(token, through)
        seen += listed
    assert seen == [(i, 1, 0, i) for i in range(30, more)]


def test_refused_writes_leave_the_results_of_atomics(owner, region, client):
    token, grant = connected(client), client.attach(region.descriptor)
    with owner.allocate(64) as closed:
        stale = client.attach(closed.descriptor)
    adds = [client.request(FETCH_ADD, grant, 0, 8, struct.pack("<QQ", 1, 0)) for _ in range(WINDOW)]
    writes = [client.request(WRITE, stale, 0, 8, bytes(8)) for _ in range(WINDOW)]
    client.stream.sendall(b"".join(adds + writes))
    for _ in range(2 * WINDOW):
        client.reply()
    (after, known, _), listed = client.outcomes(token)
    assert (after, known) == (2 * WINDOW, 0) and listed[0] == (0, 1, 0, 0)
    assert client.outcomes(token, WINDOW)[1] == [(WINDOW, WINDOW, ESTALE, 0)]


def test_no_more_connections_are_remembered_than_so_many(region, client):
    tokens = []
    for _ in range(RECORDS + 1):  # each closes the one before
        tokens.append(connected(client))
        client.stream.close()
    for _ in range(RECORDS + 1):
        unused = client.token()  # such an endpoint had no connection: it pushes none out
    for token in (os.urandom(16), tokens[0], unused):
        with pytest.raises(Refused, match=str(ESTALE)):
            client.outcomes(token)
    assert client.outcomes(tokens[1]) == ((0, 0, 0), [])


@pytest.mark.parametrize("token", [b"short", bytes(17), bytes(64)])
def test_a_name_that_is_none(client, token):
    with pytest.raises(Refused, match="12"):
        client.outcomes(token)


def test_a_fenced_node_is_told_nothing(owner, client):
    token = connected(client)
    owner.fence(client.node)
    with pytest.raises((EOFError, OSError)):
        client.outcomes(token)


# ---- connections that are cut at every byte ----


@contextlib.contextmanager
def relayed(nbytes=64, peer_timeout=TIMEOUT):
    words = np.zeros(nbytes // 8, "u8")
    with (
        Relay() as relay,
        context(listen=relay.listen, advertise=relay.advertise) as owner,
        owner.register(words, access="rwa") as region,
        context(peer_timeout=peer_timeout) as user,
        user.attach(region.descriptor, timeout=TIMEOUT) as remote,
    ):
        yield relay, words, user, remote


def executed(op):
    """Whether it was; the owner lives, so its outcome is never unknown."""
    try:
        op()
    except errors.CanceledError:
        return False
    return True


ANSWER = REPLY.size
PLACES = {
    "fetch_add": [("up", n) for n in range(REQUEST.size + 17)] + [("down", n) for n in range(ANSWER + 9)],
    "compare_swap": [("up", n) for n in range(0, REQUEST.size + 17, 5)]
    + [("down", n) for n in range(0, ANSWER + 9, 5)],
    "write": [("up", n) for n in range(0, REQUEST.size + 9, 3)] + [("down", n) for n in range(0, ANSWER + 1, 3)],
}


def test_fetch_adds_count_exactly():
    with relayed() as (relay, words, _, remote):
        count, answers = 0, []
        for which, n in PLACES["fetch_add"]:
            relay.cut_after(which, n)

            def add():
                answers.append(remote.fetch_add(0, 1))

            count += executed(add)
            assert words[0] == count, (which, n)
            count += executed(add)  # the connection may end only now
            assert words[0] == count, (which, n)
        assert answers == list(range(count)) and relay.cuts == len(PLACES["fetch_add"])


def test_compare_swaps_are_told_what_they_found():
    with relayed() as (relay, words, _, remote):
        for i, (which, n) in enumerate(PLACES["compare_swap"]):
            before = int(words[0])
            relay.cut_after(which, n)
            for wants, becomes in ((before, i + 1000), (before + 1, 7)):  # the second one fails
                now, found = int(words[0]), []
                done = executed(lambda: found.append(remote.compare_swap(0, wants, becomes)))  # noqa: B023
                assert found == ([now] if done else [])
                assert words[0] == (becomes if done and now == wants else now), (which, n)


def test_writes_have_landed_or_never_will():
    with relayed() as (relay, words, _, remote):
        for i, (which, n) in enumerate(PLACES["write"]):
            relay.cut_after(which, n)
            for value in (2 * i + 1, 2 * i + 2):
                before = int(words[0])
                done = executed(lambda: remote.write(0, value.to_bytes(8, "little")))  # noqa: B023
                assert words[0] == (value if done else before), (which, n)


def test_a_second_break_during_the_question():
    """All connections end, those of control too, again and again."""
    with relayed() as (relay, words, _, remote):
        stop = threading.Event()

        def break_often():
            while not stop.wait(0.003):
                relay.break_all()

        breaker = threading.Thread(target=break_often)
        breaker.start()
        done = unknown = 0
        try:
            for _ in range(300):
                try:
                    remote.fetch_add(0, 1)
                    done += 1
                except errors.OutcomeUnknownError:
                    unknown += 1
                except (errors.CanceledError, errors.PeerDeadError, errors.TransportError):
                    pass
        finally:
            stop.set()
            breaker.join()
        assert done and done <= words[0] <= done + unknown


def test_a_batch_is_executed_once_each():
    """What was not executed is posted again; so all are in the end."""
    n = 2500  # more than are sent without an answer
    with relayed(8 * 4) as (relay, words, user, remote):
        cuts = ((0, "up"), (1, "down"), (777, "down"), (64 * 500, "up"), (64 * 2000 + 3, "up"), (32 * 1500 + 7, "down"))
        for times, (at, which) in enumerate(cuts, 1):
            relay.cut_after(which, at)
            with user.batch(continue_on_error=True) as batch:
                results = [batch.fetch_add(remote, 0, 1) for _ in range(n)]
                batch.write(remote, 8, times.to_bytes(8, "little"))
            assert list(batch.statuses) == [0] * (n + 1), (which, at)
            assert [result.value for result in results] == list(range((times - 1) * n, times * n))
            assert list(words[:2]) == [times * n, times]


def test_reads_behind_an_op_without_an_answer_are_posted_again():
    with relayed() as (relay, words, user, remote):
        words[:] = range(8)
        for which, n in (("up", 0), ("up", 10), ("up", 100), ("down", 0), ("down", 23)):
            got = np.zeros(8, "u8")
            relay.cut_after(which, n)
            with user.batch(continue_on_error=True) as batch:
                for i in range(8):
                    batch.write(remote, 8 * i, words[i : i + 1].tobytes())
                for i in range(8):
                    batch.read(remote, 8 * i, got[i : i + 1])
            assert list(batch.statuses) == [0] * 16 and list(got) == list(range(8)), (which, n)
        assert relay.cuts == 5


def test_ops_of_an_event_loop():
    async def scene(relay, words, user, remote):
        count = 0
        for which, n in PLACES["fetch_add"][::7]:
            relay.cut_after(which, n)
            for _ in range(2):
                async with user.batch(continue_on_error=True) as batch:
                    batch.fetch_add(remote, 0, 1)
                assert list(batch.statuses) == [0]
                count += 1
                assert words[0] == count, (which, n)

    with relayed() as (relay, words, user, remote):
        asyncio.run(scene(relay, words, user, remote))


# ---- owners that lie, and owners that are others ----


def told(after, known, through, *listed):
    return 0, TOLD.pack(after, known, through) + b"".join(OUTCOME.pack(*one) for one in listed)


def asked(answer, op="fetch_add", node=None):
    """What the caller of an op gets that was sent, and whose connection the owner has closed."""

    def say(stream):
        exactly(stream, REQUEST.size + (16 if op == "fetch_add" else 8))
        if node:
            owner.node = node
            for one in owner.streams[:]:
                if one is not stream:
                    one.shutdown(socket.SHUT_RDWR)
        stream.close()

    with Owner(SECRET, 64, say, outcomes=lambda number: answer) as owner:
        with context() as user, user.attach(forged(owner, 64)) as remote:
            return remote.fetch_add(0, 1) if op == "fetch_add" else remote.write(0, b"12345678")


def test_an_owner_that_answers():
    assert asked(told(1, 0, 1, (0, 1, 0, 77))) == 77
    assert asked(told(1, 0, 1), "write") is None
    for op in ("fetch_add", "write"):
        with pytest.raises(errors.CanceledError):
            asked(told(0, 0, 0), op)
        with pytest.raises(errors.StaleDescriptorError):
            asked(told(1, 0, 1, (0, 1, ESTALE, 0)), op)


LIES = {
    "nothing": (0, b""),
    "no record": (ESTALE, b""),
    "half an answer": (0, bytes(23)),
    "half an outcome": (0, told(1, 0, 1, (0, 1, 0, 7))[1][:-1]),
    "half an outcome behind a whole one": (0, told(2, 0, 2, (0, 1, 0, 7), (1, 1, 0, 7))[1][:-1]),
    "more outcomes than fit": told(99, 0, 99, *((i, 1, 0, i) for i in range(21))),
    "not known": told(1, 1, 1, (0, 1, 0, 7)),
    "no result of an atomic": told(1, 0, 1),
    "one result of two ops": told(2, 0, 2, (0, 2, 0, 7)),
    "a result twice": told(2, 0, 2, (0, 1, 0, 7), (0, 1, 0, 8)),
    "in another order": told(2, 0, 2, (1, 1, 0, 7), (0, 1, 0, 8)),
    "of no op": told(1, 0, 1, (0, 0, 0, 7)),
    "of ops beyond": told(1, 0, 1, (0, 1, 0, 7), (1, 1, 0, 7)),
    "more ops than there are": told(1, 0, 1, (0, 2**32 - 1, ESTALE, 0)),
    "a number at the end of all": told(1, 0, 1, (2**64 - 1, 1, 0, 7)),
    "a number at the end of all behind another": told(1, 0, 1, (0, 1, 0, 7), (2**64 - 1, 1, 0, 7)),
    "told further than there are": told(1, 0, 2, (0, 1, 0, 7)),
    "told nothing of it": told(1, 0, 0),
    "an unknown status": told(1, 0, 1, (0, 1, 99, 7)),
    "executed in part": told(1, 0, 1, (0, 1, EUNKNOWN, 0)),
}


TRUE_OF_A_WRITE = {"no result of an atomic"}


@pytest.mark.parametrize("op", ["fetch_add", "write"])
@pytest.mark.parametrize("lie", LIES)
def test_an_owner_that_lies(lie, op):
    if op == "write" and lie in TRUE_OF_A_WRITE:
        assert asked(LIES[lie], op) is None
        return
    with pytest.raises(errors.OutcomeUnknownError):
        asked(LIES[lie], op)


def test_a_result_of_a_write():
    with pytest.raises(errors.OutcomeUnknownError):
        asked(told(1, 0, 1, (0, 1, 0, 7)), "write")


def test_another_owner_at_the_same_address():
    """A restarted owner is another node: what it says of the ops is of no meaning."""
    with pytest.raises(errors.OutcomeUnknownError) as caught:
        asked(told(0, 0, 0), node=os.urandom(16))
    assert isinstance(caught.value, errors.PeerDeadError)


def lost(stream):
    """The op was sent, and its connection ends."""
    exactly(stream, REQUEST.size + 16)
    stream.close()


def test_an_owner_that_can_make_no_endpoint():
    """The question needs no data connection."""
    with Owner(SECRET, 64, lost, outcomes=lambda number: told(1, 0, 1, (0, 1, 0, 77))) as owner:
        with context(peer_timeout=TIMEOUT) as user, user.attach(forged(owner, 64)) as remote:
            owner.full = True
            assert remote.fetch_add(0, 1) == 77


def test_an_owner_whose_control_connection_ends_at_the_question():
    """It is asked again, over a new one."""
    answers = [(0, b"")] * 2

    def answer(number):
        if not answers:
            return told(1, 0, 1, (0, 1, 0, 77))
        answers.pop()
        raise EOFError

    with Owner(SECRET, 64, lost, outcomes=answer) as owner:
        with context(peer_timeout=TIMEOUT) as user, user.attach(forged(owner, 64)) as remote:
            assert remote.fetch_add(0, 1) == 77
            assert owner.handshakes == 3


@contextlib.contextmanager
def silent(**options):
    """A remote of an owner that closes connections and does not answer what became of ops. Yields the event that it was
    asked, too."""
    asked, ended = threading.Event(), threading.Event()

    def answer(number):
        asked.set()
        assert ended.wait(TIMEOUT)
        return told(1, 0, 1, (0, 1, 0, 77))

    with Owner(SECRET, 64, lost, outcomes=answer) as owner, context(**options) as user:
        try:
            with user.attach(forged(owner, 64)) as remote:
                yield asked, user, remote
        finally:
            ended.set()


def test_a_silent_owner_costs_no_more_than_the_deadline():
    with silent() as (asked, _, remote):
        while not asked.is_set():  # on a busy host the deadline may pass before
            with pytest.raises(errors.DsmemError):
                remote.fetch_add(0, 1, timeout=0.2)


async def ask_with(asked, user, remote, n):
    """The tasks of n batches whose owner is being asked about one of them."""

    async def add():
        async with user.batch() as batch:
            batch.fetch_add(remote, 0, 1)

    tasks = [asyncio.create_task(add()) for _ in range(n)]
    while not asked.is_set():
        await asyncio.sleep(0.001)
    return tasks


def test_ops_that_are_cancelled_while_a_silent_owner_is_asked():
    async def scene(asked, user, remote):
        tasks = await ask_with(asked, user, remote, 4)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError | errors.DsmemError) for end in ends)
        assert any(isinstance(end, asyncio.CancelledError) for end in ends)  # others may have ended before

    with silent(peer_timeout=3600) as (asked, user, remote):
        asyncio.run(scene(asked, user, remote))


def test_a_context_that_is_closed_while_a_silent_owner_is_asked():
    async def scene(asked, user, remote):
        tasks = await ask_with(asked, user, remote, 4)
        user.close()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, errors.DsmemError) for end in ends)
        assert any(isinstance(end, errors.OutcomeUnknownError) for end in ends)  # others may not have been sent

    with silent(peer_timeout=3600) as (asked, user, remote):
        asyncio.run(scene(asked, user, remote))


def test_a_fork_in_a_signal_handler_while_the_owner_is_asked():
    """The child does not ask: it would connect as its parent."""
    asked, answered, child = threading.Event(), threading.Event(), None

    def answer(number):
        asked.set()
        assert answered.wait(TIMEOUT)
        return told(1, 0, 1, (0, 1, 0, 77))

    def fork(*unused):
        nonlocal child
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            answered.set()

    def interrupt():
        assert asked.wait(TIMEOUT)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, fork)
    thread = threading.Thread(target=interrupt)
    try:
        with Owner(SECRET, 64, lost, outcomes=answer) as owner:
            with context(peer_timeout=TIMEOUT) as user, user.attach(forged(owner, 64)) as remote:
                thread.start()
                try:
                    result = remote.fetch_add(0, 1)
                except errors.OutcomeUnknownError:
                    result = None
                if child == 0:
                    os._exit(0 if result is None else 1)
                assert result == 77 and owner.handshakes == 1
    finally:
        if child == 0:
            os._exit(2)
        signal.signal(signal.SIGUSR1, before)
        thread.join()


def test_reads_are_not_asked_about_but_sent_again():
    questions, asked = [], []

    def answer(number):
        questions.append(number)
        return 0, b""

    def say(stream):
        asked.append(exactly(stream, REQUEST.size))
        stream.close()

    with Owner(SECRET, 64, say, outcomes=answer) as owner:
        with context() as user, user.attach(forged(owner, 64)) as remote, pytest.raises(errors.PeerDeadError):
            remote.read(0, bytearray(8))
    assert not questions and 1 < len(asked) < 10


@pytest.mark.parametrize("nbytes", [0, 1, 23, 24, 25, 31])
def test_a_read_survives_a_connection_that_breaks(nbytes):
    """It has no effect at the owner, so it is sent again over a new connection: alone, and of a loop."""

    async def in_a_loop(remote, out):
        await remote.read_async(0, out)

    with relayed() as (relay, words, _user, remote):
        for i, timeout in enumerate((TIMEOUT, None), 1):
            words[:], out = i, bytearray(8)
            relay.cut_after("down", nbytes)
            remote.read(0, out, timeout=timeout)
            assert relay.cuts == 2 * i - 1 and out == words[:1].tobytes()
            words[:] = 7 * i
            relay.cut_after("down", nbytes)
            asyncio.run(in_a_loop(remote, out))
            assert relay.cuts == 2 * i and out == words[:1].tobytes()


@pytest.mark.parametrize("go_on", [False, True])
def test_reads_of_a_batch_survive_a_connection_that_breaks(go_on):
    with relayed() as (relay, words, user, remote):
        words[:] = range(8)
        for times, n in enumerate((0, 10, 24, 87), 1):
            got = np.zeros(8, "u8")
            relay.cut_after("down", n)
            with user.batch(continue_on_error=go_on) as batch:
                for i in range(8):
                    batch.read(remote, 8 * i, got[i : i + 1])
            assert relay.cuts == times and list(got) == list(range(8))


@pytest.mark.parametrize("go_on", [False, True])
def test_a_read_before_a_write_is_not_sent_again(go_on):
    """It would see what has been written after it."""
    with relayed() as (relay, words, user, remote):
        words[0], got = 1, np.zeros(1, "u8")
        relay.cut_after("down", 0)
        with contextlib.suppress(errors.PeerDeadError), user.batch(continue_on_error=go_on) as batch:
            batch.read(remote, 0, got)
            batch.write(remote, 0, (2).to_bytes(8, "little"))
        assert relay.cuts == 1 and not got[0]
        assert isinstance(batch.errors[0], errors.PeerDeadError)
        assert words[0] == (1 if batch.errors[1] else 2)


def test_a_read_that_cannot_be_sent_again_says_that_the_owner_is_gone():
    """The second connection is not made, and this thread does not wait for it for longer than for a first one."""
    with relayed(peer_timeout=1) as (relay, _words, _user, remote):
        relay.hold("up", "down", old=False)
        relay.cut_after("down", 0)
        with pytest.raises(errors.PeerDeadError):
            remote.read(0, bytearray(8))
        relay.heal()


def test_a_read_without_a_deadline_is_not_sent_again_without_end():
    """Each connection breaks shortly before the core would give the op up. What is sent again has that time once."""
    asked, left = [], threading.Event()

    def say(stream):
        asked.append(exactly(stream, REQUEST.size))
        left.wait(1.5)
        stream.close()

    with Owner(SECRET, 64, say) as owner, context(peer_timeout=1) as user:
        with user.attach(forged(owner, 64), timeout=TIMEOUT) as remote:
            with pytest.raises((errors.TimeoutError, errors.PeerDeadError)):
                remote.read(0, bytearray(8))
            left.set()
    assert 1 < len(asked) <= 3
