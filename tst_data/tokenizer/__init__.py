"""Text to token ids and back, with the same ids on every machine.

`base` says what a tokenizer is. There are three kinds: `byte_tokenizer`, `json_tokenizer` (with `working_copy`, where
no text can spell a special token) and `sentencepiece_tokenizer`. `loading` finds the one that a string names, and
`training` makes one. The folder may import `stores`, and `dataset`, `conversion` and `commands` may import it.

Two traps: the folder is not called `tokenizers`, because then it would hide the library `tokenizers` from every process
that has `tst_data` itself on its path; and `tokenizers`, `sentencepiece`, `transformers` and `huggingface_hub` are
imported inside functions, because a server and a trainer that never decode do not need them.
"""
