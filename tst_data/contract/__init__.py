"""What both ends of the wire share: bags, batches, the description of a run, and the wire format.

Imports only numpy, pyarrow, pydantic and xxhash, so that a trainer node needs nothing else."""
