"""A coordinator and two memory nodes, for the sweeps of stores that have one."""

from collections.abc import Iterator

import pytest
from epochs import Together, together


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    with together(tmp_path_factory.mktemp("state"), 2) as made:
        yield made


@pytest.fixture
def coordinated(nodes: Together) -> str:
    """The coordinator's address."""
    nodes.wait_for(lambda: len(nodes.up()) == 2)
    return nodes.address
