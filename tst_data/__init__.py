"""Documents -> token shards -> (run, step) -> superposed batches.

Importing this package is cheap: no torch, no `streaming`, no `datasets`; they are loaded where they are used.
"""

from tst_data.dataset.reader import Dataset, open_dataset
from tst_data.plan.plan import Plan
from tst_data.run.run_file import Run, load_run

__all__ = ["Dataset", "Plan", "Run", "load_run", "open_dataset"]
