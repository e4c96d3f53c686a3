"""The coordinator: it asks memory nodes, answers clients, and does what its policy decides.

Events come from the threads that ask the nodes, from those that recover stores, from timers and from clients. One lock
lets the policy see one at a time; what it decides is on disk before anything of it is done or told.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from dsmem import _core, errors
from dsmem.membership import events, messages, placement
from dsmem.membership.events import Action, Event
from dsmem.membership.journal import Journal
from dsmem.membership.leases import NO_ID
from dsmem.membership.messages import DOMAIN_MOST, Found, Health, NodeInfo
from dsmem.membership.pace import Pace
from dsmem.membership.policy import Policy
from dsmem.membership.reports import Reports
from dsmem.membership.standing import Standing
from dsmem.membership.state import Copy, Disk, Node, Place, Store, may_count
from dsmem.membership.status import Status, StoreInfo
from dsmem.membership.workers import Job, Worker
from dsmem.metrics import Figures, Of
from dsmem.names import wire
from dsmem.names.base import NameInfo
from dsmem.names.remote import parse_address
from dsmem.names.server import NameServer
from dsmem.names.wire import Reader, Request

_log = logging.getLogger("dsmem")
#: In which a node is to be ready with a copy that is made or closed: some, and one for so many bytes, which it may have
#: to clear and to pin.
_READY_SECONDS, _READY_BYTES = 20.0, 256 << 20
_ROUND_BYTES = 4 << 20
_PAUSE_SECONDS = 0.25  # in which a fill sees that it was overtaken
_ROUNDS_MOST, _LEFT_FEW = 8, 256  # of a new copy: rounds, and pages that a pause is short for


def clock() -> float:
    """Return the seconds of a clock that goes on while the host sleeps, so that a lease ends in its sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Coordinator:
    """Decides for the memory nodes and stores of a cluster.

    Parameters
    ----------
    server : NameServer
        It answers the requests of clients and nodes from now on.
    disk : Disk
        Where the decisions are kept.
    lease : float
        Seconds for which a client may read without asking.
    silence : float
        Seconds after which a memory node that does not answer is left out.
    rate : int, optional
        Bytes of pages a second that are copied to new copies, of all stores together, while clients use the others.
    """

    def __init__(self, server: NameServer, disk: Disk, lease: float, silence: float, rate: int | None = None) -> None:
        self._server = server
        self._disk = disk
        self._silence = silence
        self._pace = Pace(rate)
        self._lock = threading.RLock()
        self._policy = Policy(disk.load(), clock(), lease, _number())
        self._standing = self._policy.standing  # what is on disk of it
        self._workers: dict[int, Worker] = {}
        self._timers: set[threading.Timer] = set()
        self._threads: set[threading.Thread] = set()
        # by store, and descriptor of the new copy
        self._fillers: dict[tuple[int, bytes], tuple[_core.StoreFill, list[_core.Remote]]] = {}
        self._status = Status(self._policy, clock())
        self._journal = Journal(self._policy)
        self._reports = Reports()
        self._unreadable = False  # whether a report was
        self.broken = ""  # why it decides nothing any more
        self._stopping = threading.Event()
        self._does = {
            events.Save: self._save,
            events.Stop: lambda stop: self._fail(stop.reason),
            events.Watch: self._watch,
            events.Forget: self._forget,
            events.Make: self._make,
            events.Close: self._close,
            events.Recover: self._recover,
            events.Fill: self._fill,
            events.Drop: self._drop,
            events.WakeAt: self._wake_at,
        }
        server.others = self
        server.answer(
            {
                Request.COORDINATES: self._coordinates,
                Request.JOIN: self._join,
                Request.STORE_MAKE: self._store_make,
                Request.STORE_FIND: self._store_find,
                Request.STORE_LEASE: self._store_lease,
                Request.STORE_COPIES: self._store_copies,
                Request.STORE_CALLS: self._store_calls,
                Request.NODES: self._nodes,
                Request.NODE_FORGET: self._node_forget,
                Request.NODE_DRAIN: self._node_drain,
            }
        )

    def start(self) -> None:
        """Begin to ask the nodes, and end what the coordinator before has begun."""
        with self._lock:
            state = self._policy.state
            if state.nodes or state.stores:
                _log.info("known from before: %d memory nodes, %d stores", len(state.nodes), len(state.stores))
            self._execute(self._policy.begin(clock()))
            self._journal.look()

    def stop(self, seconds: float) -> bool:
        """End all threads, and say whether they have ended in time: one may wait for a node that does not answer."""
        end = time.monotonic() + seconds
        with self._lock:
            self._stopping.set()
            timers, workers, threads = list(self._timers), list(self._workers.values()), list(self._threads)
        for timer in timers:
            timer.cancel()
        for worker in workers:
            worker.end()
        in_time = [worker.ended(end) for worker in workers]
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            in_time.append(not thread.is_alive())
        self._disk.close()
        return all(in_time)

    # -- events and actions --

    def tell(self, event: Event) -> None:
        """Let the policy decide what follows from an event, and do it. Any thread may call it."""
        with self._lock:
            if self._stopping.is_set() or self.broken:
                return
            now = clock()
            if isinstance(event, events.Heard):
                self._status.heard(event.node, now)
            elif isinstance(event, events.Silent):
                self._status.silent(event.node, event.reason)
            elif isinstance(event, events.Refused):
                self._note_refusal(event)
            actions = self._policy.on(event, now)
            if isinstance(event, events.Recovered):
                self._status.opened(event.store)
            self._execute(actions)
            self._end_fillers()
            if actions or isinstance(event, events.Silent):
                self._status.keep()
                self._journal.look()

    def _note_refusal(self, event: events.Refused) -> None:
        """A node can't make or close a copy, as for lack of memory."""
        store = self._policy.state.stores.get(event.store)
        if store is None or event.making not in (0, store.making):
            return
        fill, at = self._policy.filling(event.store), self._status.address(event.node)
        if store.phase == "closed":
            self._status.refused(event.store, event.node, event.reason)
        if fill is not None and fill.place == (event.node, event.extent):
            self._status.not_filled(event.store, event.reason)
            _log.warning("%s: %s can't make a copy: %s", self._label(event.store), at, event.reason)
        elif self._policy.opens(event.store, event.epoch) and self._status.not_opened(event.store, event.reason):
            _log.warning("%s: %s refuses epoch %d: %s", self._label(event.store), at, event.epoch, event.reason)

    def _execute(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._does[type(action)](action)  # type: ignore[operator]

    def _save(self, action: events.Save) -> None:
        self._policy.state.written += 1
        try:
            self._disk.save(self._policy.state)
        except OSError as error:
            # What is on disk is unknown, so nothing may be decided any more. A new process reads what is there.
            self._fail(f"it can't write its state: {error}; make room, and start it again")
            raise errors.SystemCallError(self.broken, sys=error.errno or 0) from error
        self._standing = self._policy.standing

    def _fail(self, reason: str) -> None:
        self.broken = reason
        _log.critical("the coordinator decides nothing any more: %s", reason)
        self._server.stop()

    def _check(self) -> None:
        if self.broken:
            raise errors.SystemCallError(f"the coordinator has failed: {self.broken}")

    def _check_settled(self) -> None:
        """Raise NotYetError while it may be that another coordinator has decided more, or a node is not there."""
        self._check()
        if not self._policy.is_settled(clock()):
            text = "the coordinator has just begun, and asks its memory nodes whether its state is the latest"
            raise wire.NotYetError(f"{text}; try again")

    def _watch(self, action: events.Watch) -> None:
        node = action.node
        before = self._workers.pop(node.id, None)
        if before is not None:
            before.end()
        times = self._silence / 8, self._silence
        reaches = partial(self._reaches_others, node.id)
        self._workers[node.id] = Worker(self._server.context, node, self.tell, *times, lambda: self._standing, reaches)

    def _reaches_others(self, node: int, since: float) -> bool:
        """Whether memory of another node was read since a time, and of late. If not this process may be cut off."""
        since = max(since, time.monotonic() - self._silence / 2)
        with self._lock:
            return any(worker.reached >= since for id, worker in self._workers.items() if id != node)

    def _forget(self, action: events.Forget) -> None:
        worker = self._workers.pop(action.node, None)
        if worker is not None:
            worker.end()

    def _ask(self, node: int, job: Job) -> None:
        worker = self._workers.get(node)
        if worker is not None:
            worker.do(job)

    def _make(self, action: events.Make) -> None:
        store, copy = self._policy.state.stores[action.store], action.copy
        self._status.begins_to_fill(store.id)
        fields = (wire.number(each) for each in (store.id, action.epoch, _number()))
        what = wire.number(action.making), wire.number(copy.index, 4), messages.shape(*store.shape)
        request = self._request(Request.COPY_MAKE, copy.node, *fields, *what, messages.extent(copy.extent))
        self._ask(copy.node, self._closing(request, store.id, action.epoch, copy.place, action.making))

    def _close(self, action: events.Close) -> None:
        fields = (wire.number(each) for each in (action.store, action.epoch, _number()))
        request = self._request(Request.COPY_CLOSE, action.node, *fields, messages.extent(action.extent))
        self._ask(action.node, self._closing(request, action.store, action.epoch, (action.node, action.extent)))

    def _request(self, kind: Request, node: int, *fields: bytes) -> bytes:
        return messages.to_node(kind, node, self._standing, *fields)

    def _closing(self, request: bytes, store: int, epoch: int, place: Place, making: int = 0) -> Job:
        node, extent = place
        limit = _READY_SECONDS + placement.memory(self._policy.state.stores[store]) / _READY_BYTES

        def refused(error: errors.DsmemError) -> Event:
            lost = isinstance(error, errors.StaleDescriptorError)
            no_room = isinstance(error, errors.OutOfMemoryError)
            return events.Refused(store, epoch, node, error.detail, lost, extent, no_room, making)

        return Job(request, lambda raw: events.Closed(store, epoch, node, raw, extent), refused, limit)

    def _drop(self, action: events.Drop) -> None:
        what = wire.number(action.store), wire.number(action.making), messages.extent(action.extent)
        request = self._request(Request.COPY_DROP, action.node, *what)
        told = events.Dropped(action.store, action.node, action.making, action.extent)
        self._ask(action.node, Job(request, lambda raw: told))

    def _wake_at(self, action: events.WakeAt) -> None:
        def due() -> None:
            with self._lock:
                self._timers.discard(timer)
            if clock() < action.at:  # the timer's clock is another one
                self._wake_at(action)
            else:
                self.tell(events.Due(action.store, action.epoch))

        timer = threading.Timer(max(0.0, action.at - clock()), due)
        timer.daemon = True
        with self._lock:
            if self._stopping.is_set():
                return
            self._timers.add(timer)
        timer.start()

    def _recover(self, action: events.Recover) -> None:
        def failed(reason: str) -> Event | None:
            with self._lock:
                if not self._policy.opens(action.store, action.epoch):
                    return None
                is_new = self._status.not_opened(action.store, reason)
            if is_new:
                _log.warning("%s: epoch %d can't be opened yet: %s", self._label(action.store), action.epoch, reason)
            return events.Failed(action.store, action.epoch, reason)

        self._run(lambda: self._recover_now(action), failed)

    def _run(self, do: Callable[[], Event | None], failed: Callable[[str], Event | None]) -> None:
        """Do it in a thread, whose end :meth:`stop` waits for, and tell what has come of it, if anything has."""

        def told() -> Event | None:
            try:
                return do()
            except errors.ClosedError:
                return None  # the coordinator ends
            except errors.DsmemError as error:
                return failed(error.detail)
            except Exception as error:
                _log.exception("a step of a coordinator has failed")
                return failed(repr(error))

        def run() -> None:
            try:
                event = told()
                if event is not None:
                    self.tell(event)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="dsmem-store", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _recover_now(self, action: events.Recover) -> Event:
        begun = clock()
        with contextlib.ExitStack() as stack:
            remotes = []
            for copy in action.copies:
                remotes.append(self._server.context.attach(copy.descriptor))
                stack.callback(remotes[-1].detach)
            found = _core.store_recover(tuple(remotes), action.epoch)
            if action.fresh is not None:
                filler = self._filler_of(action.store, action.fresh)
                extents = [copy.extent for copy in action.copies]
                filler.finish(remotes[extents.index(action.fresh.extent)])
                new = self._server.context.attach(action.fresh.descriptor)
                stack.callback(new.detach)
                places = [copy.place for copy in action.copies]
                at = places.index(action.moved) if action.moved in places else len(places)
                _core.store_recover((*remotes[:at], new, *remotes[at + 1 :]), action.epoch)
        about = self._label(action.store), action.epoch, found, clock() - begun
        _log.debug("%s: copies recovered for epoch %d: %s, in %.3f s", *about)
        return events.Recovered(action.store, action.epoch)

    def _fill(self, action: events.Fill) -> None:
        about = action.store, action.epoch, action.copy.node, action.copy.extent

        def failed(reason: str) -> Event | None:
            with self._lock:
                if not self._is_filled(action):
                    return None
                self._status.not_filled(action.store, reason)
            _log.warning("%s: a copy can't be made again yet: %s", self._label(action.store), reason)
            return events.FillFailed(*about)

        self._run(partial(self._fill_now, action, events.Filled(*about)), failed)

    def _is_filled(self, action: events.Fill) -> bool:
        """Whether the copy is still to be filled: the store may have gone on without it."""
        return self._policy.filling(action.store) == action.copy

    def _fill_now(self, action: events.Fill, filled: Event) -> None:
        """Copy the pages while clients change them, until few are left."""
        with contextlib.ExitStack() as stack:
            remotes = []
            for descriptor in (action.source.descriptor, action.copy.descriptor):
                remotes.append(self._server.context.attach(descriptor))
                stack.callback(remotes[-1].detach)
            filler = _core.StoreFill(*remotes)
            stack.callback(filler.close)
            pace = self._pace  # of the first round: the others, of what has changed since, must be faster than changes
            for _ in range(_ROUNDS_MOST):
                if self._fill_round(action, filler, pace) <= _LEFT_FEW:
                    break
                pace = Pace(None)
            with self._lock:  # held until the policy knows that the filler is there
                if self._is_filled(action):
                    self._fillers[action.store, action.copy.descriptor] = filler, remotes
                    stack.pop_all()
                    self.tell(filled)

    def _filler_of(self, store: int, fresh: Copy) -> _core.StoreFill:
        with self._lock:
            found = self._fillers.get((store, fresh.descriptor))
        if found is None:
            raise errors.CanceledError("what has filled the new copy is gone; it is made again")
        return found[0]

    def _end_fillers(self) -> None:
        """End those of copies that count by now, or never will. One that is in a call is ended after that."""
        for key, (filler, remotes) in list(self._fillers.items()):
            fresh = self._policy.completing(key[0])
            if fresh is None or fresh.descriptor != key[1]:
                with contextlib.suppress(errors.DsmemError):
                    filler.close()
                    for remote in remotes:
                        remote.detach()
                    del self._fillers[key]

    def _fill_round(self, action: events.Fill, filler: _core.StoreFill, pace: Pace) -> int:
        """Copy what has changed since the round before, and return how many pages that were; 0 if it was overtaken."""
        copied = 0
        while not self._stopping.is_set():
            found = filler.round(pace.piece(_ROUND_BYTES))
            with self._lock:
                if not self._is_filled(action):
                    return 0
                store = self._policy.state.stores[action.store]
                self._status.filled(store.id, found["passed"], store.pages // store.extents)
            if found["done"]:
                return found["copied"] + found["left"]
            self._pause(action, pace.until((found["copied"] - copied) * store.page_size, clock()))
            copied = found["copied"]
        raise errors.ClosedError("coordinator")

    def _pause(self, action: events.Fill, until: float) -> None:
        """Wait, until the store goes on without the new copy at most."""
        while (left := until - clock()) > 0 and not self._stopping.wait(min(left, _PAUSE_SECONDS)):
            with self._lock:
                if not self._is_filled(action):
                    return

    # -- requests --

    def _coordinates(self, client: int, fields: Reader) -> bytes:
        fields.end()
        return wire.success()

    def _join(self, client: int, fields: Reader) -> bytes:
        about, seen = (fields.number(), fields.text(), fields.text()), Standing.read(fields)
        was_known = bool(fields.number(1))
        node = Node(*about, fields.number())
        self._check_reaches(sorted({*fields.text().split(",")} - {""}))
        fields.end()
        parse_address(node.address)
        if not node.id or len(node.domain.encode()) > DOMAIN_MOST:
            raise errors.InvalidArgumentError(f"a label of a domain has at most {DOMAIN_MOST} bytes")
        with self._lock:
            others = [worker for worker in self._workers.values() if worker.node.address == node.address]
            for worker in others:
                if worker.node.id != node.id:
                    worker.look()  # whether it is still that one
            self.tell(events.Joined(node, seen, was_known))
            self._check()
            if not self._policy.is_up(node.id) and node.id in self._workers:
                self._workers[node.id].look()
        return wire.success()

    def _check_reaches(self, fabrics: list[str]) -> None:
        """It recovers copies and fills them, so it must reach their memory, which is not mapped."""
        own = {way.fabric.removeprefix("fault+") for way in self._server.context.fabrics} - {"shm"}
        if not own & set(fabrics):
            theirs, ours = " or ".join(fabrics) or "nothing", " and ".join(sorted(own))
            text = f"the memory node is reached by {theirs}, and its coordinator has {ours}"
            raise errors.InvalidArgumentError(f"{text}; give both the same --fabric")

    def _store_make(self, client: int, fields: Reader) -> bytes:
        cluster, name, shape = fields.name(), fields.name(), messages.read_shape(fields)
        fields.end()
        _core.store_nbytes(*shape)
        self._server.refuse_taken(cluster, name)
        id = _number()
        with self._lock:
            self._check_settled()
            self.tell(events.Created(id, cluster, name, shape[:4], time.time(), extents=shape[4]))
        return wire.success(wire.number(id))

    def _store_find(self, client: int, fields: Reader) -> bytes:
        cluster, name, id, known = fields.name(), fields.name(), fields.number(), fields.number()
        given_back, first = fields.number(), messages.read_first(fields)
        fields.end()
        with self._lock:
            self._check()
            state = self._policy.state
            store = state.named(cluster, name)
            if store is None or id not in (0, store.id):
                self._check_settled()
                raise self._policy.failure(id) or errors.NameNotFoundError(f"{name!r}: there is no such store")
            if given_back != NO_ID:
                self.tell(events.GivenBack(store.id, given_back))
            if known:  # a client that has lost its copies
                for copy in store.copies:
                    if copy.node in self._workers:
                        self._workers[copy.node].look()
            return messages.found(self._found(store, known), first)

    def _found(self, store: Store, known: int) -> Found:
        if not self._policy.is_settled(clock()):
            return Found(messages.NOT_YET, store.id, store.epoch, 0)
        if store.phase == "lost":
            return Found(messages.LOST, store.id, store.epoch, 0)
        if store.phase != "open" or store.epoch <= known:
            phase = messages.CURRENT if store.phase == "open" else messages.NOT_YET
            return Found(phase, store.id, store.epoch, 0)
        descriptors = tuple(copy.descriptor for copy in store.copies)
        return Found(messages.OPEN, store.id, store.epoch, self._policy.lease, descriptors)

    def _store_lease(self, client: int, fields: Reader) -> bytes:
        id, epoch, lease = fields.number(), fields.number(), fields.number()
        report = self._read_report(fields)
        with self._lock:
            self._check()
            if report is not None and id in self._policy.state.stores:
                self._reports.keep(self._policy.state.stores)
                self._reports.add(id, report, clock())
            return wire.success(wire.number(self._policy.grant(id, epoch, clock(), lease), 1))

    def _read_report(self, fields: Reader) -> messages.Report | None:
        """Return what a client reports of its calls. A lease does not depend on whether that can be read."""
        try:
            return messages.read_report(fields) if fields.goes_on else None
        except errors.DsmemError as error:
            if not self._unreadable:
                self._unreadable = True
                _log.warning("a client's report of its calls can't be read (further ones are not logged): %s", error)
            return None

    def _store_copies(self, client: int, fields: Reader) -> bytes:
        cluster, name, id = fields.name(), fields.name(), fields.number()
        first = messages.read_first(fields)
        fields.end()
        with self._lock:
            self._check_settled()
            store = self._named(cluster, name, id)
            phase = {"open": messages.OPEN, "lost": messages.LOST}.get(store.phase, messages.NOT_YET)
            now, status = clock(), self._status
            trouble, missing = status.trouble(store, now), status.missing(store, now)
            found = Health(store.epoch, phase, store.replicas, trouble, status.places(store), missing)
            return messages.health(found, first)

    def _store_calls(self, client: int, fields: Reader) -> bytes:
        cluster, name, id = fields.name(), fields.name(), fields.number()
        fields.end()
        with self._lock:
            self._check_settled()
            return messages.calls(self._reports.recent(self._named(cluster, name, id).id, clock()))

    def calls(self) -> dict[Of, Figures]:
        """Return what clients have reported since the coordinator began."""
        with self._lock:
            stores = self._policy.state.stores
            self._reports.keep(stores)
            return {
                Of(stores[id].cluster, stores[id].name, fabric): figures
                for (id, fabric), figures in self._reports.totals().items()
                if stores[id].name
            }

    def _named(self, cluster: str, name: str, id: int) -> Store:
        store = self._policy.state.named(cluster, name)
        if store is None or id not in (0, store.id):
            raise errors.NameNotFoundError(f"{name!r}: there is no such store")
        return store

    def _label(self, id: int) -> str:
        with self._lock:
            store = self._policy.state.stores.get(id)
            return f"store {store.name!r} of cluster {store.cluster!r}" if store is not None else "a store"

    def _nodes(self, client: int, fields: Reader) -> bytes:
        with self._lock:
            self._check_settled()
        return self._server.page(client, fields, lambda cluster: [messages.node(each) for each in self.nodes()])

    def nodes(self) -> list[NodeInfo]:
        """Return what is known of the memory nodes."""
        with self._lock:
            return self._status.nodes(clock())

    def stores(self) -> list[StoreInfo]:
        """Return what is known of the stores."""
        with self._lock:
            return self._status.stores(clock())

    def _node_forget(self, client: int, fields: Reader) -> bytes:
        address = fields.text()
        fields.end()
        with self._lock:
            self._check_settled()
            node = self._node_at(address)
            if self._policy.is_up(node.id):
                raise errors.BusyError(f"the memory node at {address} answers; end it before")
            for store in self._policy.state.stores.values():
                if may_count(store, node.id):
                    text = f"{self._label(store.id)} has a copy at {address} that counts"
                    raise errors.BusyError(f"{text}; unlink the store, or start the node again")
            self.tell(events.Gone(node.id))
        return wire.success()

    def _node_drain(self, client: int, fields: Reader) -> bytes:
        address, leaving = fields.text(), bool(fields.number(1))
        fields.end()
        with self._lock:
            self._check_settled()
            self.tell(events.Drained(self._node_at(address).id, leaving))
        return wire.success()

    def _node_at(self, address: str) -> Node:
        node = next((node for node in self._policy.state.nodes.values() if node.address == address), None)
        if node is None:
            raise errors.InvalidArgumentError(f"{address} is no memory node; 'dsmem nodes' lists them")
        return node

    # -- names --

    def infos(self, cluster: str) -> list[NameInfo]:
        """Return what a list of names says of the stores of a cluster."""
        with self._lock:
            self._check_settled()
            stores = [store for store in self._policy.state.stores.values() if store.cluster == cluster and store.name]
            return [
                NameInfo(
                    store.name, "store", _core.store_nbytes(*store.shape) * len(store.copies), "", store.created, "name"
                )
                for store in stores
            ]

    def has(self, cluster: str, name: str) -> bool:
        """Whether a store has the name. That none has is said before the state is known to be the latest, too.

        So the names that are no stores are found while a memory node is waited for.
        """
        with self._lock:
            found = self._policy.state.named(cluster, name) is not None
            if found:
                self._check_settled()
            return found

    def refuse_taken(self, cluster: str, name: str) -> None:
        """Raise NameExistsError if a store has the name."""
        with self._lock:
            self._check_settled()
            if self._policy.state.named(cluster, name) is not None:
                raise errors.NameExistsError(repr(name))

    def unlink(self, cluster: str, name: str, number: int) -> bool:
        """Remove a store, and say whether there was one."""
        with self._lock:
            self._check_settled()
            store = self._policy.state.named(cluster, name)
            if store is None or number not in (0, store.id):
                return False
            self.tell(events.Removed(store.id))
            return True


def _number() -> int:
    return secrets.randbits(63) + 1
