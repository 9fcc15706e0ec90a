"""Arms that an experiment knows by name."""

SCRATCH, FEDERATED, REAL = "scratch", "federated", "real"
