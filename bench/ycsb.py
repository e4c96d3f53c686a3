"""YCSB A to F, SmallBank and TATP over a store of pages. Usage: ycsb.py [options]

Each workload (workloads.py) runs in client processes of its own, on memory of this host and at memory nodes over tcp,
with one copy and with three. What is said: operations a second of all clients; the 50th, 99th and 99.9th percentile of
an operation's time, its repetitions after conflicts among it; conflicts and postings of an operation.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

import nodes
import numpy as np
import workloads

PLACES = {"here": 0, "tcp, 1": 1, "tcp, 3": 3}  # and how many memory nodes
MEMBERS = 64


def run_client(place, name, distribution, pids, number, seconds, gate, results):
    """Put what was found into the queue: times in ns, conflicts, postings, and what the workload has to say."""
    try:
        with nodes.client(place) as (cluster, own), cluster.store("ycsb") as store:
            random = np.random.default_rng(number)
            choice = workloads.Choice(len(pids), distribution, random)
            workload = workloads.ALL[name](store, pids, choice, random)
            postings = (lambda: own.stats["doorbells"]) if own else (lambda: 0)
            times, conflicts = [], 0
            gate.wait(60)
            before, now = postings(), time.perf_counter_ns()
            begin, ends = now, now + int(seconds * 1e9)
            while now < ends:
                call = getattr(workload, workload.next())
                start = time.perf_counter_ns()
                conflicts += call()
                now = time.perf_counter_ns()
                times.append(now - start)
            taken = (now - begin) / 1e9
            said = getattr(workload, "paid_in", 0)
            results.put((np.array(times), taken, conflicts, postings() - before, said))
    except BaseException:
        results.put(traceback.format_exc())
        raise


def run(place, copies, name, distribution, options):
    """The figures of one workload at one place."""
    kind = workloads.ALL[name]
    pages = options.records * kind.PAGES
    properties = {"page_size": options.page_size, "capacity": pages * options.page_size, "members": MEMBERS}
    with nodes.client(place) as (cluster, _):
        with cluster.store("ycsb", create=True, replicas=max(copies, 1), **properties) as store:
            pids = kind.load(store, options.records)
            each = [(place, name, distribution, pids, n, options.seconds) for n in range(options.clients)]
            found = nodes.run_clients(run_client, each, options.seconds)
            kind.check(store, pids, [each[4] for each in found])
        cluster.unlink("ycsb")
    times = np.concatenate([each[0] for each in found])
    middle, high, highest = np.percentile(times, [50, 99, 99.9]) / 1e3
    return {
        "operations": len(times),
        "ops_per_s": sum(len(each[0]) / each[1] for each in found),
        "us": {"p50": middle, "p99": high, "p99.9": highest},
        "conflicts_per_op": sum(each[2] for each in found) / len(times),
        "postings_per_op": sum(each[3] for each in found) / len(times),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", choices=list(workloads.ALL), help="by default each")
    parser.add_argument("--distribution", action="append", choices=["uniform", "zipf"], help="by default both")
    parser.add_argument("--place", action="append", choices=list(PLACES), help="by default each")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--page-size", type=int, default=1024)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    figures = []
    places = {place: PLACES[place] for place in options.place or PLACES}
    with nodes.serving(max(places.values())) as addresses:
        for name in options.workload or workloads.ALL:
            for distribution in options.distribution or ["uniform", "zipf"]:
                for place, copies in places.items():
                    with nodes.own_name() as cluster:
                        at = nodes.where(addresses[:copies], cluster)
                        found = run(at, copies, name, distribution, options)
                    figures.append({"workload": name, "distribution": distribution, "place": place, **found})
                    say(figures[-1])
    if options.json:
        given = {key: getattr(options, key) for key in ("records", "page_size", "clients", "seconds")}
        options.json.write_text(json.dumps({**nodes.circumstances(), **given, "figures": figures}, indent=2) + "\n")
    return 0


def say(found):
    us = found["us"]
    print(
        f"{found['workload']:>9} {found['distribution']:>7} {found['place']:>6}: {found['ops_per_s']:.0f} op/s, "
        f"p50 {us['p50']:.1f} p99 {us['p99']:.1f} p99.9 {us['p99.9']:.1f} µs, "
        f"{found['conflicts_per_op']:.4f} conflicts, {found['postings_per_op']:.2f} postings an op",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
