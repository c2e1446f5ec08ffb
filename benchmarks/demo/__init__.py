"""The whole path on real text, on any machine: `python -m benchmarks.demo [--quick] [--output DIR]`.

Converts Python sources found on the machine, serves two runs from a process of its own, and trains the same small
model through superposition and recovery beside the ordinary baseline; kills the server and the trainer on the way,
audits what came of it, and leaves a report. Everything is done through the command lines that a user has
(`tst-data convert`, `tst-serve`, `tst-train`), each in a process of its own.
"""
