"""The checks of ``dsmem doctor``: facts, and for each problem its cause and the commands that fix it.

What is reported to work has been tried: the checks create and remove a name, open a context on each fabric, and create
the secret if there is none yet. They change nothing else, and connect to no other process.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import platform
import re
import resource
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dsmem
from dsmem import _core, errors, node_records, secret
from dsmem.names import local, room

FABRICS = tuple(_core.OPTIONS)
SYS_RDMA = Path("/sys/class/infiniband")
LOCKED_ENOUGH = 64 << 20  # bytes: with less, regions of moderate size already fail
FILES_ENOUGH = 1024
FILES_OF_A_NAME = 8  # its own, a link, and the folders above it
SHM_ENOUGH = (64 << 20) + 1  # bytes: Docker's default is 64 MiB
CAP_IPC_LOCK = 14

# Names of packages in Debian, and in Fedora and its derivatives.
_PACKAGES = {
    "libibverbs1": "libibverbs",
    "ibverbs-providers": "libibverbs",
    "libibverbs-dev": "rdma-core-devel",
    "iproute2": "iproute",
}

_REMEDY_IN_TEXT = re.compile("[;:] (apt install|run:) .*")  # doctor prints the commands separately


@dataclass(frozen=True)
class Trouble:
    """A problem, or a limit that will cause one."""

    subject: str
    reason: str
    remedy: list[str]  # commands, and remarks after '#'
    hinders: bool  # whether nothing works because of it


def readable_bytes(n: int | None) -> str:
    """Return a number of bytes in the largest unit of which there is at least one; None is "unlimited"."""
    if n is None:
        return "unlimited"
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n >= 1 << power:
            return f"{n / (1 << power):.4g} {unit}"
    return f"{n} bytes"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _install(*packages: str) -> str:
    if shutil.which("apt-get"):
        return _root(f"apt-get install -y {' '.join(packages)}")
    if shutil.which("dnf"):
        return _root(f"dnf install -y {' '.join(dict.fromkeys(_PACKAGES[p] for p in packages))}")
    return f"# install what Debian has in {' and '.join(packages)}"


# ---- the kernel's view of RDMA, from sysfs: it also shows devices that libibverbs does not ----


def _gids(port: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted((port / "gids").glob("*"), key=lambda p: int(p.name)):
        gid = _text(file)
        if gid.strip("0:"):
            address = ipaddress.IPv6Address(gid)
            text = f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)
            kind = _text(port / "gid_attrs/types" / file.name)
            found.append({"index": int(file.name), "gid": text, "type": kind})
    return found


def _port(port: Path) -> dict[str, Any]:
    return {
        "port": int(port.name),
        "state": _text(port / "state").partition(": ")[2].lower() or "unknown",
        "physical": _text(port / "phys_state").partition(": ")[2].lower(),
        "link": _text(port / "link_layer"),
        "rate": _text(port / "rate"),
        "lid": _text(port / "lid"),
        "interface": _text(port / "gid_attrs/ndevs/0"),
        "gids": _gids(port),
    }


def kernel_devices() -> list[dict[str, Any]]:
    """Return the RDMA devices and ports that the kernel shows."""
    with contextlib.suppress(OSError):
        return [
            {"device": d.name, "ports": [_port(p) for p in sorted((d / "ports").iterdir())]}
            for d in sorted(SYS_RDMA.iterdir())
        ]
    return []


def softroce() -> str:
    """Whether the kernel's software RDMA is "loaded", "available" or "missing"."""
    if Path("/sys/module/rdma_rxe").exists():
        return "loaded"
    folder = Path("/lib/modules") / platform.release()
    lists = (folder / "modules.dep", folder / "modules.builtin")
    return "available" if any("/rdma_rxe.ko" in _text(file) for file in lists) else "missing"


def _interface() -> str:
    """A network interface on which SoftRoCE can reach other hosts, or else the loopback interface."""
    with contextlib.suppress(OSError):
        for net in sorted(Path("/sys/class/net").iterdir()):
            if _text(net / "operstate") == "up" and _text(net / "type") == "1":
                return net.name
    return "lo"


def _no_device_remedy() -> list[str]:
    state = softroce()
    if state != "missing":
        load = [] if state == "loaded" else [_root("modprobe rdma_rxe")]
        tool = [] if shutil.which("rdma") else [_install("iproute2")]
        return [*tool, *load, _root(f"rdma link add rxe0 type rxe netdev {_interface()}")]
    if not Path("/lib/modules", platform.release()).exists():
        return [
            "# kernel modules are not here (a container, a small VM); where they are:",
            "modprobe rdma_rxe && rdma link add rxe0 type rxe netdev INTERFACE",
            "# or, to try verbs, in a guest with a kernel of its own (source folder):",
            "make softroce",
        ]
    if "ubuntu" in _text(Path("/etc/os-release")):
        extra = _root(f"apt-get install -y linux-modules-extra-{platform.release()}")
        return [extra, _root("modprobe rdma_rxe"), _root(f"rdma link add rxe0 type rxe netdev {_interface()}")]
    return [
        f"# no RDMA adapter, and kernel {platform.release()} has no rdma_rxe; in a guest with a kernel that has it:",
        "make softroce",
    ]


def _port_trouble(device: str, port: dict[str, Any]) -> Trouble | None:
    name, interface = f"{device} port {port['port']}", port["interface"] or "INTERFACE"
    ethernet = port["link"] == "Ethernet"
    if port["state"] == "active":
        if ethernet and not port["gids"]:
            remedy = [_root(f"ip addr add ADDRESS/24 dev {interface}")]
            return Trouble(name, "it has no GID: its network interface has no address", remedy, False)
        return None
    if ethernet:
        remedy = [_root(f"ip link set {interface} up")]
        return Trouble(name, f"the port is {port['state']}: its network interface is down", remedy, False)
    if port["state"] in ("init", "armed"):
        remedy = [_root("systemctl start opensm"), "# on one host of the fabric, or on a switch"]
        return Trouble(name, f"the port is {port['state']}: no subnet manager has configured it", remedy, False)
    return Trouble(
        name,
        f"the port is {port['state']} (link: {port['physical'] or 'unknown'})",
        ["# check the cable and the switch's port"],
        False,
    )


def _uverbs_trouble(devices: list[dict[str, Any]]) -> Trouble | None:
    """A problem with the character devices, which many containers lack although sysfs shows the RDMA devices."""
    if not devices:
        return None
    nodes = sorted(Path("/dev/infiniband").glob("uverbs*"))
    if not nodes:
        remedy = [_root("modprobe ib_uverbs"), "# in a container, start it with: docker run --device=/dev/infiniband …"]
        return Trouble(
            "/dev/infiniband", "there is no uverbs device: user space can't reach the adapter", remedy, False
        )
    shut = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if shut:
        return Trouble(str(shut[0]), "you may not open it", [_root(f"chmod 666 {shut[0]}")], False)
    return None


# ---- fabrics ----


def _verbs_remedy(error: errors.DsmemError, devices: list[dict[str, Any]]) -> list[str]:
    if isinstance(error, errors.ProviderMissingError):
        return [_install("ibverbs-providers")]
    if isinstance(error, errors.FabricUnavailableError):
        if "built without" in error.detail:
            again = "pip install --force-reinstall --no-deps .   # in the source folder"
            return [_install("libibverbs-dev"), again]
        if os.environ.get("DSMEM_LIBIBVERBS"):
            return ["unset DSMEM_LIBIBVERBS"]
        return [_install("libibverbs1", "ibverbs-providers")]
    if isinstance(error, errors.NoDeviceError) and not devices:
        return _no_device_remedy()
    return []  # the problems of the ports say what to do


def _try_fabric(name: str) -> None:
    """Allocate memory of a context and write to it. If a context reaches its own memory by network, only allocate.

    This is the context of the core: dsmem.Context would remove the records of dead nodes, which doctor shows.
    """
    with _core.Context(name, secret=os.urandom(secret.SHORTEST)) as context, context.empty(8) as region:
        if context.capabilities.local_memory:
            with context.attach(region.descriptor) as remote:
                remote.write(0, b"8 bytes!")


def _fabric(name: str, devices: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        _core.probe(name)
        _try_fabric(name)
        return {"works": True, "devices": _core.inventory(name)}
    except errors.DsmemError as error:
        remedy = _verbs_remedy(error, devices) if name == "verbs" else _remark(error)
        return {
            "works": False,
            "error": type(error).__name__,
            "reason": _REMEDY_IN_TEXT.sub("", error.detail) or error.text,
            "remedy": remedy,
        }


# ---- shared memory under names ----


def _remark(error: errors.DsmemError) -> list[str]:
    """The remedy in the message, as a remark, if there is no command for it."""
    remedy = str(error).partition("; ")[2]
    return [f"# {remedy}"] if remedy else []


def _try_name() -> None:
    cluster = f"doctor-{os.getpid()}"
    try:
        with dsmem.connect(cluster) as names:
            try:
                names.segment("doctor", 8, "u1", create=True).close()
            finally:
                with contextlib.suppress(errors.NameNotFoundError):
                    names.unlink("doctor")
    finally:
        local.forget(cluster)


def _shared_memory() -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(room.ROOT), "works": True, "reason": None, "remedy": []}
    try:
        facts.update(asdict(room.room()))
        _try_name()
    except (errors.DsmemError, OSError) as error:
        refused = room.refused(error, "names") if isinstance(error, OSError) else error
        facts.update(works=False, reason=refused.detail.partition("; ")[0], remedy=_shm_remedy(facts, refused))
    return facts


def _shm_remedy(facts: dict[str, Any], error: errors.DsmemError) -> list[str]:
    if not room.ROOT.is_dir():
        return [_root(room.MOUNT)]
    if facts["readonly"]:
        return [_root(room.REMOUNT)]
    if not os.access(room.ROOT, os.W_OK | os.X_OK):
        return [_root(room.OPEN)]
    if facts["files"] and facts["files_free"] < FILES_OF_A_NAME:
        return ["dsmem ls", _root(room.MORE_FILES)]
    if isinstance(error, errors.OutOfMemoryError):
        return ["dsmem ls", _root(room.LARGER), f"# a container: {room.CONTAINER}"]
    return _remark(error)


def _shm_trouble(facts: dict[str, Any]) -> Trouble | None:
    if not facts["works"]:
        return Trouble(facts["path"], f"named objects don't work: {facts['reason']}", facts["remedy"], True)
    if facts["bytes"] and facts["bytes"] < SHM_ENOUGH:
        reason = f"only {readable_bytes(facts['bytes'])}, and all named objects live there"
        return Trouble(facts["path"], reason, [f"# a container: {room.CONTAINER}", _root(room.LARGER)], False)
    return None


def _death_trouble() -> Trouble | None:
    """A problem if no process can prove a death: what a killed process holds then stays held."""
    try:
        _core.identity_provable()
    except errors.DsmemError as error:
        remedy = _remark(error) if _shared_memory()["works"] else []
        path = f"/dev/shm/dsmem-{os.geteuid()}.living"
        return Trouble(path, f"what a killed process holds stays held: {error}", remedy, False)
    return None


# ---- limits ----


def _limit(number: int) -> dict[str, int | None]:
    soft, hard = (None if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(number))
    return {"soft": soft, "hard": hard}


def _is_exempt() -> bool:
    """Whether this process has CAP_IPC_LOCK: then the kernel does not limit its locked memory."""
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_IPC_LOCK & 1)
    return False


def _huge_pages() -> list[dict[str, int]]:
    found = []
    for folder in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        with contextlib.suppress(ValueError):
            total, free = (int(_text(folder / name)) for name in ("nr_hugepages", "free_hugepages"))
            found.append({"bytes": int(folder.name[10:-2]) << 10, "total": total, "free": free})
    return found


def _memory() -> int | None:
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _limits() -> dict[str, Any]:
    return {
        "locked_memory_bytes": {**_limit(resource.RLIMIT_MEMLOCK), "exempt": _is_exempt()},
        "open_files": _limit(resource.RLIMIT_NOFILE),
        "huge_pages": _huge_pages(),
        "memory_available_bytes": _memory(),
    }


def _raise_limit(letter: str, name: str, limit: dict[str, Any], wanted: str) -> list[str]:
    if limit["hard"] is None or (wanted.isdecimal() and limit["hard"] >= int(wanted)):
        return [f"ulimit -{letter} {wanted}"]
    write = f"echo '* - {name} {wanted}' | {_root('tee /etc/security/limits.d/dsmem.conf')}"
    return [
        f"{write}   # then log in again",
        f"# a service: Limit{name.upper()}={'infinity' if wanted == 'unlimited' else wanted} in its unit",
        f"# a container: docker run --ulimit {name}={-1 if wanted == 'unlimited' else wanted} …",
    ]


def _limit_troubles(limits: dict[str, Any], has_rdma: bool) -> list[Trouble]:
    found = []
    locked, files = limits["locked_memory_bytes"], limits["open_files"]
    if has_rdma and locked["soft"] is not None and locked["soft"] < LOCKED_ENOUGH and not locked["exempt"]:
        reason = f"verbs pins what it registers, and you may pin only {readable_bytes(locked['soft'])}"
        remedy = _raise_limit("l", "memlock", locked, "unlimited")
        found.append(Trouble("locked memory", reason, remedy, False))
    if files["soft"] is not None and files["soft"] < FILES_ENOUGH:
        reason = f"only {files['soft']}; every connection takes one, and on shm every region"
        found.append(Trouble("open files", reason, _raise_limit("n", "nofile", files, "65536"), False))
    return found


# ---- the secret ----


def _secret() -> dict[str, Any]:
    if "DSMEM_SECRET" in os.environ:
        facts: dict[str, Any] = {"source": "DSMEM_SECRET", "path": None, "exists": True}
    else:
        try:
            path = secret.secret_path()
        except errors.DsmemError as error:
            return {
                "source": "file",
                "path": None,
                "exists": False,
                "usable": False,
                "reason": _REMEDY_IN_TEXT.sub("", error.detail),
            }
        source = "DSMEM_SECRET_FILE" if os.environ.get("DSMEM_SECRET_FILE") else "file"
        facts = {"source": source, "path": str(path), "exists": os.path.lexists(path)}
        with contextlib.suppress(OSError):
            facts["mode"] = f"{stat.S_IMODE(path.stat().st_mode):o}"
    try:
        secret.default_secret()  # creates the secret if it is missing and can be created
    except errors.DsmemError as error:
        return {**facts, "usable": False, "reason": _REMEDY_IN_TEXT.sub("", error.detail)}
    return {**facts, "usable": True, "reason": None}


def _secret_trouble(facts: dict[str, Any]) -> Trouble | None:
    if facts["usable"]:
        return None
    path, source = facts["path"], facts["source"]
    if path and int(facts.get("mode", "0"), 8) & 0o077:
        remedy = [f"chmod 600 '{path}'"]
    elif source != "file":
        remedy = [
            f"unset {source}",
            "# the secret is then read from ~/.config/dsmem/secret; copy that to the other hosts",
        ]
    elif path and facts["exists"]:
        remedy = [f"rm -rf '{path}'", "# a new one is made when it is needed; copy it to the other hosts"]
    else:
        remedy = ["export DSMEM_SECRET_FILE=PATH", "# a file that only you can read, with at least 16 bytes in it"]
    return Trouble("secret", facts["reason"], remedy, True)


# ---- all ----


def _nodes(found: list[tuple[Path, bool]]) -> list[dict[str, Any]]:
    alive = [(path, node_records.read_record(path)) for path, lives in found if lives]
    return [{"pid": int(path.name.split("-")[1]), **record} for path, record in alive if record]


def report() -> dict[str, Any]:
    """Do all checks, and return the facts in a form for JSON.

    Returns
    -------
    dict
        versions, fabrics, kernel, limits, shared_memory, secret, nodes, stale_nodes, clusters, troubles.
    """
    devices = kernel_devices()
    limits, memory, key = _limits(), _shared_memory(), _secret()
    fabrics = {name: _fabric(name, devices) for name in FABRICS}
    found = node_records.scan()
    ports = [_port_trouble(d["device"], p) for d in devices for p in d["ports"]]
    rdma = [t for t in (_uverbs_trouble(devices), *ports) if t is not None]
    if not fabrics["verbs"]["works"] and not fabrics["verbs"]["remedy"]:
        fabrics["verbs"]["remedy"] = [line for t in rdma for line in t.remedy]
    troubles = [
        *rdma,
        *_limit_troubles(limits, bool(devices)),
        _shm_trouble(memory),
        _death_trouble(),
        _secret_trouble(key),
    ]
    return {
        "versions": {"dsmem": dsmem.__version__, "python": platform.python_version(), "kernel": platform.release()},
        "fabrics": fabrics,
        "kernel": {"devices": devices, "rdma_rxe": softroce()},
        "limits": limits,
        "shared_memory": memory,
        "secret": key,
        "nodes": _nodes(found),
        "stale_nodes": [str(path) for path, lives in found if not lives],
        "clusters": local.survey(),
        "troubles": [asdict(t) for t in troubles if t is not None],
    }
