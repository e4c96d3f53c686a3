"""Sources and documents use the field's terms: words that only this project once used do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {
    "afar|nearby": "remote, local, on this host",
    "(?:a|an|by|of|the) far|near and far|far (?:memory|holder|handle|permits)": "remote",
    "bells?": "eventcount",
    "anew": "again",
    "for ever": "forever",
    "mend(?:s|ed|ing)?": "fix",
    "nudg(?:e|es|ed|ing)|kick(?:s|ed|ing)?": "wake",
    "news": "owner_died, recovered",
    "patience": "timeout",
    "seams?": "interface",
    "shake": "handshake",
    "strangers?": "unauthenticated connection or client",
    "scribbl(?:e|es|ed|er|ing)": "overwrite, corrupt",
    "leftovers?": "what is stale",
    "nobody|somebody|anybody|everybody|whoever": "no process, another thread, every user, the caller that",
    "(?<!user )(?<!users )(?<!person )(?<!says )who(?! must trust)|(?<!trust )(?<!users to )whom": "the process that",
    "makes no sense": "is invalid",
    "in good order": "normally",
}
WORD = re.compile(rf"\b(?:{'|'.join(OURS)})\b", re.I)
FOLDERS = ("csrc", "dsmem", "docs", "ci", "bench", "examples", "tests")
SUFFIXES = {".c", ".h", ".def", ".py", ".pyi", ".pyx", ".pxd", ".pxi", ".pml", ".md", ".rst", ".sh", ""}


def found(text):
    return [match[0] for match in WORD.finditer(text.replace("_", " "))]


def files():
    yield from ROOT.glob("*.md")
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            is_text = path.suffix in SUFFIXES and path.is_file() and "__pycache__" not in path.parts
            is_ours = path.name in ("fresh", "roots.sh")  # 'stranger' is a user there
            if is_text and path != Path(__file__) and not is_ours:
                yield path


def test_the_fields_terms():
    wrong = {str(p.relative_to(ROOT)): sorted(set(found(p.read_text()))) for p in files()}
    assert {name: words for name, words in wrong.items() if words} == {}


@pytest.mark.parametrize(
    "text",
    [
        "a lock from afar",
        "/* rings the bell */",
        "test_a_mended_lock",
        "looks anew",
        "whoever holds it",
        "a process who holds it",
        "a far holder",
        "drops strangers",
    ],
)
def test_a_word_of_ours_is_found(text):
    assert found(text)
    assert not found(
        "recommend a remote lock; label, doorbell_first; how far; users who do not trust each other; handshake"
    )
