"""What a handle refuses so that nothing it stands on is freed or overwritten, and what buffers it takes."""

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import dsmem
from dsmem import errors


@pytest.fixture
def context():
    with dsmem.Context("shm") as context:
        yield context


@pytest.fixture
def remote(context):
    with context.allocate(4096) as region, context.attach(region.descriptor) as remote:
        yield remote


@pytest.fixture(params=["shm", "fault+shm"])
def pair(request):
    """A region's owner and a remote of it, mapped or not."""
    with dsmem.Context(request.param) as context, context.allocate(4096) as region:
        with context.attach(region.descriptor) as remote:
            yield context, remote


def test_a_batch_whose_block_raised_is_used_up(pair):
    context, remote = pair
    batch, out = context.batch(), bytearray(8)
    with pytest.raises(ZeroDivisionError), batch:
        batch.read(remote, 0, out)
        old = batch.fetch_add(remote, 8, 1)
        raise ZeroDivisionError
    out.extend(b"the batch has let go of it")
    for again in (batch.__enter__, lambda: batch.read(remote, 0, bytearray(8)), lambda: old.value):
        with pytest.raises(errors.ClosedError):
            again()
    batch.__exit__(None, None, None)
    assert not batch.done and remote.fetch_add(8, 0) == 0


def test_a_batch_is_executed_once(pair):
    context, remote = pair
    with context.batch() as batch:
        old = batch.fetch_add(remote, 0, 1)
        with pytest.raises(errors.BusyError):
            batch.__enter__()
        with pytest.raises(errors.BusyError):
            _ = old.value
    batch.__exit__(None, None, None)
    assert old.value == 0 and remote.fetch_add(0, 0) == 1


def test_a_failed_batch_has_no_results(pair):
    context, remote = pair
    with pytest.raises(errors.OutOfBoundsError), context.batch() as batch:
        old = batch.fetch_add(remote, 0, 1)
        batch.write(remote, 4090, bytes(8))
    with pytest.raises(errors.CanceledError):  # it was not executed
        _ = old.value


@pytest.mark.parametrize(
    "holds",
    [
        np.array([object()] * 8),
        np.zeros(4, [("a", "i8"), ("b", "O")]),
        np.array([object()] * 8).view(type("Own", (np.ndarray,), {})),
        memoryview(np.array([object()] * 8)),
        (ctypes.py_object * 8)(),
        np.ma.masked_array([1, 2], mask=[0, 1]),
    ],
)
def test_objects_do_not_enter_shared_memory(context, remote, here, holds):
    with here.queue("q", create=True) as queue, here.segment("s", 8, "i8", create=True) as segment:
        for op in (
            lambda: remote.write(0, holds),
            lambda: remote.read(0, holds),
            lambda: remote.write_many([0], holds),
            lambda: remote.read_many([0], holds),
            lambda: queue.put(holds),
            lambda: context.batch().write(remote, 0, holds),
            lambda: segment.read(out=holds),
        ):
            with pytest.raises((errors.InvalidArgumentError, errors.MismatchError)):
                op()
        here.unlink("q")
        here.unlink("s")


@pytest.mark.parametrize("kind", [np.memmap, np.matrix, np.recarray])
def test_out_of_a_subclass_has_the_dtype_or_is_refused(here, tmp_path, kind):
    with here.segment("s", (2, 2), "i8", create=True, data=[[1, 2], [3, 4]]) as segment:
        here.unlink("s")
        with pytest.raises(errors.MismatchError):
            segment.read(out=np.zeros((2, 2), ">i8").view(type("Own", (np.ndarray,), {})))
        out = np.memmap(tmp_path / "m", "i8", shape=(2, 2), mode="w+") if kind is np.memmap else np.zeros((2, 2), "i8")
        segment.read(out=out.view(kind))
        assert out.tolist() == [[1, 2], [3, 4]]


def test_a_view_of_a_released_message_is_the_last(here):
    with here.queue("q", create=True) as queue:
        here.unlink("q")
        queue.put(b"message")
        view = queue.peek()
        assert queue.peek() is view
        slot = view.obj
        queue.release()
        with pytest.raises(errors.ClosedError):
            memoryview(slot)


def test_a_segment_in_its_writers_turn_stays_open(pair, here):
    context, _ = pair
    with dsmem.connect(context=context) as cluster, dsmem.Context(context.fabric) as user:
        made = cluster.segment("s", 4, "i8", create=True, versioned=True)
        with dsmem.attach(made.ref, user) as segment:
            with pytest.raises(ZeroDivisionError), segment.writing():
                with pytest.raises(errors.BusyError):
                    segment.close()
                with pytest.raises(errors.BusyError):
                    user.close()
                raise ZeroDivisionError
            assert segment.publish([1, 2, 3, 4]) == 1
        made.close()


def test_the_context_stays_while_a_handle_is_open(context, remote):
    with dsmem.connect(context=context) as cluster:
        queue = cluster.queue("q", create=True)
        with pytest.raises(errors.BusyError):
            context.close()
        assert not context.closed and not remote.closed
        queue.close()


class Service:
    """What nothing refers to but itself: its parts are finalized in any order."""

    def __init__(self, fabric):
        self.itself = self
        self.context = dsmem.Context(fabric)
        self.region = self.context.allocate(4096)
        self.array = self.region.array()
        self.remote = self.context.attach(self.region.descriptor)
        self.view = self.remote.array() if self.remote.is_mapped else None


def held():
    """Open files, and mappings of regions."""
    return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/self/maps").read_text().count("memfd:dsmem")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("where", ["shm", "fault+shm"])
def test_a_cycle_that_was_not_closed_leaves_nothing(where):
    Service(where)  # what a process opens once
    gc.collect()
    before = held()
    for _ in range(3):
        Service(where)
    gc.collect()
    assert held() == before


MADE = {
    "segment": lambda c: c.segment("o", 4, create=True),
    "queue": lambda c: c.queue("o", create=True),
    "clock": lambda c: c.clock("o", create=True),
    "lock": lambda c: c.lock("o", create=True),
    "rlock": lambda c: c.rlock("o", create=True),
    "spinlock": lambda c: c.spinlock("o", create=True),
    "rwlock": lambda c: c.rwlock("o", create=True),
    "semaphore": lambda c: c.semaphore("o", create=True),
    "counting": lambda c: c.semaphore("o", create=True, owned=False),
    "event": lambda c: c.event("o", create=True),
    "condition": lambda c: c.condition("o", create=True),
    "barrier": lambda c: c.barrier("o", 2, create=True),
    "once": lambda c: c.once("o", create=True),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_closed_object_is_not_entered(cluster, kind):
    made = MADE[kind](cluster)
    made.close()
    with pytest.raises(errors.ClosedError), made.read() if kind == "rwlock" else made:
        pass


def test_a_segment_whose_memory_goes_with_its_views_is_not_entered(here):
    with here.segment("o", 4, create=True) as segment:
        view = segment.array
    with pytest.raises(errors.ClosedError), segment:
        pass
    assert view[0] == 0


def test_a_closed_cluster_is_not_entered(cluster_name):
    cluster = dsmem.connect(cluster_name)
    with cluster:
        pass
    with pytest.raises(errors.ClosedError), cluster:
        pass


@pytest.mark.parametrize("shape", [0, 4, ()])
def test_a_segment_is_true_as_every_handle(cluster, shape):
    with cluster.segment("o", shape, create=True) as segment:
        assert segment
    assert segment


@pytest.mark.parametrize("kind", sorted(MADE.keys() - {"counting"}))
def test_the_warning_of_an_unclosed_object_names_it(here, kind):
    made = MADE[kind](here)
    name = type(made).__name__
    with pytest.warns(ResourceWarning, match=f"unclosed <{name} 'o'"):
        del made
        gc.collect()


@pytest.fixture
def unreported(monkeypatch):
    """What a destructor raises is dropped. A report would keep the frames in which it ran, with all that they hold."""
    monkeypatch.setattr(sys, "unraisablehook", lambda report: None)


@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.parametrize("kind", [*sorted(MADE), "region", "context"])
@pytest.mark.parametrize("where", ["shm", "fault+shm", "tcp"])
def test_an_unclosed_object_leaves_nothing_where_warnings_are_errors(where, kind):
    def drop():
        context = dsmem.Context(where)
        if kind == "region":
            context.allocate(4096)
        elif kind != "context":
            MADE[kind](dsmem.connect(context=context))

    drop()  # what a process opens once
    gc.collect()
    before = held()
    for _ in range(3):
        drop()
        gc.collect()
    assert held() == before


@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_queue_that_was_dropped_is_left_where_warnings_are_errors(here):
    with here.queue("o", create=True, producers="many") as queue:
        another = here.queue("o")
        another.put(b"x")
        del another
        gc.collect()
        assert queue.counts["producers"] == 0 and queue.get() == b"x"


class Interrupted(dsmem.Context):
    """Closed by a destructor as a signal's handler raises."""

    def close(self):
        raise KeyboardInterrupt


@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("where", ["shm", "tcp"])
def test_a_context_whose_destructor_is_interrupted_leaves_nothing(where):
    dsmem.Context(where).close()
    before = held()
    for _ in range(3):
        Interrupted(where)
        gc.collect()
    assert held() == before


def test_the_warning_of_a_segment_that_has_grown_names_it(here):
    segment = here.segment("o", 4, create=True)
    segment.resize(1 << 20)
    with pytest.warns(ResourceWarning) as warned:
        del segment
        gc.collect()
    assert [str(w.message) for w in warned] == ["unclosed <Segment 'o'>"]


class DuringConversion:
    """An argument whose conversion calls a function: in the middle of a call on a handle."""

    def __init__(self, call):
        self.call = call

    def __float__(self):
        self.call()
        return 1.0


def use(handle, owned, during):
    """Call a function while the handle is in use: it has a view or a region, or is in the middle of a call."""
    if isinstance(handle, dsmem.Remotes):
        handle.read_many([0], [0], bytearray(8), timeout=DuringConversion(during))
    elif isinstance(handle, dsmem.Pool):
        with handle.allocate(8):
            during()
    else:
        with memoryview(owned if isinstance(handle, dsmem.Context) else handle):
            during()


HANDLES = {
    "Context": lambda context, region: context,
    "Region": lambda context, region: region,
    "Remote": lambda context, region: context.attach(region.descriptor),
    "Remotes": lambda context, region: context.attach_many(bytes(region.descriptor)),
    "Pool": lambda context, region: context.pool(4096),
}


@pytest.mark.parametrize("kind", HANDLES)
def test_a_block_that_raised_keeps_its_exception_over_a_handle_in_use(kind):
    with contextlib.closing(dsmem.Context("shm")) as context:
        region = context.empty(8, "u8")
        handle = HANDLES[kind](context, region)

        def leave():
            with pytest.raises(KeyError) as caught:
                leave_by(handle, KeyError("its own"))
            assert sys.version_info < (3, 11) or "BusyError" in caught.value.__notes__[0]
            with pytest.raises(errors.BusyError):
                leave_by(handle, None)

        use(handle, region, leave)
        assert not handle.closed


def leave_by(handle, error):
    """Leave a with block of the handle, by the exception or in peace."""
    with handle:
        if error is not None:
            raise error


@pytest.mark.parametrize("kind", ["lock", "rlock", "rwlock", "semaphore", "counting", "once"])
def test_a_block_that_raised_keeps_its_exception_over_a_release_that_fails(here, kind):
    made = MADE[kind](here)
    release = made.release_write if kind == "rwlock" else getattr(made, "release", lambda: None)
    with pytest.raises(KeyError), made.write() if kind == "rwlock" else made:
        release()
        if kind == "once":
            made.break_(made.holder())
        else:
            made.close()
        raise KeyError  # the end of the block releases in vain
    made.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork beside threads
def test_a_turn_that_a_child_of_fork_leaves_by_an_exception_keeps_it():
    with dsmem.Context("shm") as context, dsmem.connect("h", context=context) as cluster:
        with cluster.segment("s", 4, "i8", create=True, versioned=True) as segment:
            child = -1
            try:
                with segment.writing():
                    child = os.fork()
                    if child == 0:
                        raise KeyError
            except BaseException as error:
                if child == 0:
                    os._exit(42 if isinstance(error, KeyError) else 1)
                raise
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


GONE = (errors.StaleDescriptorError, errors.PeerDeadError)
READS = {
    "semaphore": lambda o: o.value,
    "counting": lambda o: o.value,
    "event": lambda o: o.is_set(),
    "lock": lambda o: o.locked(),
    "rlock": lambda o: o.locked(),
    "barrier": lambda o: (o.n_waiting, o.broken),
    "once": lambda o: o.done,
}
CHANGES = {
    "semaphore": lambda o: o.acquire(timeout=0),
    "counting": lambda o: o.release(),
    "event": lambda o: o.set(),
    "lock": lambda o: o.acquire(timeout=0),
    "rlock": lambda o: o.acquire(timeout=0),
    "barrier": lambda o: o.abort(),
    "once": lambda o: o.begin(timeout=0),
}


@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("where", ["shm", "fault+shm"])
@pytest.mark.parametrize("lives", [True, False])
def test_an_object_whose_memory_is_gone_says_so(cluster_name, where, kind, lives):
    """Its owner has closed the memory, or has gone itself."""
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(dsmem.Context(where))
        with dsmem.Context("shm") as owner, dsmem.connect(cluster_name, context=owner) as cluster:
            made = MADE[kind](cluster)
            again = stack.enter_context(contextlib.closing(dsmem.attach(made.ref, user)))
            READS[kind](again)
            made.unlink()
            made.close()
            if not lives:
                owner.close()
            for call in (READS[kind], CHANGES[kind]) * 2:
                with pytest.raises(GONE):
                    call(again)
