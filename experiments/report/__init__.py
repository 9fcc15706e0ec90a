"""What a run leaves to look at: report.html and TensorBoard scalars, both from its event log."""
