"""The Cython layer over the C core: one class per handle of dsm.h, one call of the core per method, no policy."""

from ._core import *  # noqa: F403
