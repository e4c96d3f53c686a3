"""NumPy dtypes in the header of a segment: written as a Python literal, and read back as exactly the same dtype.

A dtype that can't be represented is refused when a segment is created: Python objects, types of unknown extensions,
metadata.
"""

from __future__ import annotations

import ast
import importlib
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dsmem import _core, errors

_dtype: Any = np.dtype  # for arguments that its overloads do not list
_KINDS = "?biufcmMSUV"
_EXTENSION = "ml_dtypes"  # NumPy's type strings give only the size of its types (bfloat16, float8_e4m3fn …)


def dtype_of(dtype: DTypeLike | None) -> np.dtype[Any]:
    """numpy.dtype(dtype), or InvalidArgumentError if NumPy refuses it."""
    try:
        return np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise _core.refused(dtype, (str, tuple, list, dict), f"dtype={dtype!r}: {error}") from None


def describe_dtype(dtype: DTypeLike) -> bytes:
    """Return a dtype as it is written into a segment's header.

    Raises
    ------
    InvalidArgumentError
        The dtype has Python objects, or anything else that means nothing in another process or would be lost.
    """
    kind = dtype_of(dtype)
    if kind.hasobject or kind.kind not in _KINDS or not kind.itemsize:
        why = f"dtype {kind} means nothing in another process, or has no size"
        raise _core.refused(dtype, () if kind.hasobject else object, why)
    text = repr(_described(kind)).encode("ascii", "backslashreplace")
    if not _same(kind, parse_dtype(text)):
        raise errors.InvalidArgumentError(f"dtype {kind!r} can't be written into a segment's header")
    return text


def parse_dtype(text: bytes) -> np.dtype[Any]:
    """Return the dtype that a header names.

    Raises
    ------
    CorruptError
        The text does not name a dtype.
    UnsupportedError
        It is a dtype of ml_dtypes, which is not installed here.
    """
    try:
        kind = _parsed(ast.literal_eval(text.decode("ascii")))
    except errors.UnsupportedError:
        raise
    except Exception as error:
        raise errors.CorruptError(f"{text[:80]!r} is not a dtype: {error}") from None
    if kind.hasobject:
        raise errors.CorruptError(f"dtype {kind} in shared memory")
    return kind


def _described(kind: np.dtype[Any]) -> Any:
    if kind.metadata:
        raise errors.InvalidArgumentError(f"dtype {kind} has metadata, which a segment can't keep: {kind.metadata}")
    if kind.subdtype is not None:
        base, shape = kind.subdtype
        return _described(base), shape
    if kind.names is None:
        return _simple(kind)
    if kind.type not in (np.void, np.record):
        raise errors.InvalidArgumentError(f"dtype {kind}: elements of {kind.type} are made in no other process")
    fields: list[Any] = [kind.fields[name] for name in kind.names]  # type: ignore[index]
    names = [(field[2], name) if len(field) > 2 else name for name, field in zip(kind.names, fields, strict=True)]
    formats = [_described(field[0]) for field in fields]
    packed = [(name, *one) if isinstance(one, tuple) else (name, one) for name, one in zip(names, formats, strict=True)]
    if _same(kind, _parsed(packed)):
        return packed
    whole: dict[str, Any] = {"names": list(kind.names), "formats": formats, "offsets": [field[1] for field in fields]}
    if any(isinstance(name, tuple) for name in names):
        whole["titles"] = [name[0] if isinstance(name, tuple) else None for name in names]
    whole["itemsize"] = kind.itemsize
    if kind.isalignedstruct:
        whole["aligned"] = True
    if kind.type is np.record:
        whole["record"] = True
    return whole


def _simple(kind: np.dtype[Any]) -> str:
    if kind.isbuiltin != 2:
        return str(kind.str)
    name = f"{_EXTENSION}.{kind.name}"  # isbuiltin == 2: registered by an extension
    if kind.type.__module__.partition(".")[0] != _EXTENSION or _parsed(name) != kind:
        raise errors.InvalidArgumentError(f"dtype {kind} of {kind.type.__module__}: only {_EXTENSION} is known")
    return name


def _parsed(what: Any) -> np.dtype[Any]:
    if isinstance(what, str):
        package, dot, name = what.partition(".")
        return _of_extension(name) if package == _EXTENSION and dot else np.dtype(what)
    if isinstance(what, tuple):
        base, shape = what
        return np.dtype((_parsed(base), shape))
    if isinstance(what, dict):
        whole = {key: value for key, value in what.items() if key not in ("aligned", "record")}
        whole["formats"] = [_parsed(one) for one in what["formats"]]
        kind: np.dtype[Any] = _dtype(whole, align=bool(what.get("aligned")))
        return np.dtype((np.record, kind)) if what.get("record") else kind
    fields: dict[str, Any] = {"names": [], "formats": [], "offsets": [], "titles": [], "itemsize": 0}
    for name, *one in what:
        format = _parsed(one[0] if len(one) == 1 else tuple(one))
        if name != "":  # an empty name stands for padding, as in numpy.lib.format
            title, key = name if isinstance(name, tuple) else (None, name)
            fields["names"].append(key)
            fields["formats"].append(format)
            fields["offsets"].append(fields["itemsize"])
            fields["titles"].append(title)
        fields["itemsize"] += format.itemsize
    made: np.dtype[Any] = _dtype(fields)
    return made


def _of_extension(name: str) -> np.dtype[Any]:
    try:
        made: np.dtype[Any] = _dtype(getattr(importlib.import_module(_EXTENSION), name))
        return made
    except ImportError:
        raise errors.UnsupportedError(f"the dtype {name} of the segment: pip install {_EXTENSION}") from None


def _same(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether two dtypes are equal, also in what dtype equality ignores: scalar type and align flag, at all levels."""
    if one != other or one.type is not other.type or one.isalignedstruct != other.isalignedstruct:
        return False
    if one.subdtype is not None and other.subdtype is not None:
        return _same(one.subdtype[0], other.subdtype[0])
    return all(_same(one[name], other[name]) for name in one.names or ())
