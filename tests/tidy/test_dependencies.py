"""Dependencies run one way.

dsmem.cli → dsmem → _core → dsm.h → {objects, agent} → core → fabric.h ← fabrics, memory and base
under all; and in Python
cli, testing → dsmem → {store, cluster} → {segment, queue, sync, clock} → {objects, names, context} → _core → errors.
Every file may include dsm.h for its types: it includes nothing but the list of errors.
"""

import ast
import functools
import graphlib
import os
import re
from pathlib import Path

import pytest

from dsmem.cluster.factories import CLASSES

ROOT = Path(__file__).parents[2]

# ---- C ----

C_MAY_INCLUDE = {
    "dsm.h": {"dsm"},
    "dsm": {"dsm", "base"},
    "base": {"base", "dsm.h"},
    "memory": {"memory", "base"},
    "interface": {"interface", "memory", "base", "dsm.h"},
    "core": {"core", "interface", "memory", "base", "dsm.h"},
    "agent": {"agent", "core", "interface", "memory", "base", "dsm.h"},
    "objects": {"objects", "core", "interface", "base", "dsm.h"},
    "store": {"store", "objects", "core", "interface", "base", "dsm.h"},
    "context.c": {"agent", "core", "interface", "base", "dsm.h"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
MEMORY_ORDER = re.compile(r"\b(?:__ATOMIC_\w+|__atomic_\w+|__sync_\w+|memory_order\w*|_Atomic|stdatomic)\b")


def c_part(path):
    """The part of the sources that a file under csrc belongs to; each fabric is one of its own."""
    parts = path.parts
    if len(parts) == 1:
        return parts[0]
    if parts[0] == "fabric":
        return "interface" if len(parts) == 2 else f"fabric/{parts[1]}"
    return parts[0]


def c_violations(path, text):
    """Of a file, its path relative to csrc."""
    part = c_part(path)
    if part.startswith("fabric/"):
        allowed = {part, "interface", "memory", "base", "dsm.h"}
    elif part in C_MAY_INCLUDE:
        allowed = C_MAY_INCLUDE[part]
    else:
        return [f"csrc/{path}: {part} has no place in tests/tidy/test_dependencies.py"]
    found = []
    known = {name for name, _ in c_files()}
    for name in INCLUDE.findall(text):
        target = included(path, name, known)
        if c_part(target) not in allowed:
            found.append(f"csrc/{path} includes {target}: {part} must not know {c_part(target)}")
    return found


def order_violations(path, text):
    """Memory orders outside of csrc/base/atomic.h."""
    if path == Path("base/atomic.h"):
        return []
    return [f"csrc/{path}: {word} belongs into base/atomic.h" for word in MEMORY_ORDER.findall(text)]


@functools.cache
def c_files():
    found = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".c", ".h", ".def"))
    return [(path.relative_to(ROOT / "csrc"), path.read_text()) for path in found]


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


# A name in csrc is found in its definition, which clang-format begins in the first column. What another file defines
# static is another function. An inline function of a header counts for the files that use it.
TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"', re.S)
BEGINS = r"^(?!\s|#|typedef|extern|return|(?:struct|union|enum) \w+ ?[;{])"
FUNCTION = re.compile(
    BEGINS + r"([^\n;={}()]*(?:\(\([^\n]*?\)\)[^\n;={}()]*)?)\b(\w+)\([^;{}]*\)\s*\{(.*?)\}$", re.M | re.S
)
VARIABLE = re.compile(BEGINS + r"([^\n;={}()]*[ *])(\w+)(?:\[[^\n=;]*\])?(?: __attribute__[^\n=;]*)? ?[=;]", re.M)


def definitions(text):
    """The names that a C file defines → whether they are its own (static), and the words of a function's body."""
    text = TEXT.sub(" ", text)
    found = {}
    for kind, name, body in FUNCTION.findall(text):
        found[name] = ("static" in kind, set(re.findall(r"\w+", body)))
    for kind, name in VARIABLE.findall(text):
        found[name] = ("static" in kind, set())
    return found


def calls(files):
    """Path → the paths of the C files whose functions and variables it uses."""
    made = {path: definitions(text) for path, text in files}
    inline = {name: words for path, names in made.items() if path.suffix == ".h" for name, (_, words) in names.items()}
    homes = {}
    for path, names in made.items():
        for name, (own, _) in names.items():
            if path.suffix == ".c" and not own:
                homes.setdefault(name, set()).add(path)
    graph = {}
    for path, text in files:
        if path.suffix != ".c":
            continue
        defs = (ROOT / "csrc" / path.parent / name for name in INCLUDE.findall(text) if name.endswith(".def"))
        words, new = set(), set(re.findall(r"\w+", TEXT.sub(" ", text + "".join(file.read_text() for file in defs))))
        while new:
            words |= new
            new = set().union(*(inline[word] for word in new if word in inline)) - words
        graph[path] = set().union(*(homes[name] for name in (words & homes.keys()) - made[path].keys()))
    return graph


def headers(files):
    """Path → the paths of the files that it includes."""
    known = {path for path, _ in files}
    return {path: {included(path, name, known) for name in INCLUDE.findall(text)} & known for path, text in files}


def included(path, name, known):
    """What an include names: a file beside the one that includes it, or one under csrc (-Icsrc)."""
    beside = Path(os.path.normpath(path.parent / name))
    return beside if beside in known else Path(os.path.normpath(name))


def circle_of(graph):
    """The nodes of a circle, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_c_files_in_a_circle():
    files = c_files()
    graph = calls(files)
    assert (
        Path("core/peer.c") in graph[Path("core/ops.c")]
        and Path("fabric/shm/device.c") in graph[Path("fabric/registry.c")]
    )
    assert circle_of(graph) == []
    assert circle_of(headers(files)) == []


CALLS = """
#include "b.h"
static int own(void) { return 0; }
/* high() */
struct made *low(int x,
                 const struct made *made)
{
    return own() ? made : %s;
}
"""


@pytest.mark.parametrize(
    ("low", "header", "found"),
    [
        ("high()", "", True),
        ("first", "", True),
        ("quick(1)", "static inline int quick(int x)\n{\n    return high();\n}\n", True),
        ("slow(1)", "static inline int quick(int x)\n{\n    return high();\n}\n", False),
        ("NULL", "int high(void);\n", False),
        ("own()", "", False),
        ('"high"', "", False),
    ],
)
def test_c_files_in_a_circle_are_found(low, header, found):
    high = "int first[2] = {1, 2};\nint own(void) { return 1; }\nint high(void) { return low(own(), 0); }\n"
    files = [(Path("a.c"), CALLS % low), (Path("b.h"), header), (Path("b.c"), high)]
    assert bool(circle_of(calls(files))) is found


def test_headers_in_a_circle_are_found():
    assert circle_of(headers([(Path("a/a.h"), '#include "../b.h"'), (Path("b.h"), '#include "a/a.h"')]))
    assert not circle_of(headers([(Path("a/a.h"), '#include "../b.h"'), (Path("b.h"), "")]))


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
    "metrics": 2,
    "context": 3,
    "memory": 3,
    "names": 3,
    "objects": 3,
    **dict.fromkeys({where.split(":")[0].split(".")[1] for where in CLASSES.values()}, 4),
    "cluster": 5,
    "store": 5,
    "membership": 5,
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
    return circle_of(graph)


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
