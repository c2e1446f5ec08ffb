"""A run's batches written into a folder, and read back without a server and without the run's datasets.

`writer` needs the plan and mosaicml-streaming; `reader` needs neither, so that a trainer node can do without them. Both
share `layout`.

Traps that are closed here: a half-written folder never has the name of a finished one; a row says its step, so shards
that changed places are noticed; an interrupted call resumes only for the same run and the same size of shards.
"""
