"""A process of the tests: attaches to an object and evaluates what comes in on its standard input."""

import os
import pickle
import sys
import threading
import time

import dsmem

ref, fabric, secret = pickle.loads(bytes.fromhex(sys.argv[1]))
context = dsmem.Context(fabric, secret=secret) if fabric else None
obj = dsmem.attach(ref, context)
names = {"obj": obj, "context": context, "dsmem": dsmem, "os": os, "time": time, "threading": threading}


def say(good, value):
    pickle.dump((good, value), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def run(text):
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


say(True, None)
while True:
    try:
        text = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    say(*run(text))
os._exit(0)
