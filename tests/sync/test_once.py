"""Once between processes."""

import pytest

from dsmem import errors

LIMIT = 60.0


def test_one_runs_it(world):
    once = world.make("once")
    code = """
def run():
    return obj.call(lambda: obj._memory.remote.fetch_add(80, 1) + 1), obj.done
"""
    actors = [world.actor(once) for _ in range(4)]
    for a in actors:
        a.call(code)
    for a in actors:
        a.start("run()")
    assert sorted((a.result() for a in actors), key=str) == [(1, True)] + [(None, True)] * 3
    assert once.done and once.call(lambda: 1 / 0) is None
    with once as first:
        assert first is False


def test_the_others_wait(world):
    once = world.make("once")
    other = world.again(once)
    waiter = world.actor(once)
    with once as first:
        assert first is True and not once.done and not once.recovered
        with pytest.raises(errors.TimeoutError):
            other.begin(timeout=0.05)
        with pytest.raises(errors.BusyError):
            once.close()
        waiter.start(f"obj.begin({LIMIT}), obj.done")
    assert waiter.result() == (False, True)


def test_one_that_fails_is_replaced(world):
    once = world.make("once")
    waiter = world.actor(once)
    with pytest.raises(ZeroDivisionError), once:
        waiter.start(f"obj.begin({LIMIT}), obj.recovered, obj.end()")
        raise ZeroDivisionError
    assert waiter.result() == (True, False, None)
    assert once.done


def test_one_that_dies_is_replaced(local):
    once = local.make("once")
    runner, waiter = local.actor(once), local.actor(once)
    assert runner.call("obj.begin()") is True
    waiter.start(f"obj.begin({LIMIT}), obj.recovered, obj.end()")
    assert not once.done
    runner.kill()
    assert waiter.result() == (True, True, None)
    assert once.done and once.begin() is False


def test_end_without_begin(world):
    once = world.make("once")
    with pytest.raises(errors.NotHeldError):
        once.end()
    assert not once.done


def test_the_process_that_runs_it_is_broken_by_choice(world):
    """Another one runs it then, and the first can't say that it has been run."""
    once = world.make("once")
    runner = world.actor(once)
    assert once.holder() is None and not once.break_(1)
    assert runner.call("obj.begin()")
    gone = once.holder()
    assert once.break_(gone) and not once.break_(gone) and once.holder() is None
    assert once.begin(LIMIT) and once.recovered
    with pytest.raises(errors.NotHeldError):
        runner.call("obj.end()")
    assert not once.done
    once.end()
    assert once.done and not runner.call("obj.begin()")


def test_the_process_that_runs_it_does_not_wait_for_itself(world):
    once = world.make("once")
    with once as first:
        assert first
        for again in (once.begin, lambda: once.call(int), once.__enter__):
            with pytest.raises(errors.BusyError, match="this thread"):
                again()
        assert not once.done
    assert once.done and once.begin() is False
