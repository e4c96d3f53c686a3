"""A second host: a network namespace with an address of its own, and a link to it that can be cut, one way or both."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_NUMBERS = itertools.count()
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
IP = shutil.which("ip", path=_PATH) or ""
NFT = shutil.which("nft", path=_PATH) or ""
NOWHERE = "02:00:00:00:00:99"  # what is sent there is lost without a word


def ip(*words: str) -> str:
    return subprocess.run([IP, *words], check=True, capture_output=True, text=True).stdout


def free_net(first: int) -> int:
    """One that no device of ours has: a process that was killed leaves its link until the machine restarts."""
    taken = ip("-o", "addr", "show")
    return next(net for net in (*range(first, 250), *range(first)) if f" 10.213.{net}." not in taken)


class Filter:
    """A packet filter at one end of a link: what it does to what comes and to what goes, but for ports of the tests."""

    def __init__(self, command: list[str], device: str) -> None:
        self.command, self.device = [*command, NFT], device

    def _apply(self, table: str) -> None:
        text = f"table inet dsmem {{ }}; delete table inet dsmem\n{table}\n"
        done = subprocess.run([*self.command, "-f", "-"], check=False, capture_output=True, text=True, input=text)
        if "Could not process rule" in done.stderr:
            pytest.skip(f"this kernel can't filter packets so: {done.stderr.splitlines()[0]}")
        assert not done.returncode, done.stderr

    def set(self, incoming: str, outgoing: str, ports: str) -> None:
        """Rules, as nft has them; "" is none."""
        chains = []
        for hook, name, rule in (("input", "iifname", incoming), ("output", "oifname", outgoing)):
            spared = f"tcp sport {ports} accept; tcp dport {ports} accept"
            chains.append(f"chain {hook} {{ type filter hook {hook} priority 0; {spared}; ")
            chains[-1] += f'{name} "{self.device}" {rule}; }};' if rule else "};"
        self._apply(f"table inet dsmem {{ {' '.join(chains)} }}")

    def clear(self) -> None:
        self._apply("")

    def hits(self) -> int:
        """How many packets the rules have counted."""
        command = [*self.command, "list", "table", "inet", "dsmem"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return sum(map(int, re.findall(r"counter packets (\d+)", said)))


class Host:
    """The other host, with its name; and its address and ours, its device and ours."""

    def __init__(self, number: int) -> None:
        pid = os.getpid()
        net = free_net((pid + number) % 250)
        self.name = f"dsmem-{pid}-{number}"
        self.our_device, self.device = f"ds{pid}n{number}", f"ds{pid}t{number}"
        self.ours, self.theirs = f"10.213.{net}.1", f"10.213.{net}.2"
        self.command = [IP, "netns", "exec", self.name]
        self.packets = Filter(self.command, self.device)
        ip("netns", "add", self.name)

    def connect(self) -> None:
        ip("link", "add", self.our_device, "type", "veth", "peer", "name", self.device, "netns", self.name)
        ip("addr", "add", f"{self.ours}/24", "dev", self.our_device)
        ip("link", "set", self.our_device, "up")
        ip("-n", self.name, "addr", "add", f"{self.theirs}/24", "dev", self.device)
        for device in (self.device, "lo"):
            ip("-n", self.name, "link", "set", device, "up")

    def cut(self) -> None:
        ip("-n", self.name, "link", "set", self.device, "down")

    def deafen(self) -> None:
        """Nothing of ours arrives there."""
        ip("neigh", "replace", self.theirs, "lladdr", NOWHERE, "dev", self.our_device, "nud", "permanent")

    def silence(self) -> None:
        """Nothing of theirs arrives here."""
        ip("-n", self.name, "neigh", "replace", self.ours, "lladdr", NOWHERE, "dev", self.device, "nud", "permanent")

    def filter(self, ours: str, theirs: str, ports: str) -> None:
        """What becomes of what we send, and of what they send: rules of nft, at their end of the link."""
        self.packets.set(ours, theirs, ports)

    def heal(self) -> None:
        ip("-n", self.name, "link", "set", self.device, "up")
        ip("neigh", "flush", "dev", self.our_device, "nud", "all")
        ip("-n", self.name, "neigh", "flush", "dev", self.device, "nud", "all")

    def remove(self) -> None:
        subprocess.run([IP, "netns", "delete", self.name], check=False, capture_output=True)


def another_host() -> Iterator[Host]:
    if os.geteuid() or not IP:
        pytest.skip("needs root and iproute2")
    try:
        host = Host(next(_NUMBERS))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace here: {error.stderr.strip()}")
    try:
        host.connect()
        yield host
    finally:
        host.remove()


@pytest.fixture
def host() -> Iterator[Host]:
    yield from another_host()
