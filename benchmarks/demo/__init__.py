"""The whole path on real text, on any machine: `python -m benchmarks.demo [--long] [--output DIR]`.

Converts Python source found on the machine, serves a run from a separate process, and trains a small model through
superposition and recovery. On the way it kills the server and the trainer with kill -9. At the end it audits what every
step read and writes a report. With `--long` ordinary training runs at the same time, and the report compares the two.
Everything is done through the commands that a user has (`tst-data convert`, `tst-serve`, `tst-train`), each in its own
process.
"""
