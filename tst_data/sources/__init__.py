"""Where documents come from: files, folders, globs and Hugging Face datasets, read one document at a time."""
