"""Of the conformance suite, what needs no memory of the owner in this process: the owner is on another host."""

from dsmem.testing.conformance.lifetimes import (  # noqa: F401
    test_closed_objects,
    test_damaged_descriptors,
    test_descriptor_travels,
    test_event_loops_and_threads_share_a_context,
    test_fenced_node,
    test_loop_after_loop,
    test_region_closed_under_a_remote,
    test_stale_descriptor,
)
from dsmem.testing.conformance.ops import (  # noqa: F401
    test_async,
    test_batch_is_refused_whole,
    test_batch_left_by_an_exception_does_nothing,
    test_batch_of_all_ops,
    test_compare_swap,
    test_fetch_add_wraps,
    test_large_transfer,
    test_long_batch,
    test_many,
    test_many_of_none,
    test_many_threads_one_counter,
    test_write_then_read,
)
from dsmem.testing.conformance.outcomes import *  # noqa: F403
from dsmem.testing.conformance.pools import (  # noqa: F401
    pool,
    test_freed_regions_are_stale,
    test_the_bounds_of_many,
    test_the_end_of_a_pool,
)
from dsmem.testing.conformance.refusals import test_bounds, test_rights  # noqa: F401
