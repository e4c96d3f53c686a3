"""Two hosts that share names: this program on one, ``dsmem serve`` and a worker on the other.

Each is a network namespace, with a link between them: nothing of this machine's network is changed, and they are gone
with the program. Between two machines nothing is different but the addresses (docs/howto/two_hosts.md).
"""

import os
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

import dsmem

SERVER, CLIENT, PORT = "10.0.0.1", "10.0.0.2", 7700
COUNT = 10_000
SECONDS = 30

# The first shell is on one host; the other one is where its child sleeps, which gets an end of the link.
HOSTS = f"""
set -e
mount -t tmpfs none /dev/shm
ip link set lo up
setpriv --pdeathsig KILL unshare --net sleep 600 &
trap "kill $!" EXIT
until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
there="nsenter --target $! --net"
ip link add here type veth peer name there netns $!
ip address add {CLIENT}/24 dev here
ip link set here up
$there ip address add {SERVER}/24 dev there
$there ip link set there up
$there ip link set lo up
"$0" "$1" use "$there"
"""


def work():
    """On the server's host: names as on any host, through shared memory."""
    with dsmem.connect("demo") as cluster, cluster.queue("numbers") as numbers, cluster.segment("table") as table:
        got = []
        while len(got) < COUNT:
            got += numbers.get_many(1000, timeout=SECONDS)
        table.write(1, sum(map(int, got)))
        table[0] = 1  # wakes a process that waits for it


def median_us(call):
    times = []
    for _ in range(1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times) * 1e6:.1f} µs"


def use(there):
    """On the other host, which reaches the server's memory over the link."""
    os.environ["DSMEM_SECRET"] = secrets.token_hex(32)
    python = [*there.split(), sys.executable]
    serve = [*python, "-m", "dsmem", "serve", "--listen", f"{SERVER}:{PORT}"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            print(f"  server   {server.stdout.readline().strip()}")
            with dsmem.connect(f"tcp://{SERVER}:{PORT}/demo") as cluster:
                share(cluster, [*python, __file__, "work"])
        finally:
            server.terminate()


def share(cluster, worker):
    with (
        cluster.queue("numbers", create=True) as numbers,
        cluster.segment("table", 2, "i8", create=True) as table,
        subprocess.Popen(worker) as worker,
    ):
        for number in range(COUNT):
            numbers.put(b"%d" % number, timeout=SECONDS)
        assert table.wait(0, 1, timeout=SECONDS)
        assert worker.wait(SECONDS) == 0
        total = table.read(1)
        assert total == sum(range(COUNT))
        print(f"  queue    {COUNT} messages put here and taken there; their sum is {total}")
        print(
            f"  segment  fetch_add {median_us(lambda: table.fetch_add(1, 1))}, read {median_us(lambda: table.read(1))}"
        )
        lock = cluster.lock("turn", create=True)
        print(f"  lock     taken and released in {median_us(lambda: lock.acquire() and lock.release())}")
        lock.close()


def main():
    words = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "--net"]
    try:
        subprocess.run([*words, "ip", "link"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        print(f"Two hosts: left out, since no network namespaces can be made here: {reason}".strip())
        return
    print(
        f"Two hosts, each a network namespace: dsmem serve and a worker at {SERVER}, this program at {CLIENT}\n",
        flush=True,
    )
    subprocess.run([*words, "sh", "-c", HOSTS, sys.executable, str(Path(__file__).resolve())], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work()
    elif sys.argv[1:2] == ["use"]:
        use(sys.argv[2])
    else:
        main()
