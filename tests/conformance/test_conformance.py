"""The suite of dsmem.testing, on this project's own fabrics."""

from dsmem.testing.conformance import *  # noqa: F403
