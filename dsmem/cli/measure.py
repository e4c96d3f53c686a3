"""Measurement of the time of a call.

A call is one op, or one ``read_many``, ``write_many`` or ``batch()`` of many ops. A sample is the time of a block of
consecutive calls, between two readings of ``time.perf_counter_ns``. Blocks are so long that the clock takes at most 2%
of them. If a call is long enough, a block is one call, and percentiles are those of calls. Otherwise they are those of
means over a block, and ``calls_per_sample`` is the length of the block. Samples are reported as measured: the cost of
the interpreter's loop is measured and reported separately, not subtracted. The garbage collector is off during a block.

A percentile is one of the samples. It is given only if there are enough samples for it: 100 for the 99th, 1000 for the
99.9th.
"""

from __future__ import annotations

import random
import timeit
from array import array
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dsmem

OPS = ("read", "write", "fetch-add", "compare-swap", "read-many", "write-many", "batch")
ATOMICS = ("fetch-add", "compare-swap")
MANY = ("read-many", "write-many", "batch")

WORDS = 4096  # bytes: a page behind the data, whose words only atomics access
CALL_MOST = 16 << 20  # greatest number of bytes that one call moves; calls with large ops have fewer ops
CLOCK_SHARE = 0.02
WARM_NS = 20_000_000
FEWEST = 3  # least number of samples, however short the time

# All lookups are done here, so that the timed loop contains only the call. compare_swap always finds what it expects.
_SETUP = """
read, write, fetch_add, compare_swap = remote.read, remote.write, remote.fetch_add, remote.compare_swap
read_many, write_many, batch = remote.read_many, remote.write_many, remote.context.batch
to, where, add_at, swap_at, quarters = remote, offsets, words, words + 8, rows
data = buffer
"""
_BATCH = """
with batch() as b:
    for at, out, there, piece in quarters:
        b.read(to, at, out)
        b.write(to, there, piece)
        b.fetch_add(to, add_at, 1)
        b.compare_swap(to, swap_at, 0, 0)
"""
_CALLS = {
    "read": "read(0, data)",
    "write": "write(0, data)",
    "fetch-add": "fetch_add(add_at, 1)",
    "compare-swap": "compare_swap(swap_at, 0, 0)",
    "read-many": "read_many(where, data)",
    "write-many": "write_many(where, data)",
    "batch": _BATCH,
}


@dataclass(frozen=True)
class Case:
    """One row: an op, the bytes of each op, and how many of them one call makes."""

    op: str
    nbytes: int
    ops_per_call: int = 1

    @property
    def call_nbytes(self) -> int:
        """Bytes that one call moves. A batch has equal numbers of reads, writes and each of the two atomics."""
        if self.op == "batch":
            return self.ops_per_call // 2 * (self.nbytes + 8)
        return self.ops_per_call * self.nbytes


@dataclass(frozen=True)
class Limits:
    """When a row is done: after a number of iterations or, if that is None, of seconds."""

    iterations: int | None
    seconds: float


@dataclass(frozen=True)
class Overhead:
    """Cost of the measurement itself: two readings of the clock around nothing, and one turn of the loop."""

    clock_ns: float
    loop_ns: float


def cases(ops: list[str], sizes: list[int], depth: int) -> list[Case]:
    """Return the rows, in order.

    Parameters
    ----------
    ops : list of str
        Members of OPS.
    sizes : list of int
        Bytes per op. Atomics always have 8.
    depth : int
        Ops per call for the ops in MANY; fewer if the call would move more than CALL_MOST bytes.
    """
    made = []
    for op in ops:
        for size in [8] if op in ATOMICS else sizes:
            n = max(1, min(depth, CALL_MOST // size)) if op in MANY else 1
            made.append(Case(op, size, max(4, n // 4 * 4) if op == "batch" else n))
    return made


def region_nbytes(rows: list[Case]) -> int:
    """Return the length of the owner's region for these rows: their data, and the page of words behind it."""
    data = max(c.nbytes * c.ops_per_call for c in rows)
    return -(-data // 4096) * 4096 + WORDS


def overhead() -> Overhead:
    """Measure the overhead now."""
    empty = timeit.Timer("pass", timer=perf_counter_ns)
    clock = float(np.median([empty.timeit(0) for _ in range(1001)]))
    loop = float(np.median([empty.timeit(10_000) for _ in range(11)])) / 10_000
    return Overhead(clock, loop)


def _timer(case: Case, remote: dsmem.Remote) -> timeit.Timer:
    n, size = case.ops_per_call, case.nbytes
    # Written, so that its pages are distinct: unwritten ones would all be the zero page, which is in the cache.
    buffer = bytearray(b"\1") * (n * size)
    offsets = np.array(random.Random(0).sample(range(0, n * size, size), n), np.uint64)
    pieces = [memoryview(buffer)[i * size : (i + 1) * size] for i in range(n)]
    at = offsets.tolist()
    names = {
        "remote": remote,
        "buffer": buffer,
        "offsets": offsets,
        "words": remote.nbytes - WORDS,
        "rows": [(at[i], pieces[i], at[i + 1], pieces[i + 1]) for i in range(0, n - 3, 4)],
    }
    return timeit.Timer(_CALLS[case.op], _SETUP, perf_counter_ns, names)


def _warm_up(timer: timeit.Timer) -> float:
    """Warm up caches, make connections, and return the nanoseconds per call."""
    n, end = 1, perf_counter_ns() + WARM_NS
    timer.timeit(1)
    while True:
        took = timer.timeit(n)
        if perf_counter_ns() >= end:
            return max(took / n, 1.0)
        n = min(n * 2, 4096)


def _block(call_ns: float, clock_ns: float) -> int:
    """Number of calls per sample, a power of 2."""
    n = 1
    while clock_ns > CLOCK_SHARE * n * call_ns:
        n *= 2
    return n


def _samples(timer: timeit.Timer, block: int, limits: Limits) -> NDArray[np.int64]:
    times = array("q")
    if limits.iterations is not None:
        for _ in range(-(-limits.iterations // block)):
            times.append(int(timer.timeit(block)))
    else:
        end = perf_counter_ns() + int(limits.seconds * 1e9)
        while perf_counter_ns() < end or len(times) < FEWEST:
            times.append(int(timer.timeit(block)))
    return np.frombuffer(times, np.int64)


def _percentile(us: NDArray[np.float64], percent: float, fewest: int) -> float | None:
    return float(np.percentile(us, percent, method="higher")) if us.size >= fewest else None


def sample(timer: timeit.Timer, limits: Limits, clock_ns: float) -> tuple[NDArray[np.int64], int]:
    """Warm up, then time blocks of calls.

    Parameters
    ----------
    timer : timeit.Timer
        Timer of the call, with the clock ``time.perf_counter_ns``.
    limits : Limits
        When to stop.
    clock_ns : float
        Cost of two readings of the clock, from :func:`overhead`.

    Returns
    -------
    array of int64
        Nanoseconds per block.
    int
        Calls per block.
    """
    block = _block(_warm_up(timer), clock_ns)
    if limits.iterations is not None:
        block = min(block, limits.iterations)
    return _samples(timer, block, limits), block


def median_us(timer: timeit.Timer, seconds: float, clock_ns: float) -> float:
    """Return the median of the microseconds per call, sampled for some seconds; parameters as of :func:`sample`."""
    times, block = sample(timer, Limits(None, seconds), clock_ns)
    return float(np.median(times)) / block / 1e3


def measure(case: Case, remote: dsmem.Remote, limits: Limits, clock_ns: float) -> dict[str, Any]:
    """Run a row.

    Parameters
    ----------
    case : Case
        The row to run.
    remote : Remote
        A region of at least ``region_nbytes([case])`` bytes with all rights, whose last page is zero.
    limits : Limits
        When it is done.
    clock_ns : float
        Cost of two readings of the clock, from :func:`overhead`.

    Returns
    -------
    dict
        The row in a form for JSON. Latencies are per call, in µs.
    """
    times, block = sample(_timer(case, remote), limits, clock_ns)
    us = times / (block * 1e3)
    calls, spent = times.size * block, float(times.sum()) / 1e9
    return {
        "op": case.op,
        "bytes": case.nbytes,
        "ops_per_call": case.ops_per_call,
        "iterations": calls,
        "calls_per_sample": block,
        "samples": times.size,
        "latency_us": {
            "min": float(us.min()),
            "max": float(us.max()),
            "median": float(np.median(us)),
            "mean": float(us.mean()),
            "stdev": float(us.std()),
            "p99": _percentile(us, 99, 100),
            "p99.9": _percentile(us, 99.9, 1000),
        },
        "bandwidth": {
            "peak_bytes_per_s": case.call_nbytes / float(us.min()) * 1e6,
            "average_bytes_per_s": case.call_nbytes * calls / spent,
            "ops_per_s": case.ops_per_call * calls / spent,
        },
    }
