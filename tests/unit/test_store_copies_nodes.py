"""Stores with copies whose memory nodes stop, are cut off, or are killed and started again, while clients write."""

import contextlib
import multiprocessing
import os
import signal

import pytest
from names_server import process_that_serves
from paging import number_of, page
from store_nodes import FABRIC, SECONDS, SECRET, check_equal, client, eventually, made, where
from tcp_relay import Relay

from dsmem import errors

LATE = 0.25  # peer timeout of clients that meet a node that does not answer
STARTS = errors.UnsupportedError  # a server that serves no names yet
OUT_OF_REACH = errors.TransportError, errors.TimeoutError, errors.PeerDeadError, errors.StaleDescriptorError
spawn = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def stopped(process):
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@contextlib.contextmanager
def held(relay, *ways):
    relay.hold(*ways)
    try:
        yield
    finally:
        relay.heal()


class Account:
    """What the pages may have by what a client was told."""

    def __init__(self, store, count):
        self.store = store
        self.pids = store.allocate_many(count).tolist()
        self.may = {pid: {0} for pid in self.pids}
        self.next = 0

    def write(self, *pids):
        self.next += 1
        try:
            if len(pids) == 1:
                self.store.write(pids[0], page(self.next))
            else:
                self.store.write_many(pids, page(self.next) * len(pids))
        except errors.DsmemError as error:
            if isinstance(error, errors.OutcomeUnknownError) or len(pids) > 1:
                for pid in pids:
                    self.may[pid].add(self.next)
            raise
        for pid in pids:
            self.may[pid] = {self.next}

    def check(self, store):
        for pid in self.pids:
            found = number_of(store.read(pid))
            assert found in self.may[pid]
            self.may[pid] = {found}


def meets_the_outage(account, copy):
    """Each call says which copy does not answer, and what it says is so."""
    one, two, *many = account.pids
    calls = {
        "write": lambda: account.write(one),
        "write_many": lambda: account.write(*many),
        "allocate": account.store.allocate,
    }
    for call in calls.values():
        with pytest.raises((errors.OutcomeUnknownError, *OUT_OF_REACH), match=f"copy {copy} of the store"):
            call()
    if copy:
        assert number_of(account.store.read(two)) == 1
    else:
        with pytest.raises(OUT_OF_REACH, match="copy 0 of the store"):
            account.store.read(two)


def overwrites(other, account, pid):
    """A lock that the account could not take back from a copy stands there until its calls have reached that."""
    account.store.version(pid)
    other.write(pid, page(100))


def goes_on(account, cluster, second, replicas):
    """Without a restart of anything."""
    with second.store("s") as other:
        for pid in account.pids:
            eventually(lambda pid=pid: account.store.version(pid), errors.OutcomeUnknownError, *OUT_OF_REACH)
        account.check(other)
        account.check(account.store)
        for pid in account.pids:
            eventually(lambda pid=pid: overwrites(other, account, pid), errors.BusyError)
            account.store.write(pid, page(101))
            assert number_of(other.read(pid)) == 101
    account.store.close()
    check_equal(second, replicas)


@pytest.mark.parametrize(("copy", "replicas"), [(0, 2), (1, 2), (1, 3)])
def test_a_node_that_is_stopped(cluster_name, copy, replicas):
    with contextlib.ExitStack() as stack:
        served = [
            stack.enter_context(process_that_serves(SECRET, "--grace", "600", "--fabric", FABRIC))
            for _ in range(replicas)
        ]
        address = where([at.removeprefix("tcp://") for _, at in served], cluster_name)
        second, _ = stack.enter_context(client(address))
        cluster, _ = stack.enter_context(client(address, peer_timeout=LATE))
        account = Account(eventually(lambda: made(cluster, replicas), errors.TimeoutError), 6)
        eventually(lambda: account.write(*account.pids), errors.OutcomeUnknownError, *OUT_OF_REACH)
        account.next = 1
        with stopped(served[copy][0]):
            meets_the_outage(account, copy)
        goes_on(account, cluster, second, replicas)


@pytest.mark.parametrize(("copy", "ways"), [(0, ("down",)), (1, ("up",)), (1, ("down",)), (0, ("up", "down"))])
def test_a_node_that_is_cut_off(cluster_name, copy, ways):
    """The other client is beside the cut."""
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay())
        host, port = relay.listen.split(":")
        more = "--grace", "600", "--advertise", relay.advertise
        stack.enter_context(process_that_serves(SECRET, *more, host=host, port=port))
        at = stack.enter_context(process_that_serves(SECRET, "--grace", "600"))[1].removeprefix("tcp://")
        nodes = [relay.advertise, at] if copy == 0 else [at, relay.advertise]
        second, _ = stack.enter_context(client(where(nodes, cluster_name)))
        cluster, _ = stack.enter_context(client(where(nodes, cluster_name), peer_timeout=LATE))
        account = Account(eventually(lambda: made(cluster), errors.TimeoutError), 6)
        eventually(lambda: account.write(*account.pids), errors.OutcomeUnknownError, *OUT_OF_REACH)
        with held(relay, *ways):
            meets_the_outage(account, copy)
        goes_on(account, cluster, second, 2)


def write_until_told(address, pids, told, stop):
    """Write growing numbers, and say which were acknowledged; after each outage with a new handle."""
    number = 0
    while not stop.value:
        with contextlib.suppress(
            errors.OutcomeUnknownError, errors.FencedError, errors.UnsupportedError, *OUT_OF_REACH
        ):
            with client(address, peer_timeout=5) as (cluster, _), cluster.store("s") as store:
                while not stop.value:
                    number += 1
                    for i, pid in enumerate(pids):
                        told[2 * i + 1] = number  # may be there from now on
                        store.write(pid, page(number))
                        told[2 * i] = number


@pytest.mark.parametrize("copy", [0, 1])
def test_nodes_that_are_killed_in_writes(cluster_name, copy):
    """They come back with their memory: what was acknowledged is there."""
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(process_that_serves(SECRET, "--grace", "0")) for _ in range(2)]
        nodes = [at.removeprefix("tcp://") for _, at in served]
        host, _, port = nodes[copy].rpartition(":")
        address = where(nodes, cluster_name)
        with client(address) as (cluster, _), made(cluster) as store:
            pids = store.allocate_many(3).tolist()
        told, stop = spawn.RawArray("Q", 2 * len(pids)), spawn.RawValue("i")
        writer = spawn.Process(target=write_until_told, args=(address, pids, told, stop))
        writer.start()
        stack.callback(writer.kill)
        process = served[copy][0]
        for _ in range(2):
            before = told[-2]
            eventually(lambda before=before: moves_on(told, before), LookupError)
            process.kill()
            process.wait()
            process = eventually(
                lambda: stack.enter_context(process_that_serves(SECRET, "--grace", "0", host=host, port=port))[0],
                IndexError,
            )
        before = told[-2]
        eventually(lambda: moves_on(told, before), LookupError)
        stop.value = 1
        writer.join(SECONDS)
        assert writer.exitcode == 0
        with client(address) as (cluster, _), cluster.store("s") as store:
            for i, pid in enumerate(pids):
                assert told[2 * i] <= number_of(store.read(pid)) <= told[2 * i + 1]
                store.write(pid, page(7))
        with client(address) as (cluster, _):
            check_equal(cluster, 2)


def moves_on(told, before):
    if told[-2] <= before + 3:
        raise LookupError
