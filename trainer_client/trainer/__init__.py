"""The reference trainer: a causal LM through all phases of a run, into one output folder, and resumed exactly.

    loop            the training loop; training_state is what a checkpoint says besides tensors
    optimization    one optimizer step, with learning_rate as a pure function of the step
    evaluation      next-token loss on held-out text
    checkpoint      whole checkpoints or none; output_folder keeps other files and other processes apart
    recorder        metrics, progress and the report
    config          the training file

Only the command line imports it. It imports `stream` and `model`; neither of them imports it, so that a trainer of your
own can leave it out. The traps that it closes: an optimizer that is reset at the switch, a checkpoint that is half
written, a resumed training that repeats or skips a batch, and two processes in one folder.
"""
