"""What fidelity means, in numbers."""
