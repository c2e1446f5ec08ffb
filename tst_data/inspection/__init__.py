"""Looking at runs: what a run needs and skips, and what its bags say.

The commands `plan` and `preview` and the server's page show these reports. They are read from the plan that trainers
get their batches from, never computed a second way, so a report cannot differ from the training.
"""
