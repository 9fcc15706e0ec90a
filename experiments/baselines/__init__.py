"""Federated against pooled and local-only training, on test patients."""
