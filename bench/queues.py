"""Contestants that move messages from one process to others, and the processes that do it.

A way is made in the process of the bench, pickled to its children, and opened as an end by each of them, for the role
"put" or "get". An end has some of: put, get (a message); put_list, get_list (a list of them); put_array, get_array
(rows of an array; get_array says how many it has filled).
"""

import asyncio
import contextlib
import ctypes
import importlib
import itertools
import multiprocessing
import os
import traceback
from importlib import metadata
from itertools import repeat
from pathlib import Path
from time import perf_counter  # the same clock in all processes

import numpy as np

import dsmem

CAPACITY = 1 << 20
SPAWN = multiprocessing.get_context("spawn")
_numbers = itertools.count()


def _unique():
    return f"dsmem-bench-{os.getpid()}-{next(_numbers)}"


class End:
    """What a process holds of a way."""

    def __init__(self, **calls):
        self.__dict__.update(calls)


class Way:
    def unlink(self):
        """What the system would keep."""


class Dsmem(Way):
    name = "dsmem"

    def __init__(self, *, spin=None, capacity_bytes=CAPACITY, **shape):
        self.spin, self.at = spin, _unique()
        with dsmem.connect("bench") as cluster:
            cluster.queue(self.at, create=True, capacity_bytes=capacity_bytes, **shape).close()

    def open(self, role):
        cluster = dsmem.connect("bench")
        q = cluster.queue(self.at, spin=self.spin)

        def get_array(out):
            return q.get_many(out=out)

        return End(
            put=q.put,
            get=q.get,
            put_list=q.put_many,
            get_list=q.get_many,
            put_array=q.put_many,
            get_array=get_array,
            get_async=q.get_async,
            close=cluster.close,
        )

    def unlink(self):
        with dsmem.connect("bench") as cluster:
            cluster.unlink(self.at)


class Zmq(Way):
    """PUSH to PULL. Lists and arrays are sent as one message (of many parts, or of all rows)."""

    needs = "pyzmq"
    name = "pyzmq"

    def __init__(self, *, with_asyncio=False):
        self.at, self.with_asyncio = f"ipc://@{_unique()}", with_asyncio

    def open(self, role):
        import zmq
        import zmq.asyncio

        context = (zmq.asyncio if self.with_asyncio and role == "get" else zmq).Context()
        socket = context.socket(zmq.PUSH if role == "put" else zmq.PULL)
        (socket.bind if role == "put" else socket.connect)(self.at)

        def get_array(out):
            message = socket.recv()
            out.reshape(-1).view("u1")[: len(message)] = np.frombuffer(message, "u1")
            return len(message) // out[0].nbytes

        return End(
            put=socket.send,
            get=socket.recv,
            put_list=socket.send_multipart,
            get_list=socket.recv_multipart,
            put_array=socket.send,
            get_array=get_array,
            get_async=socket.recv,
            close=lambda: context.destroy(0),
        )


class FasterFifo(Way):
    needs = "faster-fifo"
    name = "faster-fifo"

    def __init__(self):
        import faster_fifo

        self.queue = faster_fifo.Queue(CAPACITY, loads=bytes, dumps=bytes)

    def open(self, role):
        q = self.queue
        return End(put=q.put, get=q.get, put_list=q.put_many, get_list=q.get_many, close=q.close)


class Pipe(Way):
    """multiprocessing.Pipe. Lists are pickled, arrays sent as one message."""

    name = "Pipe"

    def __init__(self):
        self.ends = SPAWN.Pipe(False)

    def open(self, role):
        source, sink = self.ends

        def get_array(out):
            return source.recv_bytes_into(out.reshape(-1)) // out[0].nbytes

        return End(
            put=sink.send_bytes,
            get=source.recv_bytes,
            put_list=sink.send,
            get_list=source.recv,
            put_array=lambda array: sink.send_bytes(array.reshape(-1)),
            get_array=get_array,
            close=lambda: None,
        )


class MpQueue(Way):
    """multiprocessing.Queue. Lists are pickled as one message."""

    name = "mp.Queue"

    def __init__(self):
        self.queue = SPAWN.Queue()

    def open(self, role):
        q = self.queue
        return End(put=q.put, get=q.get, put_list=q.put, get_list=q.get, close=q.close)


class Mqueue(Way):
    """A POSIX message queue, of as many messages as the system allows without rights."""

    needs = "posix_ipc"
    name = "mqueue"

    def __init__(self):
        import posix_ipc

        self.at = f"/{_unique()}"
        posix_ipc.MessageQueue(self.at, posix_ipc.O_CREX, max_message_size=64).close()

    def open(self, role):
        import posix_ipc

        queue = posix_ipc.MessageQueue(self.at)

        def get():
            return queue.receive()[0]

        return End(put=queue.send, get=get, close=queue.close)

    def unlink(self):
        import posix_ipc

        posix_ipc.unlink_message_queue(self.at)


class Iceoryx(Way):
    """Publish and subscribe, without loss; get() polls."""

    needs = "iceoryx2"
    name = "iceoryx2"

    def __init__(self, nbytes=8):
        self.at, self.nbytes = _unique(), nbytes

    def open(self, role):
        import iceoryx2

        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        payload = ctypes.c_uint8 * self.nbytes
        node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        service = (
            node.service_builder(iceoryx2.ServiceName.new(self.at))
            .publish_subscribe(payload)
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(1024)
            .open_or_create()
        )
        if role == "put":
            strategy = iceoryx2.BackpressureStrategy.RetryUntilDelivered
            publisher = service.publisher_builder().backpressure_strategy(strategy).create()
            send, make = publisher.send_copy, payload.from_buffer_copy

            def put(data):
                send(make(data))

            return End(put=put, node=node, close=publisher.delete)
        subscriber = service.subscriber_builder().create()
        receive, string_at, nbytes = subscriber.receive, ctypes.string_at, self.nbytes

        def get():
            while (sample := receive()) is None:
                pass
            data = string_at(sample.payload_ptr, nbytes)
            sample.delete()
            return data

        return End(get=get, node=node, close=subscriber.delete)


def missing(way):
    """Why a class of contestants can't run here, or None; what it is, where that is not a part of Python."""
    name = getattr(way, "needs", None)
    if name is None:
        return None, None
    try:
        importlib.import_module({"pyzmq": "zmq"}.get(name, name.replace("-", "_")))
        way().unlink()
    except Exception as error:  # whatever it is, the others run
        return f"without {way.name}: {error}", None
    return None, f"{name} {metadata.version(name)}"


# ---- what a process does with ends ----


def put_each(end, n, data):
    put = end.put
    for _ in repeat(None, n):
        put(data)


def get_each(end, n):
    get = end.get
    for _ in repeat(None, n):
        get()


def put_lists(end, n, data):
    """Data is a list of messages or an array of rows, sent n times."""
    put = end.put_array if isinstance(data, np.ndarray) else end.put_list
    for _ in repeat(None, n):
        put(data)


def get_lists(end, n):
    """Until n messages are there."""
    get = end.get_list
    while n > 0:
        n -= len(get())


def get_arrays(end, n, out):
    get = end.get_array
    while n > 0:
        n -= get(out)


def ask(there, back, n, data):
    put, get = there.put, back.get
    for _ in repeat(None, n):
        put(data)
        get()


def answer(there, back, n):
    get, put = there.get, back.put
    for _ in repeat(None, n):
        put(get())


def answer_async(there, back, n):
    """As answer, by a task in an event loop."""

    async def run():
        get, put = there.get_async, back.put
        for _ in repeat(None, n):
            put(await get())

    asyncio.run(run())


def pin(cores, everything):
    """The calling thread or, with everything, all threads of this process."""
    threads = [int(t.name) for t in Path("/proc/self/task").iterdir()] if everything else [0]
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cores)


def _play(control, ways):
    ends = [way.open(role) for way, role in ways]
    control.send(None)
    with contextlib.suppress(EOFError):
        while True:
            function, which, arguments = control.recv()
            if function is pin:
                pin(*arguments)
                control.send(None)
                continue
            control.send(None)
            try:
                start = perf_counter()
                function(*(ends[i] for i in which), *arguments)
                control.send((start, perf_counter()))
            except Exception:
                traceback.print_exc()
                control.send(None)
    for end in ends:
        end.close()


class Player:
    """A process that has an end of each (way, role), and does what it is told."""

    def __init__(self, ways):
        self.control, control = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_play, args=(control, ways), daemon=True)
        self.process.start()
        control.close()
        self.control.recv()

    def pin(self, *arguments):
        self.control.send((pin, (), arguments))
        self.control.recv()

    def start(self, function, *which, arguments=()):
        """When this returns, it does function(*ends[which], *arguments)."""
        self.control.send((function, which, arguments))
        self.control.recv()

    def times(self):
        """Of its start and its end."""
        result = self.control.recv()
        if result is None:
            raise RuntimeError("the other process has failed; its messages stand above")
        return result

    def close(self):
        self.control.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@contextlib.contextmanager
def placed(players, core=0):
    """This process on the first core that it may use, the players on that one or (core=-1) on the last.

    On one core are all threads of both; where there are two, threads in the background may run on either.
    """
    cores = sorted(os.sched_getaffinity(0))
    for player in players:
        player.pin([cores[core]], core == 0)
    pin([cores[0]], core == 0)
    try:
        yield
    finally:
        pin(cores, True)


@contextlib.contextmanager
def opened(ways, role):
    ends = [way.open(role) for way in ways]
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


@contextlib.contextmanager
def removed(ways):
    """The ways, which are gone afterwards."""
    try:
        yield ways
    finally:
        for way in ways:
            way.unlink()


@contextlib.contextmanager
def line(classes, **how):
    """From this process to one on another core: transfer(i, put, get, data, …), which makes a contestant of way i.

    Transfer's put and get are functions of this module; each call puts per_call messages.
    """
    with (
        removed([cls(**how.get(cls.name, {})) for cls in classes]) as ways,
        Player([(way, "get") for way in ways]) as other,
        opened(ways, "put") as ends,
        placed([other], -1),
    ):

        def transfer(i, put, get, data, *more, per_call=1):
            def run(number):
                other.start(get, i, arguments=(number * per_call, *more))
                start = perf_counter()
                put(ends[i], number, data)
                return other.times()[1] - start

            return run

        yield transfer


@contextlib.contextmanager
def round_trip(pairs):
    """To another process and back, by pairs of ways: trip(i, data, answer=), which makes a contestant of pair i.

    And the other process, to be placed.
    """
    theres, backs = [there for there, _ in pairs], [back for _, back in pairs]
    with (
        removed(theres + backs),
        Player([(w, "get") for w in theres] + [(w, "put") for w in backs]) as other,
        opened(theres, "put") as puts,
        opened(backs, "get") as gets,
    ):

        def trip(i, data=bytes(8), answer=answer):
            def run(number):
                other.start(answer, i, len(pairs) + i, arguments=(number,))
                start = perf_counter()
                ask(puts[i], gets[i], number, data)
                spent = perf_counter() - start
                other.times()
                return spent

            return run

        yield trip, other
