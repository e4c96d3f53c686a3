"""docs/SUPPORT.md has the versions of what is shared as the sources have them, and the Pythons as the metadata has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPPORT = (ROOT / "docs/SUPPORT.md").read_text()

# The first words of a row of the table, and where the sources have the number.
SOURCES = {
    "descriptor": ("csrc/core/descriptor.c", r"\bVERSION = (\d+)"),
    "control stream": ("csrc/agent/protocol.h", r"\bPROTOCOL_VERSION = (\d+)"),
    "region on shm": ("csrc/fabric/shm/shm.h", r"\bSHM_VERSION = (\d+)"),
    "objects": ("csrc/objects/object.h", r"\bOBJECT_VERSION = (\d+)"),
    "store": ("csrc/store/layout.h", r"\bSTORE_FORMAT = (\d+)"),
    "names": ("dsmem/names/wire.py", r"^VERSION = (\d+)"),
    "coordinator's state": ("dsmem/membership/state.py", r"^VERSION = (\d+)"),
    "rendezvous": ("dsmem/cli/rendezvous.py", r'MAGIC = b"DSMB\\x0(\d)'),
}


def stated(text):
    """Of each row of the table of versions its number."""
    rows = re.findall(r"^\| ([a-z][^|]*?) \| [^|]* \| (\d+) \|", text, re.MULTILINE)
    return {name: int(number) for row, number in rows for name in SOURCES if row.startswith(name)}


def in_sources():
    found = {}
    for name, (path, pattern) in SOURCES.items():
        (number,) = re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE)
        found[name] = int(number)
    return found


def test_versions_are_those_of_the_sources():
    assert stated(SUPPORT) == in_sources()


@pytest.mark.parametrize("name", SOURCES)
def test_another_version_is_noticed(name):
    number = in_sources()[name]
    changed = re.sub(rf"^(\| {name}[^|]*\| [^|]* \| ){number} \|", rf"\g<1>{number + 1} |", SUPPORT, flags=re.MULTILINE)
    assert stated(changed) != in_sources()


def test_pythons_are_those_of_the_metadata():
    metadata = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', metadata)
    built = re.search(r'^build = "(.*)"', metadata, re.MULTILINE)[1]
    assert [f"cp{version.replace('.', '')}-*" for version in named] == built.split()
    assert f'requires-python = ">={named[0]}"' in metadata
    assert f"CPython {named[0]} to {named[-1]} " in SUPPORT
