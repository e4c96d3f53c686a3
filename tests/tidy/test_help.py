"""help() of every public name says enough: what it is, and what goes in, comes out and may be raised.

Docstrings are read as a program has them, of compiled classes too; what parameters and results there are is read from
sources and stubs. A docstring may refer to another one, "As of :meth:`Lock.acquire`", which then has the sections.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import dsmem

ROOT = Path(__file__).parents[2]
MODULES = (
    "dsmem",
    "dsmem.clock",
    "dsmem.errors",
    "dsmem.metrics",
    "dsmem.queue",
    "dsmem.segment",
    "dsmem.store",
    "dsmem.sync",
)
HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.M)
REFERENCE = re.compile(r"\bas (?:of|for) (?:the |a )?(?:\S+ of )?:(?:meth|func|class):`~?([\w.]+)`", re.I)
QUIET = {"None", "NoReturn", "Self"}  # results of which there is nothing to say


def definitions():
    """(suffix of the file, class or "", name) of all that sources and stubs define, with the definitions."""
    found = {}
    for path in sorted(p for suffix in ("py", "pyi") for p in (ROOT / "dsmem").rglob(f"*.{suffix}")):
        for node in ast.parse(path.read_text()).body:
            inner = [(node.name, child) for child in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
            for owner, definition in inner:
                if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found.setdefault((path.suffix, owner, definition.name), []).append(definition)
    return found


DEFINITIONS = definitions()


def parameters(definition):
    """Names of what a caller passes; those with an underscore are private."""
    a = definition.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [p.arg for p in given if p.arg not in ("self", "cls") and not p.arg.startswith("_")]


def raised(definition):
    """Classes of dsmem.errors that the function raises itself."""
    return {
        node.exc.func.attr
        for node in ast.walk(definition)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Attribute)
        and ast.unparse(node.exc.func.value) == "errors"
    }


def sections(doc):
    """Title and text of each section of a docstring in NumPy's style; "" is the beginning."""
    parts = HEADING.split(inspect.cleandoc(doc))
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def described(text):
    """Names that a section Parameters has an entry for."""
    lines = re.findall(r"^(\S.*?)(?: : .*)?$", text, re.M)
    return {name.strip(" *") for line in lines for name in line.split(",")}


def resolve(name, owner):
    """The docstring that a reference means: of the same class, of a class of dsmem, or of a module."""
    if owner is not None and hasattr(owner, name):
        return getattr(owner, name).__doc__
    thing = None
    for module in map(importlib.import_module, MODULES):
        thing = module
        for part in name.removeprefix(f"{module.__name__}.").split("."):
            thing = getattr(thing, part, None)
        if thing is not None:
            return thing.__doc__
    return None


def missing(name, doc, definition=None, owner=None):
    """What a docstring lacks, in words."""
    if not doc or not doc.strip():
        return [f"{name}: no docstring"]
    found, lacks = sections(doc), []
    if len(re.findall(r"\w+", found[""])) < 3:
        lacks.append(f"{name}: {found['']!r} says too little")
    if definition is None:
        return lacks
    referred = [resolve(other, owner) for other in REFERENCE.findall(doc)]
    if None in referred:
        return [*lacks, f"{name}: refers to what is not there: {REFERENCE.findall(doc)}"]
    for text in referred:
        for title, content in sections(text).items():
            found[title] = found.get(title, "") + "\n" + content
    names = parameters(definition)
    left = [p for p in names if p not in described(found.get("Parameters", ""))]
    if left and not set(referred):
        lacks.append(f"{name}: Parameters without {', '.join(left)}")
    elif left:
        lacks.append(f"{name}: neither it nor what it refers to describes {', '.join(left)}")
    result = ast.unparse(definition.returns) if definition.returns else "None"
    if names and result not in QUIET and "Returns" not in found:
        lacks.append(f"{name}: no section Returns, which is {result}")
    own = found.get("Raises", "") + "".join(sections(c.__doc__ or "").get("Raises", "") for c in bases(owner))
    lacks += [f"{name}: Raises without {error}" for error in sorted(raised(definition)) if error not in own]
    if names and definition.body and not own and owner is not None and not in_python(definition):
        lacks.append(f"{name}: no section Raises, neither here nor in its class")
    return lacks


def bases(cls):
    """The class and those of dsmem that it is made of: their docstrings have the errors of all methods."""
    return [] if cls is None else [c for c in cls.__mro__ if c.__module__.startswith("dsmem")]


def in_python(definition):
    """Not a stub: there is more than a docstring and an ellipsis."""
    return any(not isinstance(node, ast.Expr) for node in definition.body)


def definition_of(cls, name):
    """Of the method as the class has it, by the class in the order of resolution that defines it.

    A function of Python is in a source, what is compiled in a stub. Of overloads, the one with the most parameters.
    """
    for base in cls.__mro__:
        method = vars(base).get(name)
        suffix = ".py" if inspect.isfunction(getattr(method, "__func__", method)) else ".pyi"
        if method is not None and (suffix, base.__name__, name) in DEFINITIONS:
            return max(DEFINITIONS[suffix, base.__name__, name], key=lambda d: len(parameters(d)))
    return None


def of_class(title, cls):
    """Of a class, of its constructor where it is meant to be called, and of what it has."""
    lacks = missing(title, cls.__doc__)
    constructor = definition_of(cls, "__init__") or definition_of(cls, "__new__")
    if constructor and "Parameters" in sections(cls.__doc__ or ""):
        lacks += [m for m in missing(title, cls.__doc__, constructor) if "Returns" not in m and "Raises" not in m]
    for name, member in inspect.getmembers(cls):
        home = next(base for base in cls.__mro__ if name in vars(base)) if not name.startswith("_") else None
        if home is None or not home.__module__.startswith("dsmem"):
            continue
        if callable(member):
            definition = definition_of(cls, name)
            assert definition is not None, (title, name)
            lacks += missing(f"{title}.{name}", member.__doc__, definition, cls)
        elif isinstance(member, property) or inspect.isdatadescriptor(member):
            lacks += missing(f"{title}.{name}", member.__doc__)
    return lacks


def public(module):
    return {name: getattr(module, name) for name in module.__all__ if name != "__version__"}


@pytest.mark.parametrize("module", MODULES)
def test_help_says_enough(module):
    module = importlib.import_module(module)
    assert len((module.__doc__ or "").splitlines()) >= 3, "what it is for, in some lines"
    lacks = []
    for name, thing in public(module).items():
        title = f"{module.__name__}.{name}"
        if inspect.isclass(thing):
            lacks += of_class(title, thing)
        elif inspect.isroutine(thing):
            lacks += missing(title, thing.__doc__, a_definition(inspect.getsource(thing)))
    assert lacks == [], "\n" + "\n".join(lacks)


@pytest.mark.parametrize("cls", [dsmem.Context, dsmem.clock.HybridClock])
def test_a_constructor_is_looked_at(cls, monkeypatch):
    """Whether or not the class has a base of the same name in a stub, and the docstring is indented."""
    last = parameters(definition_of(cls, "__init__"))[-1]
    monkeypatch.setattr(cls, "__doc__", cls.__doc__.replace(f"{last} :", "other :"))
    assert f"it: Parameters without {last}" in of_class("it", cls)


def test_all_public_modules_are_looked_at():
    """A name of the front door that is a module, or of such a module, is one of them."""
    assert {f"dsmem.{name}" for name in dsmem.__all__ if inspect.ismodule(getattr(dsmem, name))} <= set(MODULES)


def a_definition(text):
    return ast.parse(text).body[0]


WHOLE = """Take one of them.

Parameters
----------
n : int
    Which.
timeout : float, optional
    Seconds.

Returns
-------
bytes
    It.

Raises
------
TimeoutError
    No.
"""


@pytest.mark.parametrize(
    ("text", "doc", "words"),
    [
        ("def f(): ...", None, "no docstring"),
        ("def f(): ...", "", "no docstring"),
        ("def f(): ...", "See stub.", "too little"),
        ("def f(n, timeout): ...", "Take one of them.", "Parameters without n, timeout"),
        ("def f(n, timeout, x): ...", WHOLE, "Parameters without x"),
        ("def f(n) -> int: ...", "Take one.\n\nParameters\n----------\nn : int\n    It.", "no section Returns"),
        ("def f(n, timeout): raise errors.BusyError()", WHOLE, "Raises without BusyError"),
        ("def f(n): ...", "As of :meth:`nothing.there`, it is.", "not there"),
        ("def f(n, x): ...", "Like that, as of :class:`dsmem.Context`.", "refers to describes n, x"),
    ],
)
def test_what_is_missing_is_found(text, doc, words):
    lacks = missing("f", doc, a_definition(text))
    assert any(words in lack for lack in lacks), lacks


def test_what_is_whole_is_not():
    assert missing("f", WHOLE, a_definition("def f(n, timeout) -> bytes: raise errors.TimeoutError()")) == []
    assert missing("f", "As of :class:`dsmem.Context`.", a_definition("def f(fabric): ...")) == []
    assert missing("f", "Whether it was closed.", a_definition("def f() -> bool: ...")) == []
