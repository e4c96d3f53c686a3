"""Long pieces of many ops go straight between their memory and the socket, short ones by way of a buffer."""

import numpy as np
import pytest

import dsmem

SECRET = b"0bec7" * 12 + b"0b1e"
SIZES = (8, 1000, 1023, 1024, 1025, 2048, 4096, 4097, 20000, 131072, 131073)  # around where the ways part
NBYTES = 1 << 20


@pytest.fixture
def memory():
    """A region with random content, that content, and a remote of it."""
    options = {"secret": SECRET, "listen": "127.0.0.1"}
    content = np.random.default_rng(7).integers(0, 256, NBYTES, "u1")
    with dsmem.Context("tcp", **options) as owner, dsmem.Context("tcp", **options) as user:
        with owner.allocate(NBYTES) as region, user.attach(region.descriptor) as remote:
            np.frombuffer(region, "u1")[:] = content
            yield region, content, remote


def places(size, n):
    return np.random.default_rng(size).integers(0, NBYTES - size, n).astype("u8")


@pytest.mark.parametrize("size", SIZES)
def test_pieces_into_one_buffer(memory, size):
    _, content, remote = memory
    offsets = places(size, 150)
    out = np.zeros((150, size), "u1")
    remote.read_many(offsets, out)
    assert all((row == content[at : at + size]).all() for at, row in zip(offsets.tolist(), out, strict=True))


def test_pieces_into_buffers_of_their_own(memory):
    _, content, remote = memory
    wanted = [(size, at) for size in SIZES for at in places(size, 30).tolist()]
    np.random.default_rng(1).shuffle(wanted)
    buffers = [bytearray(size) for size, _ in wanted]
    with remote.context.batch() as batch:
        for (_, at), buffer in zip(wanted, buffers, strict=True):
            batch.read(remote, at, buffer)
    assert all(b == content[at : at + size].tobytes() for (size, at), b in zip(wanted, buffers, strict=True))


def test_reads_between_writes_and_atomics(memory):
    """Each reply is taken for its own op, whatever lies beside it in the stream."""
    _, content, remote = memory
    old = [bytearray(4096) for _ in range(40)]
    with remote.context.batch() as batch:
        for i, buffer in enumerate(old):
            batch.read(remote, i * 8192, buffer)
            batch.write(remote, i * 8192, bytes([i]) * 4096)
            batch.fetch_add(remote, i * 8192, 1)
    assert all(buffer == content[i * 8192 :][:4096].tobytes() for i, buffer in enumerate(old))
    now = np.zeros((40, 4096), "u1")
    remote.read_many(np.arange(40, dtype="u8") * 8192, now)
    assert (now[:, 8:] == np.arange(40, dtype="u1")[:, None]).all()
    assert (now[:, 0] == np.arange(1, 41)).all()
