"""Whether a history of concurrent operations is linearisable.

J. Wing and C. Gong, Testing and Verifying Concurrent Objects, 1993, with the memory of configurations that G. Lowe,
Testing for Linearizability, 2017, adds to it.

An operation takes effect at one moment between its begin and its end. One without an end (its process was killed in it)
takes effect at any moment after its begin, with any result, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Op:
    """What a process did; end is None where it was killed in it, and the result says nothing then."""

    begin: int
    end: int | None
    name: str
    args: tuple[Any, ...] = ()
    result: Any = None


REFUSED = object()

# A model: the state after the operation, or REFUSED if it can't have that result in that state.
Model = Callable[[Any, Op], Any]


def is_linearisable(history: Iterable[Op], model: Model, state: Hashable) -> bool:
    """Whether some order of the operations, each between its begin and end, fits the model."""
    ops = sorted(history, key=lambda op: op.begin)
    whole = [op for op in ops if op.end is not None]
    cut = [op for op in ops if op.end is None]
    everything = (1 << len(whole)) - 1
    seen = {(0, 0, state)}
    stack = [(0, 0, state)]
    while stack:
        done, done_cut, state = stack.pop()
        if done == everything:
            return True
        for next_done, next_cut, op in _candidates(whole, cut, done, done_cut):
            after = model(state, op)
            configuration = (next_done, next_cut, after)
            if after is not REFUSED and configuration not in seen:
                seen.add(configuration)
                stack.append(configuration)
    return False


def _candidates(whole: list[Op], cut: list[Op], done: int, done_cut: int) -> Iterable[tuple[int, int, Op]]:
    """What may take effect next: what began before any operation that is still to come has ended."""
    first_end: float = float("inf")
    i = (~done & (done + 1)).bit_length() - 1
    while i < len(whole) and whole[i].begin <= first_end:
        if not done >> i & 1:
            end = whole[i].end
            assert end is not None
            first_end = min(first_end, end)
            yield done | 1 << i, done_cut, whole[i]
        i += 1
    for j, op in enumerate(cut):
        if op.begin <= first_end and not done_cut >> j & 1:
            yield done, done_cut | 1 << j, op


def word(state: int, op: Op) -> Any:
    """A word: add(n) and swap(expected, desired), whose results are the value before, and read."""
    if op.end is not None and op.result != state:
        return REFUSED
    if op.name == "read":
        return state
    if op.name == "add":
        return state + op.args[0]
    expected, desired = op.args
    return desired if state == expected else state


def register(state: int, op: Op) -> Any:
    """A word that no atomics change: write(value), and read, whose result is the value."""
    if op.name == "write":
        return op.args[0]
    return state if op.end is None or op.result == state else REFUSED


def lane(state: tuple[Any, ...], op: Op) -> Any:
    """A queue's lane, which is a FIFO: put(value), and get, whose result is the value or None if there was none."""
    if op.name == "put":
        return (*state, op.args[0])
    if op.end is None:
        return state[1:]
    if op.result is None:
        return REFUSED if state else state
    return state[1:] if state and state[0] == op.result else REFUSED


def lock(state: tuple[int | None, int], op: Op) -> Any:
    """A lock, (holder, token): acquire(by), whose result is the next token; release(by); death(by) frees it."""
    holder, token = state
    if op.name == "acquire":
        fits = holder is None and (op.end is None or op.result == token + 1)
        return (op.args[0], token + 1) if fits else REFUSED
    if op.name == "release":
        return (None, token) if holder == op.args[0] else REFUSED
    return (None, token) if holder == op.args[0] else state
