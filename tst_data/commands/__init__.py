"""What a person types: the options and the printed output of each `tst-data` command.

`convert`, `dataset` (inspect, verify) and `run` (plan, preview, materialize) register their commands with the
application in `tst_data/cli.py`; `progress` shows how far a job is. They hold no rules of their own: they turn options
into a model, call one function, and print what it returns. Nothing but `tst_data/cli.py` may import them.

One trap: JSON goes to stdout and everything for people that is not the result goes to stderr, so that a program can
read the one while a person reads the other.
"""
