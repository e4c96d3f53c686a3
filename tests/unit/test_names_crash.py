"""Names whose creator, user or remover is killed before each of its system calls.

Between two system calls nothing changes of what others see of names, so these are all the instants there are. The child
makes one call more or less from one time to the next, for its own memory, so that a number is not always the same call.
"""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

import pytest

import dsmem
from dsmem import _core, errors
from dsmem.cluster import Cluster
from dsmem.names import local

ROWS, MORE = 600, 3000  # one page of data, and several
TRACEME, RUN_TO_SYSCALL, SET_OPTIONS = 0, 24, 0x4200
SYSCALL_STOPS, EXIT_KILL = 1, 1 << 20  # options

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request, pid, data=0):
    if _libc.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _traced(body):
    """Start a child that stops before it runs body."""
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            _ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            body()
            status = 0
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        pytest.skip("this kernel allows no ptrace here")
    _ptrace(SET_OPTIONS, pid, SYSCALL_STOPS | EXIT_KILL)
    return pid


def killed_before(body, number):
    """Run body in a child and kill it as it begins system call ``number``; False: it has come to its end before."""
    pid = _traced(body)
    for _ in range(2 * number + 1):  # a call has two stops, the second when it has returned
        _ptrace(RUN_TO_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, f"the child ended with {status:#x}"
            return False
        assert os.WSTOPSIG(status) == signal.SIGTRAP | 0x80, f"signal {os.WSTOPSIG(status)}"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def sweep(body, before, after, calls=5):
    """Kill body at each of its system calls; before and after look to the names around it."""
    number = 0
    before()
    while killed_before(body, number):
        after()
        number += 1
        before()
    after()
    assert number >= calls
    return number


class Place:
    """The names of the test's cluster, as a process sees them that attaches and removes nothing of the dead."""

    def __init__(self, name):
        self.name = name
        self.folder = local.user_folder(os.geteuid()) / name

    def files(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir())

    def cluster(self):
        return Cluster(local.LocalNames(self.name, os.geteuid()), self.name)

    def rows(self, name="a"):
        """How many rows the segment has, all of them as they must be; 0: there is no such name."""
        try:
            with self.cluster() as cluster, cluster.segment(name) as segment:
                values = segment.read(...)
                assert segment.dtype == "u8" and values.shape in ((ROWS,), (MORE,))
                assert values[0] in (0, 7) and not values[1:].any()
                return len(values)
        except FileNotFoundError:
            return 0

    def make(self, name="a", **options):
        dsmem.connect(self.name).segment(name, ROWS, "u8", create=True, **options).close()

    def unlink(self, name="a"):
        with dsmem.connect(self.name) as cluster:
            cluster.unlink(name)

    def goes(self, name="a"):
        """Whether the name has a mark, and so goes with its creator."""
        inode = (self.folder / name).stat().st_ino
        return any(file.endswith(f"/{inode}-{name}") for file in self.files())

    def end(self):
        """As the end of this process does."""
        local.LocalNames(self.name, os.geteuid()).end_of(_core.identity())

    def collect(self):
        """As ``dsmem gc`` does."""
        names = local.LocalNames(self.name, os.geteuid())
        names.gc()
        names.remove_if_empty()


@pytest.fixture
def place(cluster_name):
    place = Place(cluster_name)
    place.make()  # so that everything is imported
    place.unlink()
    place.collect()
    return place


@pytest.mark.parametrize("lifetime", ["name", "creator"])
def test_make(place, lifetime):
    seen = []

    def nothing():
        assert not place.folder.exists()

    def whole_or_absent():
        rows = place.rows()
        seen.append(rows)
        if lifetime == "creator":
            place.collect()
            assert not place.folder.exists()
            return
        assert place.files() == (["a"] if rows else [])
        if not rows:
            place.make()
        place.unlink()
        place.collect()

    sweep(lambda: place.make(lifetime=lifetime), nothing, whole_or_absent, 15)
    assert set(seen) == {0, ROWS} and seen[0] == 0 and seen[-1] == ROWS


@pytest.mark.parametrize("lifetime", ["name", "creator"])
def test_unlink(place, lifetime):
    seen = []

    def whole_or_absent():
        rows = place.rows()
        seen.append(rows)
        if rows:
            assert place.goes() == (lifetime == "creator")
            place.unlink()
        place.make(lifetime=lifetime)  # by this process again, whatever is left of its first one
        assert place.rows() == ROWS and place.goes() == (lifetime == "creator")
        place.unlink()
        assert len(place.files()) <= 1  # the mark of a name that is gone, which holds no memory
        place.end()
        assert place.files() == []

    sweep(place.unlink, lambda: place.make(lifetime=lifetime), whole_or_absent)
    assert set(seen) == {0, ROWS} and seen[0] == ROWS and seen[-1] == 0


def test_resize(place):
    seen = []

    def begin():
        with dsmem.connect(place.name) as cluster, cluster.segment("a", ROWS, "u8", create=True) as segment:
            segment.write(0, 7)

    def grow():
        with dsmem.connect(place.name) as cluster, cluster.segment("a") as segment:
            segment.resize(MORE)

    def before_or_after():
        seen.append(place.rows())
        grow()
        assert place.rows() == MORE
        with dsmem.connect(place.name) as cluster, cluster.segment("a") as segment:
            assert segment.read(0) == 7
        place.unlink()

    sweep(grow, begin, before_or_after)
    assert set(seen) == {ROWS, MORE} and seen[0] == ROWS and seen[-1] == MORE


def test_gc(place):
    """Of two names of a dead process, beside one of a living one."""

    def leave_two():
        place.make("mine", lifetime="creator")
        pid = os.fork()
        if not pid:
            for name in ("a", "b"):
                place.make(name, lifetime="creator")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert len(place.files()) == 6

    def only_mine():
        assert place.rows("a") in (0, ROWS) and place.rows("b") in (0, ROWS)
        place.collect()
        assert [Path(file).name.split("-")[-1] for file in place.files()] == ["mine", "mine"]
        place.unlink("mine")
        place.collect()
        assert not place.folder.exists()

    sweep(place.collect, leave_two, only_mine)


def test_remove_the_folder(place):
    def make_and_unlink():
        place.make()
        place.unlink()

    def use_it():
        make_and_unlink()
        place.collect()
        assert not place.folder.exists()

    sweep(place.collect, make_and_unlink, use_it)


def test_what_is_linked_first_is_found(place):
    """A creator that links a name before its memory is written is found out by the same sweep."""

    def careless():
        with (place.folder / "a").open("wb") as file:
            file.truncate(8192)

    (place.folder / ".owned").mkdir(parents=True)
    with pytest.raises(errors.CorruptError):
        sweep(careless, lambda: (place.folder / "a").unlink(missing_ok=True), place.rows)
