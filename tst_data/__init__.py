"""Documents -> token shards -> (run, step) -> superposed batches.

    from tst_data import Plan, load_run, open_dataset

    dataset = open_dataset("data/wiki")         # .num_tokens, .read(first_token, num_tokens), .documents(...)
    plan = Plan(load_run("wiki.yaml"))          # .num_steps, .phases, .windows(step)
    batch = plan.read_batch(step=0, rank=0, world_size=8)

Importing this package is cheap: no torch, no `streaming`, no `datasets`, no `transformers`. They are imported in the
functions that need them.
"""

from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.plan.plan import Plan
from tst_data.run.run_file import Run, load_run

__all__ = ["Dataset", "Plan", "Run", "load_run", "open_dataset"]
