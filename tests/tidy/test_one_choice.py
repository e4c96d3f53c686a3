"""Local or remote is decided in one place, and so is what a Python call makes of its arguments.

csrc/core/remote.h says whether memory is mapped. The files that ask stand below with what depends on the answer; a new
question needs a reason here. In dsmem._core a call of the core that moves data is made where the table says.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

READERS = {  # of the field itself: what makes it, and the functions that the others call
    "csrc/core/remote.h": "remote_is_mapped() and remote_at()",
    "csrc/core/many.c": "dsm_remotes.mapped: all of the parts are",
    "csrc/core/mapped_file.c": "makes a remote",
    "csrc/core/peers.c": "makes a remote",
    "csrc/agent/attach.c": "makes a remote",
    "csrc/agent/attach_many.c": "makes dsm_remotes",
    "csrc/objects/sync/handle.h": "handle_is_mapped() and handle_word()",
    "csrc/objects/sync/handle.c": "makes a handle",
}
OTHERS = {  # fields of the same name
    "csrc/core/region.c": "struct memory: bytes to unmap",
    "csrc/memory/host.c": "struct memory",
    "csrc/fabric/fault/device.c": "struct fabric_remote: maps nothing, so that each op can fail",
    "csrc/fabric/shm/region.c": "struct fabric_remote",
    "csrc/fabric/shm/io.c": "struct fabric_remote",
    "csrc/fabric/verbs/region.c": "struct memory",
}
QUESTIONS = {  # what depends on the answer
    "csrc/core/remote.h": "whether the owner has closed it is asked here, and whether a call waits",
    "csrc/core/ops.c": "an op is executed, or posted",
    "csrc/core/many.c": "the same for many of one size",
    "csrc/core/async.c": "whose waiters are woken when ops are stopped",
    "csrc/core/cache.c": "whether local buffers are registered",
    "csrc/core/remote.c": "the public address",
    "csrc/core/peers.c": "the address of a part",
    "csrc/agent/attach_many.c": "whether all parts are",
    "csrc/agent/attach.c": "whether a way for bulk is of use, and is one",
    "csrc/core/bulk.c": "where an op of a posting for bulk is executed",
    "csrc/objects/member.c": "whose identity it is, and whether the kernel is asked about a death or the owner",
    "csrc/objects/sure.c": "whether an outcome can be unknown",
    "csrc/objects/listen.c": "whether a thread is woken, or polls",
    "csrc/objects/segment/segment.h": "whether a thread is woken, or polls",
    "csrc/objects/segment/segment.c": "the same, and how long it spins; whether deaths are proven",
    "csrc/objects/segment/versions.c": "frames are copied in place, and the writer's death is proven",
    "csrc/objects/queue/queue.c": "the lane is written in place, and deaths are proven",
    "csrc/objects/queue/remote.c": "a part of the object that is written in place",
    "csrc/objects/sync/handle.c": "the address, for handle_is_mapped() and handle_word()",
    "csrc/store/store.c": "hints are kept; the ways to a page of mapped memory are shorter",
    "csrc/store/posting.c": "ops are executed at once; other threads may read meanwhile, and name no holder",
    "csrc/store/transaction.c": "the pages that were read are looked at again by each read",
    "csrc/store/place.c": "locks name a handle, which on mapped memory has no identity of its own",
    "csrc/store/client.c": "ops are executed or posted, and calls take turns",
    "csrc/store/many.c": "pages one after another, or a window of them",
}
CALLS = {  # of functions of the core that move data
    "remote.pxi": "Remote.move, move_many, add, swap: single ops; Pending: one op of an event loop",
    "batch.pxi": "batches",
    "pool.pxi": "Remotes.move: many parts",
    "segment.pxi": "atomics on mapped memory, without entering the remote a second time",
    "tasks.pxi": "a helper thread looks at an element, without the GIL",
}

FIELD = re.compile(r"(?:->|\.)mapped\b")
QUESTION = re.compile(r"\b(?:remote_is_mapped|dsm_remote_mapped)\(")
CALL = re.compile(
    r"\bc\.dsm_(?:read|write|read_many|write_many|fetch_add|compare_swap|execute|execute_as|submit|start|start_as"
    r"|remotes_read_many|remotes_write_many)\("
)


def found(pattern, texts):
    """The files in which the pattern is found, of a dict from names to texts."""
    return {name for name, text in texts.items() if pattern.search(re.sub(r"/\*.*?\*/", "", text, flags=re.S))}


def c_texts():
    return {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "csrc").rglob("*.[ch]")}


def core_texts():
    return {p.name: p.read_text() for p in (ROOT / "dsmem/_core").glob("*.px[i]")}


def test_only_a_few_files_read_the_field():
    assert found(FIELD, c_texts()) == {*READERS, *OTHERS}


def test_which_files_ask_whether_memory_is_mapped():
    assert found(QUESTION, c_texts()) - {"csrc/dsm/memory.h"} == set(QUESTIONS)


def test_which_files_call_the_core_to_move_data():
    assert found(CALL, core_texts()) == set(CALLS)


def test_another_file_is_found():
    texts = {"a.c": "return r->mapped;", "b.c": "/* r->mapped */ remote_is_mapped(r)", "c.pxi": "rc = c.dsm_read(p)"}
    assert found(FIELD, texts) == {"a.c"}
    assert found(QUESTION, texts) == {"b.c"}
    assert found(CALL, texts) == {"c.pxi"}
