"""The plan: the pure function from a run and a step to windows, and the batch that they hold.

`schedule` puts together `mixture` (which dataset), `order` (which window of it) and `permutation` (keyed bijections);
none of them opens a file. `plan` joins the schedule with datasets on disk; `dataset_checks` says which datasets may be
in one run.

Traps that are closed here: the order of a phase must not depend on how long it is; no state may be kept between steps;
numpy's random generators may change with its version, so none is used. Golden vectors in the tests pin each order, and
`ORDER_VERSION` in `contract/description.py` must be raised to change one.
"""
