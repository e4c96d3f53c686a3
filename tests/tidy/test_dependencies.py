"""Dependencies run one way.

dsmem.cli → dsmem → _core → dsm.h → {objects, agent} → core → fabric.h ← fabrics, memory and base under all; and in Python
cli, testing → dsmem → {store, cluster} → {segment, queue, sync, clock} → {objects, names, context} → _core → errors.
Everybody may include dsm.h for its types: it includes nothing but the list of errors.
"""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# ---- C ----

C_MAY_INCLUDE = {
    "dsm.h": {"dsm"},
    "dsm": {"dsm", "base"},
    "base": {"base", "dsm.h"},
    "memory": {"memory", "base"},
    "seam": {"seam", "memory", "base", "dsm.h"},
    "core": {"core", "seam", "memory", "base", "dsm.h"},
    "agent": {"agent", "core", "seam", "memory", "base", "dsm.h"},
    "objects": {"objects", "core", "seam", "base", "dsm.h"},
    "context.c": {"agent", "core", "seam", "base", "dsm.h"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
MEMORY_ORDER = re.compile(r"\b(?:__ATOMIC_\w+|__atomic_\w+|__sync_\w+|memory_order\w*|_Atomic|stdatomic)\b")


def c_part(path):
    """The part of the house that a file under csrc belongs to; each fabric is one of its own."""
    parts = path.parts
    if len(parts) == 1:
        return parts[0]
    if parts[0] == "fabric":
        return "seam" if len(parts) == 2 else f"fabric/{parts[1]}"
    return parts[0]


def c_violations(path, text):
    """Of a file, its path relative to csrc."""
    part = c_part(path)
    if part.startswith("fabric/"):
        allowed = {part, "seam", "memory", "base", "dsm.h"}
    elif part in C_MAY_INCLUDE:
        allowed = C_MAY_INCLUDE[part]
    else:
        return [f"csrc/{path}: {part} has no place in tests/tidy/test_dependencies.py"]
    found = []
    for name in INCLUDE.findall(text):
        for base in (path.parent, Path()):  # beside the file, or under csrc (-Icsrc)
            target = Path(*_normal((base / name).parts))
            if (ROOT / "csrc" / target).exists():
                break
        if c_part(target) not in allowed:
            found.append(f"csrc/{path} includes {target}: {part} must not know {c_part(target)}")
    return found


def _normal(parts):
    out = []
    for part in parts:
        if part == "..":
            out.pop()
        else:
            out.append(part)
    return out


def order_violations(path, text):
    """Memory orders outside of csrc/base/atomic.h."""
    if path == Path("base/atomic.h"):
        return []
    return [f"csrc/{path}: {word} belongs into base/atomic.h" for word in MEMORY_ORDER.findall(text)]


def c_files():
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".c", ".h", ".def"):
            yield path.relative_to(ROOT / "csrc"), path.read_text()


def test_includes_run_down():
    assert [v for path, text in c_files() for v in c_violations(path, text)] == []


def test_memory_orders_stand_in_one_file():
    assert [v for path, text in c_files() for v in order_violations(path, text)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("base/wire.h", '#include "../fabric/fabric.h"'),
        ("fabric/registry.c", '#include "shm/shm.h"'),
        ("fabric/fault/io.c", '#include "../shm/shm.h"'),
        ("fabric/shm/io.c", '#include "../../core/core.h"'),
        ("core/ops.c", '#include "../agent/agent.h"'),
        ("core/ops.c", '#include "fabric/verbs/verbs.h"'),
        ("objects/queue/producer.c", '#include "../../agent/agent.h"'),
        ("agent/server.c", '  #  include "../fabric/shm/shm.h"'),
        ("dsm.h", '#include "core/core.h"'),
        ("gpu/cuda.c", ""),
    ],
)
def test_an_include_that_runs_up_is_found(path, text):
    assert c_violations(Path(path), text)


@pytest.mark.parametrize(
    "text",
    ["__atomic_store_n(p, 1, __ATOMIC_RELEASE);", "__sync_synchronize();", "#include <stdatomic.h>", "_Atomic int x;"],
)
def test_a_memory_order_elsewhere_is_found(text):
    assert order_violations(Path("core/ops.c"), text)
    assert not order_violations(Path("base/atomic.h"), text)


# ---- Python ----

# What a module may import has its number or a lower one.
RANK = {
    "errors": 0,
    "handshake": 0,
    "_core": 1,
    "node_records": 2,
    "leaving": 2,
    "secret": 2,
    "dtypes": 2,
    "context": 3,
    "memory": 3,
    "names": 3,
    "objects": 3,
    "segment": 4,
    "clock": 4,
    "queue": 4,
    "sync": 4,
    "cluster": 5,
    "store": 5,
    "": 6,  # the front door: names only
    "testing": 7,
    "cli": 7,
    "__main__": 8,
}


LAZY = re.compile(r"dsmem(?:\.\w+)+:\w+")


def imports(module, text, package):
    """Full names of the modules that a text imports: in functions, for annotations and as "module:name", too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY.fullmatch(node.value):
            yield node.value.partition(":")[0]
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = module.split(".") if package else module.split(".")[:-1]
            here = here[: len(here) - (node.level - 1)] if node.level else []
            base = ".".join([*here, *(node.module or "").split(".")]).strip(".")
            yield from (f"{base}.{a.name}" for a in node.names)


def place(name):
    """What RANK knows a module of dsmem by: the part behind "dsmem." or, for a name of the front door, ""."""
    part = name.split(".")[1] if "." in name else ""
    folder = ROOT / "dsmem"
    known = part in RANK or (folder / part).is_dir() or (folder / f"{part}.py").exists()
    return part if known else ""


def python_violations(module, text, package=False):
    own = place(module)
    if own not in RANK:
        return [f"{module} has no place in tests/tidy/test_dependencies.py"]
    found = []
    for name in imports(module, text, package):
        if name.split(".")[0] != "dsmem":
            continue
        other = place(name)
        if other not in RANK:
            found.append(f"{module} imports {name}, which has no place in tests/tidy/test_dependencies.py")
        elif RANK[other] > RANK[own]:
            found.append(f"{module} imports {name}")
    return found


def test_imports_run_down():
    found = []
    for module, text, package in modules():
        found += python_violations(module, text, package)
    assert found == []


def modules():
    """Module → text and whether it is a package."""
    for path in sorted((ROOT / "dsmem").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if package else parts), path.read_text(), package


def circle(found):
    """The modules of a circle of imports, or nothing."""
    graph = {}
    names = {module for module, _, _ in found}
    for module, text, package in found:
        targets = {name if name in names else name.rpartition(".")[0] for name in imports(module, text, package)}
        graph[module] = targets & names - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_imports_in_a_circle():
    assert circle(list(modules())) == []


def test_a_circle_is_found():
    low = ("dsmem.a", "if TYPE_CHECKING:\n    from dsmem.b import B", False)
    assert circle([low, ("dsmem.b", "from dsmem import a", False)])
    assert circle([("dsmem.a", "KINDS = ['dsmem.b:B']", False), ("dsmem.b", "from dsmem.a import A", False)])
    assert not circle([("dsmem.a", "import os", False), ("dsmem.b", "from dsmem.a import A", False)])


def test_cython_knows_errors_and_dsm_h_only():
    for path in (ROOT / "dsmem/_core").glob("*.p[yx][xdi]"):
        if path.suffix == ".pyi":
            continue
        text = path.read_text()
        known = set(re.findall(r"^\s*(?:from|c?import)\s+(dsmem[\w.]*)(?:\s+c?import\s+(\w+))?", text, re.M))
        assert known <= {("dsmem._core", "libdsm"), ("dsmem", "errors")}, path
        headers = set(re.findall(r'extern from\s+"([^"]+)"', text)) - {"Python.h"}  # what Cython does not declare
        assert headers <= {"dsm.h"} and (not headers or path.name == "libdsm.pxd"), path


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("dsmem._core.helper", "from dsmem import context"),
        ("dsmem.errors", "import dsmem._core"),
        ("dsmem.context", "from .queue import Queue"),
        ("dsmem.context", "def f():\n    import dsmem.cli"),
        ("dsmem.sync", "from dsmem import store"),
        ("dsmem.store.pages", "from ..cli import main"),
        ("dsmem.secret", "import dsmem"),
        ("dsmem.secret", "from dsmem import Context"),
        ("dsmem.objects", "from dsmem.segment import Segment"),
        ("dsmem.objects", "if TYPE_CHECKING:\n    from dsmem.cluster import Cluster"),
        ("dsmem.objects", "KINDS = {'lock': 'dsmem.sync:Lock'}"),
    ],
)
def test_an_import_that_runs_up_is_found(module, text):
    assert python_violations(module, text)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("dsmem.cli.demo", "import dsmem\nfrom . import doctor\nfrom dsmem import store"),
        ("dsmem.store.pages", "from dsmem import queue, sync\nfrom ..segment import Segment"),
        ("dsmem.context", "from dsmem import _core, errors\nimport os"),
    ],
)
def test_an_import_that_runs_down_is_none(module, text):
    assert not python_violations(module, text)
