"""Runs inside a hospital: the only place that opens a patient file."""
