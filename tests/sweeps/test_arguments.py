"""Odd arguments for every parameter of every public method: a result comes out, or an exception of our own tree.

Methods and parameters are found by reflection, so a new one is covered without a row. One that waits is interrupted.
"""

import asyncio
import contextlib
import copy
import inspect
import pickle
import re
import signal
import time
import warnings

import numpy as np
import pytest
from epochs import SECRET as SECRET_OF_NODES

import dsmem
from dsmem import errors
from dsmem.clock import Deadline, HybridClock, Lamport
from dsmem.cluster.factories import CLASSES
from dsmem.objects import NamedObject
from dsmem.queue import Pickled, Stamped

SECRET = b"s" * 32
TIMEOUT_S = 0.1  # until a call that waits is ended

ODD = {
    "None": lambda: None,
    "5": lambda: 5,
    "text": lambda: "x",
    "object": object,
    "nan": lambda: float("nan"),
    "-1": lambda: -1,
    "2**70": lambda: 2**70,
    "no bytes": lambda: b"",
    "3 bytes": lambda: b"abc",
    "no array": lambda: np.empty(0),
    "list": lambda: [1, "x"],
    "complex": lambda: np.zeros(4, "c16"),
    "objects": lambda: np.array([object()] * 4),
    "strided": lambda: np.zeros(8, "i8")[::2],
    "0-d": lambda: np.array(3),
    "class": lambda: int,
    "dict": lambda: {"a": 1},
    "set": lambda: {3, 4},
    "1.9": lambda: 1.9,
    "digit": lambda: b"8",
    "NumPy int": lambda: np.int64(3),
    "NumPy float": lambda: np.float32(0.01),
    "time span": lambda: np.timedelta64(1, "s"),
    "ragged": lambda: [[1], [2, 3]],
}
# What the other parameters get where they have no default.
PLAIN = {
    "index": 0,
    "offset": 0,
    "offsets": [0, 8],
    "sizes": [64, 64],
    "regions": np.array([0, 1]),
    "descriptors": b"",
    "out": np.zeros(1, "i8"),
    "data": b"12345678",
    "item": b"12345678",
    "items": [b"1"],
    "value": 1,
    "expected": 0,
    "desired": 1,
    "until": 0,
    "function": lambda *_: 0,
    "predicate": bool,
    "length": 8,
    "rows": 4,
    "stamp": 1,
    "holder": 1,
    "writer": 1,
    "name": "b",
    "kind": "lock",
    "nbytes": 64,
    "shape": 4,
    "array": np.zeros(8),
    "buffers": [bytearray(4096)],
    "buffer": bytearray(4096),
    "node": b"n" * 16,
    "descriptor": b"",
    "create": None,
    "layout": lambda: (64, lambda view: None),
    "n": 1,
    "parties": 2,
    "text": "00",
    "raw": b"",
    "timeout": 0.01,
    "pid": 1 << 40,
    "ids": [1 << 40],
    "version": 1,
    "capacity": 65536,
}


NEEDED = {
    "segment": ["shape"],
    "store": ["capacity"],
    "barrier": ["parties"],
    "semaphore": ["n"],
}  # to make one, though it has a default


TRUTH = {"readonly", "drop_oldest"}  # any object is true, and then refused beside create=True, or at a server

# It is called, and refuses what it is called with.
CALLED = {("store", "run", "class"), ("store", "run_async", "class"), ("store", "check", "class")}


class BoredError(BaseException):
    """The call waits, as it may."""


class Limit:
    """Ends calls that wait, within the limit of the test, which is a timer, too.

    What a signal's handler raises is lost in a destructor, and in a callback of an event loop: then the next one ends
    the call.
    """

    def __init__(self):
        self.tired, self.of_test = False, signal.signal(signal.SIGALRM, self.look)
        self.until = time.monotonic() + signal.getitimer(signal.ITIMER_REAL)[0]

    def close(self):
        signal.signal(signal.SIGALRM, self.of_test)

    def look(self, number, frame):
        if self.tired:
            signal.setitimer(signal.ITIMER_REAL, 10 * TIMEOUT_S)
            raise BoredError
        if callable(self.of_test) and time.monotonic() >= self.until:
            self.of_test(number, frame)

    def during(self, call):
        left, interval = signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
        try:
            try:
                self.tired = True
                return call()
            finally:
                self.tired = False
        except BoredError:  # it may have come there
            self.tired = False
            raise
        finally:
            self.until = time.monotonic() + left
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def drop(obj):
    with contextlib.suppress(errors.DsmemError):
        obj.close()


class World:
    """One object of each class, and what makes it again."""

    def __init__(self, stack, name):
        self.limit = stack.enter_context(contextlib.closing(Limit()))
        self.context = stack.enter_context(dsmem.Context("shm", secret=SECRET))
        self.cluster = stack.enter_context(dsmem.connect(name))
        self.hosted = stack.enter_context(dsmem.connect(context=self.context))
        self.region = stack.enter_context(self.context.empty(64, "u8"))
        self.remote = stack.enter_context(self.context.attach(self.region.descriptor))
        self.pool = stack.enter_context(self.context.pool(4096))
        self.remotes = stack.enter_context(self.context.attach_many(self.pool.allocate_many([64, 64])))
        self.stack = stack
        self.served = self.epoch_store = None

    def named(self, kind, cluster):
        how = {
            "barrier": {"parties": 2},
            "segment": {"shape": 8, "dtype": "i8", "versioned": True},
            "store": {"page_size": 256, "capacity": "16KiB", "members": 128},
        }.get(kind, {})
        owned = {"owned": False} if kind == "counting_semaphore" else {}
        make = getattr(cluster, kind.removeprefix("counting_"))
        try:
            obj = make("it", create=None, **how, **owned)
        except errors.MismatchError:  # resized
            cluster.unlink("it")
            obj = make("it", create=True, **how, **owned)
        self.stack.callback(drop, obj)
        return obj

    def at(self, address):
        context = self.stack.enter_context(dsmem.Context("tcp", secret=SECRET_OF_NODES, listen="127.0.0.1"))
        return self.stack.enter_context(dsmem.connect(address, context=context))

    def of_nodes(self, address):
        """A store of a coordinator, which serves until a call has closed it."""
        if self.epoch_store is None or self.epoch_store.closed:
            cluster = self.at(address)
            self.epoch_store = cluster.store("odd", create=None, page_size=256, capacity="16KiB", replicas=2)
            self.stack.callback(cluster.unlink, "odd")
            self.stack.callback(drop, self.epoch_store)
        return self.epoch_store

    def make(self, what):
        if what.startswith("cluster at "):
            self.served = self.served or self.at(what.removeprefix("cluster at "))
            return self.served
        if what.startswith("tcp://"):
            return self.of_nodes(what)
        if what in CLASSES:
            return self.named(what, self.cluster)
        return {
            "context": lambda: self.context,
            "cluster": lambda: self.cluster,
            "hosted": lambda: self.hosted,
            "region": lambda: self.region,
            "remote": lambda: self.remote,
            "pool": lambda: self.pool,
            "remotes": lambda: self.remotes,
            "descriptor": lambda: self.region.descriptor,
            "batch": self.context.batch,
            "pickled": lambda: Pickled(self.named("queue", self.cluster)),
            "stamped": lambda: Stamped(self.named("queue", self.cluster), Lamport()),
            "lamport": Lamport,
            "hybrid": HybridClock,
            "deadline": Deadline,
        }[what]()


OTHERS = ("context", "cluster", "hosted", "region", "remote", "pool", "remotes", "descriptor", "batch", "pickled",
          "stamped", "lamport", "hybrid", "deadline")  # fmt: skip
ENDS = {"close", "detach"}


def methods(obj):
    for name in dir(type(obj)):
        if name.startswith("_") or name in ENDS:
            continue
        method = getattr(type(obj), name)
        if callable(method) and not isinstance(method, type):
            yield name


def parameters(method):
    found = inspect.signature(method).parameters.values()
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and not p.name.startswith("_")]


def settle(answer):
    """What a call returns is used as it is meant to be."""
    if inspect.isawaitable(answer) or asyncio.iscoroutine(answer):

        async def wait():
            return await answer

        answer = asyncio.run(wait())
    if isinstance(answer, (NamedObject, dsmem.Region, dsmem.Remote, dsmem.Pool, dsmem.Remotes)):
        answer.close()
    elif isinstance(answer, contextlib.AbstractContextManager) and not isinstance(answer, dsmem.Cluster):
        with answer:
            pass


def one_call(world, obj, name, parameter, odd):
    """What comes out when it is none of ours."""
    error = raised(world, obj, name, parameter, odd)
    return None if error is None or isinstance(error, errors.DsmemError) else f"{type(error).__name__}: {error}"


def raised(world, obj, name, parameter, odd):
    """What a call raises where it does not wait."""
    method = getattr(obj, name)
    positional, named = [], {}
    every = parameters(method)
    makes = any(p.name == "create" for p in every)
    for p in every:
        if p.name == parameter:
            value = odd
        elif p.name == "timeout":
            if makes:
                continue  # it is of what is waited for, and refused with anything else
            value = PLAIN["timeout"]
        elif p.name == "create":
            value = parameter != "timeout"  # what is only attached to looks at no more than its name
        elif p.default is p.empty or p.name in NEEDED.get(name, ()):
            value = world.remote if p.name == "remote" else PLAIN[p.name]
        else:
            continue
        if p.kind is p.POSITIONAL_ONLY:
            positional.append(value)
        else:
            named[p.name] = value

    def call():
        if name.endswith("_async"):

            async def run():
                return await method(*positional, **named)

            asyncio.run(run())
        else:
            settle(method(*positional, **named))

    try:
        world.limit.during(call)
    except BoredError:
        return None
    except BaseException as error:
        return error
    finally:
        if isinstance(obj, dsmem.Cluster):
            with contextlib.suppress(errors.DsmemError):
                obj.unlink(PLAIN["name"])
    return None


@pytest.fixture
def world(cluster_name):
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        yield World(stack, cluster_name)


def public_classes():
    modules = [dsmem, dsmem.clock, dsmem.queue, dsmem.segment, dsmem.store, dsmem.sync]
    found = {getattr(module, name) for module in modules for name in module.__all__}
    return sorted((thing for thing in found if inspect.isclass(thing)), key=lambda cls: cls.__name__)


VALUES = {"Capabilities", "PageMetadata", "PageStatus", "Reference", "Way"}  # values, which are as good from anywhere
# What programs construct, exceptions, and plain values.
CONSTRUCTED = {*VALUES, "Context", "Deadline", "Descriptor", "DsmemError", "HybridClock", "Lamport", "Pickled",
               "Stamped"}  # fmt: skip
MADE = [cls for cls in public_classes() if cls.__name__ not in CONSTRUCTED]
ROOTS = {"dsmem": dsmem, "cluster": dsmem.Cluster, "context": dsmem.Context, "batch": dsmem.Batch,
         "store": dsmem.Store}  # fmt: skip


def test_constructors_that_are_meant_to_be_called_say_how():
    assert {cls.__name__ for cls in public_classes()} >= CONSTRUCTED
    for cls in public_classes():
        if cls.__name__ in CONSTRUCTED - VALUES - {"DsmemError"}:
            assert "Parameters\n" in cls.__doc__, cls


@pytest.mark.parametrize("cls", MADE)
@pytest.mark.parametrize("arguments", [(), ("a",), (None, None), ("a", 4, "f8", True), (5,) * 9])
def test_what_is_not_to_be_called_says_what_is(cls, arguments):
    """And what it says is there."""
    with pytest.raises(TypeError, match=rf"^{cls.__name__} can't be constructed; use ") as caught:
        cls(*arguments)
    assert isinstance(caught.value, errors.DsmemError)
    ways = re.findall(r"(\w+)\.(\w+)\(", str(caught.value))
    assert ways and all(callable(getattr(ROOTS[root], name)) for root, name in ways)


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("what, remedy", [("region", r"pickle region\.descriptor"), ("remote", "pickle the descriptor"),
                                          ("context", "open one"), ("batch", "make one"),
                                          ("cluster", "")])  # fmt: skip
def test_what_is_not_pickled_says_what_is(world, what, remedy, how):
    with pytest.raises(TypeError, match=rf"a {what} (is not|can't be) pickled.*{remedy}") as caught:
        how(world.make(what))
    assert isinstance(caught.value, errors.DsmemError)


def test_a_descriptor_of_hexadecimal_digits(world):
    descriptor = world.region.descriptor
    assert dsmem.Descriptor.fromhex(descriptor.hex()) == descriptor
    assert dsmem.Descriptor.fromhex(descriptor.hex().upper()) == descriptor
    for odd in ("", "0", "xy", "00", b"00", None, 5, descriptor.hex()[:-2]):
        with pytest.raises(errors.DescriptorError):
            dsmem.Descriptor.fromhex(odd)
    for odd in (5, -1, 2**70, "text", None, [1, 2]):
        with pytest.raises(errors.DescriptorError):
            dsmem.Descriptor(odd)


def test_what_is_wrong_is_said(world):
    queue, segment = world.make("queue"), world.make("segment")
    with pytest.raises(TypeError, match="items=5 can't be iterated over; pass a list"):
        queue.put_many(5)
    with pytest.raises(errors.InvalidArgumentError, match="multiple of element size"):
        segment.publish(b"1234567")


@pytest.mark.parametrize("what", [*CLASSES, *OTHERS])
def test_what_comes_out_is_ours(world, what):
    look(world, what)


def test_what_comes_out_of_a_store_of_a_coordinator_is_ours(world, coordinated):
    look(world, coordinated, {(coordinated, *call[1:]) for call in CALLED if call[0] == "store"})


def test_what_comes_out_of_a_cluster_at_a_coordinator_is_ours(world, coordinated):
    look(world, f"cluster at {coordinated}")
    look_at_classes(world, f"cluster at {coordinated}")


def look(world, what, called=CALLED):
    wrong = []
    for name in methods(world.make(what)):
        for p in parameters(getattr(world.make(what), name)):
            for odd, value in ODD.items():
                obj = world.make(what)
                error = one_call(world, obj, name, p.name, value())
                if what in CLASSES:
                    drop(obj)
                if error is not None and (what, name, odd) not in called:
                    wrong.append(f"{what}.{name}({p.name}={odd}): {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("what", [*CLASSES, *OTHERS])
def test_a_wrong_type_is_a_type_error_and_a_wrong_value_is_none(world, what):
    look_at_classes(world, what)


def test_the_classes_of_a_store_of_a_coordinator(world, coordinated):
    look_at_classes(world, coordinated)


def look_at_classes(world, what):
    """Each is an InvalidArgumentError. What takes 5 refuses -1, if it does, as a value."""
    wrong = []
    for name in methods(world.make(what)):
        for p in parameters(getattr(world.make(what), name)):
            said = {}
            for odd in ("object", "5", "-1"):
                obj = world.make(what)
                said[odd] = raised(world, obj, name, p.name, ODD[odd]())
                if what in CLASSES:
                    drop(obj)
            is_type = {odd: isinstance(error, errors.ArgumentTypeError) for odd, error in said.items()}
            if type(said["object"]) in (errors.InvalidArgumentError, errors.OutOfBoundsError) and p.name not in TRUTH:
                wrong.append(f"{what}.{name}({p.name}=object()): {said['object']}")
            if is_type["-1"] and not is_type["5"]:
                wrong.append(f"{what}.{name}({p.name}=-1): {said['-1']!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("make, named", [(Deadline, {}), (Lamport, {}), (HybridClock, {}), (dsmem.Descriptor, {}),
                                         (dsmem.Context, {"fabric": "shm", "secret": SECRET})])  # fmt: skip
def test_what_a_constructor_raises_is_ours(world, make, named):
    wrong = []
    names = ["raw"] if make is dsmem.Descriptor else list(inspect.signature(make).parameters)
    assert names
    for name in names:
        for odd, value in ODD.items():
            try:
                made = make(**{**named, name: value()}) if make is not dsmem.Descriptor else make(value())
                if make is dsmem.Context:
                    made.close()
            except errors.DsmemError:
                pass
            except Exception as error:
                wrong.append(f"{make.__name__}({name}={odd}): {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("odd", ["digit", "text", "dict", "set", "1.9", "time span", "ragged", "-1"])
def test_what_is_no_shape_makes_nothing(world, odd):
    for make in (world.context.empty, lambda shape: world.cluster.segment("b", shape, create=True)):
        with pytest.raises(errors.InvalidArgumentError, match="shape="):
            make(ODD[odd]())


@pytest.mark.parametrize("shape, axes", [(np.array(3), (3,)), (np.int64(3), (3,)), (range(2, 4), (2, 3)),
                                         (np.array([2, 3]), (2, 3)), ([], ())])  # fmt: skip
def test_a_shape_as_numpy_takes_it(world, shape, axes):
    with world.context.empty(shape) as region, world.cluster.segment("b", shape, create=True) as segment:
        assert region.array().shape == segment.shape == axes == np.empty(shape).shape


@pytest.mark.parametrize("said", ["max_message", "capacity_bytes", "producers"])
@pytest.mark.parametrize("odd", ["1.9", "nan", "digit", "time span", "-1"])
def test_a_number_of_a_queue_is_whole(world, said, odd):
    with pytest.raises(errors.InvalidArgumentError, match=f"{said}="):
        world.cluster.queue("b", create=True, **{said: ODD[odd]()})


@pytest.mark.parametrize("make", [Deadline, HybridClock])
def test_seconds_are_a_number(make):
    for odd in ("time span", "text", "nan", "-1", "list", "object"):
        with pytest.raises(errors.InvalidArgumentError, match="seconds"):
            make(ODD[odd]())


def test_capabilities_are_pickled(world):
    found = world.context.capabilities
    assert pickle.loads(pickle.dumps(found)) == found
    assert type(found) is dsmem.Capabilities
    with world.context.allocate(8) as region:
        (way,) = region.descriptor.ways
        assert pickle.loads(pickle.dumps(way)) == way and type(way) is dsmem.Way
