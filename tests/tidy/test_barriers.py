"""Every barrier has a partner that can be found from either side.

A word that is published somewhere in csrc is observed somewhere, and the other way round; words are told apart by the
name of the member. A read-modify-write counts as both. A comment that says what it pairs with names what is there.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"\b(publish|observe|fetch_add|fetch_sub|exchange|compare_swap)_u(?:32|64)\(\s*([^,;()]*)")
COMMENT = re.compile(r"/\*.*?\*/", re.S)
PAIRS = re.compile(
    r"(?:pairs with|publish:|observe:)\s+(?:pairs with\s+)?(?:the (?:publish|observe)_\w+ of )?"
    r"(\S+?)[.,;:)]?(?=\s|\*/|$)"
)
# Words that lie in the user's memory: the partner is in another process's program.
OF_THE_USER = {"near_read", "near_write"}


def word(argument):
    """The member's name in '&g->pending', 'pending', 'r->state'."""
    names = re.findall(r"\w+", argument.split("->")[-1].split(".")[-1])
    return names[-1] if names else ""


def calls(texts):
    sides = {"publish": {}, "observe": {}}
    for name, text in texts.items():
        for function, body in re.findall(r"^[^\n{};#]*?\b(\w+)\([^{};]*\)\n\{\n(.*?)^\}", text, re.M | re.S):
            if function in OF_THE_USER:
                continue
            for kind, argument in CALL.findall(COMMENT.sub("", body)):
                for side in ("publish", "observe"):
                    if kind in (side, "fetch_add", "fetch_sub", "exchange", "compare_swap"):
                        sides[side].setdefault(word(argument), f"{name}: {function}")
    return sides


def lonely(texts):
    sides = calls(texts)
    found = [
        f"{where} publishes {w}, nobody observes it"
        for w, where in sides["publish"].items()
        if w not in sides["observe"]
    ]
    return found + [
        f"{where} observes {w}, nobody publishes it"
        for w, where in sides["observe"].items()
        if w not in sides["publish"]
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
    publish_u32(&x->flag, 1);
}

int b(struct s *x)
{
    return observe_u32(&x->flag);
}
"""


def test_a_barrier_without_partner_is_found():
    assert lonely({"x.c": GOOD}) == []
    assert lonely({"x.c": GOOD.replace("observe", "peek")})
    assert lonely({"x.c": GOOD.replace("publish", "note")})
    assert lonely({"x.c": GOOD.replace("observe_u32(&x->flag", "observe_u32(&x->other")})


@pytest.mark.parametrize(
    "comment", ["/* pairs with c(). */", "/* publish: nothing; */", "/* pairs with the observe_u32 of x->gone */"]
)
def test_a_partner_that_is_not_there_is_found(comment):
    assert unknown_partners({"x.c": comment + GOOD})


@pytest.mark.parametrize(
    "comment",
    ["/* pairs with b(). */", "/* publish: a; observe: b() here */", "/* pairs with the observe_u32 of x->flag */"],
)
def test_a_partner_that_is_there_is_not(comment):
    assert unknown_partners({"x.c": comment + GOOD}) == []
