"""What the tests of forked children share."""

import os
import pickle
import signal
import traceback

SECONDS = 30


def keeping(cluster, monkeypatch):
    """The cluster, which keeps what is opened through it, and is closed at the end."""
    kept, adopt = [], cluster._adopt
    monkeypatch.setattr(cluster, "_adopt", lambda child: (kept.append(child), adopt(child)))
    yield cluster
    cluster.close()


def in_child(function, *args):
    """What the function returns in a child of fork(), or the exception that it raises there."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.close(reader)
        try:
            answer = True, function(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0 and answer, f"the child ended with {status}"
    good, value = pickle.loads(answer)
    assert good, value
    return value


def raises(error, function, *args, **named):
    """Like pytest.raises, whose exception would not survive the way from the child."""
    try:
        function(*args, **named)
    except error:
        return
    raise AssertionError(f"{function} did not raise {error.__name__}")
