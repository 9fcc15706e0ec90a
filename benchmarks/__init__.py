"""Speed and fidelity beside peers, run on demand."""
