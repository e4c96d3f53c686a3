"""A region that is closed, while peers write to it by one device and by two: from then on not a byte of it changes. Nor
does one when its memory is registered again, and the device gives the new registration the key of the old one.

Epochs of stores stand on it: a memory node closes a copy before it answers (docs/protocols/epochs.md). Owner and peers
are processes of their own; the memory is the owner's before the region is made and after it is closed.
"""

import pytest
from modeldev import missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
HABITS = "seed=1&scatter=8&tear=1&pause=20&overtake=1&window=10&mtu=256&reads=4&late=2000&keys=1"
ROUNDS = 12

OWNER = """
import mmap, subprocess, sys
import dsmem

FABRIC, ROUNDS, PEER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
NBYTES = 1 << 16
SECRET = bytes(range(32))
memory = mmap.mmap(-1, NBYTES)

with dsmem.Context(FABRIC, secret=SECRET, listen="127.0.0.1") as owner:
    for round in range(ROUNDS):
        region = owner.register(memory, "rwa")
        command = [sys.executable, "-c", PEER, FABRIC, bytes(region.descriptor).hex()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        peers = [subprocess.Popen([*command, str(1 + 3 * round + i), rounds], **pipes)
                 for i, rounds in enumerate(("2000", "2000", "1"))]
        for peer in peers:
            assert peer.stdout.readline() == "writing\\n"
        region.close()
        then = bytes(memory)
        with owner.register(memory, "rwa"):
            for peer in peers:
                said, _ = peer.communicate("go on\\n")
                assert said == "refused\\n" and peer.returncode == 0, said
            assert bytes(memory) == then, f"round {round}"
        assert any(then[:1 << 15]) and any(then[1 << 15:]), "they had not begun"
print("good")
"""

PEER = """
import sys
import dsmem
from dsmem import errors
fabric, descriptor, number = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
with dsmem.Context(fabric, secret=bytes(range(32)), listen="127.0.0.1", peer_timeout=60.0) as peer:
    with peer.attach(descriptor) as remote:
        def write_all():
            for i in range(4):
                remote.write(8192 * i, bytes([number]) * 8192)
                remote.fetch_add((1 << 15) + 8 * i, 1)
        try:
            for round in range(int(sys.argv[4])):
                write_all()
                if not round:
                    print("writing", flush=True)
            sys.stdin.readline()
            write_all()
            print("all written", flush=True)
        except errors.DsmemError:
            print("refused", flush=True)
"""


@pytest.mark.parametrize("devices", [1, 2])
def test_nothing_changes_behind_it(library, tmp_path, devices):
    fabric = ",".join(f"verbs://model{i}" for i in range(devices))
    play(library, tmp_path, f"{HABITS}&devices={devices}", OWNER, fabric, str(ROUNDS), PEER)
