"""Builds dsmem._core._core: the C core (csrc/) and its Cython layer in one extension module.

Environment: DSMEM_WERROR=1 makes warnings of the C core errors; DSMEM_VERBS=0 builds without verbs.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py

os.chdir(Path(__file__).parent)

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-pthread", "-fvisibility=hidden"]
CORE_FLAGS = ["-Wall", "-Wextra", *(["-Werror"] if os.environ.get("DSMEM_WERROR") == "1" else [])]
# Line numbers alone: with all that -g asks for, gcc needs twice the time and four times the memory for this one file.
CYTHON_FLAGS = ["-g1", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
TOOLS = """
dsmem is compiled when it is installed, and here is no {}. On Debian and Ubuntu, as root:
    apt-get update && apt-get install -y gcc libc6-dev python3-dev python3-venv
"""


def write_docstrings():
    """Write build/cython/docstrings.pxi: the docstrings of the stubs, for dsmem/_core/docs.pxi.

    A class whose constructor the stub has begins with its signature, as inspect.signature() expects it of C types.
    """
    found = {}
    for path in sorted(Path("dsmem/_core").glob("*.pyi")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            found[node.name] = ast.get_docstring(node)
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if not isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    continue
                if member.name in ("__init__", "__new__"):
                    found[node.name] = f"{signature(node.name, member)}\n--\n\n{found[node.name]}"
                elif ast.get_docstring(member):
                    found[f"{node.name}.{member.name}"] = ast.get_docstring(member)
    lines = [f"    {name!r}: {text!r},\n" for name, text in found.items() if text]
    target = Path("build/cython/docstrings.pxi")
    text = f"cdef dict DOCSTRINGS = {{\n{''.join(lines)}}}\n"
    if not target.exists() or target.read_text() != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def signature(name, function):
    """Of a class, by its constructor in the stub, without annotations and without the first argument."""
    arguments = function.args
    arguments.args = arguments.args[1:]
    for argument in (*arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    return f"{name}({ast.unparse(arguments)})"


class build_ext(_build_ext):
    """The core is compiled with all warnings, the C that Cython writes with those that it can keep.

    Cython runs only when something is compiled: not for metadata or a source distribution.
    """

    def build_extensions(self):
        if not self.has_header("stdint.h"):
            found = shutil.which(self.compiler.compiler[0])
            sys.exit(TOOLS.format("header of the C library (stdint.h)" if found else "C compiler"))
        if not self.has_header("Python.h"):
            sys.exit(TOOLS.format("Python.h, the header of this Python"))
        write_docstrings()
        compiled = cythonize([core], build_dir="build/cython", include_path=["build/cython"], language_level=3)
        core.sources = compiled[0].sources
        if os.environ.get("DSMEM_VERBS") != "0" and self.has_header("infiniband/verbs.h"):
            core.define_macros.append(("DSM_HAVE_VERBS", "1"))
        else:
            print("dsmem: built without verbs: no infiniband/verbs.h (package libibverbs-dev)", file=sys.stderr)
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):
            own = CORE_FLAGS if Path(src).parts[0] == "csrc" else CYTHON_FLAGS
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *own], pp_opts)

        self.compiler._compile = compile_with_flags
        super().build_extensions()

    def has_header(self, name):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "try.c")
            source.write_text(f"#include <{name}>\n")
            folders = [f"-I{folder}" for folder in self.compiler.include_dirs]
            command = [*self.compiler.compiler_so, *folders, "-fsyntax-only", str(source)]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except FileNotFoundError:  # the compiler itself
                return False


class build_py(_build_py):
    """Installs dsm.h, and what it includes, where dsmem.get_include() says."""

    HEADERS = ("dsm.h", "dsm/*.h", "base/err.def")

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for header in sorted(path for pattern in self.HEADERS for path in Path("csrc").glob(pattern)):
            target = Path(self.build_lib, "dsmem/include", header.relative_to("csrc"))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(header), str(target))


core = Extension(
    "dsmem._core._core",
    sources=["dsmem/_core/_core.pyx", *sorted(map(str, Path("csrc").rglob("*.c")))],
    depends=sorted(
        str(p) for pattern in ("csrc/**/*.h", "csrc/**/*.def", "dsmem/_core/*.p[xy][di]") for p in Path().glob(pattern)
    ),
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    libraries=["dl", "rt"],
)

setup(
    ext_modules=[core],
    cmdclass={"build_ext": build_ext, "build_py": build_py},
)
