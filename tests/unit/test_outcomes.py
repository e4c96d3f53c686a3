"""What the error of an op says: whether it was executed, and why no answer came."""

import contextlib
import pickle
import threading
import time

import pytest

import dsmem
from dsmem import errors

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
    with through("drop=1", peer_timeout=HOUR) as (remote, region):
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
    ("plan", "error"),
    [("fail=1", errors.TransportError), ("failafter=1", errors.TransportError), ("drop=1", errors.TimeoutError)],
)
def test_a_read_keeps_its_cause(plan, error):
    with through(plan, peer_timeout=HOUR) as (remote, _):
        with pytest.raises(error) as caught:
            remote.read(0, bytearray(8), timeout=0.05)
        assert type(caught.value) is error


@pytest.mark.parametrize("reads", [False, True])
def test_an_op_whose_connection_another_one_ends(reads):
    """Op 1 fails late; op 2, of another thread, stands behind it and may have been executed for all one can know."""
    ended = []

    def other(remote, region):
        try:
            remote.read(8, bytearray(8)) if reads else remote.fetch_add(8, 1)
        except errors.DsmemError as error:
            ended.append(error)

    with through("fail=1&delay=1:200ms", peer_timeout=HOUR) as (remote, region):
        thread = threading.Thread(target=other, args=(remote, region))
        posted = remote.context.stats["posts"]
        first = threading.Thread(target=quiet, args=(remote,))
        first.start()
        while remote.context.stats["posts"] == posted:
            time.sleep(0.001)
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
