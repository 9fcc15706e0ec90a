"""Runs at the coordinator: rounds, aggregation, synthesis; never sees a patient."""
