"""Superposed embeddings, and the wrapper that trains a Hugging Face causal LM on bags."""
