"""Claim: an op costs the same in large and small stores, and with many clients. Usage: store_growth.py [options]

In memory of this host. Three tables:

pages: stores of 10^4 to 10^7 pages, all of which were written. The same number of them, spread over the whole store, is
read and written again and again, so that caches hold what is used of each store. The stores take turns. "memcpy" copies
as many, as far apart, from an array in a loop in C: it shows what the tables of a processor's memory cost. With it, how
long it takes to open the store, and how many bytes a page of 4 KiB costs beside its own, in a store of the default
number of members.

clients: 1 to 64 processes, each with pages of its own, half reads and half writes. They share the processors, so what
is compared is the processor time of an op.

contention: two processes, one page of which both use for a part of their ops, from none to all.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import memcpy
import nodes
import numpy as np

from dsmem import _core

SIZE = 256
MEMBERS = 32  # by default
USED = 256  # pages, in each store
PLAN = 4096  # pages that a client chooses beforehand
SHARES = (0, 0.1, 0.25, 0.5, 0.75, 1)
FLAT = 1.2  # at most, of the least
ATTACH_MS = 50
BYTES_MOST = 128  # a page of 4 KiB


# ---- pages ----


def filled(cluster, pages):
    """A store, and the pages that are used."""
    store = cluster.store(f"of-{pages}", page_size=SIZE, capacity=pages * SIZE, members=4, create=True)
    ids = store.allocate_many(pages)
    data = np.zeros((4096, SIZE), "u1")
    for first in range(0, pages, len(data)):
        part = ids[first : first + len(data)]
        store.write_many(part, data[: len(part)])
    return store, ids[np.linspace(0, pages - 1, USED, dtype=int)].tolist()


def calls(store, ids):
    page, data = np.empty(SIZE, "u1"), np.ones(SIZE, "u1")

    def transaction(pid, other):
        with store.transaction() as tx:
            tx.write(pid, tx.read(pid))
            tx.read(other)

    return {
        "read": lambda: [store.read(pid, page) for pid in ids],
        "write": lambda: [store.write(pid, data) for pid in ids],
        "version": lambda: [store.version(pid) for pid in ids],
        "transaction": lambda: [transaction(*each) for each in zip(ids[::16], ids[1::16], strict=True)],
    }


def copies(copy, pages):
    """Seconds for a page."""
    array, out = np.ones((pages, SIZE), "u1"), np.empty((USED, SIZE), "u1")
    offsets = np.linspace(0, pages - 1, USED, dtype="u8") * SIZE
    return lambda: copy(out, None, array, offsets, SIZE, 1) / USED


def of_pages(counts, rounds):
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        nodes.own_name() as name,
        nodes.client(name) as (cluster, _),
    ):
        stores, copy = {}, memcpy.build(folder)
        for pages in counts:
            begun = time.perf_counter()
            stores[pages] = filled(cluster, pages)
            found[pages] = {
                "fill_s": time.perf_counter() - begun,
                "bytes_a_page": _core.store_nbytes(4096, pages, MEMBERS, 1) / pages - 4096,
                "us": {},
                "attach_ms": [],
            }
        for call in ("read", "write", "version", "transaction"):
            ways = {pages: calls(*store)[call] for pages, store in stores.items()}
            times = {pages: [] for pages in stores}
            for _ in range(rounds):
                for pages, way in ways.items():
                    begun = time.perf_counter()
                    n = len(way())
                    times[pages].append((time.perf_counter() - begun) / n * 1e6)
            for pages, each in times.items():
                found[pages]["us"][call] = statistics.median(each)
        plain = {pages: copies(copy, pages) for pages in stores}
        times = [[way() * 1e6 for way in plain.values()] for _ in range(rounds)]
        for pages, each in zip(stores, zip(*times, strict=True), strict=True):
            found[pages]["us"]["memcpy"] = statistics.median(each)
        for _ in range(21):
            for pages in stores:
                begun = time.perf_counter()
                again = cluster.store(f"of-{pages}")
                found[pages]["attach_ms"].append((time.perf_counter() - begun) * 1e3)
                again.close()
        for pages, (store, _) in stores.items():
            found[pages]["attach_ms"] = statistics.median(found[pages]["attach_ms"])
            store.close()
    return found


# ---- clients ----


def use(name, own, shared, share, seconds, number, gate, results):
    """Half reads, half writes; of the page that others use, too, for a share of them."""
    try:
        with nodes.client(name) as (cluster, _), cluster.store("s") as store:
            random, data, page = np.random.default_rng(number), np.ones(SIZE, "u1"), np.empty(SIZE, "u1")
            plan = random.choice(np.array(own, "u8"), PLAN)
            plan[random.random(PLAN) < share] = shared
            plan = plan.tolist()
            for pid in own:
                store.write(pid, data)
            gate.wait(300)
            ops, begun, cpu = 0, time.monotonic(), time.process_time()
            while time.monotonic() < begun + seconds:
                at = ops // 2 % PLAN
                for pid in plan[at : at + 32]:
                    store.read(pid, page)
                    store.write(pid, data)
                ops += 64
            taken, cpu = time.monotonic() - begun, time.process_time() - cpu
            results.put((ops, taken, cpu, store.counts["retries"]))
    except BaseException:
        results.put(traceback.format_exc())
        raise


def in_turns(tries, cases):
    """The median of each figure of each case, by its name."""
    found = [{name: call() for name, call in cases.items()} for _ in range(tries)]
    return {
        name: {key: statistics.median(each[name][key] for each in found) for key in found[0][name]} for name in cases
    }


def together(clients, share, seconds):
    """What so many of them do in a store."""
    with nodes.own_name() as name, nodes.client(name) as (cluster, _):
        pages = clients * USED + 1
        with cluster.store("s", page_size=SIZE, capacity=2 * pages * SIZE, members=clients + 2, create=True) as store:
            shared, *ids = store.allocate_many(pages).tolist()
            own = [ids[n * USED : (n + 1) * USED] for n in range(clients)]
            each = [(name, own[n], shared, share, seconds, n) for n in range(clients)]
            found = nodes.run_clients(use, each, seconds * clients)
    ops = sum(one[0] for one in found)
    return {
        "ops_per_s": sum(one[0] / one[1] for one in found),
        "cpu_us": sum(one[2] for one in found) / ops * 1e6,
        "retries_per_op": sum(one[3] for one in found) / ops,
    }


# ---- all of it ----


def ratio(values):
    """Of the most to the least."""
    return max(values) / min(values)


def say(of):
    print("| pages | read | write | version | transaction | memcpy, µs | open, ms | bytes a page of 4 KiB beside it |")
    for pages, each in of["pages"].items():
        us = " | ".join(f"{us:.3g}" for us in each["us"].values())
        print(f"| {pages:,} | {us} | {each['attach_ms']:.3g} | {each['bytes_a_page']:.3g} |")
    for call in ("read", "write", "version", "transaction"):
        most = ratio([each["us"][call] for each in of["pages"].values()])
        print(f"{call}: {most:.2f} times the least at most, goal {FLAT}: {'met' if most <= FLAT else 'MISSED'}")
    largest = max(of["pages"])
    opened = of["pages"][largest]["attach_ms"]
    print(f"open, {largest} pages: {opened:.3g} ms, goal {ATTACH_MS}: {'met' if opened <= ATTACH_MS else 'MISSED'}")
    for what in ("clients", "contention"):
        print(f"| {what} | op/s | processor's µs an op | retries an op |")
        for key, each in of[what].items():
            print(f"| {key} | {each['ops_per_s']:,.0f} | {each['cpu_us']:.3g} | {each['retries_per_op']:.3g} |")
    most = ratio([each["cpu_us"] for each in of["clients"].values()])
    print(f"clients: {most:.2f} times the least at most, goal {FLAT}: {'met' if most <= FLAT else 'MISSED'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, action="append", help="by default 10^4 to 10^7")
    parser.add_argument("--clients", type=int, action="append", help="by default 1 to 64")
    parser.add_argument("--rounds", type=int, default=301)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--tries", type=int, default=5, help="of each number of clients, and of each share")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    clients = given.clients or [1, 2, 4, 8, 16, 32, 64]
    found = {
        "pages": of_pages(given.pages or [10**4, 10**5, 10**6, 10**7], given.rounds),
        "clients": in_turns(given.tries, {n: partial(together, n, 0, given.seconds) for n in clients}),
        "contention": in_turns(given.tries, {share: partial(together, 2, share, given.seconds) for share in SHARES}),
    }
    say(found)
    if given.json:
        of = {"page_size": SIZE, "rounds": given.rounds, "seconds": given.seconds, "tries": given.tries}
        given.json.write_text(json.dumps({**nodes.circumstances(), **of, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
