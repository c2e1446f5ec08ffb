"""The fault matrix: a file for each promise, and in it a test for each fault; `table` makes a table of them.

The first line of a test's docstring says what happens then. The page docs/promises.md shows them all.
"""
