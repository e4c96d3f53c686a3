"""Ctrl-C in the midst of making an object: there is no line of Python in there that it could interrupt."""

import sys

import pytest

import dsmem


@pytest.mark.parametrize("call", ["attach", "allocate", "register_many"])
def test_nothing_to_interrupt(fabric, call):
    """A handler raises where the interpreter runs Python. Between the core's answer and the object there is none."""
    if call == "register_many" and "verbs" not in fabric:
        pytest.skip("only verbs registers private memory")
    called = []

    def profile(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name)

    with dsmem.Context(fabric) as owner, owner.allocate(4096) as region, dsmem.Context(fabric) as peer:
        argument = {
            "attach": region.descriptor,
            "allocate": 4096,
            "register_many": [bytearray(100) for _ in range(3)],
        }[call]
        method = getattr(peer, call)
        sys.setprofile(profile)
        try:
            made = method(argument)
        finally:
            sys.setprofile(None)
        assert called == []
        for one in made if isinstance(made, list) else [made]:
            one.close()
