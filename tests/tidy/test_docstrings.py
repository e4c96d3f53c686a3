"""Everything public in dsmem says what it is: modules and stubs. Stubs are the documentation of the Cython classes."""

import ast
import inspect
import operator
from pathlib import Path

import pytest

from dsmem._core import _core

ROOT = Path(__file__).parents[2]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_overload(definition):
    """The implementation after it has the docstring."""
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in definition.decorator_list)


def undocumented(text, name, stub=False):
    """Names of what lacks a docstring. A test function says by its name what it holds."""
    tree = ast.parse(text)
    found = [] if stub or ast.get_docstring(tree) or not tree.body else [name]

    def look(node, prefix):
        for child in node.body:
            if not isinstance(child, DEFINITIONS) or child.name.startswith(("_", "test_")):
                continue
            if not ast.get_docstring(child) and not is_overload(child):
                found.append(f"{prefix}.{child.name}")
            if isinstance(child, ast.ClassDef):
                look(child, f"{prefix}.{child.name}")

    look(tree, name)
    return found


def sources():
    return sorted(p for suffix in ("py", "pyi") for p in (ROOT / "dsmem").rglob(f"*.{suffix}"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_public_things_have_docstrings(path):
    assert undocumented(path.read_text(), path.stem, path.suffix == ".pyi") == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("x = 1", ["m"]),
        ('"""Doc."""\ndef f(): ...', ["m.f"]),
        ('"""Doc."""\nclass C:\n    """Doc."""\n    async def f(self): ...', ["m.C.f"]),
        ('"""Doc."""\nclass C:\n    @property\n    def p(self): ...', ["m.C", "m.C.p"]),
        ('"""Doc."""\n@overload\ndef f(x: int): ...\ndef f(x):\n    """Doc."""', []),
        ('"""Doc."""\n@overload\ndef f(x: int): ...\ndef f(x): ...', ["m.f"]),
        ('"""Doc."""\nclass _C:\n    def f(self): ...\ndef test_x(): ...', []),
    ],
)
def test_what_lacks_one_is_found(text, missing):
    assert undocumented(text, "m") == missing
    assert undocumented(text, "m", stub=True) == [name for name in missing if name != "m"]


def stubs():
    """Name of a class, function or method of the compiled module, and its docstring in the stubs."""
    for path in sorted((ROOT / "dsmem/_core").glob("*.pyi")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, DEFINITIONS) and ast.get_docstring(node):
                yield node.name, ast.get_docstring(node)
                for child in node.body:
                    if isinstance(child, DEFINITIONS) and ast.get_docstring(child):
                        yield f"{node.name}.{child.name}", ast.get_docstring(child)


def test_compiled_names_have_the_docstrings_of_the_stubs():
    """Which are built in: a stub that is newer than the extension is what fails here, too."""
    found = list(stubs())
    assert len(found) > 150
    for name, doc in found:
        thing = operator.attrgetter(name)(_core)
        assert inspect.cleandoc(thing.__doc__).removesuffix("\n").endswith(doc), name
