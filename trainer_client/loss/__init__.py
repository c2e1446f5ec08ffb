"""The loss of a bag of targets: multi-hot cross-entropy, plain and fused with the head, and its slot weights.

Pure functions on tensors. Everyone may import them; this folder imports none of its neighbors, so the loss works in any
training loop. The traps that it closes: a tensor `(b, L, s, V)`, logits of a whole batch that are held for the backward
pass, and a slot without a target that still counts in the mean.
"""
