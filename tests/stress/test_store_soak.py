"""The soak of stores, in its short form; make nightly has the long one. DSMEM_SOAK_SEED chooses another seed."""

import os
import random

import pytest
import store_soak

SECONDS = 60


@pytest.mark.timeout(700)  # on a busy host
def test_stores_under_random_faults(tmp_path):
    seed = os.environ.get("DSMEM_SOAK_SEED") or str(random.randrange(10**6))
    print(f"seed {seed}; python tests/stress/store_soak.py --seconds {SECONDS} --seed {seed}")
    total = store_soak.run(seed, SECONDS, 0.004, tmp_path)
    print(total)
    assert total.operations and total.faults
