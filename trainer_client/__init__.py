"""The trainer's side: superposed batches in torch, embeddings of bags, the loss, the model wrapper, and a trainer.

    from trainer_client import BatchStream, SuperposedLM

    model = SuperposedLM(hugging_face_model)
    for batch in BatchStream("http://host:8000/v1/runs/wiki-s4"):
        model(batch).loss.backward()

Your own training loop imports the names below and nothing else. The folders: `stream` fetches batches, `loss` and
`model` compute, `trainer` is the reference trainer that `tst-train` runs. This package knows `tst_data` and never
`service`.

Importing it loads torch, but no `transformers`, `streaming` or `datasets`. It also makes a later import of
`transformers` work where a torchvision that does not match torch is installed (see `tst_data.streaming_compat`).
"""

from trainer_client.loss.multi_hot import linear_multi_hot_cross_entropy, multi_hot_cross_entropy
from trainer_client.model.superpose import superpose
from trainer_client.model.superposed_lm import SuperposedLM
from trainer_client.stream.batch import Batch
from trainer_client.stream.batch_stream import BatchStream
from tst_data.streaming_compat import repair_torchvision

__all__ = [
    "Batch",
    "BatchStream",
    "SuperposedLM",
    "linear_multi_hot_cross_entropy",
    "multi_hot_cross_entropy",
    "superpose",
]

repair_torchvision()
