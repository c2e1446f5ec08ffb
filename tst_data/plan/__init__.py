"""The plan: the pure function from a run and a step to windows, and the batch that they hold."""
