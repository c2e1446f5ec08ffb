"""The multi-hot cross-entropy and its slot weights. Imports none of its neighbors."""
