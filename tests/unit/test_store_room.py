"""Stores for which memory nodes have no room: `dsmem serve --join --memory`."""

import pytest
from epochs import PROPERTIES, eventually, together

from dsmem import errors

LARGE = {**PROPERTIES, "capacity": "30MiB"}


@pytest.mark.parametrize("create", [True, None])
def test_a_client_is_told_that_a_node_has_no_room(tmp_path, create):
    with together(tmp_path, 0) as where, where.client() as cluster:
        small = where.more("--memory", "4MiB")
        eventually(lambda: len(where.up()) == 1)
        for _ in range(2):
            with pytest.raises(errors.OutOfMemoryError) as raised:
                cluster.store("db", create=create, replicas=1, **LARGE)
            said = str(raised.value)
            assert f"'db' was not made: the memory node at {small.address} can't make a copy: " in said
            assert "4194304 bytes that 'dsmem serve' may give; " in said and said.endswith("with more --memory")
        with pytest.raises(errors.NameNotFoundError):
            cluster.store("db", create=False)
        cluster.store("db", create=create, replicas=1, **PROPERTIES).close()
