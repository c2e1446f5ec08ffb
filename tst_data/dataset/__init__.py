"""The dataset folder on disk: writing it, reading it, and checking every byte of it."""
