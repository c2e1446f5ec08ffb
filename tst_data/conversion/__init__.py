"""The job from documents to datasets.

`request` says what is asked for and what is reported, `pipeline` does it. `document_batches` reads the documents in
order, `splits` divides them into training and validation, `local_engine` encodes them in worker processes
(`encode_worker`), `lost_characters` counts what the tokenizer cannot represent, `split_writer` writes the dataset of
one split, and `staging` is the hidden folder in which all this happens. Only `commands` may import this folder.

Two traps: a worker must find this package wherever it is installed, so `local_engine` puts the folder that contains
`tst_data` on its path; and a number of workers, an interruption or another machine must not change one byte of the
result, so nothing here follows the order in which workers finish.
"""
