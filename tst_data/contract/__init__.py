"""What both ends of the wire share: bags, batches, the description of a run, shares of ranks, and the wire format.

Server, client and every folder of `tst_data` may import it. It imports only numpy, pyarrow, pydantic and xxhash, and of
`tst_data` only `configuration` and `errors`, so a trainer node needs nothing else.

Traps that are closed here: a bag must never be among its own targets (`bags`), and a batch that arrives whole may still
be the wrong one, so its header names everything that was asked for (`batch`, `wire`). All of it is a promise: a change
of a column, a key or a byte order breaks running trainers.
"""
