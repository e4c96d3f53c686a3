# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""The Cython layer: buffers in, one call of the core without the GIL where it may block, exceptions out.

Threads: every object may be used from many threads; handle.pxi describes what keeps it open meanwhile. Local ops on up
to NOGIL_FROM bytes keep the GIL: releasing it would be a considerable part of their time, and other threads wait for a
few microseconds only.
"""
cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release,
    PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytearray cimport PyByteArray_CheckExact
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.memoryview cimport PyMemoryView_Check
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED, PyLockStatus, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.slice cimport PySlice_AdjustIndices
from cpython.unicode cimport PyUnicode_AsUTF8
from cpython.weakref cimport PyWeakref_NewRef
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from numpy cimport (
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE, NPY_CLONGDOUBLE, PyArray_BASE, PyArray_CheckExact,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_FLAGS, PyArray_NBYTES, PyArray_NDIM, PyArray_TYPE, import_array,
    ndarray,
)
from posix.fcntl cimport O_CLOEXEC, open as posix_open
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close as posix_close, getpid

from dsmem._core cimport libdsm as c

import asyncio
import atexit
import contextlib
import fcntl
import json
import logging
import math
import os
import sys
import threading
import time
import warnings
from _thread import start_new_thread
from collections import deque, namedtuple
from collections.abc import Sequence
from operator import index
from threading import get_ident, main_thread

import numpy as np

from dsmem import errors

import_array()

cdef extern from "Python.h" nogil:
    unsigned long PyThread_get_thread_ident()
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)

cdef extern from "Python.h":
    int Py_AddPendingCall(int (*call)(void *) except -1, void *argument)
    # Without a try block, which costs as much as these: a negative result means that raise_set() raises the exception.
    int fill_buffer "PyObject_GetBuffer"(object buffer, Py_buffer *view, int flags) noexcept
    int unpack_slice "PySlice_Unpack"(object index, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) noexcept

cdef extern from *:
    """
    static int dsmem_raise_set(void) { return -1; }
    """
    int raise_set "dsmem_raise_set"() except -1

cdef enum:
    NOGIL_FROM = 65536
    BATCH_START = 64
    SPIN_NS = 20_000       # how long a waiter polls before it sleeps, by default
    SLICE_NS = 50_000_000  # how long a wait lasts before it checks for signals

cdef dict RIGHTS = {"r": c.DSM_READ, "w": c.DSM_WRITE, "a": c.DSM_ATOMIC}
cdef tuple LETTERS = tuple("".join(k for k, v in RIGHTS.items() if bits & v) for bits in range(8))
cdef tuple DOMAINS = ("cpu", "nic", "global", "none")


def options_of(uint32_t number):
    cdef list keys = []
    while c.dsm_fabric_option(number, len(keys)) != NULL:
        keys.append(c.dsm_fabric_option(number, len(keys)).decode())
    return tuple(keys)


FABRICS = {n: c.dsm_fabric_name(n).decode() for n in range(1, 256) if c.dsm_fabric_name(n) != NULL}
OPTIONS = {name: options_of(n) for n, name in FABRICS.items()}

include "values.pxi"
include "handle.pxi"
include "context.pxi"
include "cache.pxi"
include "region.pxi"
include "remote.pxi"
include "pool.pxi"
include "batch.pxi"
include "slot.pxi"
include "queue.pxi"
include "messages.pxi"
include "waits.pxi"
include "sync.pxi"
include "semaphores.pxi"
include "layout.pxi"
include "arrays.pxi"
include "segment.pxi"
include "changes.pxi"
include "writing.pxi"
include "event.pxi"
include "condition.pxi"
include "barrier.pxi"
include "once.pxi"
include "tasks.pxi"
include "queue_tasks.pxi"
include "clock.pxi"
include "store_memory.pxi"
include "store_counts.pxi"
include "store.pxi"
include "store_look.pxi"
include "store_rest.pxi"
include "store_tasks.pxi"
include "store_fill.pxi"
include "transaction.pxi"
include "service.pxi"
include "file.pxi"

c.dsm_set_interrupt(look_for_signals)


def check_fabric(str text):
    cdef bytes spec = text.encode()
    cdef int rc = c.dsm_fabric_check(spec)
    if rc:
        raise error_from_core(rc, "the fabric")


def probe(str fabric):
    cdef bytes name = fabric.encode()
    cdef const char *p = name
    cdef int rc
    with nogil:
        rc = c.dsm_probe(p)
    if rc:
        raise error_from_core(rc, "probe")


def inventory(str fabric):
    cdef bytes name = fabric.encode()
    cdef size_t room = 65536
    cdef char *text = <char *> malloc(room)
    cdef const char *p = name
    cdef int rc
    if not text:
        raise error_of(c.DSM_ENOMEM, "inventory")
    try:
        with nogil:
            rc = c.dsm_inventory(p, text, room)
        if rc < 0:
            raise error_from_core(rc, "inventory")
        return json.loads(text[:rc])
    finally:
        free(text)


def error_rows():
    cdef size_t n, i
    cdef const c.dsm_error_row *rows = c.dsm_error_rows(&n)
    return [(rows[i].code, rows[i].name.decode(), rows[i].py_class.decode(), rows[i].py_base.decode(),
             rows[i].text.decode()) for i in range(n)]


def hmac_sha256(bytes key, bytes message):
    cdef uint8_t out[32]
    cdef const char *k = key
    cdef const char *m = message
    c.dsm_hmac_sha256(k, len(key), m, len(message), out)
    return (<char *> out)[:32]


def identity():
    cdef uint64_t own = 0
    cdef int rc = c.dsm_identity(&own)
    if rc:
        raise error_from_core(rc, "identity")
    return own


def identity_provable():
    cdef int rc = c.dsm_identity_provable()
    if rc:
        raise error_from_core(rc, "identity")


def identity_dead(uint64_t identity):
    return bool(c.dsm_identity_dead(identity))


def identity_pid(uint64_t identity):
    return c.dsm_identity_pid(identity)


include "docs.pxi"
