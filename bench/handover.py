"""The bound of round trips: two processes that hand a word to and fro in C, by futex or by looking. See handover.c."""

import contextlib
import ctypes
import mmap
import os
import subprocess
from pathlib import Path

from queues import Player

_COMMAND = ("-std=gnu11", "-O2", "-fPIC", "-shared")
NBYTES = 4096


class Handover:
    """A way (see queues.py) whose ends have only ask and answer, of n round trips each."""

    def __init__(self, folder, sleeps):
        self.sleeps = sleeps
        self.library, self.words = Path(folder, "handover.so"), Path("/dev/shm", f"dsmem-bench-{os.getpid()}-{sleeps}")
        source = Path(__file__).with_suffix(".c")
        subprocess.run([os.environ.get("CC", "cc"), *_COMMAND, source, "-o", self.library], check=True)
        self.words.write_bytes(bytes(NBYTES))

    def open(self, role):
        with self.words.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), NBYTES)
        words = (ctypes.c_uint32 * 32).from_buffer(memory)
        library = ctypes.CDLL(str(self.library))
        library.ask.restype = ctypes.c_double
        return Ends(library, words, self.sleeps)

    def unlink(self):
        self.words.unlink()


class Ends:
    def __init__(self, library, words, sleeps):
        self.library, self.words, self.sleeps = library, words, sleeps

    def ask(self, n):
        """Seconds."""
        return self.library.ask(self.words, n, self.sleeps)

    def answer(self, n):
        self.library.answer(self.words, n, self.sleeps)

    def close(self):
        pass


def answer(end, n):
    end.answer(n)


@contextlib.contextmanager
def bounds(folder, *kinds):
    """A contestant for each of the kinds of sleeping, and the processes that answer them."""
    with contextlib.ExitStack() as stack:
        runs, others = [], []
        for sleeps in kinds:
            way = Handover(folder, sleeps)
            stack.callback(way.unlink)
            others.append(stack.enter_context(Player([(way, "get")])))
            runs.append(round_trips(way.open("put"), others[-1], answer))
        yield runs, others


def round_trips(mine, other, answer):
    """The contestant of an end, whose other end is the other process's."""

    def run(number):
        other.start(answer, 0, arguments=(number,))
        spent = mine.ask(number)
        other.times()
        return spent

    return run
