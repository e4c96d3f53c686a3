"""What the error of an op says: whether it was executed, and why no answer came."""

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import dsmem
from dsmem import _core, errors

SECRET = b"the secret of the outcomes"
HOUR = 3600


@contextlib.contextmanager
def through(plan, nbytes=1024, **options):
    """A remote whose ops meet the faults of the plan, and the region."""
    with (
        dsmem.Context("shm", secret=SECRET) as owner,
        dsmem.Context(f"fault+shm://?{plan}", secret=SECRET, **options) as user,
        owner.allocate(nbytes) as region,
        user.attach(region.descriptor) as remote,
    ):
        yield remote, region


def word(region, at=0):
    return int.from_bytes(bytes(region)[at : at + 8], "little")


CHANGES = {
    "write": lambda remote, **limit: remote.write(0, (1).to_bytes(8, "little"), **limit),
    "write_many": lambda remote, **limit: remote.write_many([0], (1).to_bytes(8, "little"), **limit),
    "fetch_add": lambda remote, **limit: remote.fetch_add(0, 1, **limit),
    "compare_swap": lambda remote, **limit: remote.compare_swap(0, 0, 1, **limit),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("plan", "executed"), [("fail=1", 0), ("failafter=1", 1)])
def test_a_lost_answer_is_an_unknown_outcome(plan, executed, change):
    with through(plan) as (remote, region):
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            change(remote)
        assert type(caught.value.__cause__) is errors.TransportError
        assert word(region) == executed


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_unknown_outcome_after_a_deadline_is_a_timeout_too(change):
    with through("drop=2", peer_timeout=HOUR) as (remote, region):
        remote.read(0, bytearray(8))  # makes the connection, so the op is sent whatever its deadline
        with pytest.raises(TimeoutError) as caught:
            change(remote, timeout=0.01)
        assert type(caught.value) is errors.OutcomeUnknownTimeoutError
        assert isinstance(caught.value, errors.OutcomeUnknownError) and caught.value.code == 42
        assert type(caught.value.__cause__) is errors.TimeoutError
        assert word(region) == 1  # and this time it was


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_owner_refuses_was_not_executed(change):
    with through("refuse=1") as (remote, region):
        with pytest.raises(errors.AccessDeniedError) as caught:
            change(remote)
        assert not isinstance(caught.value, errors.OutcomeUnknownError) and word(region) == 0
        change(remote)
        assert word(region) == 1


@pytest.mark.parametrize(
    ("plan", "error", "timeout"),
    [
        ("fail=1", errors.TransportError, None),
        ("failafter=1", errors.TransportError, None),
        ("drop=1", errors.TimeoutError, 0.05),
    ],
)
def test_a_read_keeps_its_cause(plan, error, timeout):
    with through(plan, peer_timeout=HOUR) as (remote, _):
        with pytest.raises(error) as caught:
            remote.read(0, bytearray(8), timeout=timeout)
        assert type(caught.value) is error and "not executed" not in str(caught.value)


@pytest.mark.parametrize("reads", [False, True])
def test_an_op_whose_connection_another_one_ends(reads):
    """Op 1 fails late; op 2, of another thread, stands behind it and may have been executed for all one can know."""
    ended = []

    def other(remote, region):
        try:
            remote.read(8, bytearray(8)) if reads else remote.fetch_add(8, 1)
        except errors.DsmemError as error:
            ended.append(error)

    with through("failafter=1&delay=1:200ms", peer_timeout=HOUR) as (remote, region):
        thread = threading.Thread(target=other, args=(remote, region))
        first = threading.Thread(target=quiet, args=(remote,))
        first.start()
        until(lambda: word(region))  # the op has been executed, so it is the first
        thread.start()
        first.join()
        thread.join()
    if ended:  # the machine was fast enough to post it before the failure
        assert type(ended[0]) is (errors.CanceledError if reads else errors.OutcomeUnknownError)
        if not reads:
            assert type(ended[0].__cause__) is errors.TransportError


def quiet(remote):
    with contextlib.suppress(errors.DsmemError):
        remote.fetch_add(0, 1)


def test_the_classes():
    for cls, cause in (
        (errors.OutcomeUnknownTimeoutError, errors.TimeoutError),
        (errors.OutcomeUnknownPeerDeadError, errors.PeerDeadError),
    ):
        error = cls("fetch_add", op="fetch_add")
        assert isinstance(error, cause) and isinstance(error, errors.OutcomeUnknownError)
        assert isinstance(error, (TimeoutError, ConnectionError)) and error.text in str(error)
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is cls and str(copy) == str(error)


# ---- batches: each op has a word of its own, so memory shows how often it was executed ----

KINDS = ("fetch_add", "write", "read", "compare_swap", "fetch_add", "write", "read", "fetch_add")
N = len(KINDS)


def fill(batch, remote, kinds=KINDS, fence=False):
    """Each op changes its word from 0 to 1, a second fetch_add would make it 2."""
    for i, kind in enumerate(kinds):
        if kind == "read":
            batch.read(remote, 8 * i, bytearray(8), fence=fence)
        elif kind == "write":
            batch.write(remote, 8 * i, (1).to_bytes(8, "little"), fence=fence)
        elif kind == "fetch_add":
            batch.fetch_add(remote, 8 * i, 1, fence=fence)
        else:
            batch.compare_swap(remote, 8 * i, 0, 1, fence=fence)


def agree(batch, region, kinds=KINDS):
    """What memory shows is what the statuses say."""
    for i, (kind, error) in enumerate(zip(kinds, batch.errors, strict=True)):
        assert batch.statuses[i] == (0 if error is None else error.code)
        found = word(region, 8 * i)
        if kind == "read":
            assert found == 0 and not isinstance(error, errors.OutcomeUnknownError)
        elif error is None:
            assert found == 1, i
        elif isinstance(error, errors.OutcomeUnknownError):
            assert found in (0, 1) and error.__cause__ is not None
        else:
            assert found == 0, (i, error)


def kinds_of(batch):
    return [None if error is None else type(error) for error in batch.errors]


def lost(kind):
    return errors.CanceledError if kind == "read" else errors.OutcomeUnknownError


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("n", range(N))
@pytest.mark.parametrize("fault", ["fail", "failafter"])
def test_behind_a_lost_answer_all_is_unknown_and_nothing_is_sent_again(fault, n, continues):
    with through(f"{fault}={n + 1}") as (remote, region):
        batch = remote.context.batch(continue_on_error=continues)
        with contextlib.nullcontext() if continues else pytest.raises(errors.TransportError) as caught, batch:
            fill(batch, remote)
        if not continues:
            assert caught.value.index == n
        agree(batch, region)
        own = errors.TransportError if KINDS[n] == "read" else errors.OutcomeUnknownError
        assert kinds_of(batch) == [None] * n + [own] + [lost(kind) for kind in KINDS[n + 1 :]]
        assert remote.context.stats["posts"] == N


def in_order(refused, kind):
    """Whether no device lets it overtake the refused op, so that it was not executed."""
    return refused == "write" or (kind != "write" and (refused == "read") == (kind == "read"))


def behind_refused(refused, kind):
    return errors.CanceledError if in_order(refused, kind) else lost(kind)


@pytest.mark.parametrize("n", range(N))
def test_behind_a_refused_op_only_what_may_overtake_it_is_unknown(n):
    with through(f"refuse={n + 1}") as (remote, region):
        batch = remote.context.batch()
        with pytest.raises(errors.AccessDeniedError) as caught, batch:
            fill(batch, remote)
        assert caught.value.index == n
        agree(batch, region)
        behind = [behind_refused(KINDS[n], kind) for kind in KINDS[n + 1 :]]
        assert kinds_of(batch) == [None] * n + [errors.AccessDeniedError] + behind


@pytest.mark.parametrize(("kinds", "fence"), [(KINDS, True), (("fetch_add",) * N, False), (("write",) * N, False)])
@pytest.mark.parametrize("n", range(N))
def test_a_refused_op_fails_alone(n, kinds, fence):
    """Posted again is what stood behind it; the first of those is refused, too, at its second posting."""
    with through(f"refuse={n + 1}&refuse={N + 1}") as (remote, region):
        with remote.context.batch(continue_on_error=True) as batch:
            fill(batch, remote, kinds, fence=fence)
        agree(batch, region, kinds)
        refused = {n, n + 1} & set(range(N))
        assert kinds_of(batch) == [errors.AccessDeniedError if i in refused else None for i in range(N)]
        assert remote.context.stats["posts"] == N + (N - n - 1) + max(0, N - n - 2)


@pytest.mark.parametrize("n", range(N))
def test_what_may_have_overtaken_a_refused_op_is_not_posted_again(n):
    with through(f"refuse={n + 1}") as (remote, region):
        with remote.context.batch(continue_on_error=True) as batch:
            fill(batch, remote)
        agree(batch, region)
        behind = [None if in_order(KINDS[n], kind) else lost(kind) for kind in KINDS[n + 1 :]]
        assert kinds_of(batch) == [None] * n + [errors.AccessDeniedError] + behind
        assert remote.context.stats["posts"] == N + behind.count(None)


def test_all_are_refused_one_after_the_other():
    with through("refuse=*") as (remote, region):
        with remote.context.batch(continue_on_error=True) as batch:
            fill(batch, remote, fence=True)
        agree(batch, region)
        assert kinds_of(batch) == [errors.AccessDeniedError] * N


def test_what_is_posted_again_can_get_lost_and_is_not_posted_a_third_time():
    with through(f"refuse=1&failafter={N + 2}") as (remote, region):
        with remote.context.batch(continue_on_error=True) as batch:
            fill(batch, remote, fence=True)
        agree(batch, region)
        assert kinds_of(batch) == [errors.AccessDeniedError, None, errors.TransportError, *map(lost, KINDS[3:])]
        assert remote.context.stats["posts"] == N + N - 1


@pytest.mark.parametrize("n", range(N))
def test_a_deadline_ends_what_goes_on(n):
    for limit in (0.05, 0.5, 5):
        with through(f"refuse=1&drop={N + n}", peer_timeout=HOUR) as (remote, region):
            with remote.context.batch(limit, continue_on_error=True) as batch:
                fill(batch, remote, fence=True)
            agree(batch, region)
            again = remote.context.stats["connects"] == 2
        if again:  # else the host was too slow for what comes next
            break
    assert again
    if n:  # op n is that of number N + n: executed, and its completion lost
        own = errors.TimeoutError if KINDS[n] == "read" else errors.OutcomeUnknownTimeoutError
        assert kinds_of(batch)[n] is own


@pytest.mark.parametrize("kind", ["shm", "fault+shm"])
def test_what_is_refused_before_it_is_posted_fails_alone(kind):
    with (
        dsmem.Context("shm", secret=SECRET) as owner,
        dsmem.Context(kind, secret=SECRET) as user,
        owner.allocate(1024) as region,
        owner.allocate(8, "r") as readable,
        owner.allocate(8) as closed,
        user.attach(region.descriptor) as remote,
        user.attach(readable.descriptor) as reader,
        user.attach(closed.descriptor) as stale,
    ):
        closed.close()
        with user.batch(continue_on_error=True) as batch:
            one = batch.fetch_add(remote, 0, 1)
            bad = batch.fetch_add(remote, 1020, 1)
            odd = batch.fetch_add(remote, 12, 1)
            denied = batch.compare_swap(reader, 0, 0, 1)
            gone = batch.fetch_add(stale, 0, 1)
            two = batch.fetch_add(remote, 0, 1)
        assert (one.value, two.value) == (0, 1) and one.error is None
        for result, error in (
            (bad, errors.OutOfBoundsError),
            (odd, errors.AlignmentError),
            (denied, errors.AccessDeniedError),
            (gone, errors.StaleDescriptorError),
        ):
            assert type(result.error) is error
            with pytest.raises(error):
                result.value  # noqa: B018
        assert [error and error.index for error in batch.errors] == [None, 1, 2, 3, 4, None]


def test_results_of_a_batch_that_failed():
    with through("refuse=2") as (remote, _):
        batch = remote.context.batch()
        first = batch.fetch_add(remote, 0, 5)
        with pytest.raises(errors.BusyError):
            first.error  # noqa: B018
        with pytest.raises(errors.BusyError):
            batch.errors  # noqa: B018
        with pytest.raises(errors.AccessDeniedError), batch:
            second = batch.fetch_add(remote, 0, 5)
            third = batch.fetch_add(remote, 0, 5)
        assert first.value == 0 and remote.fetch_add(0, 0) == 5
        assert type(second.error) is errors.AccessDeniedError and type(third.error) is errors.CanceledError
        with pytest.raises(errors.CanceledError):
            third.value  # noqa: B018


def test_a_batch_that_is_refused_whole_executed_nothing():
    with through("") as (remote, region):
        batch = remote.context.batch()
        with pytest.raises(errors.OutOfBoundsError), batch:
            fill(batch, remote)
            batch.write(remote, 1020, bytes(8))
        agree(batch, region, (*KINDS, "read"))
        assert batch.statuses.tolist() == [errors.CanceledError.code] * N + [errors.OutOfBoundsError.code]
        batch = remote.context.batch()
        batch.fetch_add(remote, 0, 1)
        remote.close()
        with pytest.raises(errors.ClosedError), batch:
            pass
        assert batch.statuses.tolist() == [errors.CanceledError.code]


def test_a_batch_whose_block_raised_has_no_outcomes():
    with through("") as (remote, _):
        batch = remote.context.batch()
        with pytest.raises(KeyError), batch:
            result = batch.fetch_add(remote, 0, 1)
            raise KeyError
        for ask in (lambda: batch.errors, lambda: batch.statuses, lambda: result.error, lambda: result.value):
            with pytest.raises(errors.ClosedError):
                ask()


# ---- abort ----


def until(condition):
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("continues", [False, True])
def test_a_batch_is_aborted_by_another_thread(continues):
    raised = []
    with through("drop=2", peer_timeout=HOUR) as (remote, region):
        batch = remote.context.batch(continue_on_error=continues)

        def execute():
            try:
                with batch:
                    fill(batch, remote)
            except errors.DsmemError as error:
                raised.append(error)

        thread = threading.Thread(target=execute)
        thread.start()
        until(lambda: word(region, 8 * (N - 1)))
        batch.abort()
        thread.join()
        agree(batch, region)
        assert kinds_of(batch) == [None, errors.OutcomeUnknownError] + [None] * (N - 2)
        assert [type(error) for error in raised] == ([] if continues else [errors.OutcomeUnknownError])
        assert remote.fetch_add(0, 1) == 1  # the next op makes a connection
        outcomes = batch.statuses.tolist()
        batch.abort()  # it has ended
        assert batch.statuses.tolist() == outcomes


@pytest.mark.parametrize("kind", ["shm", "fault+shm"])
def test_a_batch_that_is_aborted_before_it_began_executes_nothing(kind):
    with (
        dsmem.Context("shm", secret=SECRET) as owner,
        dsmem.Context(kind, secret=SECRET) as user,
        owner.allocate(1024) as region,
        user.attach(region.descriptor) as remote,
    ):
        batch = user.batch()
        with pytest.raises(errors.CanceledError), batch:
            fill(batch, remote)
            batch.abort()
        agree(batch, region)
        assert kinds_of(batch) == [errors.CanceledError] * N

        async def run():
            batch = user.batch()
            with pytest.raises(errors.CanceledError):
                async with batch:
                    fill(batch, remote)
                    batch.abort()
            agree(batch, region)

        asyncio.run(run())


def test_an_abort_reaches_a_batch_that_waits_for_more_than_one_owner():
    raised = []
    with (
        dsmem.Context("fault+shm://?drop=*", secret=SECRET, peer_timeout=HOUR) as user,
        contextlib.ExitStack() as stack,
    ):
        owners = [stack.enter_context(dsmem.Context("shm", secret=SECRET)) for _ in range(10)]
        regions = [stack.enter_context(owner.allocate(8)) for owner in owners]
        remotes = [stack.enter_context(user.attach(region.descriptor)) for region in regions]
        batch = user.batch()
        for remote in remotes:
            batch.fetch_add(remote, 0, 1)

        def execute():
            try:
                with batch:
                    pass
            except errors.DsmemError as error:
                raised.append(error)

        thread = threading.Thread(target=execute)
        thread.start()
        until(lambda: sum(map(word, regions)) == 8)  # as many as a batch has connections at a time
        batch.abort()
        thread.join()
        assert kinds_of(batch) == [errors.OutcomeUnknownError] * 8 + [errors.CanceledError] * 2
        assert type(raised[0]) is errors.OutcomeUnknownError and sum(map(word, regions)) == 8


# ---- event loops ----


@pytest.mark.parametrize("kind", ["shm", "fault+shm"])
def test_a_batch_in_an_event_loop(kind):
    async def run(user, remote):
        async with user.batch() as batch:
            fill(batch, remote)
            result = batch.fetch_add(remote, 0, 1)
            with pytest.raises(errors.BusyError):
                result.value  # noqa: B018
        assert result.value == 1 and batch.done
        with pytest.raises(KeyError):
            async with user.batch() as batch:
                batch.fetch_add(remote, 0, 1)
                raise KeyError
        async with user.batch():
            pass  # no ops
        with pytest.raises(errors.InvalidArgumentError, match=r"asyncio\.timeout"):
            async with user.batch(1) as batch:
                batch.fetch_add(remote, 0, 1)
        with pytest.raises(errors.OutOfBoundsError):
            async with user.batch() as batch:
                batch.fetch_add(remote, 1 << 20, 1)
        return batch

    with (
        dsmem.Context("shm", secret=SECRET) as owner,
        dsmem.Context(kind, secret=SECRET) as user,
        owner.allocate(1024) as region,
        user.attach(region.descriptor) as remote,
    ):
        asyncio.run(run(user, remote))
        assert [word(region, 8 * i) for i in range(N)] == [2, 1, 0, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("n", range(N))
def test_a_refused_op_fails_alone_in_an_event_loop(n):
    async def run(remote):
        async with remote.context.batch(continue_on_error=True) as batch:
            fill(batch, remote, fence=True)
        return batch

    with through(f"refuse={n + 1}&refuse={N + 1}") as (remote, region):
        batch = asyncio.run(run(remote))
        agree(batch, region)
        refused = {n, n + 1} & set(range(N))
        assert kinds_of(batch) == [errors.AccessDeniedError if i in refused else None for i in range(N)]


@pytest.mark.parametrize("how", ["abort", "cancel", "cancel twice"])
def test_a_batch_in_an_event_loop_is_aborted(how):
    async def run(remote, region, batch, buffer):
        async def execute():
            async with batch:
                fill(batch, remote)
                batch.read(remote, 0, buffer)

        task = asyncio.create_task(execute())
        while not word(region, 8 * (N - 1)):
            await asyncio.sleep(0.001)
        if how == "abort":
            batch.abort()
            with pytest.raises(errors.OutcomeUnknownError):
                await task
        else:
            task.cancel()
            if how == "cancel twice":
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert kinds_of(batch)[:N] == [None, errors.OutcomeUnknownError] + [None] * (N - 2)

    with through("drop=2", peer_timeout=HOUR) as (remote, region):
        buffer = bytearray(8)
        batch = remote.context.batch()
        asyncio.run(run(remote, region, batch, buffer))
        buffer.append(0)  # the batch has let it go
        assert word(region) == word(region, 8) == 1


# ---- many owners ----


@contextlib.contextmanager
def owners_of(n, user):
    """The regions of n owners, and the user's remotes."""
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(dsmem.Context("shm", secret=SECRET)) for _ in range(n)]
        regions = [stack.enter_context(owner.allocate(8)) for owner in owners]
        yield regions, [user.attach(region.descriptor) for region in regions]


def one_after_the_other(batch, remotes):
    """Op 1 is cancelled behind op 0, and as many owners stand before the last op as a batch can post to at a time.

    There is a connection to the first owner, since the others' are made at the same time, and any may be first.
    """
    remotes[0].read(0, bytearray(8))  # op 1 of the plan
    for value, remote in [(9, remotes[0]), (1, remotes[0]), *((5, r) for r in remotes[1:]), (2, remotes[0])]:
        batch.write(remote, 0, value.to_bytes(8, "little"))


def test_what_is_posted_again_is_not_overtaken_where_there_are_many_owners():
    with dsmem.Context("fault+shm://?refuse=2", secret=SECRET) as user, owners_of(9, user) as (regions, remotes):
        with user.batch(continue_on_error=True) as batch:
            one_after_the_other(batch, remotes)
        assert list(batch.statuses) == [errors.AccessDeniedError.code, *[0] * 10]
        assert [word(region) for region in regions] == [2, *[5] * 8]


def test_what_is_posted_again_is_not_overtaken_in_an_event_loop():
    async def run(user, remotes):
        async with user.batch(continue_on_error=True) as batch:
            one_after_the_other(batch, remotes)
        return list(batch.statuses)

    with dsmem.Context("fault+shm://?refuse=2", secret=SECRET) as user, owners_of(9, user) as (regions, remotes):
        assert asyncio.run(run(user, remotes)) == [errors.AccessDeniedError.code, *[0] * 10]
        assert [word(region) for region in regions] == [2, *[5] * 8]


def test_what_could_not_be_sent_in_time_says_so():
    """The first owners keep the batch until its deadline, so the ops of the last two are not sent."""
    with (
        dsmem.Context("fault+shm://?drop=*", secret=SECRET, peer_timeout=HOUR) as user,
        owners_of(10, user) as (regions, remotes),
    ):
        batch = user.batch(0.05)
        with pytest.raises(errors.TimeoutError), batch:
            for remote in remotes[:9]:
                batch.fetch_add(remote, 0, 1)
            batch.read(remotes[9], 0, bytearray(8))
        sent, unsent = batch.errors[:8], batch.errors[8:]
        assert [type(error) for error in unsent] == [errors.TimeoutError] * 2
        assert ["was not executed" in str(error) for error in unsent] == [True, False]
        for error, region in zip(sent, regions, strict=False):
            assert word(region) == (type(error) is errors.OutcomeUnknownTimeoutError)
        assert word(regions[8]) == 0


def test_no_remote_of_a_batch_under_way_is_closed():
    """Neither one whose op has not been posted, since others come first, nor a mapped one, whose op is complete."""

    async def run(user, remotes, mapped):
        batch = user.batch()
        entered = await batch.__aenter__()
        for remote in [*remotes, mapped]:
            entered.fetch_add(remote, 0, 1)
        end = asyncio.create_task(batch.__aexit__(None, None, None))
        while not word(regions[0]):
            await asyncio.sleep(0)
        for remote in (remotes[0], remotes[-1], mapped):
            with pytest.raises(errors.BusyError):
                remote.close()
        batch.abort()
        with pytest.raises(errors.DsmemError):
            await end

    with (
        dsmem.Context("fault+shm://?drop=1", secret=SECRET, peer_timeout=HOUR) as user,
        owners_of(9, user) as (regions, remotes),
        tempfile.TemporaryFile() as file,
    ):
        file.truncate(4096)
        mapped = _core.map_file(file.fileno(), 4096)
        asyncio.run(run(user, remotes, mapped))
        mapped.close()
        for remote in remotes:
            remote.close()


def test_the_index_of_the_op_that_failed_in_an_event_loop():
    """The two peers are posted to at the same time, so op 2 of the plan may be any of the four. An op behind it on its
    connection ended with it, and its cause is a TransportError, too."""

    async def run(user, remotes):
        with pytest.raises(errors.OutcomeUnknownError) as caught:
            async with user.batch() as batch:
                for remote in (*remotes, *remotes):
                    batch.fetch_add(remote, 0, 1)
        return caught.value, batch

    with dsmem.Context("fault+shm://?fail=2", secret=SECRET) as user, owners_of(2, user) as (_, remotes):
        error, batch = asyncio.run(run(user, remotes))
        failed = [e.index for e in batch.errors if e is not None]
        own = [i for i in failed if "another failure" not in str(batch.errors[i].__cause__)]
        assert failed in ([0, 2], [1, 3], [2], [3])
        assert [error.index] == own == failed[:1] and error.peer == remotes[own[0] % 2].peer
        assert type(error.__cause__) is errors.TransportError and "another failure" not in str(error.__cause__)


OWNER = """
import sys
import dsmem
with dsmem.Context("shm", secret={secret!r}) as owner, owner.allocate(64) as region:
    print(bytes(region.descriptor).hex(), flush=True)
    sys.stdin.read()
"""


def test_a_refused_op_whose_owner_does_not_say_why():
    """The owner is stopped: the question ends with the peer timeout, and the refusal is what is known."""
    command = [sys.executable, "-c", OWNER.format(secret=SECRET)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        descriptor = dsmem.Descriptor.fromhex(child.stdout.readline().strip())
        plan = "fault+shm://?refuse=1&refuse=2&refuse=3&refuse=4"
        with (
            dsmem.Context(plan, secret=SECRET, peer_timeout=0.2) as user,
            user.attach(descriptor, timeout=30) as remote,
        ):
            os.kill(child.pid, signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            for call in (
                lambda: remote.read(0, bytearray(8)),
                lambda: remote.write(0, bytes(8)),
                lambda: remote.fetch_add(0, 1),
                lambda: remote.compare_swap(0, 0, 1),
            ):
                with pytest.raises(errors.AccessDeniedError):
                    call()
            os.kill(child.pid, signal.SIGCONT)
        child.stdin.close()
