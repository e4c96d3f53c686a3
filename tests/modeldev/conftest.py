"""The model device, compiled once for all tests of it."""

import pytest
from modeldev import build


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("library"))
