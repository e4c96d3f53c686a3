"""Builds dsmem._core._core: the C core (csrc/) and its Cython layer in one extension module.

Environment: DSMEM_WERROR=1 makes warnings of the C core errors; DSMEM_VERBS=0 builds without verbs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext

os.chdir(Path(__file__).parent)

FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-D_GNU_SOURCE", "-O3", "-pthread", "-fvisibility=hidden"]
CORE_FLAGS = ["-Wall", "-Wextra", *(["-Werror"] if os.environ.get("DSMEM_WERROR") == "1" else [])]
CYTHON_FLAGS = ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]


class build_ext(_build_ext):
    """The core is compiled with all warnings, the C that Cython writes with those that it can keep."""

    def build_extensions(self):
        if os.environ.get("DSMEM_VERBS") != "0" and self.has_header("infiniband/verbs.h"):
            self.extensions[0].define_macros.append(("DSM_HAVE_VERBS", "1"))
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
            command = [*self.compiler.compiler_so, "-fsyntax-only", str(source)]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0


core = Extension(
    "dsmem._core._core",
    sources=["dsmem/_core/_core.pyx", *sorted(map(str, Path("csrc").rglob("*.c")))],
    depends=sorted(
        str(p) for pattern in ("csrc/**/*.h", "csrc/**/*.def", "dsmem/_core/*.px[di]") for p in Path().glob(pattern)
    ),
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    libraries=["dl", "rt"],
)

setup(
    ext_modules=cythonize([core], build_dir="build/cython", language_level=3),
    cmdclass={"build_ext": build_ext},
)
