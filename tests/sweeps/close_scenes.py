"""Program of test_close.py: closes a handle in the midst of every public method of its class. One class per run.

Each scene is named on stdout before it begins, so that a crash is that of the last line. Anything that comes out but a
result or an exception of dsmem is printed as FAULT.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import sys
import threading

import numpy as np
from close_table import OTHERS, ROWS, TYPES, Call, Float, Index, Items, Memory, Object, Other, makers

from dsmem import errors

faulthandler.enable()


class Strike:
    """Tries to close the handle, and what it stands on."""

    def __init__(self, closers):
        self.closers = closers

    def __call__(self):
        for close in self.closers:
            with contextlib.suppress(errors.DsmemError):
                close()


class _Index:
    def __init__(self, strike, value):
        self.strike, self.value = strike, value

    def __index__(self):
        self.strike()
        return self.value


class _Float:
    def __init__(self, strike, value):
        self.strike, self.value = strike, value

    def __float__(self):
        self.strike()
        return self.value


class _Memory:
    def __init__(self, strike, value):
        self.strike, self.value = strike, np.frombuffer(bytearray(value), "u1")

    def __dlpack__(self, **options):
        self.strike()
        return self.value.__dlpack__(**options)

    def __array__(self, *args, **named):
        self.strike()
        return self.value

    def __dlpack_device__(self):
        return (1, 0)


class _Object:
    def __init__(self, strike, value):
        self.strike, self.value = strike, value

    def __reduce__(self):
        self.strike()
        return int, (self.value,)


def argument(one, strike):
    """The argument as it is meant, or one whose conversion strikes."""
    if isinstance(one, Index):
        return _Index(strike, one.value) if strike else one.value
    if isinstance(one, Float):
        return _Float(strike, one.value) if strike else one.value
    if isinstance(one, Memory):
        return _Memory(strike, one.value) if strike else bytearray(one.value)
    if isinstance(one, Items):
        return (strike() or item for item in one.value) if strike else list(one.value)
    if isinstance(one, Object):
        return _Object(strike, one.value) if strike else one.value
    if isinstance(one, Other):
        return OTHERS[one.name]
    if isinstance(one, Call):
        return lambda *args: (strike and strike()) or one.value
    return one


async def play_in_loop(handle, name, args):
    if name == "async with":
        async with handle:
            return None
    return await getattr(handle, name)(*args)


async def play_for_a_while(handle, name, args, seconds):
    """Some of them wait without a limit for what never comes."""
    with contextlib.suppress(asyncio.TimeoutError):
        return await asyncio.wait_for(play_in_loop(handle, name, args), seconds)


def play(handle, name, args, seconds=0.05):
    """The method, property or context manager, and what it returns. A block that it makes is entered and left."""
    if name.startswith("async") or name.endswith("_async"):
        return asyncio.run(play_for_a_while(handle, name, args, seconds))
    if name == "with":
        with handle:
            return None
    what = getattr(handle, name)
    if not callable(what):
        return what
    made = what(*args)
    if hasattr(made, "__enter__") and not isinstance(made, memoryview) and not hasattr(made, "close"):
        with made:
            return None
    return made


def scene(where, kind, name, row, attack):
    """One call during which the handle is closed."""
    make = makers(where)[kind]
    with contextlib.ExitStack() as stack:
        handle, closers = make(stack)
        strike = Strike(closers)
        stop, thread = threading.Event(), None
        if attack == "thread":

            def run():
                while not stop.is_set():
                    strike()
                    stop.wait(0.0005)

            thread = threading.Thread(target=run)
            thread.start()
        elif attack == "signal":
            signal.signal(signal.SIGALRM, lambda *_: strike())
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            args = [argument(one, strike if attack == i else None) for i, one in enumerate(row)]
            try:
                play(handle, name, args)
            except errors.DsmemError:
                pass
            except Exception as error:
                print(f"FAULT {type(error).__name__}: {error}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stop.set()
            if thread:
                thread.join()
            with contextlib.suppress(errors.DsmemError):
                strike()


def main():
    where, kind, stride = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = 0
    for name, row in ROWS[kind].items():
        attacks = ["thread", "signal"] + [i for i, one in enumerate(row) if isinstance(one, TYPES)]
        for attack in attacks:
            count += 1
            if isinstance(attack, str) and count % stride:
                continue
            print(f"{kind}.{name} {attack}", flush=True)
            with contextlib.suppress(errors.DsmemError):  # of leaving what was struck
                scene(where, kind, name, row, attack)
    print("through", flush=True)


if __name__ == "__main__":
    main()
