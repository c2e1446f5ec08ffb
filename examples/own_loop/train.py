"""A training loop with superposed batches: python train.py RUN [--output FOLDER]

RUN is a run file, or the URL of a run that tst-serve serves. Started again, it continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoConfig, AutoModelForCausalLM

from trainer_client import BatchStream, SuperposedLM

LEARNING_RATE = 3e-3
WARMUP_STEPS = 10
DECAY_STEPS = 40
CHECKPOINT_EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description="train a small model on a run, or continue its training")
    parser.add_argument("run", help="a run file, or the URL of a run")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with BatchStream(options.run) as stream:
        train(stream, options.output)


def train(stream: BatchStream, output: Path) -> None:
    torch.manual_seed(17)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=stream.description.vocabulary_size,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=False,  # as in the paper
        eos_token_id=stream.description.end_of_text_id,
        bos_token_id=None,
    )
    language_model = AutoModelForCausalLM.from_config(config)
    model = SuperposedLM(language_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    num_steps = len(stream)

    # One schedule over both phases: warm up, stay, decay to zero.
    schedule = LambdaLR(optimizer, lambda step: min((step + 1) / WARMUP_STEPS, (num_steps - step) / DECAY_STEPS, 1.0))

    # The data state is in the checkpoint too: loading it sets the stream to the next step, and refuses other data.
    checkpoint = output / "checkpoint.pt"
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule, "data": stream}
    if checkpoint.exists():
        for name, state in torch.load(checkpoint, weights_only=True).items():
            parts[name].load_state_dict(state)
        print(f"resume at step {stream.next_step} of {num_steps}", flush=True)

    for batch in stream:  # (b, L, s) bags in the superposition phase, (b, L, 1) tokens in the recovery phase
        loss = model(batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        done = batch.step + 1
        if done % 20 == 0:
            kind = "bag loss" if batch.bag_size > 1 else "next-token loss"  # never one curve
            print(f"step {done}/{num_steps}: {kind} {loss.item():.3f}", flush=True)
        if done % CHECKPOINT_EVERY == 0 or done == num_steps:
            temporary = checkpoint.with_suffix(".tmp")
            torch.save({name: part.state_dict() for name, part in parts.items()}, temporary)
            os.replace(temporary, checkpoint)  # so that a kill never leaves half a checkpoint

    language_model.save_pretrained(output / "model")  # an ordinary Hugging Face model


if __name__ == "__main__":
    main()
