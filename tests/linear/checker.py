"""Whether a history of concurrent operations is linearisable.

J. Wing and C. Gong, Testing and Verifying Concurrent Objects, 1993, with the memory of configurations that G. Lowe,
Testing for Linearizability, 2017, adds to it.

An operation takes effect at one moment between its begin and its end. One without an end (its process was killed in it)
takes effect at any moment after its begin, with any result, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


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


def first_misfit(history: Iterable[Op], model: Model, state: Hashable) -> Op | None:
    """The operation at whose end a history no longer is linearisable; None if it is to its end."""
    history = list(history)
    ops = sorted((op for op in history if op.end is not None), key=lambda op: op.end or 0)
    if is_linearisable(history, model, state):
        return None
    fits, misfits = 0, len(ops)  # so many of the ends
    while misfits - fits > 1:
        middle = (fits + misfits) // 2
        if is_linearisable(_until(history, ops[middle - 1].end or 0), model, state):
            fits = middle
        else:
            misfits = middle
    return ops[misfits - 1]


def _until(history: Iterable[Op], time: int) -> Iterable[Op]:
    """What has begun by then; without a result where it had not ended."""
    return [
        op if op.end is not None and op.end <= time else replace(op, end=None, result=None)
        for op in history
        if op.begin <= time
    ]


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


CONFLICT, MISSING = "conflict", "missing"  # results of calls of a store: ConflictError, PageNotFoundError


class Page(NamedTuple):
    """A page of a store: the id of its life, or of its next one; whether it is allocated; its version and its value."""

    pid: int
    there: bool
    version: int
    value: int = 0


def next_life(pid: int) -> int:
    """The id behind it: its generation is greater by 1, and never 0."""
    generation, number = pid >> 40, pid & ((1 << 40) - 1)
    return (generation % ((1 << 24) - 1) + 1) << 40 | number


def page(state: Page, op: Op) -> Any:
    """A page of a store. Each change makes its version greater by 1, and has that as its result.

    allocate(), whose result is the id, and calls of an id: free(pid); read(pid) and version(pid); write(pid, value);
    compare_write(pid, expected, value). One that was cut counts here only if it has changed the page.
    """
    if op.name == "allocate":
        fits = not state.there and (op.end is None or op.result == state.pid)
        return Page(state.pid, True, state.version + 1) if fits else REFUSED
    if not state.there or op.args[0] != state.pid:
        return state if op.result == MISSING else REFUSED
    if op.name in ("read", "version"):
        return state if op.result == (state.value if op.name == "read" else state.version) else REFUSED
    return _changed(state, op)


def _changed(state: Page, op: Op) -> Any:
    version = state.version + 1
    if op.name == "free":
        fits = op.end is None or op.result is None
        return Page(next_life(state.pid), False, version) if fits else REFUSED
    if op.name == "compare_write" and op.args[1] != state.version:
        return state if op.result == CONFLICT else REFUSED
    fits = op.end is None or op.result == version
    return Page(state.pid, True, version, op.args[-1]) if fits else REFUSED
