"""Random and damaged inputs for the parsers of what comes from outside: `python -m tests.fuzz --inputs 200000`."""
