"""What a process or host can run out of or lack: made for real, in a process with namespaces and limits of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dsmem
from dsmem import _core

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(dsmem.__file__).parents[1])}
TRY = """
import dsmem
try:
    {code}
except dsmem.errors.DsmemError as error:
    print(type(error).__name__, error, sep=': ')
"""
NAME = "dsmem.connect('run-out').segment('a', {nbytes}, 'u1', create=True)"
CONTEXT = "dsmem.Context('shm', secret=bytes(16)).empty({nbytes})"
# What is imported or opened only once is there before it is used up.
OPEN_NAME = (
    "names = dsmem.connect('run-out'); names.segment('b', 1, create=True); {use_up}; names." + NAME.partition(").")[2]
)
OPEN_CONTEXT = "context = dsmem.Context('shm', secret=bytes(16)); {use_up}; context.empty({nbytes})"
both = pytest.mark.parametrize("code", [OPEN_NAME, OPEN_CONTEXT])


def can_mount():
    done = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None or not can_mount(), reason="no mount namespaces for this user"
)


def shm(options):
    return f"mount -t tmpfs -o {options} none /dev/shm"


def said(code, mounts=None, user=(), limits=()):
    """What a program says that does this after these shell commands, by this user and under these limits."""
    program = [*user, *limits, sys.executable, "-c", TRY.format(code=code)]
    command = [*UNSHARE, "sh", "-ec", f'{mounts or shm("mode=1777")}\nexec "$@"', "sh", *program]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("mounts", "nbytes", "says"),
    [
        (shm("ro"), 1, "SystemCallError: {}: /dev/shm can't be written: Read-only file system; run as root: mount -o"),
        (
            "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3 || touch /dev/null",
            1,
            "SystemCallError: {}: there is no /dev/shm: No such file or directory; mount it: mount -t tmpfs",
        ),
        (
            shm("size=64M"),
            1 << 27,
            "OutOfMemoryError: 'a' needs 134221824 bytes, and /dev/shm has 67108864 bytes free of 67108864: "
            "No space left on device; unlink names",
        ),
        (shm("size=64M"), 1 << 27, "docker run --shm-size=SIZE"),
        (
            shm("nr_inodes=4"),
            1,
            "OutOfMemoryError: 'a' needs a file, and /dev/shm takes no more than 4: "
            "No space left on device; unlink names",
        ),
        (shm("nr_inodes=4"), 1, "mount -o remount,nr_inodes=N /dev/shm"),
        (
            shm("size=64M") + "; mount -t tmpfs none /proc",
            1,
            "SystemCallError: 'a': names are given through /proc/self/fd: No such file or directory; mount -t proc",
        ),
    ],
)
def test_shared_memory(mounts, nbytes, says):
    cluster = "the cluster 'run-out' of user root"
    assert says.format(cluster) in said(NAME.format(nbytes=nbytes), mounts)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_shared_memory_of_another_user():
    message = said(NAME.format(nbytes=1), shm("mode=755,uid=54321"), ["setpriv", "--bounding-set", "-all"])
    assert "this user may not write /dev/shm: Permission denied; run as root: chmod 1777 /dev/shm" in message


@pytest.mark.parametrize(
    "mounts", [shm("ro"), shm("nr_inodes=1"), shm("size=4k"), "mount -t tmpfs none /dev/shm; mount -t tmpfs none /proc"]
)
def test_regions_of_a_context_need_no_names(mounts):
    assert said(CONTEXT.format(nbytes=1 << 20), mounts) == ""


@both
def test_files(code):
    use_up = (
        "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "[os.dup2(0, fd) for fd in range(64) if not os.path.exists(f'/proc/self/fd/{fd}')]"
    )
    message = said(code.format(use_up=use_up, nbytes=1))
    assert message.startswith("SystemCallError: ") and ": Too many open files: " in message and "ulimit -n" in message


def test_files_of_contexts():
    message = said(
        "made = [dsmem.Context('shm', secret=bytes(16)) for _ in range(40)]", limits=["prlimit", "--nofile=40"]
    )
    assert message.startswith("SystemCallError: ") and ": Too many open files: " in message and "ulimit -n" in message


@pytest.mark.parametrize("code", [NAME, CONTEXT])
def test_size_of_a_file(code):
    message = said(code.format(nbytes=1 << 24), limits=["prlimit", f"--fsize={1 << 20}"])
    assert message.startswith("OutOfMemoryError: ") and ": File too large" in message
    assert "; raise RLIMIT_FSIZE of this process: 'ulimit -f'" in message and "no memory left" not in message


@both
def test_address_space(code):
    use_up = (
        "import resource; pages = int(open('/proc/self/statm').read().split()[0]);"
        "resource.setrlimit(resource.RLIMIT_AS, (4096 * pages + (32 << 20),) * 2)"
    )
    message = said(code.format(use_up=use_up, nbytes=64 << 20))
    assert message.startswith("OutOfMemoryError: mapping 671") and ": Cannot allocate memory: " in message
    assert "ulimit -v" in message


@both
def test_mappings(code):
    """Every second page of a large mapping gets other rights, until the kernel has no place for one more."""
    use_up = (
        "import ctypes; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p;"
        "at = libc.mmap(None, ctypes.c_size_t(1 << 40), 0, 0x4022, -1, ctypes.c_long(0));"
        "any(libc.mprotect(ctypes.c_void_p(at + 8192 * page), ctypes.c_size_t(4096), 1) for page in range(1 << 27));"
        "[libc.mmap(None, ctypes.c_size_t(4096), 1 + 2 * (i % 2), 0x22, -1, ctypes.c_long(0)) for i in range(8)]"
    )
    message = said(code.format(use_up=use_up, nbytes=1 << 20))
    assert message.startswith("OutOfMemoryError: ") and "vm.max_map_count" in message


@pytest.mark.parametrize("arguments", [(), (5.5, os.O_RDONLY), (b"/", "flags"), ("/no such", os.O_RDONLY)])
def test_a_file_that_was_not_opened_closes_nothing(arguments):
    """An interrupt may come before it is, too."""
    standard_input = os.dup(0)
    try:
        with pytest.raises((TypeError, FileNotFoundError)):
            _core.File(*arguments)
        assert os.path.sameopenfile(0, standard_input)
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)


LIVING = "/dev/shm/dsmem-0.living"  # of root, which this user is in its namespace


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("touch {0}", None),
        ("touch {0}; chmod 664 {0}", "Operation not permitted"),  # another user may have written it
        ("mkfifo {0}; chmod 644 {0}", "Operation not permitted"),
        ("mkdir {0}", "Is a directory"),
        ("ln -s /dev/null {0}", "Too many levels of symbolic links"),
    ],
)
def test_a_file_of_identities_that_cannot_be_trusted(made, says):
    mounts = f"{shm('mode=1777')}; {made.format(LIVING)}"
    found = said("dsmem._core.identity_provable()", mounts)
    assert found == (f"SystemCallError: the identity of this process: {says}" if says else "")
