"""The trainer's side: superposed batches in torch, bag embedding, loss, and the model wrapper.

Importing this loads torch; it loads no `transformers`, `streaming` or `datasets`. It also lets a later import of
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
