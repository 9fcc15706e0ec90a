"""The researcher's desk: phantoms, simulation, baselines, reports."""
