"""The shortest loop, on a materialized run and with your own model: python train.py FOLDER"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from trainer_client import BatchStream, linear_multi_hot_cross_entropy, superpose


class SmallModel(nn.Module):
    """An embedding, a recurrent network as the trunk, and a head."""

    def __init__(self, vocabulary_size: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.trunk = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary_size, bias=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Bags (b, L, s) in, bags (b, L, s) as targets -> the loss. With s = 1 both are single tokens."""
        hidden, _ = self.trunk(superpose(self.embedding, inputs))  # (b, L, d) for every bag size
        return linear_multi_hot_cross_entropy(hidden, self.head.weight, targets)


def main() -> None:
    torch.manual_seed(17)
    with BatchStream(sys.argv[1]) as stream:
        model = SmallModel(stream.description.vocabulary_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for batch in stream:
            loss = model(batch.inputs, batch.targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if (batch.step + 1) % 20 == 0:
                print(f"step {batch.step + 1}/{len(stream)}, bag size {batch.bag_size}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
