"""A peer without dsmem's core: docs/protocols, pyverbs for the device, the standard library for the rest.

The handshake and the MACs are those of dsmem/handshake.py, which knows nothing of dsmem either and is tested on shm.

It attaches to a region of dsmem and uses it, and it owns memory that dsmem attaches to. Tests drive it:

    pyverbs_peer.py DEVICE PORT GID_INDEX

reads one JSON object a line on its standard input, {"do": NAME, arguments…}, and answers each with one on its standard
output: {"ok": RESULT} or {"error": KIND, "detail": TEXT}. The names are the public methods of Peer. Bytes are
hexadecimal.
It wants pyverbs, which on Debian belongs to the system's Python, not to a virtual environment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

READ, WRITE, ATOMIC = 1, 2, 4  # rights
ATTACH, ENDPOINT, STATUS, BYE, REPLY = 1, 2, 3, 4, 0x8000
ESTALE, ECANNOT = 6, 22
TIMEOUT_S = 20


class Refused(Exception):
    """The other side said no: kind is 'hello', 'version', 'node', 'verdict', 'proof', 'reply' or 'completion'."""

    def __init__(self, kind: str, detail: object) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


# ---- docs/protocols/descriptor.md ----

FIXED = struct.Struct("<4sBBBB16sQQQBB")
VERBS = 2


class Descriptor:
    """With one way, by verbs."""

    def __init__(self, node: bytes, region: int, generation: int, nbytes: int, rights: int, at: str):
        self.node, self.region, self.generation, self.nbytes = node, region, generation, nbytes
        self.rights, self.address = rights, at

    def pack(self) -> bytes:
        address = self.address.encode()
        raw = FIXED.pack(
            b"DSMR", 2, 1, 0, self.rights, self.node, self.region, self.generation, self.nbytes, VERBS, len(address)
        ) + address  # fmt: skip
        return raw + struct.pack("<I", zlib.crc32(raw))

    @classmethod
    def unpack(cls, raw: bytes) -> Descriptor:
        magic, version, ways, kind, rights, node, region, generation, nbytes, fabric, n = FIXED.unpack_from(raw)
        body, crc = raw[:-4], struct.unpack("<I", raw[-4:])[0]
        assert (magic, version, ways, kind, fabric) == (b"DSMR", 2, 1, 0, VERBS)
        assert len(body) == FIXED.size + n and crc == zlib.crc32(body)
        return cls(node, region, generation, nbytes, rights, body[FIXED.size :].decode())


# ---- docs/protocols/handshake.md ----

SPEC = importlib.util.spec_from_file_location("handshake", Path(__file__).parents[2] / "dsmem/handshake.py")
assert SPEC and SPEC.loader
handshake = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(handshake)

NAME = struct.Struct("<QQ")
ASKED = struct.Struct("<I")  # the fabric
GRANT = struct.Struct("<QIIQI")  # with the blob of verbs: base and key
BLOB = struct.Struct("<IIHBBBBH16s")
ROCE_V2, PKEY = 2, 0xFFFF  # of rdma_rxe


class Stream:
    """The client's end of a control stream."""

    def __init__(self, descriptor: Descriptor, secret: bytes, node: bytes) -> None:
        host, port = descriptor.address.removeprefix("tcp:").rsplit(":", 1)
        self.number = 0
        proof = handshake.Handshake(secret, descriptor.address, client=node)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)
        try:
            proof.dial(self.socket, descriptor.node)
        except handshake.Refused as no:
            raise Refused("hello" if no.step == "challenge" else no.step, no.detail) from no
        self.asking, self.answer = proof.mac("asking"), proof.mac("answer")

    def ask(self, kind: int, payload: bytes) -> bytes:
        self.number += 1
        self.socket.sendall(handshake.seal(self.asking, kind, self.number, payload))
        got, number, status, answer = handshake.unseal(self.answer, handshake.take(self.socket))
        assert (got, number) == (kind | REPLY, self.number)
        if status:
            raise Refused("reply", status)
        return answer


# ---- queue pairs ----


class Device:
    def __init__(self, name: str, port: int, gid_index: int) -> None:
        self.context = Context(name=name)
        self.pd = PD(self.context)
        self.port, self.gid_index = port, gid_index
        attr = self.context.query_port(port)
        self.mtu, self.lid = attr.active_mtu, attr.lid
        self.roce = attr.link_layer == e.IBV_LINK_LAYER_ETHERNET
        self.gid = socket.inet_pton(socket.AF_INET6, self.context.query_gid(port, gid_index).gid)
        limits = self.context.query_device()
        self.serves, self.asks = min(limits.max_qp_rd_atom, 128), min(limits.max_qp_init_rd_atom, 128)


class Connection:
    """One RC queue pair. passive: it answers and never asks."""

    def __init__(self, device: Device, passive: bool, depth: int = 16, inline: int = 0) -> None:
        self.device, self.passive = device, passive
        self.psn = int.from_bytes(os.urandom(3), "little")
        self.cq = CQ(device.context, depth)
        cap = QPCap(max_send_wr=depth, max_recv_wr=1, max_send_sge=1, max_recv_sge=1, max_inline_data=inline)
        self.attr = QPAttr(port_num=device.port)
        self.attr.qp_access_flags = (
            e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_ATOMIC if passive else 0
        )
        self.qp = QP(device.pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap), self.attr)

    def blob(self) -> bytes:
        d = self.device
        serves = d.serves if self.passive else 0
        return BLOB.pack(self.qp.qp_num, self.psn, d.lid, d.mtu, ROCE_V2 if d.roce else 0, serves, 0, PKEY, d.gid)

    def connect(self, blob: bytes) -> None:
        qpn, psn, lid, mtu, link, serves, _, pkey, gid = BLOB.unpack(blob)
        roce = link == ROCE_V2
        d, a = self.device, self.attr
        assert (roce, pkey) == (d.roce, PKEY)
        text = ":".join(gid[i : i + 2].hex() for i in range(0, 16, 2))  # GID takes no shorter form
        route = GlobalRoute(dgid=GID(text), sgid_index=d.gid_index, hop_limit=64)
        a.ah_attr = AHAttr(dlid=lid, port_num=d.port, is_global=int(roce), gr=route if roce else None)
        a.path_mtu = min(mtu, d.mtu)
        a.dest_qp_num, a.rq_psn, a.sq_psn = qpn, psn, self.psn
        a.max_dest_rd_atomic = d.serves if self.passive else 1
        a.max_rd_atomic = max(1, min(d.asks, serves))
        a.min_rnr_timer, a.timeout, a.retry_cnt, a.rnr_retry = 12, 14, 5, 6
        self.qp.to_rts(a)

    def run(self, wr: SendWR) -> None:
        self.qp.post_send(wr)
        give_up = time.monotonic() + TIMEOUT_S
        while time.monotonic() < give_up:
            n, completions = self.cq.poll(1)
            if n:
                if completions[0].status != e.IBV_WC_SUCCESS:
                    raise Refused("completion", completions[0].status)
                return
        raise TimeoutError("no completion")


# ---- using memory of others ----


class Remote:
    def __init__(self, device: Device, descriptor: Descriptor, secret: bytes, node: bytes, **queue: int) -> None:
        self.device, self.descriptor, self.node, self.queue = device, descriptor, node, queue
        self.stream = Stream(descriptor, secret, node)
        granted = self.stream.ask(ATTACH, self.name() + ASKED.pack(VERBS))
        self.nbytes, self.rights, kind, self.base, self.key = GRANT.unpack(granted)
        assert kind == 0
        self.local = MR(device.pd, 65536, e.IBV_ACCESS_LOCAL_WRITE)
        self.join()

    def name(self) -> bytes:
        return NAME.pack(self.descriptor.region, self.descriptor.generation)

    def join(self) -> None:
        """A new queue pair takes the place of the old one, if any."""
        self.connection = Connection(self.device, passive=False, **self.queue)
        self.failed = False  # once it has, it carries nothing more
        self.connection.connect(self.stream.ask(ENDPOINT, ASKED.pack(VERBS) + self.connection.blob()))

    def run(self, opcode: int, offset: int, nbytes: int, operands: tuple[int, int] | None = None) -> bytes:
        """Neither bounds nor rights are checked here: that is for the owner's device to do."""
        sge = SGE(self.local.buf, nbytes, self.local.lkey)
        wr = SendWR(opcode=opcode, num_sge=1, sg=[sge])
        if operands is None:
            wr.set_wr_rdma(self.key, self.base + offset)
        else:
            wr.set_wr_atomic(self.key, self.base + offset, *operands)
        if self.failed:
            self.join()
        try:
            self.connection.run(wr)
        except Refused:
            self.failed = True
            raise
        return self.local.read(nbytes, 0)


# ---- owning memory ----


class Owned:
    """Memory of this process, and the agent that tells others of it; one thread per stream."""

    def __init__(self, device: Device, nbytes: int, access: int, says: int, secret: bytes) -> None:
        """access: what the device enforces; says: the rights that descriptor and grant name."""
        self.device, self.secret, self.says, self.live = device, secret, says, True
        handshake.stretch(secret)  # which remembers: no client shall wait for that
        flags = (
            e.IBV_ACCESS_LOCAL_WRITE
            | (e.IBV_ACCESS_REMOTE_READ if access & READ else 0)
            | (e.IBV_ACCESS_REMOTE_WRITE if access & WRITE else 0)
            | (e.IBV_ACCESS_REMOTE_ATOMIC if access & ATOMIC else 0)
        )
        self.mr = MR(device.pd, nbytes, flags)
        self.connections: set[Connection] = set()
        self.streams: list[socket.socket] = []
        self.speaks = threading.Event()
        self.speaks.set()
        self.node = os.urandom(16)
        self.listener = socket.create_server(("127.0.0.1", 0))
        at = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.descriptor = Descriptor(self.node, 7, 77, nbytes, says, at)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            stream, _ = self.listener.accept()
            self.streams.append(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with stream:
            try:
                proof = handshake.Handshake(self.secret, self.descriptor.address, server=self.node)
                if proof.answer(stream, handshake.receive(stream, handshake.HELLO.size)):
                    self._answer(stream, proof.mac("asking"), proof.mac("answer"))
            except (EOFError, OSError, handshake.Refused):
                pass

    def _answer(self, stream: socket.socket, asking: bytes, replying: bytes) -> None:
        connection = None  # lives as long as the stream, unless hush() ends it
        last = 0
        while True:
            kind, number, status, payload = handshake.unseal(asking, handshake.take(stream))
            last += 1
            assert (number, status) == (last, 0)
            self.speaks.wait()
            status, answer = 0, b""
            if kind == ENDPOINT:
                self.connections.discard(connection)
                connection = Connection(self.device, passive=True)
                assert ASKED.unpack_from(payload) == (VERBS,)
                connection.connect(payload[ASKED.size :])
                self.connections.add(connection)
                answer = connection.blob()
            elif kind in (ATTACH, STATUS):
                d = self.descriptor
                if not self.live or NAME.unpack_from(payload) != (d.region, d.generation):
                    status = ESTALE
                elif kind == ATTACH:
                    answer = GRANT.pack(d.nbytes, self.says, 0, self.mr.buf, self.mr.rkey)
            elif kind == BYE:
                connection = None
                continue
            else:
                status = ECANNOT
            stream.sendall(handshake.seal(replying, kind | REPLY, number, answer, status=status))


# ---- what tests ask for ----


class Peer:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.remotes: dict[int, Remote] = {}
        self.owned: dict[int, Owned] = {}

    def attach(self, descriptor: str, secret: str, node: str = "") -> dict[str, object]:
        at = Descriptor.unpack(bytes.fromhex(descriptor))
        remote = Remote(self.device, at, bytes.fromhex(secret), bytes.fromhex(node) or os.urandom(16))
        handle = len(self.remotes)
        self.remotes[handle] = remote
        return {"handle": handle, "nbytes": remote.nbytes, "rights": remote.rights, "node": remote.node.hex()}

    def read(self, handle: int, offset: int, nbytes: int) -> str:
        return self.remotes[handle].run(e.IBV_WR_RDMA_READ, offset, nbytes).hex()

    def write(self, handle: int, offset: int, data: str) -> None:
        raw = bytes.fromhex(data)
        self.remotes[handle].local.write(raw, len(raw), 0)
        self.remotes[handle].run(e.IBV_WR_RDMA_WRITE, offset, len(raw))

    def fetch_add(self, handle: int, offset: int, value: int) -> int:
        raw = self.remotes[handle].run(e.IBV_WR_ATOMIC_FETCH_AND_ADD, offset, 8, (value, 0))
        return struct.unpack("<Q", raw)[0]

    def compare_swap(self, handle: int, offset: int, expected: int, desired: int) -> int:
        raw = self.remotes[handle].run(e.IBV_WR_ATOMIC_CMP_AND_SWP, offset, 8, (expected, desired))
        return struct.unpack("<Q", raw)[0]

    def ask_status(self, handle: int) -> None:
        remote = self.remotes[handle]
        remote.stream.ask(STATUS, remote.name())

    def own(self, nbytes: int, access: int, says: int, secret: str) -> dict[str, object]:
        owned = Owned(self.device, nbytes, access, says, bytes.fromhex(secret))
        handle = len(self.owned)
        self.owned[handle] = owned
        return {"handle": handle, "descriptor": owned.descriptor.pack().hex()}

    def peek(self, handle: int, offset: int, nbytes: int) -> str:
        return self.owned[handle].mr.read(nbytes, offset).hex()

    def poke(self, handle: int, offset: int, data: str) -> None:
        raw = bytes.fromhex(data)
        self.owned[handle].mr.write(raw, len(raw), offset)

    def hush(self, handle: int) -> None:
        """It falls silent: its queue pairs are gone, its streams stay open and answer nothing."""
        owned = self.owned[handle]
        owned.speaks.clear()
        while owned.connections:
            owned.connections.pop().qp.close()

    def speak(self, handle: int) -> None:
        self.owned[handle].speaks.set()

    def leave(self, handle: int) -> None:
        """Its streams end, as if the process had died."""
        for stream in self.owned[handle].streams:
            stream.shutdown(socket.SHUT_RDWR)

    def disown(self, handle: int) -> None:
        """The registration goes, and a peer that asks is told so."""
        self.owned[handle].live = False
        self.owned[handle].mr.close()


def main() -> None:
    name, port, gid_index = sys.argv[1:]
    peer = Peer(Device(name, int(port), int(gid_index)))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(peer, request.pop("do"))(**request)}
        except Refused as refusal:
            answer = {"error": refusal.kind, "detail": refusal.detail}
        except Exception as error:
            answer = {"error": type(error).__name__, "detail": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
