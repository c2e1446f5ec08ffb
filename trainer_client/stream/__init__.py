"""Batches for one data-parallel rank: the stream, its sources, and what keeps it fed."""
