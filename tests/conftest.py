"""Which fabrics the conformance suite runs on: --fabric, as often as wanted; by default what works on this host."""

from __future__ import annotations

import pytest

from dsmem import _core, errors

DEFAULT = ("shm", "fault+shm")


def _verbs_works() -> bool:
    try:
        _core.probe("verbs")
    except errors.DsmemError:
        return False
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fabric", action="append", default=[], help="fabric of the conformance suite; may be repeated")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fabric" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--fabric") or [
            *DEFAULT,
            *(["verbs", "fault+verbs"] if _verbs_works() else []),
        ]
        metafunc.parametrize("fabric", chosen, scope="module")
