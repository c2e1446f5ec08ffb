"""Where bytes are kept: the destination of a command on this machine, and whether the Hugging Face Hub can be reached.

It imports only `errors` and the like, so that every folder which reads or writes may import it. One trap: an error of
the file system about a hidden folder that nobody gave must become a message about the folder that was given.
"""
