"""A write of many pages that goes on in another epoch: which pages are left, and what is told of them."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from dsmem import errors

#: dsm_store_doubt
DOUBT = np.dtype([("pid", "u8"), ("from", "u8"), ("to", "u8"), ("version", "u8"), ("header", "V64")])
_NAMED = re.compile(r"ids\[(\d+)\] of \d+: ")


def ids_again(ids: Any) -> Any:
    """Return ids that can be iterated over more than once. What is no sequence of ids is refused by the call itself."""
    return list(ids) if isinstance(ids, Iterable) and not isinstance(ids, np.ndarray) else ids


def _bytes_of(data: Any) -> Any:
    """Return the memory of what a call takes as pages."""
    if not isinstance(data, np.ndarray):
        with contextlib.suppress(TypeError, BufferError):
            return np.frombuffer(data, "u1")
        data = np.from_dlpack(data)
    return data.ravel(order="K").view("u1")


class Rest:
    """The pages of a call that are still to be written, in its order.

    A page may be there several times. The core begins no write of it before the one ahead was made, so those that were
    made are the first ones.
    """

    def __init__(self, ids: Any, data: Any, status: Any = None) -> None:
        self.given = ids_again(ids), data  #: what the next call takes
        self.status = status  #: the same; None: a page that is refused ends the call
        self.versions: Any = None  #: of all pages; 0: not written yet
        self._whole = status
        self._refused: Any = None  # of all pages; 0: not refused
        self._ids: Any = None
        self._pages: Any = None
        self._places: Any = slice(None)  # of those that are given

    def note(self, versions: Any) -> bool:
        """Note what the call says of the pages that were given. Whether any was written."""
        if self.versions is None:
            self.versions = np.zeros_like(versions)
            self._refused = np.zeros(len(versions), "u1")
        self.versions[self._places] = versions
        return bool(versions.any())

    @property
    def refuses(self) -> bool:
        """Whether the call that has just succeeded has refused some of the pages."""
        return self.status is not None and bool(_bytes_of(self.status).any())

    def keep(self, counts: bool) -> None:
        """Note these, if what the call says counts. Otherwise they are tried again."""
        if counts:
            self._refused[self._places] = _bytes_of(self.status)

    def ended(self) -> Any:
        """Say what has become of all pages, and return their versions."""
        if self._whole is not None:
            _bytes_of(self._whole)[:] = self._refused
        return self.versions

    def found(self, doubt: bytes, version: int) -> None:
        """Note that one in doubt was written: the first of this page that is left, and was not refused."""
        pid = np.frombuffer(doubt, DOUBT)["pid"][0]
        self._open()
        left = (self._ids == pid) & (self.versions == 0) & (self._refused == 0)
        taken = left.copy()
        if self.status is not None:
            taken[self._places] &= _bytes_of(self.status) == 0
        self.versions[np.flatnonzero(taken if taken.any() else left)[0]] = version

    def narrow(self) -> bool:
        """Give what is left, or a part of it. Whether there is any.

        Between pages that were written there are few. Those behind the last of them are given as they are, since a copy
        might need a great deal of memory.
        """
        if self.versions is None:
            return True
        ended = (self.versions != 0) | (self._refused != 0)
        left = np.flatnonzero(~ended)
        if not len(left):
            return False
        self._open()
        behind = np.flatnonzero(ended)[-1] + 1 if ended.any() else 0
        between = left[left < behind]
        self._places = between if len(between) else slice(behind, None)
        self.given = self._ids[self._places], self._pages[self._places]
        if self._whole is not None:
            self.status = np.zeros(len(self.given[0]), "u1")
        return True

    def _open(self) -> None:
        """Take the ids and the pages as arrays: the call has seen that they are."""
        if self._ids is None:
            ids, data = self.given
            self._ids = np.fromiter(map(operator.index, ids), "u8", len(self.versions))
            self._pages = _bytes_of(data).reshape(len(self.versions), -1)

    def says(self, error: errors.DsmemError) -> errors.DsmemError:
        """Return an exception that names one of the ids of the whole call."""
        named = _NAMED.match(error.detail)
        if self._ids is None or named is None:
            return error
        at = np.arange(len(self._ids))[self._places][int(named[1])]
        text = f"ids[{at}] of {len(self._ids)}: {error.detail[named.end() :]}"
        return type(error)(text, sys=error.sys)

    def refuse(self, failed: errors.DsmemError) -> NoReturn:
        """Raise what the call ends with if it can't go on: the failure, unless something was written."""
        if self.versions is None or not self.versions.any():
            raise failed
        self.refuse_unknown(failed)

    def refuse_unknown(self, failed: errors.DsmemError) -> NoReturn:
        """Raise the same where it is not known which pages were written."""
        text = f"some of the pages may have been written ({failed.detail}); read them"
        raise errors.OutcomeUnknownError(text) from failed
