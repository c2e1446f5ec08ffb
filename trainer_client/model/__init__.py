"""Models on bags: the mean of embeddings, the wrapper around a Hugging Face causal LM, and what the wrapper finds out.

    superpose       bags of token ids -> mean of their embeddings
    superposed_lm   the wrapper: a batch in, the loss out
    capabilities    what a model can do, found by trying it on three tokens
    hugging_face    builds a model from its configuration; the only place that imports `transformers`

The trainer and the package's face import from here; this folder imports `loss` and nothing else of the client. The
traps that it closes: a model that sees the tokens it should predict, a model that changes embeddings in a way that bags
do not get, and an import of `transformers` on a node that does not need it.
"""
