"""What errors say: the remedy of a class stands only where it fits."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors
from dsmem.names.local import check_mode

GENERAL = {text for cls in errors.BY_CODE.values() for text in cls.text.split("; ")[1:]}


def said(cls, call, *arguments, **named):
    with pytest.raises(cls) as caught:
        call(*arguments, **named)
    assert type(caught.value) is cls
    return str(caught.value)


def test_a_second_consumer(here):
    with here.queue("q", create=True) as queue, dsmem.attach(queue.ref) as second:
        queue.put(b"")
        queue.get()
        assert "another handle consumes; close it" in said(errors.BusyError, second.get)
    here.unlink("q")


def test_a_reservation_that_is_open(here):
    with here.queue("q", create=True) as queue:
        reserved = queue.reserve(8)
        assert said(errors.BusyError, queue.put, b"").endswith("; commit or cancel it first")
        del reserved
    here.unlink("q")


def test_text_in_place_of_bytes(cluster):
    with cluster.queue("q", create=True) as queue:
        for call in (queue.put, lambda text: queue.put_many([text])):
            assert said(errors.ArgumentTypeError, call, "text").endswith("; pass text.encode()")
        assert said(errors.ArgumentTypeError, queue.put, 5).endswith(
            "; pass bytes, a bytearray or an array; dsmem.queue.Pickled(queue) takes objects"
        )
    cluster.unlink("q")


def test_a_wait_in_vain(cluster, other):
    with cluster.segment("s", 4, "i8", create=True) as made, other(made) as segment:
        for one in (made, segment):
            message = said(errors.TimeoutError, one.wait, 0, 1, timeout=0.01)
            assert message == "the element is not what is waited for; the deadline passed"
    cluster.unlink("s")


@pytest.mark.parametrize("call", ["read", "write", "fetch_add"])
def test_an_index_outside(cluster, other, call):
    with cluster.segment("s", 4, "i8", create=True) as made, other(made) as segment:
        for one in (made, segment):
            message = said(errors.OutOfBoundsError, getattr(one, call), 9, *([] if call == "read" else [1]))
            assert message == "index 9; the segment has shape (4,)"
    cluster.unlink("s")


def test_values_that_do_not_fit(cluster):
    with cluster.segment("s", 4, "i8", create=True, versioned=True) as segment:
        for call, argument in (
            (lambda out: segment.read(out=out), np.zeros(4)),
            (lambda out: segment.read(out=out), np.zeros(3, "i8")),
            (segment.publish, np.zeros(5, "i8")),
        ):
            message = said(errors.MismatchError, call, argument)
            assert not any(text in message for text in GENERAL)
    cluster.unlink("s")


def test_a_segment_that_another_writes(here):
    with here.segment("s", 4, "i8", create=True, versioned=True) as segment, dsmem.attach(segment.ref) as second:
        with segment.writing():
            message = said(errors.TimeoutError, second.publish, np.zeros(4, "i8"), timeout=0.01)
        # The numbers of processes are kept for the newest only.
        process = r"process \d+|a process whose number is not visible here \([0-9]+\)"
        assert re.fullmatch(
            rf"({process}) is writing the segment; nothing was written; wait longer, .*break_.*", message
        )
    here.unlink("s")


def test_a_segment_that_is_readonly(here):
    with here.segment("s", 4, "i8", create=True), here.segment("s", readonly=True) as segment:
        for call in (lambda: segment.write(0, 1), lambda: segment.resize(2), lambda: segment.fetch_add(0, 1)):
            assert (
                said(errors.AccessDeniedError, call) == "the segment was attached with readonly=True; attach it without"
            )
    here.unlink("s")


def test_a_handle_in_use(here):
    lock = here.lock("l", create=True)
    with lock:
        assert said(errors.BusyError, lock.close) == "the lock 'l' is held with this handle; release it first"
    lock.close()
    here.unlink("l")


def test_permits_and_views_name_what_they_are_of(here):
    permits = here.semaphore("p", 2, create=True)
    with here.segment("s", 4, create=True) as segment:
        permits.acquire()
        assert "permits of the semaphore 'p' are held" in said(errors.BusyError, permits.close)
        permits.release()
        view = segment.array
        assert said(errors.BusyError, segment.close).startswith("the segment 's' has 1 views")
        with pytest.raises(errors.BusyError, match="the segment 's' has 1 views"):
            here.close()
        del view
    permits.close()
    for name in ("p", "s"):
        here.unlink(name)


@pytest.mark.parametrize("kind", ["segment", "queue", "event"])
def test_a_closed_object_is_named(here, kind):
    made = getattr(here, kind)("o", create=True, **({"shape": 4} if kind == "segment" else {}))
    made.close()
    call = {"segment": "read", "queue": "get", "event": "set"}[kind]
    assert said(errors.ClosedError, getattr(made, call)) == f"{kind} 'o': the object is closed"
    here.unlink("o")


def test_a_queue_that_does_not_fit_says_what_to_change(here):
    arguments = {"create": True, "capacity_bytes": 4096, "max_message": 1 << 20}
    assert "capacity_bytes" in said(errors.InvalidArgumentError, here.queue, "q", **arguments).partition("; ")[2]


def test_a_queue_of_a_context_drops_nothing():
    with dsmem.Context("tcp", listen="127.0.0.1") as context, dsmem.connect("h", context=context) as cluster:
        message = said(errors.InvalidArgumentError, cluster.queue, "q", create=True, drop_oldest=True)
        assert "leave out drop_oldest" in message


def test_a_wait_for_a_name_says_that_it_waited(here):
    message = said(errors.NameNotFoundError, here.event, "never", timeout=0.01)
    assert "no event 'never' in " in message and "within 0.01 s; " in message and "wait longer" in message


def test_an_address_without_its_scheme():
    message = said(errors.InvalidNameError, dsmem.connect, "127.0.0.1:7700")
    assert message.endswith("tcp://HOST:PORT/NAME") and "'127.0.0.1:7700'" in message


def test_a_second_producer(here):
    with here.queue("q", create=True) as queue, dsmem.attach(queue.ref) as second:
        queue.put(b"")
        assert said(errors.TooManyMembersError, second.put, b"").endswith(
            "; close it, or make the queue with producers='many'"
        )
    here.unlink("q")


def test_a_name_that_is_not_there_says_where_it_was_looked_for(here):
    place = f"'n' in the cluster {here.name!r}: "
    assert said(errors.NameNotFoundError, here.segment, "n").startswith(place)
    message = said(errors.NameNotFoundError, here.unlink, "n")
    assert message.startswith(place) and "create=" not in message


def test_a_name_that_is_not_in_a_context():
    with dsmem.Context() as context, dsmem.connect("hosted", context=context) as cluster:
        for call in (cluster.segment, cluster.unlink):
            assert "'n': this context holds no " in said(errors.NameNotFoundError, call, "n")


def test_a_cluster_that_another_user_has_not():
    message = said(errors.NameNotFoundError, dsmem.connect, "never-made", owner=54321)
    assert message == "user 54321 has no cluster 'never-made' here; 'dsmem ls --owner 54321' lists what there is"


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"half"])
def test_a_file_that_is_no_object_is_named(here, content):
    with here.segment("whole", 4, "i8", create=True):
        path = Path(f"/dev/shm/dsmem-{os.geteuid()}", here.name, "damaged")
        path.write_bytes((path.parent / "whole").read_bytes()[:4096] if content == b"half" else content)
        assert "damaged" in said(errors.CorruptError, here.segment, "damaged")
    here.unlink("damaged")
    here.unlink("whole")


@pytest.mark.parametrize(
    ("mode", "shown"), [(0o777, "0o777"), (644, "0o1204"), (-1, "-1"), ("rw", "'rw'"), (True, "0o1")]
)
def test_modes_are_shown_as_modes(mode, shown):
    cls = errors.ArgumentTypeError if isinstance(mode, str) else errors.InvalidArgumentError
    assert f"mode={shown}: 0o600 with any of 0o066, such as" in said(cls, check_mode, mode)


def test_an_index_of_another_type_or_outside(here):
    with here.segment("s", 4, "i8", create=True) as segment:
        assert "valid indices" in said(errors.ArgumentTypeError, segment.read, "a")
        for index in ([9], (0, 0)):
            assert said(errors.OutOfBoundsError, segment.read, index).endswith("; segment.shape says what there is")
    here.unlink("s")


def test_a_queue_that_was_shut_down(here):
    with here.queue("q", create=True) as queue:
        queue.shutdown()
        for call, *arguments in ((queue.put, b""), (queue.get,)):
            assert said(errors.ShutDownError, call, *arguments).endswith("; unlink it to make another")
    here.unlink("q")
