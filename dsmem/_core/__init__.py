"""The Cython layer over the C core: one class per handle of dsm.h, one crossing per call, no policy."""

from ._core import (
    Batch,
    Capabilities,
    Context,
    Descriptor,
    Region,
    Remote,
    Result,
    error_rows,
    hmac_sha256,
    inventory,
    map_file,
    object_type,
    probe,
    process_start,
)

__all__ = [
    "Batch",
    "Capabilities",
    "Context",
    "Descriptor",
    "Region",
    "Remote",
    "Result",
    "error_rows",
    "hmac_sha256",
    "inventory",
    "map_file",
    "object_type",
    "probe",
    "process_start",
]
