"""What a run is: its specification, its file, and the weights of its datasets.

`plan`, `service` and the trainer import it; it opens no dataset. The specification checks everything that can be
checked without the data, and its fingerprint is the identity of all batches: a new field must be part of it, unless it
cannot change a batch.
"""
