"""A context with shm and verbs, on the model device: by which way a region is reached, objects in its memory, and
options."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from modeldev import environment, missing, play

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]

USER = """
import sys, dsmem
with dsmem.Context(sys.argv[1], secret=bytes(range(32))) as context:
    with context.attach(bytes.fromhex(sys.argv[2])) as remote:
        out = bytearray(8)
        remote.read(0, out)
        if "a" in remote.access:
            remote.fetch_add(0, 1)
        print(remote.fabric, int.from_bytes(out, "little"))
"""

OWNER = """
import asyncio, subprocess, sys
import numpy as np
import dsmem
from dsmem import errors

SECRET = bytes(range(32))

def user(fabrics, region):
    command = [sys.executable, "-c", sys.argv[1], fabrics, region.descriptor.hex()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

with dsmem.Context("shm,verbs", secret=SECRET, listen="127.0.0.1") as owner:
    assert owner.fabric == "shm,verbs" and [each.fabric for each in owner.fabrics] == ["shm", "verbs"]
    assert owner.capabilities is owner.fabrics[0] and owner.agent_address.startswith("unix:@")
    plain = owner.copy(np.array([7], "u8"), "rw")
    assert [way.fabric for way in plain.descriptor.ways] == ["shm", "verbs"]
    assert user("shm,verbs", plain) == user("shm", plain) == ["shm", "7"]
    assert user("verbs", plain) == user("verbs,shm", plain) == ["verbs", "7"]

    words = owner.copy(np.array([0], "u8"))
    if sys.argv[2] != "nic":
        both = {"global": ["shm", "verbs"], "none": ["shm"]}[sys.argv[2]]
        assert [way.fabric for way in words.descriptor.ways] == both
        assert user("shm,verbs", words) == ["shm", "0"] and words.array("u8")[0] == 1
        print("good")
        sys.exit()
    assert [way.fabric for way in words.descriptor.ways] == ["verbs"], "one domain of atomicity"
    assert user("shm,verbs", words) == ["verbs", "0"]
    with dsmem.Context("shm", secret=SECRET) as other:
        try:
            other.attach(words.descriptor)
        except errors.InvalidArgumentError as error:
            assert "verbs" in str(error)
        else:
            raise AssertionError

    mine = np.array([9], "u8")
    with owner.register(mine) as region:
        assert user("shm,verbs", region) == ["verbs", "9"]

    with dsmem.connect(context=owner) as cluster, dsmem.Context("shm,verbs", secret=SECRET) as other:
        queue = cluster.queue("jobs", create=True)
        with dsmem.attach(queue.ref, other) as remote:
            remote.put(b"by the only way that both have")
        assert queue.get() == b"by the only way that both have"
        word = other.attach(words.descriptor)

        async def add():
            return await word.fetch_add_async(0, 1)

        assert asyncio.run(add()) == 1
print("good")
"""


@pytest.mark.parametrize("atomics", ["nic", "global", "none"])
def test_two_fabrics(library, tmp_path, atomics):
    play(library, tmp_path, f"seed=1&atomics={atomics}", OWNER, USER, atomics)


SERVE = "import sys; from dsmem.cli import main; sys.exit(main())"


@pytest.mark.parametrize("ways", ["verbs,tcp", "tcp,verbs", "verbs"])
@pytest.mark.parametrize("atomics", ["nic", "global", "none"])
def test_names_are_served_with_atomics_of_one_domain(library, tmp_path, atomics, ways):
    """Processes of the host change the same words with theirs, unless a device alone serves the names."""
    env = environment(library, tmp_path / "network", f"seed=1&atomics={atomics}") | {"DSMEM_SECRET": "0bec70b1e" * 8}
    command = [sys.executable, "-c", SERVE, "serve", "--listen", "127.0.0.1:0", "-f", ways]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline()
            server.send_signal(signal.SIGTERM)
            error, status = server.stderr.read(), server.wait(30)
        finally:
            server.kill()
    if atomics == "global" or (atomics, ways) == ("nic", "verbs"):
        assert line.startswith("serving names at tcp://") and status == 0, error
    else:
        assert line == "" and status == 1 and "through tcp alone" in error


OPTIONS = """
import dsmem

def opened(fabric, **options):
    with dsmem.Context(fabric, secret=bytes(range(32)), listen="127.0.0.1", **options) as context:
        return context.fabrics

shm, verbs = opened("shm,verbs://model1:2?gid=3&mtu=1024&depth=16")
assert (verbs.device, verbs.port, verbs.gid_index, verbs.mtu, verbs.depth) == ("model1", 2, 3, 1024, 16)
verbs, shm = opened("verbs,shm")
assert (verbs.device, verbs.port, verbs.mtu, verbs.depth) == ("model0", 1, 2048, 128)
assert [each.depth for each in opened("shm,verbs", depth=32)] == [shm.depth, 32]
assert opened("verbs://?depth=16", depth=32)[0].depth == 32, "the argument counts"
assert opened("verbs://?depth=16", depth=0)[0].depth == 16
assert opened("fault+verbs://?depth=16&fail=1")[0].depth == 16
assert opened("verbs", depth=4096)[0].depth == 1000, "as many as the device has"
print("good")
"""


def test_options_of_a_device(library, tmp_path):
    play(library, tmp_path, "devices=2&ports=2&link=roce&depth=1000&mtu=2048", OPTIONS)
