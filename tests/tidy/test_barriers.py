"""Every barrier has a partner that can be found from either side.

A word that is stored with release order in csrc is loaded with acquire order somewhere, and the reverse. Words are told
apart by the name of the member. A read-modify-write counts as both. A comment that says what it pairs with names what
is there.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"\b(store_release|load_acquire|fetch_add|fetch_sub|exchange|compare_swap)_u(?:32|64)\(\s*([^,;()]*)")
COMMENT = re.compile(r"/\*.*?\*/", re.S)
PAIRS = re.compile(
    r"(?:pairs with|release:|acquire:)\s+(?:pairs with\s+)?(?:the (?:store_release|load_acquire)_\w+ of )?"
    r"(\S+?)[.,;:)]?(?=\s|\*/|$)"
)
# Words that lie in the user's memory: the partner is in another process's program.
OF_THE_USER = {"mapped_read", "mapped_write"}


def word(argument):
    """The member's name in '&g->pending', 'pending', 'r->state'."""
    names = re.findall(r"\w+", argument.split("->")[-1].split(".")[-1])
    return names[-1] if names else ""


def calls(texts):
    sides = {"store_release": {}, "load_acquire": {}}
    for name, text in texts.items():
        for function, body in re.findall(r"^[^\n{};#]*?\b(\w+)\([^{};]*\)\n\{\n(.*?)^\}", text, re.M | re.S):
            if function in OF_THE_USER:
                continue
            for kind, argument in CALL.findall(COMMENT.sub("", body)):
                for side in ("store_release", "load_acquire"):
                    if kind in (side, "fetch_add", "fetch_sub", "exchange", "compare_swap"):
                        sides[side].setdefault(word(argument), f"{name}: {function}")
    return sides


def lonely(texts):
    sides = calls(texts)
    found = [
        f"{where} stores {w} with release order, and nothing loads it with acquire order"
        for w, where in sides["store_release"].items()
        if w not in sides["load_acquire"]
    ]
    return found + [
        f"{where} loads {w} with acquire order, and nothing stores it with release order"
        for w, where in sides["load_acquire"].items()
        if w not in sides["store_release"]
    ]


def unknown_partners(texts):
    everything = "\n".join(COMMENT.sub("", t) for t in texts.values())
    found = []
    for name, text in texts.items():
        for comment in COMMENT.findall(text):
            for partner in PAIRS.findall(re.sub(r"\s*\n\s*\*?\s*", " ", comment)):
                identifier = re.split(r"->|\.", partner.rstrip("()"))[-1]
                if not re.search(rf"\b{re.escape(identifier)}\b", everything):
                    found.append(f"{name}: pairs with {partner}, which is not there")
    return found


def sources():
    return {
        str(p.relative_to(ROOT)): p.read_text() for p in sorted((ROOT / "csrc").rglob("*.[ch]")) if p.name != "atomic.h"
    }


def test_barriers_have_partners():
    assert lonely(sources()) == []


def test_comments_name_partners_that_are_there():
    assert unknown_partners(sources()) == []


GOOD = """static void a(struct s *x)
{
    store_release_u32(&x->flag, 1);
}

int b(struct s *x)
{
    return load_acquire_u32(&x->flag);
}
"""


def test_a_barrier_without_partner_is_found():
    assert lonely({"x.c": GOOD}) == []
    assert lonely({"x.c": GOOD.replace("load_acquire", "load_relaxed")})
    assert lonely({"x.c": GOOD.replace("store_release", "store_relaxed")})
    assert lonely({"x.c": GOOD.replace("load_acquire_u32(&x->flag", "load_acquire_u32(&x->other")})


@pytest.mark.parametrize(
    "comment", ["/* pairs with c(). */", "/* release: nothing; */", "/* pairs with the load_acquire_u32 of x->gone */"]
)
def test_a_partner_that_is_not_there_is_found(comment):
    assert unknown_partners({"x.c": comment + GOOD})


@pytest.mark.parametrize(
    "comment",
    [
        "/* pairs with b(). */",
        "/* release: a; acquire: b() here */",
        "/* pairs with the load_acquire_u32 of x->flag */",
    ],
)
def test_a_partner_that_is_there_is_not(comment):
    assert unknown_partners({"x.c": comment + GOOD}) == []
