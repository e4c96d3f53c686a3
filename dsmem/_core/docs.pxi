# Docstrings; _core.pyx includes this file last. The stubs (*.pyi) are the only source of docstrings, so that editors,
# type checkers and help() show the same text. setup.py writes DOCSTRINGS from them.

include "docstrings.pxi"

cdef extern from "Python.h":
    ctypedef struct getset "PyGetSetDef":
        const char *doc
    ctypedef struct getset_descriptor "PyGetSetDescrObject":
        getset *d_getset
    ctypedef struct type_object "PyTypeObject":
        const char *tp_doc
        unsigned long tp_flags
    const unsigned long Py_TPFLAGS_HEAPTYPE

cdef type GETSET = type(Remote.nbytes)


cdef int describe(object thing, str text) except -1:
    """Set the docstring of a class, a property, a method or a function.

    The docstrings of static types and of their properties are C strings that Python code cannot set. DOCSTRINGS owns
    the text.
    """
    if isinstance(thing, type) and not (<type_object *> thing).tp_flags & Py_TPFLAGS_HEAPTYPE:
        (<type_object *> thing).tp_doc = PyUnicode_AsUTF8(text)
    elif isinstance(thing, GETSET):
        (<getset_descriptor *> thing).d_getset.doc = PyUnicode_AsUTF8(text)
    else:
        getattr(thing, "__func__", thing).__doc__ = text
    return 0


cdef int describe_all() except -1:
    cdef dict names = globals()
    for name, text in DOCSTRINGS.items():
        cls, _, attribute = name.partition(".")
        thing = names[cls]
        describe(vars(thing)[attribute] if attribute else thing, text)
    return 0


describe_all()
