"""A process of the tests: attaches to an object and evaluates what comes in on its pipe."""

import os
import threading
import time

import dsmem


def run(text, names):
    try:
        return True, eval(text, names)
    except SyntaxError:
        pass
    except BaseException as error:
        return False, error
    try:
        exec(text, names)
    except BaseException as error:
        return False, error
    return True, None


def main(pipe, ref, fabric, secret):
    context = dsmem.Context(fabric, secret=secret) if fabric else None
    obj = dsmem.attach(ref, context)
    names = {"obj": obj, "context": context, "dsmem": dsmem, "os": os, "time": time, "threading": threading}
    pipe.send((True, None))
    while True:
        try:
            text = pipe.recv()
        except EOFError:
            break
        pipe.send(run(text, names))
    os._exit(0)
