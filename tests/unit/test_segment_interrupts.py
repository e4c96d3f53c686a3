"""A signal handler that raises at any bytecode of a writer leaves the segment usable for all processes, and whole."""

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from interrupts import sweep

from dsmem import _core, errors


@pytest.fixture
def versioned(cluster):
    with cluster.segment("v", 100, "i8", create=True, versioned=True, capacity=200) as segment:
        yield segment


def whole(segment):
    """Every version is one value."""
    version, copy = segment.snapshot(timeout=10)
    assert (copy == copy[0]).all()
    return version


def writer(segment):
    def call():
        with segment.writing(timeout=0) as array:
            array[:50] = array[0] + 1
            array[50:] = array[0]

    return call


CALLS = {
    "writing": writer,
    "publish": lambda segment: lambda: segment.publish(7, timeout=0),
    "resize": lambda segment: lambda: segment.resize(150, timeout=0),
}


@pytest.mark.parametrize("kind", CALLS)
def test_interrupted_at_every_bytecode(versioned, other, cluster, kind):
    with other(versioned) as second:
        call, again = CALLS[kind](versioned), CALLS[kind](second)

        def check():
            before = whole(second)
            again()
            second.resize(100, timeout=0)
            assert whole(versioned) == before + 2
            assert (versioned.read() == second.read()[0]).all(), "what was undone is undone"

        sweep(call, check, 10)
        if versioned.ref.cluster:
            code = "import sys, dsmem; dsmem.connect(sys.argv[1]).segment('v').publish(1, timeout=0)"
            subprocess.run([sys.executable, "-W", "ignore", "-c", code, cluster.name], check=True)


def test_an_exception_after_the_commit_ends_no_turn_of_another(versioned):
    """The turn of one thread is not that of the process."""
    turn = _core.Writing(versioned)
    turn.__enter__()[:] = 3
    turn.__exit__(None, None, None)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with versioned.writing() as array:
            array[:50] = 5
            entered.set()
            leave.wait(10)
            array[50:] = 5

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    turn.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    with pytest.raises(errors.NotHeldError):
        turn.__exit__(None, None, None)
    leave.set()
    thread.join()
    assert whole(versioned) == 2 and versioned.read(0) == 5


def test_a_turn_that_is_dropped_is_given_back(versioned):
    turn = versioned.writing()
    turn.__enter__()[:10] = 1
    with pytest.raises(errors.BusyError):
        turn.__enter__()
    with pytest.raises(errors.BusyError):
        versioned.close()
    cycle = [turn]
    cycle.append(cycle)
    del turn, cycle
    gc.collect()
    assert versioned.publish(2, timeout=0) == 1
    assert whole(versioned) == 1


def test_a_segment_that_is_left_in_its_turn_goes_with_it(here):
    with here.segment("v", 4, "i8", create=True, versioned=True) as segment, here.segment("v") as second:
        with segment:
            turn = segment.writing()
            array = turn.__enter__()
            array[:] = 1
        assert segment.closed
        turn.__exit__(None, None, None)
        assert second.snapshot()[1].tolist() == [1] * 4


def test_a_publish_meets_another_size(versioned, other):
    """What is broadcast is broadcast again when another process has resized the segment between."""
    with other(versioned) as second:

        class Late:
            def __array__(self, dtype=None, copy=None):
                second.resize(120)
                return np.full((), 4, "i8")

        assert versioned.publish(Late()) == 2
        assert versioned.shape == (120,) and (second.read() == 4).all()
        second.resize(60)
        assert _core.publish(versioned, bytes(8 * 120)) is None and versioned.publish(5) == 4
