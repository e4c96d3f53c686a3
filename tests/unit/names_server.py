"""A server of names in this process, for tests."""

import contextlib
import threading

SECONDS = 60


@contextlib.contextmanager
def running(server):
    """The server of names, in a thread of its own."""
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=[ready.set])
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield server
    finally:
        server.stop()
        thread.join()


def address(of, cluster):
    return of.context.agent_address.replace("tcp:", "tcp://") + f"/{cluster}"
