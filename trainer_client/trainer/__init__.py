"""The reference trainer: loop, optimizer, checkpoints, evaluation and what people see of them."""
