"""The mathematics of patient-level differential privacy: what a plan costs and what that means."""
