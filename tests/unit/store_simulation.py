"""The simulation of clients of a store (tests/c/test_store_sim.c), built with and without a planted bug."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    name: ROOT / "csrc" / folder / f"{name}.c"
    for folder, names in {
        "store": [
            "layout",
            "page",
            "chunk",
            "freed",
            "allocate",
            "put",
            "resolve",
            "record",
            "commit",
            "recover",
            "doubt",
        ],
        "base": ["xxh3", "error"],
    }.items()
    for name in names
}
FILES = {**SOURCES, "simulation": ROOT / "tests/c/test_store_sim.c"}


def compiled(*arguments):
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-w", "-Icsrc"]
    done = subprocess.run(["gcc", *flags, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def seeds(program, copies, first, number):
    return subprocess.run(
        [program, str(copies), str(first), str(number)], capture_output=True, text=True, check=False, timeout=500
    )


def built(folder):
    """Compile what a program is linked of, and return the folder."""
    for name, source in FILES.items():
        compiled("-c", source, "-o", folder / f"{name}.o")
    return folder


def linked(objects, target, planted=None):
    others = [objects / f"{name}.o" for name in FILES if name != planted]
    compiled(*others, *([target.with_suffix(".o")] if planted else []), "-o", target)
    return target


def planted(objects, tmp_path, name, old, new):
    text = FILES[name].read_text()
    assert text.count(old) == 1, f"{FILES[name].name} has changed: plant another bug here"
    copy = tmp_path / f"planted-{name}.c"
    copy.write_text(text.replace(old, new))
    compiled(f"-iquote{FILES[name].parent}", "-c", copy, "-o", tmp_path / "planted.o")
    return linked(objects, tmp_path / "planted", name)


def check_seen(objects, tmp_path, what, copies, number):
    """Plant a bug (file, what stands there, what stands there instead), and see one of the first seeds fail."""
    done = seeds(planted(objects, tmp_path, *what), copies, 1, number)
    assert done.returncode == 1 and done.stdout.startswith("seed "), done.stdout + done.stderr
