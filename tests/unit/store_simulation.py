"""The simulation of clients of a store (tests/c/test_store_sim.c), built with and without a planted bug.

store_simulation.py COPIES SEED: says the smallest world that shows what this seed shows.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
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


def seeds(program, copies, first, number, *more):
    command = [program, str(copies), str(first), str(number), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


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


# ---- the smallest world that shows a fault ----

CLIENTS, STEPS, SEEDS = 5, 6000, 300
HAPPENINGS = ("epochs", "deaths", "stops", "cuts", "losses", "interrupts", "transactions", "frees")


@dataclass(frozen=True)
class World:
    """Of which seed, with how many clients and steps, and what does not happen there."""

    copies: str
    seed: int
    clients: int = CLIENTS
    steps: int = STEPS
    without: tuple[str, ...] = ()

    @property
    def words(self):
        without = [f"without={','.join(self.without)}"] if self.without else []
        return [f"clients={self.clients}", f"steps={self.steps}", *without]

    def __str__(self):
        return " ".join([self.copies, str(self.seed), "1", *self.words, "traced"])


def shown(program, world, number=1):
    """What is wrong in the first of these worlds in which anything is, without its numbers; its seed; and the step."""
    done = seeds(program, world.copies, world.seed, number, *world.words)
    found = re.match(r"seed (\d+), step (\d+): (.*)", done.stdout)
    if found is None:
        assert done.stdout == "ok\n", done.stdout + done.stderr
        return None
    seed, step, what = found.groups()
    return re.sub(r"\d+|page [0-9a-f]+", "", what), int(seed), int(step)


def smallest(program, world):
    """The same fault, with fewer clients, as little that happens as possible, and as few steps as the seeds offer."""
    first = shown(program, world)
    if first is None:
        raise SystemExit(f"seed {world.seed} shows nothing")
    what = first[0]

    def tried(other):
        nonlocal world
        for seed, number in ((world.seed, 1), (1, SEEDS)):
            found = shown(program, replace(other, seed=seed), number)
            if found is not None and found[0] == what:
                world = replace(other, seed=found[1], steps=min(other.steps, found[2] + 1))
                return True
        return False

    tried_all = False
    while not tried_all:
        before = world
        for happening in HAPPENINGS:
            if happening not in world.without:
                tried(replace(world, steps=STEPS, without=(*world.without, happening)))
        for clients in range(1, world.clients):
            if tried(replace(world, steps=STEPS, clients=clients)):
                break
        tried_all = (world.clients, world.without) == (before.clients, before.without)
    while world.steps > 1 and tried(replace(world, steps=world.steps * 3 // 4)):
        pass
    return what, world


def main():
    with tempfile.TemporaryDirectory() as folder:
        program = linked(built(Path(folder)), Path(folder) / "simulation")
        print(*smallest(program, World(sys.argv[1], int(sys.argv[2]))), sep="\n")


if __name__ == "__main__":
    main()
