"""Arms that an experiment knows by name."""

SCRATCH, FEDERATED = "scratch", "federated"
