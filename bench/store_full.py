"""Claim: a write finds a free frame at little cost in a store that is nearly full. Usage: store_full.py [options]

A store of a million pages, all of which were written, has frames to spare: 64 for each member, and as many as its
capacity has pages that are not allocated. Clients that did not fill it write pages at random. How long does the first
write of a client take, in which it looks for free frames, and how long the others, when it has used all that it has
found so at first? At a server also by how many postings, of which one is the write itself. And how long does the
allocation of the only page take that is free? In memory of this host, and at a server on it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

import nodes
import numpy as np

SIZE = 256
SHARES = (0, 1 / 16, 1 / 8, 1)  # of pages, that the capacity has beside those that are written
WARM = 3000  # writes


def fill(place, pages, share, ids):
    """Make the store, and write the ids of its pages to a file."""
    with nodes.client(place) as (cluster, _):
        capacity = int(pages * (1 + share)) * SIZE
        with cluster.store("full", page_size=SIZE, capacity=capacity, members=8, create=True) as store:
            pids, data = store.allocate_many(pages), np.zeros((4096, SIZE), "u1")
            for first in range(0, pages, len(data)):
                part = pids[first : first + len(data)]
                store.write_many(part, data[: len(part)])
    np.save(ids, pids)


def seconds_of(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def write(place, ids, writes, number, gate, results):
    """A client: its first write, and the others."""
    try:
        with nodes.client(place) as (cluster, own), cluster.store("full") as store:
            random, data = np.random.default_rng(number), np.ones(SIZE, "u1")
            pids = np.load(ids)
            plan = random.choice(pids, WARM + writes).tolist()
            gate.wait(300)
            first = seconds_of(lambda: store.write(plan[0], data))
            for pid in plan[1:WARM]:
                store.write(pid, data)
            before = own.stats["doorbells"] if own else 0
            each = [seconds_of(lambda pid=pid: store.write(pid, data)) * 1e6 for pid in plan[WARM:]]
            postings = own.stats["doorbells"] - before if own else None
            results.put(
                {
                    "first_ms": first * 1e3,
                    "median_us": statistics.median(each),
                    "mean_us": statistics.fmean(each),
                    "p99_us": float(np.percentile(each, 99)),
                    "postings": postings and postings / writes,
                }
            )
    except BaseException:
        results.put(traceback.format_exc())
        raise


def allocate(place, ids, gate, results):
    """A client that allocates a page which it has just freed: it knows of no other one."""
    try:
        gate.wait(300)
        with nodes.client(place) as (cluster, _), cluster.store("full") as store:
            pid, found = int(np.load(ids)[0]), []
            for _ in range(21):
                store.free(pid)
                with cluster.store("full") as fresh:
                    begun = time.perf_counter()
                    pid = fresh.allocate()
                    found.append((time.perf_counter() - begun) * 1e3)
            results.put(statistics.median(found))
    except BaseException:
        results.put(traceback.format_exc())
        raise


def measure(place, given, share, folder):
    ids = str(Path(folder, "ids.npy"))
    fill(place, given.pages, share, ids)
    found = {}
    for clients in (1, 2):
        each = nodes.run_clients(write, [(place, ids, given.writes, n) for n in range(clients)], 60)
        found[clients] = {
            key: None if each[0][key] is None else statistics.fmean(one[key] for one in each) for key in each[0]
        }
    if not share:
        found["allocate_ms"] = nodes.run_clients(allocate, [(place, ids)], 60)[0]
    with nodes.client(place) as (cluster, _):
        cluster.unlink("full")
    return found


def say(found):
    print("| at | pages to spare | clients | first write, ms | write, median µs | mean | p99 | postings a write |")
    for at, shares in found.items():
        for share, of in shares.items():
            for clients in (1, 2):
                one = of[clients]
                postings = "" if one["postings"] is None else f"{one['postings']:.2f}"
                times = " | ".join(f"{one[key]:.3g}" for key in ("first_ms", "median_us", "mean_us", "p99_us"))
                print(f"| {at} | {share:.1%} | {clients} | {times} | {postings} |")
    for at, shares in found.items():
        if 0 in shares:
            print(f"{at}: the only free page is allocated in {shares[0]['allocate_ms']:.3g} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=10**6)
    parser.add_argument("--share", type=float, action="append", help="of pages to spare; by default from none to all")
    parser.add_argument("--writes", type=int, default=20000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder, nodes.serving(1) as addresses:
        for at, where in (("this host", []), ("a server", addresses)):
            found[at] = {}
            for share in given.share or SHARES:
                with nodes.own_name() as name:
                    found[at][share] = measure(nodes.where(where, name), given, share, folder)
    say(found)
    if given.json:
        of = {"page_size": SIZE, "pages": given.pages, "writes": given.writes}
        given.json.write_text(json.dumps({**nodes.circumstances(), **of, "found": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
