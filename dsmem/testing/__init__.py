"""Helpers for tests, of dsmem and of programs that use it. Needs pytest."""
