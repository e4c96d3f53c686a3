"""errors.py says the same as csrc/base/err.def, and its exceptions behave like the built-in ones."""

import builtins
import errno
import os
import pickle
import queue
import re
import threading
from pathlib import Path

import pytest

from dsmem import _core, errors

DEF = Path(__file__).parents[2] / "csrc/base/err.def"


def test_the_tree_mirrors_the_core():
    rows = _core.error_rows()
    assert len(rows) == len(errors.BY_CODE)
    for code, name, cls, base, text in rows:
        found = errors.BY_CODE[code]
        assert name.startswith("DSM_E")
        assert found is getattr(errors, cls)
        bases = [getattr(module, base) for module in (builtins, queue, threading, errors) if hasattr(module, base)]
        ours = issubclass(bases[0], errors.DsmemError)
        assert found.__bases__ == ((bases[0],) if ours else (errors.DsmemError, bases[0]))
        assert found.text == text


def test_the_tree_mirrors_the_list():
    listed = re.findall(r'^DSM_ERR\(E\w+,\s*(\d+),\s*"(\w+)",', DEF.read_text(), re.M)
    assert [(int(code), name) for code, name in listed] == [
        (code, cls.__name__) for code, cls in errors.BY_CODE.items()
    ]


def test_every_text_names_no_other_release_and_fits_a_line():
    for cls in errors.BY_CODE.values():
        assert cls.text and cls.text[0].islower() and "\n" not in cls.text and not cls.text.endswith(".")


@pytest.mark.parametrize("cls", errors.BY_CODE.values())
def test_fields_and_message(cls):
    e = cls("what happened", sys=errno.ENOENT, status=12, vendor=129, peer="ab" * 16, device="rxe0", op="read")
    said_by_class = issubclass(cls, (FileExistsError, FileNotFoundError))
    detail = "what happened" if said_by_class else "what happened: No such file or directory"
    alone = cls in (errors.InvalidArgumentError, errors.SystemCallError)
    assert str(e) == (detail if alone else f"{detail}: {cls.text}")
    assert (e.detail, e.sys, e.status, e.vendor, e.peer, e.device, e.op) == (
        detail,
        errno.ENOENT,
        12,
        129,
        "ab" * 16,
        "rxe0",
        "read",
    )
    if issubclass(cls, OSError):
        assert e.errno == errno.ENOENT and e.strerror == "No such file or directory"
    assert str(cls()) == cls.text


def test_a_detail_with_a_remedy_is_the_whole_message():
    e = errors.BusyError("a reservation is open; commit or cancel it first")
    assert str(e) == "a reservation is open; commit or cancel it first"
    e = errors.SystemCallError("/x can't be written; run this", sys=errno.EROFS)
    assert str(e) == "/x can't be written: Read-only file system; run this"
    assert str(pickle.loads(pickle.dumps(e))) == str(e)


@pytest.mark.parametrize(
    ("cls", "number", "says"),
    [
        (errors.SystemCallError, errno.EMFILE, "ulimit -n"),
        (errors.SystemCallError, errno.ENFILE, "fs.file-max"),
        (errors.SystemCallError, errno.EAGAIN, "ulimit -u"),
        (errors.OutOfMemoryError, errno.ENOMEM, "vm.max_map_count"),
        (errors.OutOfMemoryError, errno.EFBIG, "RLIMIT_FSIZE"),
    ],
)
def test_an_errno_has_a_remedy_of_its_own(cls, number, says):
    message = str(cls("the call", sys=number))
    assert message.startswith(f"the call: {os.strerror(number)}: ") and says in message and cls.text not in message


def test_errno_stays_unset_without_a_system_error():
    e = errors.SystemCallError("nothing known")
    assert e.errno is None and e.sys == 0


@pytest.mark.parametrize("cls", errors.BY_CODE.values())
def test_pickles_whole(cls):
    e = cls("detail", sys=errno.EPERM, status=10, peer="00" * 16, op="write")
    copy = pickle.loads(pickle.dumps(e))
    assert type(copy) is cls and str(copy) == str(e) and vars(copy) == vars(e)
    if isinstance(e, OSError):
        assert copy.errno == errno.EPERM


def test_caught_as_what_they_are():
    with pytest.raises(TimeoutError):
        raise errors.TimeoutError("late")
    with pytest.raises(ConnectionError):
        raise errors.PeerDeadError
    with pytest.raises(errors.DsmemError):
        raise errors.OutOfBoundsError("8 bytes at 60 of 64")
