"""Memory nodes, the stores with copies there, and the coordinator that decides which copies count.

docs/protocols/epochs.md has the steps. What decides is dsmem/membership/policy.py, without a clock, a socket or a file.
"""
