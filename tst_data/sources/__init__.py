"""Where documents come in: files, folders, globs and Hugging Face datasets, read one document at a time.

`parts` makes an ordered list of files and datasets from what the user gave, `paths` finds the files of folders and
globs, and `text`, `columnar` and `hugging_face` read them; `document` has the rules for one document. The folder may
import `stores`; only `conversion` may import it. A new file format is one more reader beside the others.

Three traps: a folder that cannot be read must be an error and not a gap in the dataset; compressed data that ends too
early must not pass for complete; and reading from any row must give the same documents as reading from the start,
because a conversion continues there after an interruption.
"""
