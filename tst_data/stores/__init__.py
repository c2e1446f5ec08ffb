"""Where bytes are kept: the destination of a conversion, and the Hugging Face Hub."""
