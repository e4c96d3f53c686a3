"""An exception at each bytecode of a call in turn, as a signal handler may raise it there."""

import sys
from pathlib import Path

PACKAGE = str(Path(__file__).parents[2] / "dsmem")


class Interrupt(BaseException):
    """What the handler raises."""


def interrupted_at(number, call):
    """Run call and raise at bytecode ``number`` of it and of what it calls in dsmem; False: it ended before."""
    left, raised = number, False

    def trace(frame, event, argument):
        nonlocal left, raised
        if frame.f_code is not call.__code__ and not frame.f_code.co_filename.startswith(PACKAGE):
            # the standard library's own lines are left out, but not what they call
            return trace if event == "call" else None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raised = True
                sys.settrace(None)
                raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        pass
    finally:
        sys.settrace(None)
    return raised


def sweep(call, check, least, stride=1):
    """Interrupt call at each of its bytecodes; check looks after each that nothing is left and all can be done again.

    Any exception but the interrupt itself that comes out of call fails the test.
    """
    number = 1
    while interrupted_at(number, call):
        try:
            check()
        except BaseException as error:
            raise AssertionError(f"after an exception at bytecode {number}: {error!r}") from error
        number += stride
    check()
    assert number >= least, f"only {number} bytecodes"
