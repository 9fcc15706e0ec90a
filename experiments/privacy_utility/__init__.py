"""What differential privacy costs: models at epsilon infinity, 8, 3 and 1 against a public model alone."""
