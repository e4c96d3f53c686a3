"""pyverbs as a contestant of bench/softroce.py: the same ops, on the same memory, in the leanest form that pyverbs has.

    softroce_pyverbs.py DEVICE PORT GID_INDEX DESCRIPTOR

with the system's Python. It obeys lines on its standard input, and answers each with the times in ns:
    read|write|fetch_add N BYTES         N ops one after the other: a work request made once, post_send, poll for it;
                                         the times are means of blocks of BLOCK ops
    each read|write|fetch_add N BYTES    N batches of MANY ops: post_send for each, poll for all
    chain read|write|fetch_add N BYTES   N batches of MANY ops in one chain: one post_send, one completion
In batches the work requests are made once and given new addresses for each batch. The secret is in $DSMEM_SECRET.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "softroce"))

import itertools

import pyverbs.enums as e
from pyverbs.wr import SGE, SendWR
from pyverbs_peer import Descriptor, Device, Remote

MANY = 64
BLOCK = 8  # as softroce.py times dsmem
CODES = {"read": e.IBV_WR_RDMA_READ, "write": e.IBV_WR_RDMA_WRITE, "fetch_add": e.IBV_WR_ATOMIC_FETCH_AND_ADD}


class Contestant:
    def __init__(self, remote):
        self.remote, self.qp, self.cq = remote, remote.connection.qp, remote.connection.cq

    def request(self, op, i, nbytes, flags):
        sge = SGE(self.remote.local.buf + 64 + i * nbytes, nbytes, self.remote.local.lkey)
        inline = e.IBV_SEND_INLINE if op == "write" and nbytes <= 256 else 0
        wr = SendWR(wr_id=i, opcode=CODES[op], num_sge=1, sg=[sge], send_flags=flags | inline)
        self.aim(wr, op, 64 + i * nbytes)
        return wr

    def aim(self, wr, op, offset):
        if op == "fetch_add":
            wr.set_wr_atomic(self.remote.key, self.remote.base + offset, 1, 0)
        else:
            wr.set_wr_rdma(self.remote.key, self.remote.base + offset)

    def wait(self, n):
        poll = self.cq.poll
        while n:
            got, completions = poll(n)
            for completion in completions:
                assert completion.status == e.IBV_WC_SUCCESS
            n -= got

    def single(self, op, n, nbytes):
        wr = self.request(op, 0, nbytes, e.IBV_SEND_SIGNALED)
        post, wait, clock = self.qp.post_send, self.wait, time.perf_counter_ns
        stamps = [clock()]
        for _ in range(n // BLOCK):
            for _ in range(BLOCK):
                post(wr)
                wait(1)
            stamps.append(clock())
        return [stamps[0] + (stamp - stamps[0]) // BLOCK for stamp in stamps]

    def batches(self, op, n, nbytes, chain):
        last = MANY - 1
        wrs = [self.request(op, i, nbytes, 0 if chain and i < last else e.IBV_SEND_SIGNALED) for i in range(MANY)]
        if chain:
            for wr, following in itertools.pairwise(wrs):
                wr.next_wr = following
        post, aim = self.qp.post_send, self.aim
        stamps = [time.perf_counter_ns()]
        for _ in range(n):
            for i, wr in enumerate(wrs):
                aim(wr, op, 64 + i * nbytes)
                if not chain:
                    post(wr)
            if chain:
                post(wrs[0])
            self.wait(1 if chain else MANY)
            stamps.append(time.perf_counter_ns())
        return stamps

    def obey(self, *words):
        *form, op, n, nbytes = words
        if form:
            return self.batches(op, int(n), int(nbytes), form == ["chain"])
        return self.single(op, int(n), int(nbytes))


def main():
    name, port, gid_index, descriptor = sys.argv[1:]
    device = Device(name, int(port), int(gid_index))
    at = Descriptor.unpack(bytes.fromhex(descriptor))
    secret = os.environ["DSMEM_SECRET"].encode()
    contestant = Contestant(Remote(device, at, secret, os.urandom(16), depth=2 * MANY, inline=256))
    print("ready", flush=True)
    for line in sys.stdin:
        stamps = contestant.obey(*line.split())
        print(*(b - a for a, b in itertools.pairwise(stamps)), flush=True)


if __name__ == "__main__":
    main()
