"""The bound of round trips: two processes that hand a word to and fro in C, by futex or by looking. See handover.c."""

import ctypes
import mmap
import os
import subprocess
from pathlib import Path

_COMMAND = ("-std=gnu11", "-O2", "-fPIC", "-shared")
NBYTES = 4096


class Handover:
    """A way (see queues.py) whose ends have only ask and answer, of n round trips each."""

    def __init__(self, folder, *, sleeps):
        self.sleeps = sleeps
        self.library, self.words = Path(folder, "handover.so"), Path("/dev/shm", f"dsmem-bench-{os.getpid()}")
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
        self.library, self.words, self.sleeps = library, words, int(sleeps)

    def ask(self, n):
        """Seconds."""
        return self.library.ask(self.words, n, self.sleeps)

    def answer(self, n):
        self.library.answer(self.words, n, self.sleeps)

    def close(self):
        pass


def answer(end, n):
    end.answer(n)
