"""Servers of names, for tests: in this process, and `dsmem serve` as a process of its own."""

import contextlib
import os
import subprocess
import sys
import threading

SECONDS = 60
SERVE = [sys.executable, "-c", "import sys; from dsmem.cli import main; sys.exit(main())", "serve"]


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


@contextlib.contextmanager
def process_that_serves(secret, *more, host="127.0.0.1", port=0):
    """`dsmem serve`: the process, and the address that it says."""
    env = {**os.environ, "DSMEM_SECRET": secret.decode()}
    command = [*SERVE, "--listen", f"{host}:{port}", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            yield server, server.stdout.readline().split()[-1]
        finally:
            server.kill()
