"""Patient-level differential privacy at a site: secret randomness, per-patient gradients, one noised sum."""
