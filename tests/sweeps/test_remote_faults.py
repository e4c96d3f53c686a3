"""The sweep of remote faults (remote_faults.py) over its table (remote_table.py)."""

import coordinated as of_nodes
import pytest
from remote_faults import Place, sweep
from remote_table import CLASSES, KINDS, ROWS, without_row

from dsmem import Store
from dsmem.membership.follow import EpochStore


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_op_of_each_call(fault_place, row):
    with Place(fault_place) as place:
        if row.kind == "shared queue" and any(each.atomic_domain == "nic" for each in place.context.fabrics):
            pytest.skip("many consumers do not take through a device with atomics of its own")
        sweep(place, KINDS[row.kind], row)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", of_nodes.ROWS, ids=str)
def test_each_op_of_each_call_on_a_store_of_a_coordinator(coordinated, nodes, row):
    with of_nodes.OfNodes(nodes) as place:
        sweep(place, of_nodes.KIND, row, of_nodes.node_dies_at)


def test_a_store_of_a_coordinator_has_the_rows_of_others():
    """Its ops are those of the store; what it asks its coordinator for is no op."""
    assert {name for name in dir(EpochStore) if name[0] != "_"} == {name for name in dir(Store) if name[0] != "_"}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_name_has_a_row_or_a_reason(cls):
    assert not without_row(cls)
