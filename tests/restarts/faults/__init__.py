"""The fault matrix: a file for each promise, in it a test for each fault (`FAULTS` in tests/restarts/test_fault_matrix.py).

The first line of a test's docstring says what is promised for that fault. docs/promises.md shows them all as a table.
"""
