"""The batches of a run for one data-parallel rank: the stream, its sources, and read-ahead.

    batch_stream   the iterator that trainers use; its position is in stream_state
    batch          one micro-batch in torch
    source         the protocols; open_source makes one from a URL, a run file or a materialized folder
    prefetch       reads ahead in threads and knows only integers

Everyone may import from here. This folder imports neither `trainer` nor `model` nor `loss`. Of `tst_data` it imports
the contract, `configuration` and `errors`, and the dataset reader only when a run file or a folder is opened, so a
trainer that reads over HTTP never loads it. The traps that this folder closes: a position that is ahead of what was
handed out, a body that is copied twice, a server restart that ends a training, and a thread that keeps the interpreter
alive.
"""
