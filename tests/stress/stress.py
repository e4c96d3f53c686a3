"""Queues under stress: processes put and take messages, are killed and stopped, and each message is accounted for.

    python tests/stress/stress.py --messages 1000000 --seed 7

The messages go in rounds of one queue each: from one or several producers to one or several consumers, with the oldest
dropped, or remotely with delays, broken connections and lost acknowledgements. In every other turn of these, workers
are killed and succeeded by new ones. The seed settles shapes, sizes and calls, but not when a worker runs or dies.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import books
import worker
from books import Book

import dsmem
from dsmem.names.local import LocalNames

STUCK_SECONDS = 40
STRIKE_SECONDS = 0.04  # on average
REMOTE_PRODUCERS = 64  # a remote process is never considered dead, so each successor needs a lane
PLAN = "fault+shm://?delay=3:2ms&fail=11&failafter=17&every=23"

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["worker"])


@dataclass(frozen=True)
class Mode:
    name: str
    producers: int
    consumers: int
    messages: int = 100_000
    drop: bool = False
    remote: bool = False


MODES = (
    Mode("1-1", 1, 1),
    Mode("n-1", 3, 1),
    Mode("1-n", 1, 3),
    Mode("n-n", 3, 3),
    Mode("drop-oldest", 2, 2, drop=True),
    Mode("remote", 2, 1, messages=10_000, remote=True),
)


@dataclass
class Total:
    messages: int = 0
    kills: int = 0
    stops: int = 0
    dropped: int = 0
    begun: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.begun
        return (
            f"{self.messages} messages, {self.dropped} of them dropped, {self.kills} kills, {self.stops} stops, "
            f"{seconds:.1f} s, {self.messages / seconds:.0f} messages/s"
        )


class Round:
    """One queue and its workers, from their start to the accounts."""

    def __init__(self, stack: ExitStack, mode: Mode, seed: str, deaths: bool, total: Total) -> None:
        self.mode, self.seed, self.total = mode, seed, total
        self.rng = random.Random(seed)
        self.deaths = self.rng.randint(5, 20) if deaths else 0
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsmem-stress-")))
        self.cores = sorted(os.sched_getaffinity(0))
        self.jobs: list[tuple[str, worker.Job]] = []  # of each worker that ever was; a consumer's successor has its job
        self.running: dict[int, Any] = {}
        self.stack = stack
        stack.callback(self.end)
        self.begin()

    # -- workers --

    def shape(self) -> dict[str, object]:
        lane = 1 << self.rng.randint(12, 18)
        several = "many" if self.mode.consumers > 1 else "one"
        drop = {"drop_oldest": True} if self.mode.drop else {}
        lanes = REMOTE_PRODUCERS if self.mode.remote else self.mode.producers
        return {
            "capacity_bytes": lane,
            "max_message": self.rng.randint(lane // 16, lane // 2 - 16),
            "producers": lanes,
            **({} if self.mode.remote else {"consumers": several, **drop}),
        }

    def begin(self) -> None:
        shape, mode = self.shape(), self.mode
        peek = mode.consumers == 1 and not mode.drop
        consumer = {"messages": mode.messages, "may_peek": peek, "shape": shape if mode.remote else None}
        if not mode.remote:
            name = f"stress-{os.getpid()}"
            self.stack.callback(LocalNames(name, os.geteuid()).remove_if_empty)
            cluster = self.stack.enter_context(dsmem.connect(name))
            self.obj = cluster.queue("it", create=True, **shape)
            self.stack.callback(self.obj.close)
            self.stack.callback(self.obj.unlink)
            self.ref = self.obj.ref
        for number in range(mode.consumers):
            self.start("consumer", number, **consumer)
        if mode.remote:
            while not (self.folder / "ref").exists():
                self.running[0].join(0.01)
                assert self.running[0].is_alive()
            self.ref = pickle.loads((self.folder / "ref").read_bytes())
        for number in range(mode.producers):
            self.start(
                "producer", number, messages=mode.messages // mode.producers, fabric=PLAN if mode.remote else None
            )

    def start(self, role: str, number: int, **more: Any) -> None:
        core = self.cores[len(self.jobs) % len(self.cores)]
        job = worker.Job(self.folder, number, core, f"{self.seed} {role} {len(self.jobs)}", **more)
        job.book(role)
        process = processes.Process(target=worker.main, args=(role, None if job.shape else self.ref, job))
        self.running[len(self.jobs)] = process
        self.jobs.append((role, job))
        process.start()

    def books(self, role: str) -> list[Book]:
        return [job.book(role) for job in {job.number: job for r, job in self.jobs if r == role}.values()]

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.join()

    def of(self, role: str) -> list[int]:
        return [i for i in self.running if self.jobs[i][0] == role]

    # -- from the start to the end --

    def run(self) -> None:
        down = False
        seen, since = -1, time.monotonic()
        while self.running:
            sentinels = [process.sentinel for process in self.running.values()]
            multiprocessing.connection.wait(sentinels, self.rng.expovariate(1 / STRIKE_SECONDS))
            self.bury()
            if not self.of("producer") and not down:
                self.shut_down()
                down = True
            elif self.running:
                self.strike()
            done = sum(book.decided for role in ("producer", "consumer") for book in self.books(role)) + len(self.jobs)
            if done != seen:
                seen, since = done, time.monotonic()
            elif time.monotonic() - since > STUCK_SECONDS:
                self.stuck()
        self.account()

    def bury(self) -> None:
        for i in [i for i, process in self.running.items() if not process.is_alive()]:
            self.succeed(i, self.running.pop(i).exitcode)

    def succeed(self, i: int, code: int) -> None:
        role, job = self.jobs[i]
        assert code in (0, -signal.SIGKILL), f"{role} {job.number} ended with {code}"
        if code == 0:
            return
        more = {"messages": job.messages, "fabric": job.fabric, "may_peek": job.may_peek}
        if role == "consumer":
            job.book(role).lose()
            self.start(role, job.number, **more)
        elif (left := job.messages - job.book(role).decided) > 0:
            number = sum(r == "producer" for r, _ in self.jobs)
            self.start(role, number, **{**more, "messages": left})

    def strike(self) -> None:
        """Kills a worker, or stops it for a moment."""
        i = self.rng.choice(list(self.running))
        process = self.running[i]
        if self.deaths and self.rng.random() < 0.7 and not (self.mode.remote and self.jobs[i][0] == "consumer"):
            self.deaths -= 1
            self.total.kills += 1
            process.kill()
            process.join()
        else:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(process.pid, signal.SIGSTOP)
                process.join(self.rng.uniform(0, 0.02))
                os.kill(process.pid, signal.SIGCONT)
                self.total.stops += 1

    def shut_down(self) -> None:
        if not self.mode.remote:
            self.obj.shutdown()
            return
        with dsmem.Context("fault+shm", secret=worker.SECRET) as context, dsmem.attach(self.ref, context) as obj:
            obj.shutdown()

    def stuck(self) -> None:
        for process in self.running.values():
            os.kill(process.pid, signal.SIGUSR1)  # prints where it is
            process.join(0.5)
        state = [
            f"{role} {job.number}: {job.book(role).decided} done, {job.book(role).under_way} under way"
            for role, job in (self.jobs[i] for i in self.running)
        ]
        raise AssertionError("stuck: " + "; ".join(state))

    def account(self) -> None:
        producers = self.books("producer")
        out, missing, lost = books.check(producers, self.books("consumer"))
        dropped, spare, unknown = 0, 0, 0
        if self.mode.drop:
            # Between a drop and its count a producer may be killed; what was undecided may have been dropped.
            dropped = self.obj.counts["dropped"]
            spare = len(producers) - self.mode.producers
            unknown = sum(book.under_way for book in producers)
        assert missing <= dropped + spare + lost, f"{missing} are missing, {dropped} dropped, {lost} lost at most"
        assert dropped <= missing + unknown, f"{dropped} dropped, but only {missing} are missing"
        self.total.messages += out + missing
        self.total.dropped += dropped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    total, turn = Total(), 0
    while total.messages < args.messages:
        mode, deaths = MODES[turn % len(MODES)], turn // len(MODES) % 2 == 1
        seed = f"{args.seed} {turn}"
        try:
            with ExitStack() as stack:
                Round(stack, mode, seed, deaths, total).run()
        except BaseException:
            print(f"failed in turn {turn} of seed {args.seed}: {mode.name}{' with deaths' * deaths}; before: {total}")
            raise
        turn += 1
    print(total)


if __name__ == "__main__":
    main()
