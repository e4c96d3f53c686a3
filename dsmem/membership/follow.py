"""Stores of a coordinator: their handles follow the epochs, so that calls go on when a memory node is gone.

A call that has failed because of its epoch is made again in the next one if it has certainly changed nothing. What a
read returns counts only if the epoch was the present one after it had come: the client has a lease, or asks.
docs/protocols/epochs.md has the argument.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from typing_extensions import Self

from dsmem import _core, errors, metrics
from dsmem.membership import messages
from dsmem.membership.client import AWAY, Coordination, Pauses, attached, clock, detached, health_of, refuse_lost
from dsmem.membership.leases import Held
from dsmem.membership.reports import EACH_SECONDS
from dsmem.membership.rest import DOUBT, Rest, ids_again
from dsmem.membership.tasks import in_thread
from dsmem.memory import Memory, Reference
from dsmem.names.remote import RemoteNames, limit_of
from dsmem.objects import Owner
from dsmem.store import RUN_SECONDS, PageMetadata, Store, Transaction, shape_of

if TYPE_CHECKING:
    from dsmem.cluster.base import ClusterBase

_SECONDS = 30.0  # for a call, and for opening
_UNLIMITED = 1e8  # where no limit is wanted; it is one that clocks and locks can count
_JUDGE_SECONDS = 1.0  # to ask whether a block that has failed has read what does not count
_SETTLE_SECONDS = 0.5
_DOUBT_SECONDS = 120.0  # how long a page says what has become of a change: its versions come again
_PART_SECONDS = 0.1  # to give back a lease of a handle that is closed
_CLOSE_SECONDS = 5.0  # to give back a place while copies do not answer
#: The call has failed because of the copies, or because another epoch has begun. It has changed nothing.
_AGAIN = (
    errors.TransportError,
    errors.PeerDeadError,
    errors.TimeoutError,
    errors.FencedError,
    errors.StaleDescriptorError,
    errors.AccessDeniedError,
    errors.PathLostError,
)
#: What it says of the pages may have been read from a copy that does not count any more.
_SAYS = (
    errors.ConflictError,
    errors.PageNotFoundError,
    errors.StoreFullError,
    errors.CorruptError,
    errors.BusyError,
    errors.TooFewCopiesError,
)
_TIMED = (*_AGAIN, *_SAYS, errors.OutcomeUnknownError)  # after these a time counts, too: it was waited for
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Epoch:
    """What a handle knows of the present epoch."""

    number: int
    seconds: float  # of a lease
    lease: Held


class EpochTransaction(Transaction):
    """A transaction of a store of a coordinator. When the epoch changes it ends with a ConflictError."""

    _store: EpochStore
    _epoch: _Epoch
    _taken: list[int]  # pages that it has allocated
    _changes = False
    _ends = math.inf  # when waits for another epoch end

    def _wait_until(self, time: float) -> None:
        self._ends = time
        Transaction._wait_until(self, time)

    def _limit(self) -> float:
        return min(self._ends, time.monotonic() + _SECONDS)

    @classmethod
    def _of(cls, store: Any, opaque: bool) -> Self:
        made = super()._of(store, opaque)
        made._store, made._epoch, made._taken = store, store._epoch, []
        return made

    def read(self, pid: int, out: Any = None) -> Any:
        """As of :class:`Transaction`."""
        return self._checked(lambda: Transaction.read(self, pid, out))

    def read_many(self, ids: Any, out: Any = None) -> Any:
        """As of :class:`Transaction`."""
        return self._checked(lambda: Transaction.read_many(self, ids, out))

    def write(self, pid: int, data: Any) -> None:
        """As of :class:`Transaction`."""
        self._changes = True
        Transaction.write(self, pid, data)

    def free(self, pid: int) -> None:
        """As of :class:`Transaction`."""
        self._changes = True
        Transaction.free(self, pid)

    def allocate(self) -> int:
        """As of :class:`Transaction`."""
        self._changes = True
        pid = self._checked(lambda: Transaction.allocate(self))
        self._taken.append(pid)
        return pid

    def __exit__(self, kind: Any, error: Any, where: Any) -> None:
        try:
            with self._store._took.by("commit") if error is None else contextlib.nullcontext():
                self._end(kind, error, where)
        except errors.OutcomeUnknownError:
            raise  # its pages may be in use
        except Exception:
            self._store._let_go_all(self._kept, self._limit())
            raise
        if error is not None:
            self._store._let_go_all(self._kept, self._limit())

    def _end(self, kind: Any, error: Any, where: Any) -> None:
        moved = self._store._epoch.number != self._epoch.number
        if error is None and moved:
            conflict = _conflict(self._store)
            Transaction.__exit__(self, type(conflict), conflict, None)
            raise conflict
        store, end = self._store, self._limit()
        began = clock()
        try:
            Transaction.__exit__(self, kind, error, where)
        except errors.OutcomeUnknownError as unknown:
            found, _ = store._outcome_of(unknown._doubts, self._epoch, began)
            if found == _core.STORE_DONE:
                store._refuse_few(unknown)
                return
            if found != _core.STORE_NOT_DONE:
                raise
            store._let_go_all(self._taken, end)
            raise _conflict(store) from unknown
        except errors.ConflictError:
            raise
        except (*_AGAIN, errors.TooFewCopiesError) as failed:
            if error is not None or store._is_few_now(failed, self._epoch, end):
                raise
            store._go_on(self._epoch, end, failed)
            raise _conflict(store) from failed
        if error is None:
            if not self._changes and not store._is_current(self._epoch, end):
                store._go_on(self._epoch, end, None)
                raise _conflict(store)
        elif isinstance(error, Exception) and not isinstance(error, errors.ConflictError):
            self._judge(error)

    def _judge(self, error: Exception) -> None:
        """Raise a conflict in place of an exception of the block, if that has read pages of an epoch that has ended."""
        end = min(self._ends, time.monotonic() + _JUDGE_SECONDS)
        try:
            if self._store._is_current(self._epoch, end):
                return
        except errors.DsmemError:
            return  # the block's exception says more
        raise _conflict(self._store) from error

    def _checked(self, read: Callable[[], _T]) -> _T:
        store, end = self._store, self._limit()
        if store._epoch.number != self._epoch.number:
            raise _conflict(store)
        failed: errors.DsmemError | None = None
        try:
            result = read()
        except errors.ConflictError:
            raise
        except _SAYS as error:
            if store._is_current(self._epoch, end, error):
                raise
            failed = error
        except _AGAIN as error:
            failed = error
        else:
            if store._is_current(self._epoch, end):
                return result
        store._go_on(self._epoch, end, failed)
        raise _conflict(store) from failed


def _conflict(store: EpochStore) -> errors.ConflictError:
    store._conflicted()
    return errors.ConflictError(
        "the store has gone on with other copies, so the transaction has ended and changed nothing; begin again"
    )


def _late(failed: errors.DsmemError | None, why: str = "try again") -> errors.DsmemError:
    """Return what a call ends with when its time is over: what has failed, or that the epoch changes."""
    if failed is not None and not isinstance(failed, errors.StaleDescriptorError):  # of a copy that was closed
        return failed
    late = errors.TimeoutError(f"the next epoch of the store was not opened here in time; {why}")
    late.__cause__ = failed
    return late


class EpochStore(Store):
    """A store whose coordinator says which copies count. It is used like any other one."""

    def __init__(
        self,
        memory: Memory,
        cluster: Owner | None,
        name: str,
        backups: Sequence[Memory],
        coordination: Coordination,
        id: int,
        epoch: _Epoch,
    ) -> None:
        self._coordination = coordination
        self._number = id
        self._epoch = epoch
        self._moving = threading.RLock()
        self._reporting = threading.RLock()  # held for a moment
        self._reported = metrics.Figures()  # to the coordinator; changes under _reporting
        self._reported_at, self._reports_at = clock(), 0.0
        self._took = metrics.Times(_TIMED)  # also questions to the coordinator, and waits for another epoch
        self._own_names: RemoteNames | None = None  # if it was attached by reference
        # to be opened, with the epoch's number and the seconds of its leases: also the ones of before
        self._next: tuple[list[Memory], int, float, list[Memory]] | None = None
        Store.__init__(self, memory, cluster, name, backups)

    @classmethod
    def _of_coordinator(cls, cluster: ClusterBase, name: str, given: dict[str, Any], **how: Any) -> EpochStore:
        names, create, wait = cluster._open_names(), how["create"], _core.seconds(how["wait"], "timeout")
        if not isinstance(names, RemoteNames):
            raise errors.UnsupportedError(f"{names} has no coordinator; connect to one by its address")
        for value, kind, usual in ((how["mode"], int, None), (how["lifetime"], str, "name")):
            if value is not usual and not (isinstance(value, str) and value == usual):
                text = "a store of a coordinator has no file mode, and its name does not end with its creator"
                raise _core.refused(value, kind, f"{text}; leave mode= and lifetime= out")
        if create is not None and not isinstance(create, bool):
            raise errors.ArgumentTypeError(f"create={create!r}: True, False or None")
        if wait is not None and create is not False:
            raise errors.InvalidArgumentError(f"timeout={wait!r}: only create=False waits for a name")
        began = time.monotonic()
        coordination, end = Coordination(names, name), began + (_SECONDS if wait is None else limit_of(wait))
        made = coordination.make(shape_of(**given), end) if create is True else 0
        pauses = Pauses(began + (wait or 0))
        while True:
            try:
                return cls._opened(coordination, cluster, made, given, end=end)
            except errors.NameNotFoundError:
                if made or (create is False and pauses.over):
                    raise
            if create is None:
                with contextlib.suppress(errors.NameExistsError):
                    made = coordination.make(shape_of(**given), end)
            else:
                pauses.sleep()

    @classmethod
    def _attach(cls, ref: Reference, context: _core.Context | None = None) -> Self:
        names = RemoteNames(ref.coordinator, context)
        try:
            end = time.monotonic() + _SECONDS
            opened = cls._opened(Coordination(names, ref.name), None, ref.id, {}, end=end)
        except BaseException:
            names.close()
            raise
        opened._own_names = names
        return opened

    @classmethod
    def _opened(
        cls, coordination: Coordination, cluster: Owner | None, id: int, given: dict[str, Any], *, end: float
    ) -> Self:
        known = 0
        pauses = Pauses(end)
        while True:
            found = coordination.find(id, known, end)
            if found.phase == messages.OPEN:
                epoch = _Epoch(found.epoch, found.lease, Held())
                try:
                    with contextlib.ExitStack() as stack:
                        memories = attached(coordination, found)
                        stack.callback(detached, memories)
                        made = cls(memories[0], cluster, coordination.name, memories[1:], coordination, found.id, epoch)
                        stack.callback(_core.Store.close, made)
                        if given:
                            made._compare(**given)
                        stack.pop_all()
                        return made
                except _AGAIN as error:
                    if pauses.over:
                        raise _late(error) from error.__cause__
                    known = found.epoch  # unless another epoch has begun, the same is tried again
            else:
                refuse_lost(found, coordination, end)
                if pauses.over:
                    text = f"the store {coordination.name!r} has not been opened by its coordinator within the time"
                    raise errors.TimeoutError(f"{text}; 'dsmem nodes' shows which memory nodes answer")
                if found.phase == messages.CURRENT:
                    known = 0
            pauses.sleep()

    # -- epochs --

    def _is_current(self, known: _Epoch, end: float, said: errors.DsmemError | None = None) -> bool:
        """Whether what has been read in an epoch, or was said there, counts. Afterwards it is too late to ask.

        The lease is that of now: what the handle had before it read may have been given back. A lease is of reads:
        while it lasts another epoch may begin, with more copies.
        """
        now = self._epoch
        if now.number != known.number:
            return False
        if clock() < now.lease.until and not isinstance(said, errors.TooFewCopiesError):
            return True
        asked = clock()
        if not self._coordination.lease(self._number, now.number, now.lease, end, self._report(asked)):
            return False
        now.lease.until = asked + now.seconds
        return True

    def _find(self, known: int, end: float) -> messages.Found:
        """Ask for the epoch after the known one, and give back the lease of the present one.

        The coordinator waits for all leases that it has granted, if a primary is out of its reach. The thread that asks
        has _moving, so no other one changes the epoch.
        """
        given_back = self._epoch.lease
        self._epoch = replace(self._epoch, lease=Held())
        return self._coordination.find(self._number, known, end, given_back)

    def _report(self, now: float) -> bytes:
        """What this handle has counted since its last report, if that is some time ago. It is made once, or is lost."""
        with self._reporting:
            if now < self._reports_at:
                return b""
            self._reports_at = now + EACH_SECONDS
            before, self._reported = self._reported, metrics.of_handle(self)
            more, seconds = self._reported.since(before), max(0.0, now - self._reported_at)
            self._reported_at = now
        number, fabric = secrets.randbits(64), metrics.fabric_of(self)
        return messages.report(messages.Report(number, fabric, more.counts, more.times, seconds))

    def _is_few_now(self, failed: errors.DsmemError, known: _Epoch, end: float) -> bool:
        return isinstance(failed, errors.TooFewCopiesError) and self._is_current(known, end, failed)

    def _refuse_few(self, unknown: errors.DsmemError) -> None:
        """Of a change that an epoch says was made: raise, if since then fewer copies count than this handle demands."""
        if not self._has_demanded():
            text = "the change was made, but fewer copies count since then than this handle demands; it may be lost"
            raise errors.OutcomeUnknownError(text) from unknown

    def _let_go_all(self, pids: Sequence[int], end: float = math.inf) -> None:
        """Free pages that no process knows, in this epoch or a later one. What can't be freed stays allocated."""
        left, end = list(pids), min(end, time.monotonic() + _SECONDS)
        with contextlib.suppress(errors.DsmemError):
            while left:
                known = self._epoch
                left = self._let_go(left)
                if left:
                    self._go_on(known, end, None)

    def _go_on(self, known: _Epoch, end: float, failed: errors.DsmemError | None, settle: float = 0.0) -> None:
        """Return when another epoch than the known one is open here, or when the same may be tried again.

        settle: seconds for which another epoch is waited for before the same is tried.
        """
        if metrics.is_mine(self._moving):
            raise errors.BusyError("a signal handler has interrupted a call that waits for the next epoch of the store")
        try:
            if not self._moving.acquire(timeout=max(0.0, end - time.monotonic())):
                raise _late(failed, "another thread waits for it")
            pauses, settled = Pauses(end), time.monotonic() + settle
            self._arrived()
            while self._epoch.number <= known.number:
                if pauses.over:
                    raise _late(failed, "'dsmem nodes' shows which memory nodes answer")
                found = self._find(known.number, end)
                refuse_lost(found, self._coordination, end)
                if found.phase == messages.CURRENT and time.monotonic() >= settled:
                    pauses.sleep()
                    return
                if found.phase == messages.OPEN and self._moved(found, pauses):
                    return
                pauses.sleep()
        finally:
            if metrics.is_mine(self._moving):  # a handler may have raised when it was just acquired
                self._moving.release()

    def _outcome_of(self, doubts: bytes, known: _Epoch, began: float) -> tuple[int, int]:
        """What has become of a change, and which version it has made: the page says it, in most cases."""
        return self._outcomes_of([doubts], known, began)[0]

    def _outcomes_of(self, each: Sequence[bytes], known: _Epoch, began: float) -> list[tuple[int, int]]:
        """The same of several changes.

        No lease is needed: it was decided when the epoch was opened, or the locks of this handle were resolved, and
        what is read is no earlier.
        """
        end = time.monotonic() + _SECONDS
        found: list[tuple[int, int]] = []
        with contextlib.suppress(errors.DsmemError):
            if each:
                self._go_on(known, end, None, _SETTLE_SECONDS)
            for doubts in each:
                asked = self._asked(doubts, end)
                found.append(asked if clock() - began < _DOUBT_SECONDS else (0, 0))
        return found + [(0, 0)] * (len(each) - len(found))

    def _asked(self, doubts: bytes, end: float) -> tuple[int, int]:
        while doubts:
            known = self._epoch
            try:
                return _core.Store._outcome(self, doubts)
            except _AGAIN as failed:
                self._go_on(known, end, failed)
        return 0, 0

    def _moved(self, found: messages.Found, pauses: Pauses) -> bool:
        """Use the copies of another epoch. False: that must be tried again."""
        try:
            memories = attached(self._coordination, found)
        except _AGAIN:
            return False
        self._next = memories, found.epoch, found.lease, [self._memory, *self._backups]
        try:
            while not self._reopen(tuple(memory.remote for memory in memories)):
                if pauses.over:
                    raise errors.BusyError("calls of other threads, which fail as well, have not ended in time")
                pauses.sleep()
        except BaseException as error:
            if not self._has(memories):
                self._next = None
                detached(memories)
            if isinstance(error, _AGAIN):
                return False
            raise
        self._arrived()
        return True

    def _has(self, memories: list[Memory]) -> bool:
        """Whether calls use these copies by now."""
        return not self.closed and self._remotes[0] is memories[0].remote

    def _arrived(self) -> None:
        """Be in the epoch whose copies calls use by now: a handler may have raised when they had just been opened."""
        if self._next is None or not self._has(self._next[0]):
            return
        memories, number, seconds, before = self._next
        self._use(memories)
        self._epoch = _Epoch(number, seconds, Held())  # close() may do it late: no lease comes back so
        detached(before)
        self._next = None

    def _use(self, memories: list[Memory]) -> None:
        self._memory, self._backups = memories[0], memories[1:]
        for memory in memories:
            memory.remote._user = f"<Store {self._name!r}>"

    def _call(
        self,
        call: Callable[[], _T],
        *,
        changes: bool = False,
        done: Callable[[int], _T] | None = None,
        forgets: bool = False,
        seconds: float = _SECONDS,
    ) -> _T:
        """Make a call in the present epoch, and in the next ones as long as it has certainly changed nothing.

        changes: what it returns is right in any epoch. done: what it returns, by the version that it has made, if the
        next epoch says that it was done. forgets: what it has changed, if it has, no process knows.
        """
        end = time.monotonic() + seconds
        while True:
            known, began = self._epoch, clock()
            failed: errors.DsmemError | None = None
            try:
                result = call()
            except errors.OutcomeUnknownError as unknown:
                found, version = self._outcome_of(unknown._doubts, known, began)
                if found == _core.STORE_DONE and done is not None:
                    self._refuse_few(unknown)
                    return done(version)
                if found != _core.STORE_NOT_DONE and not forgets:
                    raise
                if time.monotonic() >= end:
                    raise errors.TransportError(f"{unknown.detail}; it was not done") from unknown
                continue
            except _SAYS as error:
                if self._is_current(known, end, error):
                    raise
                failed = error
            except _AGAIN as error:
                failed = error
            else:
                if changes or self._is_current(known, end):
                    return result
            if failed is not None and time.monotonic() >= end:
                raise _late(failed)
            self._go_on(known, end, failed)

    # -- operations --

    def _times(self) -> dict[str, dict[int, int]]:
        return self._took.by_call()

    @property
    def latencies(self) -> dict[str, dict[str, float]]:
        """As of :class:`Store`."""
        return _core.latencies_of(self._times() if self.counts else {})  # of a handle that is closed that raises

    def read(self, pid: int, out: Any = None) -> Any:
        """As of :class:`Store`."""
        with self._took.by("read"):
            return self._call(lambda: Store.read(self, pid, out))

    def read_many(self, ids: Any, out: Any = None, *, status: Any = None) -> Any:
        """As of :class:`Store`."""
        ids = ids_again(ids)
        with self._took.by("read_many"):
            return self._call(lambda: Store.read_many(self, ids, out, status=status))

    def version(self, pid: int) -> int:
        """As of :class:`Store`."""
        with self._took.by("version"):
            return self._call(lambda: Store.version(self, pid))

    def metadata(self, pid: int) -> PageMetadata:
        """As of :class:`Store`."""
        with self._took.by("version"):
            return self._call(lambda: Store.metadata(self, pid))

    def write(self, pid: int, data: Any) -> int:
        """As of :class:`Store`."""
        with self._took.by("write"):
            return self._call(lambda: Store.write(self, pid, data), changes=True, done=int)

    def compare_write(self, pid: int, version: int, data: Any) -> int:
        """As of :class:`Store`."""
        with self._took.by("compare_write"):
            return self._call(lambda: Store.compare_write(self, pid, version, data), changes=True, done=int)

    def write_many(self, ids: Any, data: Any, *, status: Any = None) -> Any:
        """As of :class:`Store`."""
        with self._took.by("write_many"):
            return self._write_many(ids, data, status)

    def _write_many(self, ids: Any, data: Any, status: Any) -> Any:
        rest, end = Rest(ids, data, status), time.monotonic() + _SECONDS
        while True:
            known, began, stays = self._epoch, clock(), True
            try:
                rest.note(Store.write_many(self, *rest.given, status=rest.status))
                if rest.refuses:
                    stays = self._still(rest, known, end)
                    rest.keep(stays)
            except (*_AGAIN, *_SAYS) as error:
                if isinstance(error, _SAYS) and self._says_now(error, rest, known, end):
                    if isinstance(error, errors.TooFewCopiesError):
                        rest.refuse(error)
                    raise rest.says(error) from error.__cause__
                if self._settle_rest(rest, error, known, began):
                    end = time.monotonic() + _SECONDS
                failed: errors.DsmemError | None = error
            else:
                failed = None
            if not rest.narrow():
                return rest.ended()
            if failed is not None or not stays:
                if failed is not None and time.monotonic() >= end:
                    rest.refuse(_late(failed))
                try:
                    self._go_on(known, end, failed)
                except errors.DsmemError as error:
                    rest.refuse(error)

    def _says_now(self, error: errors.DsmemError, rest: Rest, known: _Epoch, end: float) -> bool:
        """Whether what a call says of a page is of the present epoch."""
        if error._versions is not None:
            rest.note(error._versions)
        return self._still(rest, known, end, error)

    def _still(self, rest: Rest, known: _Epoch, end: float, said: errors.DsmemError | None = None) -> bool:
        """Whether the epoch is the present one. If nothing can tell, the call ends."""
        try:
            return self._is_current(known, end, said)
        except errors.DsmemError as away:
            rest.refuse(away)

    def _settle_rest(self, rest: Rest, failed: errors.DsmemError, known: _Epoch, began: float) -> bool:
        """After a call has failed: which pages were written. Whether any was."""
        written = failed._versions is not None and rest.note(failed._versions)
        doubts = [each.tobytes() for each in np.frombuffer(failed._doubts, DOUBT)]
        for doubt, (found, version) in zip(doubts, self._outcomes_of(doubts, known, began), strict=True):
            if found == _core.STORE_DONE and self._has_demanded():
                rest.found(doubt, version)
                written = True
            elif found != _core.STORE_NOT_DONE:
                rest.refuse_unknown(failed)
        return written

    def allocate(self) -> int:
        """As of :class:`Store`."""
        with self._took.by("allocate"):
            return self._call(lambda: Store.allocate(self), changes=True, forgets=True)

    def allocate_many(self, n: int) -> Any:
        """As of :class:`Store`."""
        with self._took.by("allocate"):
            return self._call(lambda: Store.allocate_many(self, n), changes=True, forgets=True)

    def free(self, pid: int) -> None:
        """As of :class:`Store`."""
        with self._took.by("free"):
            self._call(lambda: Store.free(self, pid), changes=True)

    def snapshot(self, ids: Any, out: Any = None, *, timeout: float | None = RUN_SECONDS) -> Any:
        """As of :class:`Store`."""
        with self._took.by("snapshot"):
            return super().snapshot(ids, out, timeout=timeout)

    async def snapshot_async(self, ids: Any, out: Any = None, *, timeout: float | None = RUN_SECONDS) -> Any:
        """As of :class:`Store`."""
        with self._took.by("snapshot"):
            return await super().snapshot_async(ids, out, timeout=timeout)

    async def _call_async(self, call: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """In a thread that does not have the handle in use, since a call may open it again."""
        return await in_thread(call, undo)

    async def read_async(self, pid: int, out: Any = None) -> Any:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.read(pid, out))

    async def read_many_async(self, ids: Any, out: Any = None, *, status: Any = None) -> Any:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.read_many(ids, out, status=status))

    async def version_async(self, pid: int) -> int:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.version(pid))

    async def metadata_async(self, pid: int) -> PageMetadata:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.metadata(pid))

    async def write_async(self, pid: int, data: Any) -> int:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.write(pid, data))

    async def compare_write_async(self, pid: int, version: int, data: Any) -> int:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.compare_write(pid, version, data))

    async def write_many_async(self, ids: Any, data: Any, *, status: Any = None) -> Any:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.write_many(ids, data, status=status))

    async def allocate_async(self) -> int:
        """As of :class:`Store`."""
        return await self._call_async(self.allocate, lambda pid: self._let_go_all([pid]))

    async def allocate_many_async(self, n: int) -> Any:
        """As of :class:`Store`."""
        return await self._call_async(lambda: self.allocate_many(n), self._let_go_all)

    async def free_async(self, pid: int) -> None:
        """As of :class:`Store`."""
        await self._call_async(lambda: self.free(pid))

    def _check(self, first: int, n: int) -> Any:
        return self._call(lambda: Store._check(self, first, n))

    def _repair(self, number: int) -> bool:
        return self._call(lambda: Store._repair(self, number), changes=True)

    def stat(self, *, timeout: float | None = 30) -> dict[str, int]:
        """As of :class:`Store`."""
        limit = _core.seconds(timeout, "timeout")
        return self._call(lambda: Store.stat(self), seconds=_UNLIMITED if limit is None else limit)

    async def stat_async(self, *, timeout: float | None = 30) -> dict[str, int]:
        """As of :class:`Store`."""
        _core.seconds(timeout, "timeout")
        return await self._call_async(lambda: self.stat(timeout=timeout))

    def health(self, *, timeout: float | None = 2) -> dict[str, Any]:
        """As of :class:`Store`."""
        known = super().health(timeout=timeout)
        limit = _core.seconds(timeout, "timeout")
        try:
            found = self._coordination.copies(self._number, time.monotonic() + (_SECONDS if limit is None else limit))
        except AWAY as error:
            if len(known["copies"]) != self._shape["replicas"] * self._shape["extents"]:
                for copy in known["copies"]:  # some extents have fewer of them than others, so their place does not say
                    copy.pop("extent", None)
                    copy.pop("copy")
            return {**known, "epoch": self._epoch.number, "open": None, "trouble": error.detail, "domains": None}
        return health_of(found)

    async def health_async(self, *, timeout: float | None = 2) -> dict[str, Any]:
        """As of :class:`Store`."""
        _core.seconds(timeout, "timeout")
        return await self._call_async(lambda: self.health(timeout=timeout))

    def _begin(self, opaque: bool) -> Transaction:
        return EpochTransaction._of(self, opaque)

    @property
    def ref(self) -> Reference:
        """As of :class:`Store`."""
        address = self._coordination.names.address
        return Reference("store", self._name, self._number, coordinator=address)

    def unlink(self) -> None:
        """As of :class:`Store`."""
        self._coordination.names.unlink(self._name, self._number)

    def _stays(self, end: float) -> bool:
        """Whether no other epoch has begun or is about to, which would take back the place of this handle."""
        try:
            return self._coordination.find(self._number, self._epoch.number, end).phase == messages.CURRENT
        except errors.DsmemError:
            return False

    def _part(self) -> None:
        """Give back the lease of a handle that is about to be closed, if that can be done at once."""
        if metrics.is_mine(self._moving) or clock() >= self._epoch.lease.until:
            return
        try:
            if self._moving.acquire(blocking=False):  # else another thread gives it back
                self._find(0, time.monotonic() + _PART_SECONDS)
        except errors.DsmemError:
            pass  # it ends by itself
        finally:
            if metrics.is_mine(self._moving):
                self._moving.release()

    def close(self) -> None:
        """As of :class:`Store`."""
        self._arrived()
        self._part()
        pauses = Pauses(time.monotonic() + _CLOSE_SECONDS)
        while True:
            try:
                _core.Store.close(self)
                break
            except _AGAIN:
                if pauses.over or not self._stays(pauses.end):
                    self._part_for_good()
                    break
            pauses.sleep()
        metrics.closed(self)
        for memory in (*self._backups, self._memory):
            memory.close()
        if self._own_names is not None:
            self._own_names.close()
