"""The dataset folder on disk: writing it, reading it, and checking each byte of it.

`conversion` writes datasets; `plan` and `materialized` read them. Nothing in this folder knows about runs, steps or
text. Its words: a shard is a file, a piece is 1 MiB of it with a hash of its own, a sample is a row in the sense of MDS
and means nothing for training.

Traps that are closed here: a writer that was killed (the journal), a second writer (its lock), a byte that changed on
disk (each piece is verified before its first use), a file that was written to later (its state is compared after each
copy), a write that is still running (nothing is kept as verified for 10 seconds after a change), a folder or a table
that was replaced (`folder`, `table_file`), a file that was cut short while it is mapped (its size is compared before
each copy), a FIFO in the place of a file, an error that passes and is taken for damage (`folder`), and a folder that is
not finished (`is_finished` in `manifest`).
"""
