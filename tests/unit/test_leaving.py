"""A process that exits normally leaves what it has in another process's memory, and does so quietly."""

import base64
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pytest

import dsmem
from dsmem import errors, node_records
from dsmem.objects import memory_of

SECRET = bytes(range(16))
FABRIC = "fault+shm"  # remote, also between contexts of one host
BOUND = 60  # seconds until a process that hangs is a failure

# make(cluster); what a process does that has no thread waiting at its end; what a thread does that waits
KINDS = {
    "lock": (lambda c: c.lock("o", create=True, members=2), "", "o.acquire()"),
    "rlock": (lambda c: c.rlock("o", create=True, members=2), "", "o.acquire()"),
    "rwlock": (lambda c: c.rwlock("o", create=True, members=2), "", "o.acquire_write()"),
    "condition": (
        lambda c: c.condition("o", create=True, members=2, waiters=1),
        "o.acquire()",
        "o.acquire() and o.wait()",
    ),
    "barrier": (lambda c: c.barrier("o", 2, create=True, members=2), "", "o.wait()"),
    "once": (lambda c: c.once("o", create=True, members=2), "", "o.begin()"),
    "semaphore": (lambda c: c.semaphore("o", 1, create=True), "o.acquire()", "o.acquire() and o.acquire()"),
    "queue": (
        lambda c: c.queue("o", create=True, capacity_bytes=4096, producers=1),
        "[o.put(bytes(500)) for _ in range(7)]",
        "while True: o.put(bytes(500))",
    ),
    "segment": (
        lambda c: c.segment("o", 4, "u8", create=True, versioned=True),
        "w = o.writing(); w.__enter__()",
        "o.wait(0, 1)",
    ),
}
HELD_BY_OWNER = {"lock": "acquire", "rlock": "acquire", "rwlock": "acquire_read", "once": "begin"}
FREE_AGAIN = {
    "acquire": lambda o: o.release(),
    "acquire_read": lambda o: o.release_read(),
    "begin": lambda o: o.end(),
}

PRELUDE = """
import base64, os, pickle, sys, threading, time
import dsmem
context = dsmem.Context({fabric!r}, secret={secret!r})
o = dsmem.attach(pickle.loads(base64.b64decode({ref!r})), context)
def waits():
    {call}
def in_a_call(handle):
    while handle._idle:
        time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def owner():
    with dsmem.Context(FABRIC, secret=SECRET) as context:
        yield context


@pytest.fixture
def user():
    with dsmem.Context(FABRIC, secret=SECRET) as context:
        yield context


def run(body, o=None, call="pass", **options):
    ref = None if o is None else base64.b64encode(pickle.dumps(o.ref)).decode()
    prelude = PRELUDE.format(fabric=FABRIC, secret=SECRET, ref=ref, call=call) if o is not None else ""
    script = prelude + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=BOUND, **options)


def check_free(kind, o, context):
    """What the process had is there for another one."""
    with contextlib.closing(dsmem.attach(o.ref, context)) as again:  # a place; TooManyMembersError where it is taken
        if kind == "semaphore":
            assert again.acquire(timeout=BOUND)
            again.release()
        elif kind == "queue":
            with contextlib.suppress(errors.EmptyError):
                o.get_many(100, False)
            again.put(b"x")
        elif kind == "segment":
            again.publish([1, 2, 3, 4], timeout=BOUND)
        elif kind == "barrier":
            assert again.n_waiting == 0
        elif kind == "condition":
            assert again.acquire(timeout=BOUND)
            assert not again.wait(timeout=0)  # there is a line for a waiter
            again.release()
        elif kind == "once":
            assert again.begin(timeout=BOUND) is False
        elif kind == "rwlock":
            assert again.acquire_write(timeout=BOUND)
            again.release_write()
        else:
            assert again.acquire(timeout=BOUND)
            again.release()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["idle", "waiting"])
def test_the_end_of_a_process_frees_what_it_had(owner, user, kind, how):
    make, before, call = KINDS[kind]
    with dsmem.connect("ends", context=owner) as cluster:
        o = make(cluster)
        held = HELD_BY_OWNER.get(kind)
        if held:
            getattr(o, held)()
        body = before if how == "idle" else "threading.Thread(target=waits, daemon=True).start(); in_a_call(o)"
        done = run(body, o, call)
        assert (done.returncode, done.stderr) == (0, "")
        if held:
            FREE_AGAIN[held](o)
        check_free(kind, o, user)


def test_a_thread_that_never_waits_does_not_keep_its_lane(owner, user):
    with dsmem.connect("ends", context=owner) as cluster:
        q = cluster.queue("o", create=True, producers=1, capacity_bytes=1 << 24)
        call = "while True: o.put(b'x')"
        done = run("threading.Thread(target=waits, daemon=True).start(); in_a_call(o)", q, call)
        assert (done.returncode, done.stderr) == (0, "")
        check_free("queue", q, user)


def test_a_lock_and_a_condition_that_goes_with_it_leave(owner, user):
    with dsmem.connect("ends", context=owner) as cluster:
        lock = cluster.lock("o", create=True, members=3)
        condition = cluster.condition("c", lock, create=True, members=2)
        call = "condition.acquire() and condition.wait()"
        body = f"""
            condition = pickle.loads(base64.b64decode({base64.b64encode(pickle.dumps(condition)).decode()!r}))
            threading.Thread(target=waits, daemon=True).start(); in_a_call(condition)
        """
        done = run(body, lock, call)
        assert (done.returncode, done.stderr) == (0, "")
        check_free("lock", lock, user)
        with contextlib.closing(dsmem.attach(lock.ref, user)) as other:
            memory = memory_of(condition.ref, user)
            type(condition)._open(
                memory, None, "c", lock=other
            ).close()  # a place; TooManyMembersError where it is taken


def test_a_lock_that_is_held_at_the_end_goes_on_as_that_of_a_dead_process(owner, user):
    with dsmem.connect("ends", context=owner) as cluster:
        lock = cluster.lock("o", create=True, members=2)
        assert run("o.acquire()", lock).returncode == 0
        with contextlib.closing(dsmem.attach(lock.ref, user)) as again, again:
            assert again.recovered


def test_an_owner_that_is_stopped_delays_the_end_once_not_for_each_handle():
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"N": "30"}
    )
    try:
        refs = owner.stdout.readline().decode().strip()
        body = f"""
            import base64, os, pickle, signal
            import dsmem
            context = dsmem.Context({FABRIC!r}, secret={SECRET!r})
            handles = [dsmem.attach(ref, context) for ref in pickle.loads(base64.b64decode({refs!r}))]
            os.kill({owner.pid}, signal.SIGSTOP)
        """
        assert run(body).returncode == 0
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()


OWNER = f"""
import base64, os, pickle, sys
import dsmem
cluster = dsmem.connect("ends", context=dsmem.Context({FABRIC!r}, secret={SECRET!r}))
locks = [cluster.lock(f"l{{i}}", create=True) for i in range(int(os.environ["N"]))]
print(base64.b64encode(pickle.dumps([lock.ref for lock in locks])).decode(), flush=True)
sys.stdin.read()
"""


# ---- what comes in between ----

INTERRUPTED = """
    import signal
    names = dsmem.connect({name!r})
    kept = names.event("mine", create=True, lifetime="creator")
    o.acquire()
    others = [dsmem.attach(o.ref, context) for _ in range(3)]
    class Slow:
        def __float__(self):
            begun.set()
            threading.Event().wait()
    begun, handler = threading.Event(), {handler}
    threading.Thread(target=lambda: others[1].acquire(timeout=Slow()), daemon=True).start()
    begun.wait()
    def interrupt():
        while not dsmem._core.SyncHandle.closed.__get__(o):  # the end has not begun
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.parametrize("handler", ["None", "signal.signal(signal.SIGINT, lambda *_: sys.exit(3))"])
def test_ctrl_c_at_the_end(owner, user, handler, cluster_name):
    """Whatever a signal handler raises while calls are waited for: the rest is done all the same."""
    with dsmem.connect("ends", context=owner) as cluster:
        lock = cluster.lock("o", create=True, members=8)
        body = INTERRUPTED.format(name=cluster_name, handler=handler)
        done = run(body, lock)
        assert "KeyboardInterrupt" in done.stderr or "SystemExit" in done.stderr, done.stderr
        with contextlib.closing(dsmem.attach(lock.ref, user)) as again, again:
            assert again.recovered
        with dsmem.connect(cluster_name) as names:
            assert [info.name for info in names.list()] == []


def test_a_function_that_fails_keeps_no_other_from_its_work(owner, user):
    with dsmem.connect("ends", context=owner) as cluster:
        lock = cluster.lock("o", create=True, members=2)
        body = """
            from dsmem import leaving
            o.acquire()
            def fails():
                raise KeyboardInterrupt
            leaving._functions.insert(0, fails)
            leaving.at_end(lambda: print("called"))
        """
        done = run(body, lock)
        assert "called" in done.stdout and "KeyboardInterrupt" in done.stderr
        check_free("lock", lock, user)


def test_handles_that_are_opened_meanwhile(cluster_name):
    done = run(f"""
        import sys, threading
        import dsmem
        from dsmem import leaving
        event = dsmem.connect({cluster_name!r}).event("e", create=True, lifetime="creator")
        for _ in range(2000):
            leaving.remember(event)
        ended = threading.Event()
        def opens():
            while not ended.is_set() and len(leaving._handles) < 100000:
                leaving.remember(event)
        sys.setswitchinterval(1e-6)
        threading.Thread(target=opens, daemon=True).start()
        for _ in range(10):
            leaving._begin({{}})  # nothing leaves: the memory is local
        ended.set()
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_thread_opens_handles_like_any_other_until_the_end(owner, user):
    with dsmem.connect("ends", context=owner) as cluster:
        o = cluster.lock("o", create=True, members=3)  # one place is the owner's, one the prelude's
        done = run(
            """
            def opens():
                again = dsmem.attach(o.ref, context)
                with again:
                    print("held")
            thread = threading.Thread(target=opens)
            thread.start()
            thread.join()
            """,
            o,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "held\n", "")
        check_free("lock", o, user)


@pytest.mark.parametrize("posts", [2, 4, 6, 8])
def test_a_thread_that_opens_at_the_end_keeps_no_place(owner, user, posts):
    with dsmem.connect("ends", context=owner) as cluster:
        o = cluster.lock("o", create=True, members=2)  # one place is the owner's
        done = run(
            f"""
            ref = o.ref
            o.close()
            slow = dsmem.Context({FABRIC!r} + "://?delay=*:20ms", secret={SECRET!r})
            def opens():
                while True:
                    dsmem.attach(ref, slow).close()
            threading.Thread(target=opens, daemon=True).start()
            while slow.stats["posts"] < {posts}:
                time.sleep(0.001)
            """,
            o,
        )
        assert (done.returncode, done.stderr) == (0, "")
        check_free("lock", o, user)


# ---- local objects, which need no leaving ----


@pytest.mark.parametrize(
    "call", ["cluster.queue('q', create=None).get()", "while True: q.put(bytes(50))", "cluster.lock('l').acquire()"]
)
def test_the_end_is_silent(cluster_name, call):
    body = f"""
        import threading, time
        import dsmem
        cluster = dsmem.connect({cluster_name!r})
        q = cluster.queue("p", create=True, drop_oldest=True, lifetime="creator")
        lock = cluster.lock("l", create=True, lifetime="creator")
        lock.acquire()
        begun = threading.Event()
        def call():
            begun.set()
            {call}
        threading.Thread(target=call, daemon=True).start()
        begun.wait()
    """
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("where", ["a module", "a cycle", "builtins"])
def test_handles_that_were_not_closed_are_collected_silently(cluster_name, where):
    """The last of them when modules are gone and nothing can be imported."""
    body = f"""
        import builtins, os
        import dsmem
        class Kept(list):
            pass
        kept = Kept()
        if {where!r} == "a cycle":
            kept.itself = kept
        if {where!r} == "builtins":
            builtins.kept = kept
        for fabric in ("shm", {FABRIC!r}):
            kept.append(dsmem.Context(fabric))
            kept.append(kept[-1].empty(8, "u8"))
            kept.append(kept[-2].attach(kept[-1].descriptor))
        cluster = dsmem.connect({cluster_name!r})
        options = dict(create=True, lifetime="creator")
        kept += [cluster, cluster.queue("q", **options), cluster.lock("l", **options), cluster.event("e", **options)]
        kept += [cluster.barrier("b", 2, **options), cluster.segment("s", 4, "i8", versioned=True, **options)]
        print(os.getpid())
    """
    done = run(body)
    assert (done.returncode, done.stderr) == (0, "")
    records = [path.name for path, _ in node_records.scan() if path.name.startswith(f"dsmem-{int(done.stdout)}-")]
    assert records == []


# ---- children of multiprocessing, which end without atexit ----

CHILDREN = """
import base64, multiprocessing, os, pickle, sys, threading, time
import dsmem

def use(ref, out):
    global context, cluster, lock, name
    context = dsmem.Context({fabric!r}, secret={secret!r})
    lock = dsmem.attach(ref, context)
    cluster = dsmem.connect({name!r})
    name = cluster.event(f"mine", create=True, lifetime="creator")
    threading.Thread(target=late, args=(out,)).start()

def late(out):
    while "dsmem-leaving" not in [t.name for t in threading.enumerate()]:
        time.sleep(0.001)
    with lock:
        out.put("used")

def unpickled(handle, out):
    handle.set()
    out.put("used")

class Attached:
    def __init__(self, ref): self.ref = ref
    def __reduce__(self): return attach_here, (self.ref,)

kept = []
def attach_here(ref):
    kept.append(dsmem.Context({fabric!r}, secret={secret!r}))
    kept.append(dsmem.attach(ref, kept[0]))
    return kept[1]

def taken(handle, out):
    handle.acquire()
    handle.release()
    out.put("used")

if __name__ == "__main__":
    ref = pickle.loads(base64.b64decode({ref!r}))
    methods = multiprocessing.get_context({method!r})
    out = methods.SimpleQueue()
    target, argument = (use, ref) if {how!r} == "opened" else (taken, Attached(ref))
    child = methods.Process(target=target, args=(argument, out))
    child.start()
    assert out.get() == "used"
    child.join()
    assert not child.exitcode, child.exitcode
    assert [i.name for i in dsmem.connect({name!r}).list()] == []
"""


@pytest.mark.parametrize(
    ("method", "how"),
    [("fork", "opened"), ("forkserver", "opened"), ("spawn", "opened"), ("forkserver", "passed"), ("spawn", "passed")],
)
def test_the_end_of_a_child_of_multiprocessing(owner, user, cluster_name, tmp_path, method, how):
    with dsmem.connect("ends", context=owner) as cluster:
        lock = cluster.lock("o", create=True, members=2)
        ref = base64.b64encode(pickle.dumps(lock.ref)).decode()
        script = tmp_path / "children.py"
        given = {"fabric": FABRIC, "secret": SECRET, "ref": ref, "name": cluster_name, "method": method, "how": how}
        script.write_text(CHILDREN.format(**given))
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=BOUND)
        assert (done.returncode, done.stderr) == (0, "")
        check_free("lock", lock, user)


def test_multiprocessing_is_not_imported():
    assert run("import sys, dsmem; sys.exit('multiprocessing' in sys.modules)").returncode == 0


def test_a_forked_child_leaves_what_is_its_parents(owner, user):
    with dsmem.connect("ends", context=owner) as cluster:
        lock = cluster.lock("o", create=True, members=2)
        handle = dsmem.attach(lock.ref, user)
        pid = os.fork()
        if not pid:
            try:
                from dsmem import leaving

                leaving.end()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(errors.TooManyMembersError):
            dsmem.attach(lock.ref, user)
        handle.close()
